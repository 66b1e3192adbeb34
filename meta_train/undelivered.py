"""Metric points and files that wait on disk until MLflow takes them."""

import json
import logging
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data_pipeline.clear_errors import shortened

log = logging.getLogger(__name__)


def is_metric_name(name: object) -> bool:
    """Whether MLflow takes it as the name of a metric."""
    return isinstance(name, str) and re.fullmatch(r"[\w\-. :/]{1,250}", name) is not None


def expect_metric_names(names: Iterable[str]) -> None:
    """Raises `ValueError` if MLflow does not take one of them as the name of a metric."""
    for name in names:
        if not is_metric_name(name):
            raise ValueError(f"a metric's name has letters, digits and _-.:/, got {name!r}")


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    time_ms: int
    step: int


def _parse_point(line: bytes) -> Point | None:
    """The point of a line; None where it is none, since one that MLflow refuses holds up all."""
    try:
        point = Point(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    is_whole = all(type(each) is int and 0 <= each < 2**63 for each in (point.time_ms, point.step))
    is_point = is_metric_name(point.name) and type(point.value) is float and is_whole
    return point if is_point else None


class UndeliveredFolder:
    """One run's folder: a file of JSON lines for each process, and the files of all.

    A disk that fails is logged and never stops training.
    """

    def __init__(self, folder: Path) -> None:
        """Creates nothing on disk yet."""
        self.folder = folder
        self._own_points = folder / f"{uuid.uuid4().hex}.jsonl"

    def append(self, points: Iterable[Point]) -> None:
        """Adds points to this process's file."""
        lines = "".join(json.dumps(point._asdict()) + "\n" for point in points)
        with self._logged("not written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._own_points.open("a") as file:
                file.write(lines)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Keeps files under their names in MLflow."""
        for name, data in files.items():
            path = self.folder / "files" / name
            with self._logged("not written"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def read_points(self) -> list[Point]:
        """The points of every process; a line that a kill cut short is logged and left out."""
        points = []
        with self._logged("not read"):
            for path in sorted(self.folder.glob("*.jsonl")):
                for line in path.read_bytes().splitlines():
                    point = _parse_point(line)
                    if point is None:
                        shown = shortened(repr(line), 80)
                        log.warning("%s has a line that is no metric point: %s", path, shown)
                    else:
                        points.append(point)
        return points

    def read_files(self) -> dict[str, bytes]:
        """The files that wait, by their names in MLflow."""
        files = {}
        folder = self.folder / "files"
        with self._logged("not read"):
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
        return files

    def forget_own_points(self) -> None:
        """Removes this process's points, which MLflow has now."""
        with self._logged("not removed"):
            self._own_points.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.error("points or files for MLflow were %s in %s: %s", what, self.folder, error)
