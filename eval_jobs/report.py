"""What an evaluation shows: tables, success and precision plots, and all of it in MLflow."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from eval_jobs.metrics import PRECISION_THRESHOLDS_PX, SUCCESS_THRESHOLDS
from eval_jobs.results import file_name
from eval_jobs.scores import TrackerScore
from meta_train.run_log import RunLog

_STYLES = ("-", "--", "-.", ":")


Row = dict[str, Any]
"""A row of a table: its columns by name."""


def table_rows(scores: Sequence[TrackerScore]) -> list[Row]:
    """One row per score: tracker, benchmark, its protocol and coverage, the metrics, the speed."""
    return [
        {"tracker": score.tracker, "benchmark": score.selection.benchmark.title}
        | {name: round(value, 4) for name, value in score.values.items()}
        | {"fps": round(score.fps, 1), "protocol": score.label}
        for score in scores
    ]


def sequence_rows(scores: Sequence[TrackerScore]) -> list[Row]:
    """One row per score and sequence."""
    return [
        {"tracker": score.tracker, "sequence": each.sequence, "frames": each.num_frames}
        | {name: round(value, 4) for name, value in each.values.items()}
        | {"lost_frames": each.num_lost, "fps": round(each.fps, 1)}
        for score in scores
        for each in score.sequences
    ]


def text_table(rows: Sequence[Row], title: str = "") -> str:
    """Rows, which share their columns, as a table of text."""
    table = Table(title=title or None)
    for column, value in (rows[0] if rows else {}).items():
        is_number = isinstance(value, int | float)
        table.add_column(column, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def success_figure(scores: Sequence[TrackerScore]) -> Figure:
    """Success curves of trackers on one benchmark, best first (Fig. 6)."""
    return _figure(
        scores,
        SUCCESS_THRESHOLDS.tolist(),
        lambda score: score.curves.success.tolist(),
        lambda score: score.values["auc"],
        title="Success",
        x_label="overlap threshold",
        y_label="share of frames above it",
    )


def precision_figure(scores: Sequence[TrackerScore]) -> Figure:
    """Precision curves of trackers on one benchmark, best first (Fig. 6)."""
    return _figure(
        scores,
        PRECISION_THRESHOLDS_PX.tolist(),
        lambda score: score.curves.precision.tolist(),
        lambda score: score.values["precision_20"],
        title="Precision",
        x_label="centre error threshold (px)",
        y_label="share of frames within it",
    )


def summary_metrics(scores: Sequence[TrackerScore], primary: str) -> dict[str, float]:
    """The scores under the names that they have in MLflow.

    The primary tracker's are ``otb100/auc``, ``otb100/precision_20`` and ``speed/fps``, so that
    runs compare; another tracker's are ``otb100/<tracker>/auc`` and so on. A partial score is no
    score of the benchmark and has a name of its own, ``otb100-8of100/auc``.
    """
    metrics: dict[str, float] = {}
    for score in scores:
        own = "" if score.tracker == primary else f"/{file_name(score.tracker)}"
        prefix = f"{score.selection.metric_prefix}{own}"
        metrics |= {f"{prefix}/{name}": value for name, value in score.values.items()}
        metrics[f"{prefix}/num_sequences"] = float(len(score.sequences))
        metrics[f"speed{own}/fps"] = score.fps
    return metrics


def log_scores(
    run_log: RunLog, scores: Sequence[TrackerScore], *, primary: str | None = None, step: int = 0
) -> None:
    """Logs the scores of trackers on one benchmark: metrics, tables and plots.

    Args:
        run_log: the run.
        scores: at least one.
        primary: the tracker whose metrics have the short names; the first where not given.
        step: of the metrics.

    Raises:
        ValueError: there is no score, or none of the primary tracker.
    """
    if not scores:
        raise ValueError("at least one score is needed for a report, got none")
    name = scores[0].tracker if primary is None else primary
    if name not in {score.tracker for score in scores}:
        raise ValueError(
            f"primary must be one of {[score.tracker for score in scores]}, got {name!r}"
        )
    run_log.log_metrics(summary_metrics(scores, name), step=step)
    prefix = scores[0].selection.metric_prefix
    run_log.log_table(table_rows(scores), f"tables/{prefix}.json")
    run_log.log_table(sequence_rows(scores), f"tables/{prefix}_sequences.json")
    run_log.log_text(text_table(table_rows(scores)), f"tables/{prefix}.txt")
    run_log.log_figure(success_figure(scores), f"plots/{prefix}_success.png")
    run_log.log_figure(precision_figure(scores), f"plots/{prefix}_precision.png")


def _figure(
    scores: Sequence[TrackerScore],
    thresholds: list[float],
    curve: Callable[[TrackerScore], list[float]],
    value: Callable[[TrackerScore], float],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> Figure:
    """One line per tracker, with its number in the legend; the protocol under the title."""
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.add_subplot()
    ranked = sorted(scores, key=value, reverse=True)
    for rank, score in enumerate(ranked):
        axes.plot(
            thresholds,
            curve(score),
            color=f"C{rank % 10}",
            linestyle=_STYLES[rank // 10 % len(_STYLES)],
            linewidth=2,
            label=f"{value(score):.3f}  {score.tracker}",
        )
    selection = scores[0].selection
    axes.set_title(f"{title}, {selection.benchmark.title}\n{scores[0].label}", fontsize=10)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(thresholds[0], thresholds[-1])
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
    return str(value)
