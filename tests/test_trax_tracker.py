"""The script `eval_jobs/trax_tracker.py` and its session with a TraX client."""

import os
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy import ndarray

from eval_jobs import trax_tracker
from eval_jobs.opencv_tracker import StaticTracker
from eval_jobs.tracker import OnlineTracker, Prediction, TrackingError
from eval_jobs.tracker_config import TrackerConfig
from eval_jobs.trax_session import TraxError, open_server, region_box, serve

SCRIPT = Path(__file__).parents[1] / "eval_jobs" / "trax_tracker.py"
UPRIGHT = [(20.0, 24.0), (43.0, 24.0), (43.0, 47.0), (20.0, 47.0)]
BOX = [20.0, 24.0, 44.0, 48.0]  # pixel 20 to pixel 43


class Corners(list[tuple[float, float]]):
    """A polygon as vot-trax gives it."""

    type = "polygon"


def rectangle(*bounds: float) -> SimpleNamespace:
    return SimpleNamespace(type="rectangle", bounds=lambda: bounds)


def request(kind: str, image: Path | None = None, *regions: Any) -> SimpleNamespace:
    images = None if image is None else {"color": SimpleNamespace(path=lambda: str(image))}
    return SimpleNamespace(type=kind, image=images, objects=[(each, {}) for each in regions])


class FakeServer:
    """A client's requests, and what was answered."""

    def __init__(self, *requests: SimpleNamespace) -> None:
        self.requests = deque(requests)
        self.answers: list[tuple[tuple[float, ...], dict[str, str]]] = []
        self.reasons: list[str] = []

    def wait(self) -> SimpleNamespace:
        return self.requests.popleft()

    def status(self, objects: list[tuple[Any, dict[str, str]]]) -> None:
        ((region, properties),) = objects
        self.answers.append((region.bounds(), properties))

    def quit(self, reason: str) -> None:
        self.reasons.append(reason)


@dataclass
class WalkingTracker:
    """Goes two pixels to the right with each frame, loses its target there, and remembers."""

    starts: list[tuple[ndarray, ndarray]] = field(default_factory=list)
    seen: list[ndarray] = field(default_factory=list)

    def start(self, image: ndarray, box: ndarray) -> None:
        self.starts.append((image, box))
        self.seen.clear()

    def follow(self, image: ndarray) -> Prediction:
        self.seen.append(image)
        shift = 2.0 * len(self.seen)
        return Prediction(box=self.starts[-1][1] + [shift, 0, shift, 0], score=0.25, lost=True)


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    """Three images of an orange square that moves two pixels a frame."""
    paths = []
    for number in range(3):
        image = np.full((72, 96, 3), (40, 60, 80), dtype=np.uint8)
        image[24:48, 20 + 2 * number : 44 + 2 * number] = (230, 120, 20)
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return paths


# --- regions


def test_a_rectangle_is_a_corner_and_a_size() -> None:
    np.testing.assert_array_equal(region_box(rectangle(10, 20, 30, 40)), [10, 20, 40, 60])


def test_a_polygon_s_box_has_its_centre_and_area() -> None:
    np.testing.assert_allclose(region_box(Corners(UPRIGHT)), BOX)
    left, top, right, bottom = region_box(Corners([(8, 4), (12, 8), (8, 12), (4, 8)]))
    assert ((left + right) / 2, (top + bottom) / 2) == (8.5, 8.5)  # of pixels 4 to 12
    assert right - left == bottom - top == pytest.approx(1 + np.sqrt(32))  # not 9, the extent


@pytest.mark.parametrize(
    ("region", "found"),
    [(Corners([*UPRIGHT, (20.0, 30.0)]), "a polygon of 5"), (SimpleNamespace(type="mask"), "mask")],
)
def test_other_regions_are_refused(region: Any, found: str) -> None:
    with pytest.raises(ValueError, match=f"a polygon of four corners expected .*, got {found}"):
        region_box(region)


# --- the session


def test_a_client_starts_follows_and_starts_again(frames: list[Path]) -> None:
    server = FakeServer(
        request("initialize", frames[0], Corners(UPRIGHT)),
        request("frame", frames[1]),
        request("frame", frames[2]),
        request("initialize", frames[1], rectangle(5, 6, 7, 8)),
        request("frame", frames[2]),
        request("quit"),
    )
    tracker = WalkingTracker()
    serve(server, tracker, rectangle)
    started = {"confidence": "1.000000", "lost": "0"}
    followed = {"confidence": "0.250000", "lost": "1"}
    assert server.answers == [
        ((20, 24, 24, 24), started),
        ((22, 24, 24, 24), followed),
        ((24, 24, 24, 24), followed),
        ((5, 6, 7, 8), started),
        ((7, 6, 7, 8), followed),
    ]
    assert not server.requests and not server.reasons
    (first, box), _ = tracker.starts
    np.testing.assert_allclose(box, BOX)
    assert first[30, 30].tolist() == tracker.seen[0][30, 30].tolist() == [230, 120, 20]  # RGB


