"""The script `eval_jobs/track_video.py` and its parts: sources, recording, and stopping."""

import csv
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from jaxtyping import UInt8
from numpy import ndarray

from data_pipeline.tracks import DatasetError, VideoDecoder
from eval_jobs import frame_sources, track_video
from eval_jobs.frame_sources import FrameSource, open_source
from eval_jobs.live_run import first_box, live_run, stop_on_signals, until_failure
from eval_jobs.opencv_tracker import StaticTracker
from eval_jobs.recording import (
    FOUND_COLOR,
    LOST_COLOR,
    RecordingConfig,
    RecordingError,
    VideoFile,
    annotate,
    recording,
)
from eval_jobs.tracker import Prediction

SCRIPT = Path(__file__).parents[1] / "eval_jobs" / "track_video.py"
WIDTH, HEIGHT = 96, 72
BOX = (20.0, 24.0, 24.0, 24.0)


def frames(count: int) -> list[ndarray]:
    """A bright square that moves two pixels a frame."""
    images = []
    for number in range(count):
        image = np.full((HEIGHT, WIDTH, 3), (40, 60, 80), dtype=np.uint8)
        x = 20 + 2 * number
        image[24:48, x : x + 24] = (230, 120, 20)
        images.append(image)
    return images


def write_video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.5, (WIDTH, HEIGHT))
    assert writer.isOpened(), "this build of OpenCV cannot write mp4"
    for image in frames(count):
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_folder(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, image in enumerate(frames(count)):
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return folder


def source_of(images: Iterator[ndarray], count: int | None = None) -> FrameSource:
    return FrameSource(title="made up", frames=images, num_frames=count, fps=30.0)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- sources


def test_a_video_and_a_folder_give_the_same_frames(tmp_path: Path) -> None:
    expected = frames(12)  # more than ten: 10.png comes after 9.png
    folder = open_source(str(write_folder(tmp_path / "images", 12)))
    assert (folder.num_frames, folder.fps) == (12, 30.0)
    np.testing.assert_array_equal(list(folder.frames), expected)
    video = open_source(str(write_video(tmp_path / "video.mp4", 12)))
    assert (video.num_frames, video.fps) == (12, 12.5)
    decoded = list(video.frames)
    assert np.abs(np.array(decoded, int) - np.array(expected, int)).mean() < 6  # lossy, but RGB


def test_a_camera_gives_frames_until_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        """Gives blue frames."""

        released = False
        num_read = 0

        def __init__(self, index: int) -> None:
            assert index == 3

        def get(self, _: int) -> float:
            return 0.0  # a camera that does not say how fast it is

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def read(self) -> tuple[bool, ndarray]:
            self.num_read += 1
            return self.num_read <= 3, np.full((4, 6, 3), (255, 0, 0), dtype=np.uint8)  # BGR

        def release(self) -> None:
            Camera.released = True

    monkeypatch.setattr(frame_sources.cv2, "VideoCapture", Camera)
    camera = open_source("3")
    assert (camera.title, camera.num_frames, camera.fps) == ("camera 3", None, 30.0)
    assert next(camera.frames)[0, 0].tolist() == [0, 0, 255]
    camera.frames.close()  # type: ignore[attr-defined]
    assert Camera.released

    failures: list[Exception] = []
    run = live_run(StaticTracker(), open_source("3"), (1.0, 1.0, 2.0, 2.0))
    assert len(list(until_failure(run, failures))) == 3  # then it was unplugged
    (failure,) = failures
    assert isinstance(failure, DatasetError) and "gives none any more" in str(failure)


def test_sources_without_frames_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video at all")
    for source, message in {
        str(tmp_path / "missing.mp4"): "a video file, a folder of images or the number of a camera",
        str(tmp_path / "empty"): "none found",
        str(tmp_path / "text.mp4"): "it cannot",
        "97": "camera 97: it cannot be opened",
    }.items():
        with pytest.raises(DatasetError, match=message):
            open_source(source)


# --- the run


def test_the_first_box_is_the_given_one() -> None:
    found = list(live_run(StaticTracker(), source_of(iter(frames(3))), BOX))
    assert len(found) == 3
    for _, prediction in found:
        np.testing.assert_array_equal(prediction.box, [20, 24, 44, 48])
    assert found[0][1].score == 1.0


@pytest.mark.parametrize(
    "box",
    [(80.0, 24.0, 24.0, 24.0), (-1.0, 0.0, 9.0, 9.0), (1.0, 1.0, 0.0, 9.0), (0.0, 0.0, 9.0, 73.0)],
)
def test_a_box_outside_the_frame_is_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="inside the frame of 96x72 pixels, got"):
        first_box(frames(1)[0], box)


