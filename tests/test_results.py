"""`eval_jobs.results`: a result file is right or it is an error with the sequence's name."""

import dataclasses
import json
import math
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.tracks import Track
from eval_jobs import results
from eval_jobs.protocols import Trajectory, mean_fps
from eval_jobs.results import ResultError, ResultStore, file_name, write_atomically


def track(num_frames: int = 4, shift: float = 0.0) -> Track:
    return Track(
        dataset="otb",
        video="Jogging",
        target="2",
        image_files=tuple(Path(f"/videos/{i:04d}.jpg") for i in range(num_frames)),
        boxes=np.tile([10.0 + shift, 20.0, 30.0, 40.0], (num_frames, 1)),
        visible=np.ones(num_frames, dtype=bool),
        frame_numbers=np.arange(num_frames),
    )


def trajectory(num_frames: int = 4) -> Trajectory:
    generator = np.random.default_rng(3)
    return Trajectory(
        boxes=generator.normal(100, 30, (num_frames, 4)),
        scores=generator.random(num_frames),
        lost=generator.random(num_frames) < 0.5,
        seconds=generator.random(num_frames),
    )


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(folder=tmp_path, tracker="FCOS-MAML, online", fingerprint="ab12" * 8)


def test_times_count_where_they_were_measured_as_asked_for(store: ResultStore) -> None:
    there = dataclasses.replace(store, setup="cuda, 1 threads, 8 processes")
    measured = trajectory()
    there.write(track(), measured)
    for same in (there, store):
        np.testing.assert_array_equal(same.read_existing(track()).seconds, measured.seconds)
    here = dataclasses.replace(store, setup="cpu, 1 threads, 1 processes").read_existing(track())
    np.testing.assert_array_equal(here.boxes, measured.boxes)
    assert math.isnan(here.fps) and not math.isnan(measured.fps)
    assert math.isnan(mean_fps([here, measured])), "not of some sequences only"


def test_what_is_written_is_read_to_the_last_bit(store: ResultStore) -> None:
    assert store.read(track()) is None
    written = trajectory()
    path = store.write(track(), written)
    assert path.name.startswith("Jogging.2-")
    found = store.read(track())
    assert found is not None
    for name in ("boxes", "scores", "lost", "seconds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_runs_cut_short_are_kept_apart(store: ResultStore) -> None:
    store.write(track(), trajectory())
    assert dataclasses.replace(store, max_frames=4).read(track()) is None
    assert dataclasses.replace(store, fingerprint="cd34" * 8).read(track()) is None


def rewrite(**changes: object) -> Callable[[str], str]:
    def change(text: str) -> str:
        return json.dumps(json.loads(text) | changes)

    return change


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "cut short": (lambda text: text[: len(text) // 2], "not a whole result file"),
    "empty": (lambda text: "", "not a whole result file"),
    "another form": (lambda text: "[1, 2]", "not a whole result file"),
    "nested": (lambda text: "[" * 100_000, "not a whole result file"),
    "without digest": (lambda text: '{"boxes": []}', "not a whole result file"),
    "another number": (rewrite(scores=[1.0, 1.0, 1.0, 1.0]), "does not match its checksum"),
    "fewer frames": (rewrite(boxes=[[0.0, 0.0, 1.0, 1.0]]), "does not match its checksum"),
    "renamed": (rewrite(sequence="otb/Jogging.1"), "does not match its checksum"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_an_error_that_names_the_sequence(store: ResultStore, damage: str) -> None:
    path = store.write(track(), trajectory())
    change, reason = DAMAGES[damage]
    path.write_text(change(path.read_text()))
    with pytest.raises(ResultError, match=rf"otb/Jogging\.2: .*{reason}.*Delete it"):
        store.read(track())


def test_bytes_that_are_no_text_are_an_error(store: ResultStore) -> None:
    store.write(track(), trajectory()).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultError, match=r"otb/Jogging\.2: .*cannot be read"):
        store.read(track())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"boxes": [[1.0, 2.0, 3.0]]}, "arrays are wrong"),
        ({"scores": ["high"]}, "arrays are wrong"),
        ({"scores": [10**400] * 4}, "arrays are wrong"),
        (
            {"boxes": [[0.0] * 4] * 3, "scores": [0.0] * 3, "lost": [0] * 3, "seconds": [0.0] * 3},
            "3 frames, not 4",
        ),
    ],
)
def test_file_with_a_right_digest_and_wrong_content_is_refused(
    store: ResultStore, content: dict[str, object], reason: str
) -> None:
    path = store.write(track(), trajectory())
    whole = json.loads(path.read_text()) | content
    del whole["sha256"]
    path.write_text(json.dumps(whole | {"sha256": results._digest(whole)}))
    with pytest.raises(ResultError, match=reason):
        store.read(track())


