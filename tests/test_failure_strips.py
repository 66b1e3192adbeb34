"""Pictures of failures, from result files."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipeline.tracks import Track
from eval_jobs import show_failures
from eval_jobs.benchmarks import find_benchmark, select
from eval_jobs.failure_strips import (
    FOUND_COLOR,
    LOST_COLOR,
    TRUTH_COLOR,
    StripConfig,
    frame_overlaps,
    frames_to_show,
    onset,
    strip_figure,
)
from eval_jobs.protocols import Trajectory
from eval_jobs.results import ResultError, ResultStore, find_store

NUM_FRAMES = 12
TRUTH = np.array([10.0, 10.0, 40.0, 40.0])


def write_sequence(folder: Path, name: str) -> None:
    (folder / name / "img").mkdir(parents=True)
    for frame in range(1, NUM_FRAMES + 1):
        image = np.full((60, 80, 3), 9 * frame, np.uint8)
        cv2.imwrite(str(folder / name / "img" / f"{frame:04d}.jpg"), image)
    (folder / name / "groundtruth_rect.txt").write_text("11,11,30,30\n" * NUM_FRAMES)


def run(fails_at: int) -> Trajectory:
    """Right up to a frame, then elsewhere; lost at the end; learns on the fourth frame."""
    boxes = np.tile(TRUTH, (NUM_FRAMES, 1))
    boxes[fails_at:] += 35.0
    lost, updated = np.zeros(NUM_FRAMES, bool), np.zeros(NUM_FRAMES, bool)
    lost[-1], updated[3] = True, True
    scores = np.linspace(1.0, 0.2, NUM_FRAMES)
    seconds = np.full(NUM_FRAMES, 0.1)
    return Trajectory(boxes=boxes, scores=scores, lost=lost, seconds=seconds, updated=updated)


@pytest.fixture
def evaluated(tmp_path: Path) -> tuple[Path, Path]:
    """Two sequences, and one tracker's results on them: Deer is the worse."""
    for name in ("Deer", "Bolt"):
        write_sequence(tmp_path / "OTB", name)
    store = ResultStore(folder=tmp_path / "results", tracker="ours, online", fingerprint="ab" * 8)
    for track in tracks(tmp_path / "OTB"):
        store.write(track, run(fails_at=5 if track.video == "Deer" else 9))
    (folder,) = (tmp_path / "results").iterdir()
    return tmp_path / "OTB", folder


def tracks(folder: Path) -> tuple[Track, ...]:
    return select(find_benchmark("otb100"), folder, partial=True).tracks


@pytest.mark.parametrize("count", [1, 2, 5, 8, 40])
def test_a_strip_shows_the_onset_and_the_frames_before_it(count: int) -> None:
    overlap = np.array([1.0] * 30 + [0.1] * 70)
    shown = frames_to_show(overlap, count)
    assert len(shown) <= count and (np.diff(shown) > 0).all() and shown[0] == 0
    if count >= 2:
        assert 30 in shown and (count < 8 or {28, 29} <= set(shown))
    quiet = frames_to_show(np.ones(100), count)
    assert onset(np.ones(100)) is None and len(quiet) == min(count, 100)


def test_frames_without_truth_are_no_failure(evaluated: tuple[Path, Path]) -> None:
    track = tracks(evaluated[0])[0]
    track.visible[5:] = False
    overlap = frame_overlaps(track, run(fails_at=5))
    assert (overlap[:5] == 1.0).all() and np.isnan(overlap[5:]).all() and onset(overlap) is None


def test_a_strip_shows_both_boxes_and_the_curves(evaluated: tuple[Path, Path]) -> None:
    (deer,) = (track for track in tracks(evaluated[0]) if track.video == "Deer")
    config = StripConfig(num_frames=24, num_columns=5, frame_width_px=80)
    figure = strip_figure(deer, run(fails_at=5), config, title="Deer")
    above, below = figure.axes
    sheet = np.asarray(above.images[0].get_array())
    assert sheet.shape == (3 * 60, 5 * 80, 3)

    def colors(frame: int) -> set[tuple[int, ...]]:
        row, column = divmod(frame, 5)
        tile = sheet[60 * row : 60 * row + 60, 80 * column : 80 * column + 80]
        return set(map(tuple, tile.reshape(-1, 3).tolist()))

    assert TRUTH_COLOR in colors(7) and FOUND_COLOR in colors(7)
    assert TRUTH_COLOR not in colors(2), "the found box is drawn over the true one"
    assert LOST_COLOR in colors(11) and FOUND_COLOR not in colors(11)
    lines = {line.get_label(): line.get_xdata() for line in below.lines}
    assert list(lines["update"]) == [4] and list(lines["lost"]) == [12]


def test_script_draws_the_worst_first(
    evaluated: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logged: list[str] = []

    class FakeLog:
        @staticmethod
        def start(*_: Any, **__: Any) -> Any:
            return FakeLog()

        def log_figure(self, figure: Any, name: str) -> None:
            logged.append(name)

        def finish(self, status: str) -> None:
            logged.append(status)

    monkeypatch.setattr(show_failures, "RunLog", FakeLog)
    folder, results = evaluated
    strip = StripConfig(num_frames=4, num_columns=4, frame_width_px=60)
    show_failures.main(
        folder, (results,), output=tmp_path / "out", num_sequences=1, strip=strip, partial=True
    )
    assert logged == ["strips/ours__online-abababababab-Deer.png", "FINISHED"]
    picture = cv2.imread(str(tmp_path / "out" / "ours__online-abababababab-Deer.png"))
    assert picture.shape[1] > 1000


def test_script_says_which_result_is_missing_and_what_it_cannot_draw(
    evaluated: tuple[Path, Path],
) -> None:
    folder, results = evaluated
    trackers = (results,)
    with pytest.raises(SystemExit, match=r"error: a benchmark scored here in one pass .* resets"):
        show_failures.main(folder, trackers, benchmark="vot2018")
    with pytest.raises(SystemExit, match="error: --trackers: at least one folder"):
        show_failures.main(folder, ())
    with pytest.raises(SystemExit, match="expected, GOT-10k test has its ground truth at a server"):
        show_failures.main(folder, trackers, benchmark="got10k_test")
    with pytest.raises(SystemExit, match=r"error: no result of otb/\w+ at .*first5.* max_frames\?"):
        show_failures.main(folder, trackers, partial=True, max_frames=5)
    next(results.rglob("Bolt*.json")).unlink()
    with pytest.raises(SystemExit, match=r"no result of otb/Bolt at .*ours, online evaluated"):
        show_failures.main(folder, trackers, partial=True)


def test_a_folder_that_is_no_trackers_is_refused(
    evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    _, results = evaluated
    assert find_store(results).tracker == "ours, online"
    with pytest.raises(ResultError, match=r"one tracker's results .* expected, there are none"):
        find_store(results.parent / "nothing")
    renamed = results.rename(results.with_name("renamed"))
    with pytest.raises(ResultError, match="was the folder renamed"):
        find_store(renamed)