def test_a_box_may_touch_the_frame_s_border() -> None:
    np.testing.assert_array_equal(first_box(frames(1)[0], (0.0, 0.0, 96.0, 72.0)), [0, 0, 96, 72])


def test_frames_of_another_size_are_refused() -> None:
    images = [*frames(2), np.zeros((10, 10, 3), dtype=np.uint8)]
    with pytest.raises(ValueError, match="the first is 96x72 pixels, number 2 is 10x10"):
        list(live_run(StaticTracker(), source_of(iter(images)), BOX))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_what_was_tracked_before_a_stop_is_kept(tmp_path: Path, kind: signal.Signals) -> None:
    def endless() -> Iterator[UInt8[ndarray, "72 96 3"]]:
        for number in range(10_000):
            if number == 4:
                signal.raise_signal(kind)
            yield frames(1)[0]

    before = signal.getsignal(kind)
    config = RecordingConfig(video=tmp_path / "out.mp4", table=tmp_path / "out.csv")
    with stop_on_signals() as is_stopped, recording(config, 30.0) as recorder:
        for image, prediction in live_run(StaticTracker(), source_of(endless()), BOX, is_stopped):
            recorder.add(image, prediction)
    assert is_stopped()
    assert recorder.num_frames == 5  # the frame in work is finished
    assert VideoDecoder(tmp_path / "out.mp4").count() == 5
    assert len(rows_of(tmp_path / "out.csv")) == 5
    assert signal.getsignal(kind) is before