def test_another_video_of_the_same_name_has_another_file(store: ResultStore) -> None:
    store.write(track(), trajectory())
    assert store.read(track(shift=1.0)) is None
    assert store.read(track(5)) is None


def test_file_that_was_moved_is_refused(store: ResultStore) -> None:
    text = store.write(track(), trajectory()).read_text()
    for other, moved_to, reason in (
        (track(shift=1.0), store, "annotation_sha256"),
        (track(5), store, "frames is 4, not 5"),
        (track(), dataclasses.replace(store, fingerprint="9" * 32), "fingerprint"),
        (track(), dataclasses.replace(store, tracker="other"), "tracker is"),
    ):
        path = moved_to.path(other)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        with pytest.raises(ResultError, match=f"its {reason}"):
            moved_to.read(other)


def test_trajectory_of_another_length_is_not_written(store: ResultStore) -> None:
    with pytest.raises(ResultError, match="4 frames expected, the trajectory has 3"):
        store.write(track(), trajectory(3))
    assert store.read(track()) is None


def test_full_disk_leaves_what_was_there(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.write(track(), trajectory())
    before = path.read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_file_that_the_system_refuses_to_grow_leaves_what_was_there(store: ResultStore) -> None:
    """As on a full disk, and for real: the kernel takes a part of the file and no more."""
    path = store.write(track(), trajectory())
    before = path.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.write(track(), trajectory())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "", ".hidden"])
def test_names_cannot_leave_their_folder(name: str) -> None:
    safe = file_name(name)
    assert safe
    assert "/" not in safe
    assert not safe.startswith(".")


def reset_trajectory() -> Trajectory:
    boxes = np.full((4, 4), np.nan)
    boxes[1] = [1.0, 2.0, 3.0, 4.0]
    return dataclasses.replace(trajectory(), boxes=boxes, codes=np.array([1, 3, 2, 0]))


def test_repetitions_have_files_of_their_own(store: ResultStore) -> None:
    third = dataclasses.replace(store, repetition=2)
    written = reset_trajectory()
    path = third.write(track(), written)
    assert path.name.endswith("-003.json")
    assert path.parent.name == "otb-resets"
    found = third.read(track())
    assert found is not None
    assert found.codes is not None
    np.testing.assert_array_equal(found.boxes, written.boxes)
    np.testing.assert_array_equal(found.codes, [1, 3, 2, 0])
    assert dataclasses.replace(store, repetition=1).read(track()) is None
    assert store.read(track()) is None


def test_runs_with_and_without_resets_are_not_confused(store: ResultStore) -> None:
    repetition = dataclasses.replace(store, repetition=0)
    with pytest.raises(ResultError, match=r"otb/Jogging\.2: .*files of their own"):
        repetition.write(track(), trajectory())
    with pytest.raises(ResultError, match=r"otb/Jogging\.2: .*files of their own"):
        store.write(track(), reset_trajectory())
    text = repetition.write(track(), reset_trajectory()).read_text()
    for other, reason in (
        (dataclasses.replace(store, repetition=1), "repetition is 0, not 1"),
        (store, "schema is"),
    ):
        path = other.path(track())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        with pytest.raises(ResultError, match=f"its {reason}"):
            other.read(track())


@pytest.mark.parametrize("codes", [[1, 3, 3, 0], [1, 3, 2], [0, 3, 2, 0], [1, 3, 2, 9], ["x"] * 4])
def test_codes_that_do_not_fit_their_boxes_are_refused(store: ResultStore, codes: list) -> None:
    repetition = dataclasses.replace(store, repetition=0)
    path = repetition.write(track(), reset_trajectory())
    whole = json.loads(path.read_text()) | {"codes": codes}
    del whole["sha256"]
    path.write_text(json.dumps(whole | {"sha256": results._digest(whole)}))
    with pytest.raises(ResultError, match=r"otb/Jogging\.2: .*arrays are wrong"):
        repetition.read(track())


def test_polygons_are_part_of_the_annotation(store: ResultStore) -> None:
    turned = dataclasses.replace(track(), polygons=np.zeros((4, 4, 2)))
    assert store.path(turned) != store.path(track())
