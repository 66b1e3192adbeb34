"""The worst sequences of a tracker, frame by frame: what goes wrong, and when.

    python eval_jobs/show_failures.py --folder OTB --partial --output strips \\
        --trackers "results/FCOS-MAML__online_updating-0123456789ab"

Takes the results that an evaluation left (the folder of one tracker among them), tracks nothing,
and draws a strip for each of the worst sequences: frames with the true box (yellow) and the
tracker's (green, red where it says that it is lost), most of them about the frame at which it
first fails; below, overlap and score by frame, and where it learned.
"""

import logging
from pathlib import Path
from typing import Literal

import tyro

from data_pipeline.clear_errors import clear_errors
from eval_jobs.benchmarks import Benchmark, Selection, find_benchmark, select, sequence_name
from eval_jobs.failure_strips import StripConfig, strip_figure, write_png
from eval_jobs.protocols import Trajectory
from eval_jobs.results import ResultError, ResultStore, file_name, find_store
from eval_jobs.scores import score_tracker, worst_first
from meta_train.run_log import MlflowConfig, RunLog


@clear_errors(ValueError)
def main(
    folder: Path,
    trackers: tuple[Path, ...],
    benchmark: str = "otb100",
    output: Path = Path("strips"),
    num_sequences: int = 3,
    strip: StripConfig = StripConfig(),  # noqa: B008
    partial: bool = False,
    max_sequences: int | None = None,
    max_frames: int | None = None,
    mlflow: MlflowConfig = MlflowConfig(),  # noqa: B008
) -> None:
    """Draws the worst sequences of trackers.

    Args:
        folder: the sequences, in the benchmark's own layout.
        trackers: folders of single trackers' results, such as results/NAME-FINGERPRINT.
        benchmark: a row of BENCHMARKS, of one pass; its first metric says which are worst.
        output: takes a PNG file per tracker and sequence.
        num_sequences: how many of the worst.
        strip: what is shown of each.
        partial: accept that sequences of the benchmark are missing.
        max_sequences: of results over the first so many sequences.
        max_frames: of results over the first so many frames of each sequence.
        mlflow: where they are logged.
    """
    if not trackers:
        raise ValueError(
            "--trackers: at least one folder of a tracker's results expected, got none"
        )
    row = _one_pass(benchmark)
    selection = select(
        row, folder.absolute(), partial=partial, max_sequences=max_sequences, max_frames=max_frames
    )
    stores = [find_store(each, max_frames) for each in trackers]
    results = [_read(store, selection) for store in stores]
    run_log = RunLog.start(
        mlflow,
        run_name=f"failures of {stores[0].tracker}",
        params={"benchmark": benchmark, "trackers": " ".join(map(str, trackers))},
        tags={"kind": "failures"},
    )
    status: Literal["FINISHED", "FAILED"] = "FAILED"
    try:
        for store, runs in zip(stores, results, strict=True):
            score = score_tracker(store.tracker, store.fingerprint, selection, runs)
            by_name = {
                sequence_name(track): (track, run)
                for track, run in zip(selection.tracks, runs, strict=True)
            }
            for each in worst_first(score)[:num_sequences]:
                values = ", ".join(f"{name} {value:.3f}" for name, value in each.values.items())
                title = f"{store.tracker} on {each.sequence}: {values} ({score.label})"
                figure = strip_figure(*by_name[each.sequence], strip, title=title)
                who = f"{file_name(store.tracker)}-{store.fingerprint[:12]}"
                name = f"{who}-{file_name(each.sequence)}.png"
                write_png(figure, output / name)
                run_log.log_figure(figure, f"strips/{name}")
                print(f"{output / name}: {title}")
        status = "FINISHED"
    finally:
        run_log.finish(status)


def _one_pass(benchmark: str) -> Benchmark:
    """The benchmark, if its results are runs of one pass that can be scored."""
    row = find_benchmark(benchmark)
    if row.resets is not None or not row.metrics:
        why = "is run with resets" if row.resets is not None else "has its ground truth at a server"
        raise ValueError(f"a benchmark scored here in one pass expected, {row.title} {why}")
    return row


def _read(store: ResultStore, selection: Selection) -> list[Trajectory]:
    """A tracker's runs over all sequences."""
    runs = []
    for track in selection.tracks:
        run = store.read(track)
        if run is None:
            raise ResultError(
                f"no result of {track.name} at {store.path(track)}: was {store.tracker} evaluated "
                "with another benchmark, max_sequences or max_frames?"
            )
        runs.append(run)
    return runs


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    tyro.cli(main)