@pytest.fixture
def python_handles_ctrl_c() -> Iterator[None]:
    """As in a fresh process: Ray Tune leaves a handler of its own behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_at_once(python_handles_ctrl_c: None) -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as is_stopped:
        signal.raise_signal(signal.SIGINT)
        assert is_stopped()
        signal.raise_signal(signal.SIGINT)


# --- what is written


def test_boxes_are_drawn_green_and_red() -> None:
    image, box = frames(1)[0], np.array([30.0, 30.0, 60.0, 60.0])
    found = annotate(image, Prediction(box=box, score=0.5, lost=False), 0)
    assert found[60, 45].tolist() == list(FOUND_COLOR)
    lost = annotate(image, Prediction(box=box, score=0.05, lost=True), 0)
    assert lost[60, 45].tolist() == list(LOST_COLOR)
    np.testing.assert_array_equal(image, frames(1)[0])  # the frame itself stays as it is
    outside = np.array([-500.0, -500.0, 2000.0, 2000.0])
    annotate(image, Prediction(box=outside, score=0.5, lost=False), 0)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_recording_is_there_whole(tmp_path: Path, suffix: str) -> None:
    config = RecordingConfig(video=tmp_path / f"new/out{suffix}", table=tmp_path / "new/out.csv")
    with recording(config, 25.0) as recorder:
        for number, image in enumerate(frames(4)):
            box = np.array([1.5, 2.0, 11.5, 22.0])
            recorder.add(image, Prediction(box=box, score=0.25, lost=number == 3))
        assert not config.video.exists()  # type: ignore[union-attr]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"out.csv", f"out{suffix}"}
    decoder = VideoDecoder(tmp_path / f"new/out{suffix}")
    assert (decoder.count(), decoder.fps) == (4, 25.0)
    *_, last = rows_of(tmp_path / "new/out.csv")
    assert last == {
        "frame": "3",
        "x": "1.500",
        "y": "2.000",
        "width": "10.000",
        "height": "20.000",
        "score": "0.2500",
        "lost": "1",
    }


def test_a_failed_run_leaves_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    config = RecordingConfig(video=tmp_path / "out.mp4", table=tmp_path / "out.csv")
    with pytest.raises(RuntimeError, match="broken"), recording(config, 30.0) as recorder:
        recorder.add(frames(1)[0], Prediction(box=np.array([0.0, 0, 9, 9]), score=1.0, lost=False))
        raise RuntimeError("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "old"


def test_a_video_that_lost_frames_is_no_video(tmp_path: Path) -> None:
    with (
        pytest.raises(RecordingError, match="3 frames expected in the video, 2 were written"),
        VideoFile(tmp_path / "out.avi", 30.0) as video,
    ):
        for image in [*frames(2), np.zeros((8, 8, 3), dtype=np.uint8)]:  # OpenCV drops the last
            video.add(image)


def test_wrong_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to write"):
        RecordingConfig()
    with pytest.raises(ValueError, match=r"one of \.mp4, \.avi, got 'out\.gif'"):
        RecordingConfig(video=Path("out.gif"))
    with pytest.raises(ValueError, match="fps must be positive, got 0"):
        RecordingConfig(table=Path("out.csv"), fps=0.0)
    with pytest.raises(ValueError, match=r"\.: a file to write expected, it is a folder"):
        RecordingConfig(table=Path())
    with pytest.raises(ValueError, match=r"two files expected, got out\.mp4 for the video and"):
        RecordingConfig(video=Path("out.mp4"), table=Path("new/../out.mp4"))


def test_what_cannot_be_written_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    source, place = write_folder(tmp_path / "images", 1), tmp_path / "images" / "0.png" / "out"
    for output in ({"csv": place}, {"output": place.with_suffix(".mp4")}):
        with pytest.raises(SystemExit, match=r"error: .*png/out[.\w]*: a file that can be written"):
            track_video.main(str(source), BOX, checkpoint="missing", **output)
    with pytest.raises(SystemExit, match=r"0\.png would replace the source"):
        track_video.main(str(place.parent), BOX, csv=place.parent)


def test_a_checkpoint_may_be_a_uri(tmp_path: Path, slim_checkpoint: Path) -> None:
    source, table = write_folder(tmp_path / "images", 2), tmp_path / "out.csv"
    track_video.main(str(source), BOX, checkpoint=slim_checkpoint.as_uri(), csv=table)
    assert len(rows_of(table)) == 2
    missing = (tmp_path / "missing").as_uri()
    with pytest.raises(SystemExit, match=f"error: .*{tmp_path}/missing: a checkpoint expected"):
        track_video.main(str(source), BOX, checkpoint=missing, csv=table)


# --- the script


def test_the_script_tracks_a_video(
    tmp_path: Path, slim_checkpoint: Path, run_script: Callable[..., Any]
) -> None:
    write_video(tmp_path / "in.mp4", 6)
    options = "--source in.mp4 --box 20 24 24 24 --output out.mp4 --csv out.csv"
    own = ["--checkpoint", str(slim_checkpoint), "--tracker.update-interval-frames", "2"]
    done = run_script(SCRIPT, tmp_path, *options.split(), *own)
    assert done.returncode == 0, done.stderr
    assert "6 frames, lost on" in done.stdout
    assert "wrote out.mp4" in done.stdout
    rows = rows_of(tmp_path / "out.csv")
    assert [int(row["frame"]) for row in rows] == list(range(6))
    assert [float(rows[0][name]) for name in ("x", "y", "width", "height")] == list(BOX)
    decoder = VideoDecoder(tmp_path / "out.mp4")
    assert (decoder.count(), decoder.fps) == (6, 12.5)


def test_what_was_tracked_before_a_broken_frame_is_kept(
    tmp_path: Path, slim_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, config = write_folder(tmp_path / "images", 6), {"checkpoint": str(slim_checkpoint)}
    (source / "4.png").write_bytes(b"no image")
    table, video = tmp_path / "out.csv", tmp_path / "out.mp4"
    with pytest.raises(SystemExit, match=r"error: .*4\.png: does not decode"):
        track_video.main(str(source), BOX, output=video, csv=table, **config)
    assert len(rows_of(table)) == 4 and VideoDecoder(video).count() == 4
    said = capsys.readouterr().out
    assert "4 frames, lost on " in said and "(ended by an error)" in said
    assert f"wrote {video}" in said and f"wrote {table}" in said
    (source / "0.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=r"error: .*0\.png: does not decode"):
        track_video.main(str(source), BOX, csv=table, **config)
    assert len(rows_of(table)) == 4  # of a run without a frame nothing is put in its place


def test_the_script_says_what_is_wrong(tmp_path: Path, run_script: Callable[..., Any]) -> None:
    write_video(tmp_path / "in.mp4", 2)
    options = "--source in.mp4 --box 0 0 9 9 --checkpoint no --csv out.csv"
    done = run_script(SCRIPT, tmp_path, *options.split())
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no")
    assert not (tmp_path / "out.csv").exists()
    before = (tmp_path / "in.mp4").read_bytes()
    done = run_script(
        SCRIPT, tmp_path, *["--source", "in.mp4", "--box", "0", "0", "9", "9", "--output", "in.mp4"]
    )
    assert done.returncode == 1 and "would replace the source" in done.stderr
    assert (tmp_path / "in.mp4").read_bytes() == before
    no_device = "--source in.mp4 --box 0 0 9 9 --csv out.csv --device gpu"
    done = run_script(SCRIPT, tmp_path, *no_device.split())
    assert done.returncode == 1 and "error: device 'gpu': one that this machine has" in done.stderr
