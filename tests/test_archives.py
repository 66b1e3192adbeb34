"""`eval_jobs.archives`: what a server would refuse or score wrongly is never written."""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.tracks import Track
from eval_jobs.archives import ArchiveError, write_archive
from eval_jobs.benchmarks import Selection, find_benchmark
from eval_jobs.protocols import TRACKED, Trajectory

BOX = np.array([10.0, 20.0, 40.0, 50.0])


def selection(name: str, num_expected: int = 2) -> Selection:
    """Two sequences of three frames."""
    benchmark = find_benchmark(name)
    tracks = tuple(
        Track(
            dataset=benchmark.reader,
            video=video,
            image_files=tuple(Path(f"{i}.jpg") for i in range(3)),
            boxes=np.stack([BOX, np.full(4, np.nan), np.full(4, np.nan)]),
            visible=np.array([True, False, False]),
            frame_numbers=np.arange(3),
        )
        for video in ("first", "second")
    )
    return Selection(benchmark=benchmark, tracks=tracks, num_expected=num_expected)


def trajectory(num_frames: int = 3) -> Trajectory:
    return Trajectory(
        boxes=np.tile(BOX, (num_frames, 1)) + np.arange(num_frames)[:, None],
        scores=np.ones(num_frames),
        lost=np.zeros(num_frames, dtype=bool),
        seconds=np.full(num_frames, 0.25),
    )


def changed(frame: int, box: list[float]) -> Trajectory:
    good = trajectory()
    good.boxes[frame] = box
    return good


def test_trackingnet_takes_a_file_per_video(tmp_path: Path) -> None:
    path = write_archive(
        selection("trackingnet"), [trajectory()] * 2, "ours", tmp_path / "results" / "ours.zip"
    )
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["first.txt", "second.txt"]
        lines = archive.read("second.txt").decode().splitlines()
    assert lines[1] == "11.0000,21.0000,30.0000,30.0000"
    assert len(lines) == 3


def test_got10k_takes_a_folder_per_sequence_with_times(tmp_path: Path) -> None:
    path = write_archive(
        selection("got10k_test"), [trajectory()] * 2, "FCOS-MAML, online", tmp_path / "ours.zip"
    )
    with zipfile.ZipFile(path) as archive:
        folder = "FCOS-MAML__online"
        assert archive.namelist() == [
            f"{folder}/{name}/{name}_{kind}.txt"
            for name in ("first", "second")
            for kind in ("001", "time")
        ]
        assert archive.read(f"{folder}/first/first_time.txt").decode() == "0.25000000\n" * 3


FAULTS: dict[str, tuple[Callable[[], Trajectory], str]] = {
    "too short": (lambda: trajectory(2), "3 boxes expected, one per frame, got 2"),
    "too long": (lambda: trajectory(4), "3 boxes expected, one per frame, got 4"),
    "not a number": (lambda: changed(1, [np.nan, 1, 2, 3]), "frame 2 has"),
    "infinite": (lambda: changed(2, [0, 0, np.inf, 3]), "frame 3 has"),
    "no area": (lambda: changed(1, [5, 5, 5, 9]), "boxes with an area expected, frame 2"),
    "inside out": (lambda: changed(1, [5, 5, 1, 9]), "boxes with an area expected, frame 2"),
    "another start": (lambda: changed(0, [11, 21, 41, 51]), "the given first box"),
    "no time": (
        lambda: dataclasses.replace(trajectory(), seconds=np.array([0.1, np.nan, 0.1])),
        "a time per frame",
    ),
    "with resets": (
        lambda: dataclasses.replace(
            changed(0, [np.nan] * 4), codes=np.array([1, TRACKED, TRACKED])
        ),
        "one pass expected",
    ),
}


@pytest.mark.parametrize("benchmark", ["trackingnet", "got10k_test"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_result_is_named_and_nothing_is_written(
    tmp_path: Path, fault: str, benchmark: str
) -> None:
    make, reason = FAULTS[fault]
    dataset = find_benchmark(benchmark).reader
    with pytest.raises(ArchiveError, match=rf"{dataset}/second: .*{reason}"):
        write_archive(selection(benchmark), [trajectory(), make()], "ours", tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


def test_missing_sequences_and_cut_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with pytest.raises(ArchiveError, match="2 of 511 sequences; run all"):
        write_archive(selection("trackingnet", 511), [trajectory()] * 2, "ours", path)
    cut = dataclasses.replace(selection("trackingnet"), max_frames=3)
    with pytest.raises(ArchiveError, match="first 3 frames"):
        write_archive(cut, [trajectory()] * 2, "ours", path)
    with pytest.raises(ArchiveError, match="1 results for 2 sequences"):
        write_archive(selection("trackingnet"), [trajectory()], "ours", path)
    with pytest.raises(ValueError, match="OTB-100 is scored here"):
        write_archive(selection("otb100"), [trajectory()] * 2, "ours", path)
    assert not list(tmp_path.iterdir())


def test_full_disk_leaves_the_old_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_archive(selection("trackingnet"), [trajectory()] * 2, "ours", tmp_path / "a.zip")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_archive(selection("trackingnet"), [changed(2, [0, 0, 9, 9])] * 2, "ours", path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