def test_the_client_is_told_why_a_session_ends(frames: list[Path], tmp_path: Path) -> None:
    start = request("initialize", frames[0], rectangle(*BOX))
    for requests, message in (
        ([start, request("frame", tmp_path / "missing.jpg")], "missing.jpg: cannot be read"),
        ([start, request("frame")], "an image of the channel color expected"),
        ([request("initialize", frames[0])], "one target per session expected, .* gave 0"),
        ([request("initialize", frames[0], rectangle(), rectangle())], "expected, .* gave 2"),
    ):
        server = FakeServer(*requests)
        with pytest.raises(ValueError, match=message) as caught:
            serve(server, StaticTracker(), rectangle)
        assert server.reasons == [str(caught.value)]


def test_a_frame_before_any_target_ends_the_session(
    frames: list[Path], slim_checkpoint: Path
) -> None:
    server = FakeServer(request("frame", frames[0]))
    with pytest.raises(TrackingError, match="before start"):
        serve(server, OnlineTracker.load(slim_checkpoint), rectangle)
    assert len(server.reasons) == 1


# --- the script


def test_without_vot_trax_the_script_says_what_to_install(
    slim_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trax", None)
    with pytest.raises(TraxError, match="vot-trax expected"), open_server():
        raise AssertionError("there is no server")
    with pytest.raises(SystemExit, match=r"error: .* pip install .*\[trax\]'"):
        trax_tracker.main(checkpoint=str(slim_checkpoint))


def test_without_a_checkpoint_the_script_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(trax_tracker.CHECKPOINT_VARIABLE, raising=False)
    with pytest.raises(SystemExit, match="Pass --checkpoint FOLDER or set TRACKING_MAML_CHECK"):
        trax_tracker.main()
    with pytest.raises(SystemExit, match="error: nowhere"):
        trax_tracker.main(checkpoint="nowhere")


def test_a_real_client_gets_the_tracker_s_boxes(
    frames: list[Path], tmp_path: Path, slim_checkpoint: Path
) -> None:
    pytest.importorskip("trax", reason="vot-trax has no wheel for this platform; extra `trax`")
    from trax import FileImage, Polygon, Rectangle, TraxException
    from trax.client import Client

    options = ["--tracker.min-score", "0", "--tracker.update-interval-frames", "2"]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *options],
        cwd=tmp_path,
        env=os.environ | {trax_tracker.CHECKPOINT_VARIABLE: str(slim_checkpoint), "COLUMNS": "300"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None and process.stdout is not None
    printed: list[str] = []  # all that was said; without a log, vot-trax 4.0.2 cannot connect
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        streams = (process.stdin.fileno(), process.stdout.fileno())
        client = Client(streams, log=printed.append)
        images = [{"color": FileImage.create(str(path))} for path in frames]
        answers = []
        for region in (Polygon.create(UPRIGHT), Rectangle.create(30, 20, 16, 30)):
            answers.append(client.initialize(images[0], [(region, {})], {})[0])
            answers += [client.frame(image, {}, [])[0] for image in images[1:]]
        with pytest.raises(TraxException, match=r"gone\.png: cannot be read"):
            client.frame({"color": FileImage.create(str(tmp_path / "gone.png"))}, {}, [])
        _, errors = process.communicate(timeout=60)
    finally:
        guard.cancel()
        process.kill()
    assert process.returncode == 1
    assert "Traceback" not in errors.decode()
    assert errors.decode().splitlines()[-1].startswith("error: ")

    assert (client.tracker_name, client.region_formats, client.image_formats) == (
        "tracking-maml",
        ["rectangle", "polygon"],
        ["path"],
    )
    expected = FakeServer(
        request("initialize", frames[0], Corners(UPRIGHT)),
        *(request("frame", path) for path in frames[1:]),
        request("initialize", frames[0], rectangle(30, 20, 16, 30)),
        *(request("frame", path) for path in frames[1:]),
        request("quit"),
    )
    config = TrackerConfig(min_score=0.0, update_interval_frames=2)
    serve(expected, OnlineTracker.load(slim_checkpoint, config), rectangle)
    assert len(answers) == len(expected.answers) == 6
    for ((region, properties),), (bounds, expected_properties) in zip(
        answers, expected.answers, strict=True
    ):
        np.testing.assert_allclose(region.bounds(), bounds, atol=1e-3)
        assert properties == expected_properties
