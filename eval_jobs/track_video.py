"""Tracks a target through a video file, a folder of images or a camera, without a screen.

    python eval_jobs/track_video.py --source dog.mp4 --box 120 80 64 48 \\
        --checkpoint runs/RUN_ID/best --output tracked.mp4 --csv boxes.csv

Without --checkpoint the tracker to start with is taken, which has seen synthetic videos alone.
Ctrl-C stops after the frame in work; what was tracked until then is written, as it is where a later
frame cannot be read or tracked, or the camera goes. Ctrl-C once more writes nothing.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.clear_errors import clear_errors
from eval_jobs.frame_sources import FrameSource, open_source
from eval_jobs.live_run import live_run, stop_on_signals, until_failure
from eval_jobs.recording import RecordingConfig, recording
from eval_jobs.starter import STARTER
from eval_jobs.tracker import OnlineTracker
from eval_jobs.tracker_config import TrackerConfig


@clear_errors(ValueError, OSError)
def main(
    source: str,
    box: tuple[float, float, float, float],
    checkpoint: str = str(STARTER),
    output: Path | None = None,
    csv: Path | None = None,
    tracker: TrackerConfig = TrackerConfig(),  # noqa: B008
    fps: float | None = None,
    device: str = "cpu",
) -> None:
    """Tracks one target and writes what came out.

    Args:
        source: a video file, a folder of images, or the number of a camera.
        box: left, top, width and height of the target in the first frame, in pixels.
        checkpoint: a checkpoint's folder or URI; the tracker to start with where not given.
        output: a video (mp4 or avi) with the boxes drawn into it.
        csv: a table with a row per frame: frame, x, y, width, height, score, lost.
        tracker: constants of Algorithm 1, such as --tracker.update-interval-frames.
        fps: of the output; the source's own where not given.
        device: cpu or cuda.
    """
    config = RecordingConfig(video=output, table=csv, fps=fps)
    for path in (output, csv):
        if path is not None and Path(source).exists() and path.resolve() == Path(source).resolve():
            raise ValueError(f"{path} would replace the source; give another file")
    opened = open_source(source)
    _track(lambda: OnlineTracker.load(checkpoint, tracker, device=device), opened, box, config)


def _track(
    load: Callable[[], OnlineTracker],
    source: FrameSource,
    box: tuple[float, float, float, float],
    config: RecordingConfig,
) -> None:
    """Tracks, records, and says what was written; then raises what ended it early."""
    columns = (
        TextColumn("tracking in {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}"),
    )
    num_lost, failures = 0, list[Exception]()
    with (
        stop_on_signals() as is_stopped,
        Progress(*columns) as progress,
        recording(config, source.fps) as recorder,
    ):
        tracker = load()  # once it is known that what it finds can be written
        if is_stopped():
            raise KeyboardInterrupt
        bar = progress.add_task(source.title, total=source.num_frames, state="")
        run = live_run(tracker, source, box, is_stopped)
        for image, prediction in until_failure(run, failures):
            recorder.add(image, prediction)
            num_lost += prediction.lost
            state = "lost" if prediction.lost else f"score {prediction.score:.2f}"
            progress.update(bar, advance=1, state=state)
    ending = " (ended by an error)" if failures else " (stopped)" * is_stopped()
    print(f"{recorder.num_frames} frames, lost on {num_lost}{ending}")
    for path in (config.video, config.table):
        if path is not None:
            print(f"wrote {path}")
    if failures:
        raise failures[0]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    tyro.cli(main)
