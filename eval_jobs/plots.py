"""Plots of trackers on one benchmark: success, precision, and scores by attribute."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval_jobs.attributes import attribute_scores
from eval_jobs.metrics import NORMALIZED_THRESHOLDS, PRECISION_THRESHOLDS_PX, SUCCESS_THRESHOLDS
from eval_jobs.scores import TrackerScore

MAX_LEGEND_INSIDE = 8
"""With more trackers the legend stands beside the curves, not over them."""

_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")


def success_figure(scores: Sequence[TrackerScore]) -> Figure:
    """Success curves of trackers on one benchmark, best first (Fig. 6)."""
    return _curves_figure(
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
    return _curves_figure(
        scores,
        PRECISION_THRESHOLDS_PX.tolist(),
        lambda score: score.curves.precision.tolist(),
        lambda score: score.values["precision_20"],
        title="Precision",
        x_label="centre error threshold (px)",
        y_label="share of frames within it",
    )


def normalized_precision_figure(scores: Sequence[TrackerScore]) -> Figure:
    """Normalised precision curves of trackers on one benchmark, best first."""
    return _curves_figure(
        scores,
        NORMALIZED_THRESHOLDS.tolist(),
        lambda score: score.curves.normalized_precision.tolist(),
        lambda score: score.values["normalized_precision_20"],
        title="Normalised precision",
        x_label="centre error threshold (target sizes)",
        y_label="share of frames within it",
    )


def curve_figures(scores: Sequence[TrackerScore]) -> dict[str, Figure]:
    """The plots of what the benchmark measures, by name; none where it measures no curves."""
    figures = {
        "auc": ("success", success_figure),
        "precision_20": ("precision", precision_figure),
        "normalized_precision_20": ("normalized_precision", normalized_precision_figure),
    }
    if not all(score.has_curves for score in scores):
        return {}
    return {
        name: draw(scores) for metric, (name, draw) in figures.items() if metric in scores[0].values
    }


def attribute_figure(scores: Sequence[TrackerScore]) -> Figure:
    """The benchmark's first metric by attribute: a row per attribute, a mark per tracker.

    Raises:
        ValueError: no sequence has an attribute.
    """
    metric = scores[0].selection.benchmark.metrics[0].name
    by_tracker = {score.tracker: attribute_scores(score) for score in scores}
    first = by_tracker[scores[0].tracker]
    if not first:
        raise ValueError("a plot by attribute needs sequences with attributes, none has any")
    places = np.arange(len(first))
    figure = Figure(figsize=(6.4, 1.4 + 0.4 * len(first)))
    axes = figure.add_subplot()
    for rank, score in enumerate(_ranked(scores, lambda score: score.values[metric])):
        axes.plot(
            [each.values[metric] for each in by_tracker[score.tracker]],
            places,
            color=f"C{rank % 10}",
            marker=_MARKERS[rank // 10 % len(_MARKERS)],
            linestyle="",
            label=f"{score.values[metric]:.3f}  {score.tracker}",
        )
    axes.set_yticks(places, [f"{each.attribute} ({each.num_sequences})" for each in first])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"{metric} over the sequences with the attribute (how many)")
    _finish(axes, scores, title="By attribute")
    return figure


def _ranked(
    scores: Sequence[TrackerScore], value: Callable[[TrackerScore], float]
) -> list[TrackerScore]:
    """Best first."""
    return sorted(scores, key=value, reverse=True)


def _curves_figure(
    scores: Sequence[TrackerScore],
    thresholds: list[float],
    curve: Callable[[TrackerScore], list[float]],
    value: Callable[[TrackerScore], float],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> Figure:
    """One line per tracker, with its number in the legend."""
    figure = Figure(figsize=(6.4, 4.8))
    axes = figure.add_subplot()
    for rank, score in enumerate(_ranked(scores, value)):
        axes.plot(
            thresholds,
            curve(score),
            color=f"C{rank % 10}",
            linestyle=_STYLES[rank // 10 % len(_STYLES)],
            linewidth=2,
            label=f"{value(score):.3f}  {score.tracker}",
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(thresholds[0], thresholds[-1])
    axes.set_ylim(0, 1)
    _finish(axes, scores, title=title)
    return figure


def _finish(axes: Axes, scores: Sequence[TrackerScore], *, title: str) -> None:
    """Title with the protocol below it, grid and legend."""
    selection = scores[0].selection
    axes.set_title(f"{title}, {selection.benchmark.title}\n{scores[0].label}", fontsize=10)
    axes.grid(alpha=0.3)
    if len(scores) > MAX_LEGEND_INSIDE:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    else:
        axes.legend(fontsize=8)
