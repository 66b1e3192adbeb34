"""A study's table: mean and spread of each cell beside the paper's figures, and what is clear."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from urllib.parse import quote, urlsplit

from matplotlib.figure import Figure

from eval_jobs.row_tables import Row
from search_spaces.measures import Measure, paper_columns
from search_spaces.study import Study
from search_spaces.trial_run import TrialResult

LOCAL_MLFLOW_UI = "http://127.0.0.1:5000"
"""Where a bare ``mlflow ui`` answers."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two cells under one measure."""

    lower: str
    """The cell with the lower mean."""

    higher: str
    """The other."""

    size: float
    """Difference of the means."""

    spread: float
    """Twice the standard error of that difference, from the variance pooled over all cells."""

    @property
    def is_clear(self) -> bool:
        """Whether it is more than spread."""
        return self.size > self.spread


def values_of(
    study: Study, results: Sequence[TrialResult], measure: Measure
) -> dict[str, list[float]]:
    """One measure's values over the seeds of each cell; a failed trial gives none.

    Raises:
        ValueError: no trial that ended well has this measure.
    """
    ended = [result for result in results if not result.error]
    if ended and not any(measure.name in result.metrics for result in ended):
        raise ValueError(
            f"no trial reports {measure.name!r}; they report {', '.join(sorted(ended[0].metrics))}"
        )
    return {
        cell: [
            result.metrics[measure.name]
            for result in ended
            if result.cell == cell and measure.name in result.metrics
        ]
        for cell in study.cells
    }


def differences(values: dict[str, list[float]]) -> list[Difference]:
    """All pairs of cells, the largest difference first; none where no cell has two seeds.

    With few seeds a cell's own variance says little, so all cells' are pooled.
    """
    freedom = sum(len(each) - 1 for each in values.values() if each)
    if freedom < 1:
        return []
    squares = sum(
        (value - statistics.fmean(each)) ** 2 for each in values.values() for value in each
    )
    deviation = math.sqrt(squares / freedom)
    found = []
    for pair in combinations([cell for cell in values if values[cell]], 2):
        lower, higher = sorted(pair, key=lambda cell: statistics.fmean(values[cell]))
        error = deviation * math.sqrt(1 / len(values[lower]) + 1 / len(values[higher]))
        size = statistics.fmean(values[higher]) - statistics.fmean(values[lower])
        found.append(Difference(lower=lower, higher=higher, size=size, spread=2 * error))
    return sorted(found, key=lambda difference: -difference.size)


def table_rows(study: Study, results: Sequence[TrialResult]) -> list[Row]:
    """One row per cell: ours as mean +- standard deviation over seeds, the paper's, what failed."""
    columns = {measure.title: values_of(study, results, measure) for measure in study.measures}
    published = paper_columns(
        (variant.published for variant in study.variants),
        (variant.config.evaluation.benchmark for variant in study.variants),
    )
    rows = []
    for cell in study.cells:
        variant = next(each for each in study.variants if each.cell == cell)
        mine = [result for result in results if result.cell == cell]
        row: Row = {"cell": cell}
        row |= {title: mean_and_spread(values[cell]) for title, values in columns.items()}
        row |= {f"paper: {key}": _figures(variant.published.get(key, ())) for key in published}
        row["seeds"] = f"{sum(not result.error for result in mine)} of {len(mine)}"
        row["failed"] = "; ".join(
            f"seed {result.seed}: {result.error_type}" for result in mine if result.error
        )
        rows.append(row)
    return rows


def trial_rows(study: Study, results: Sequence[TrialResult]) -> list[Row]:
    """One row per trial."""
    return [
        {"trial": result.trial_id, "cell": result.cell, "seed": result.seed}
        | {
            measure.title: f"{result.metrics[measure.name]:.4f}"
            if measure.name in result.metrics
            else ""
            for measure in study.measures
        }
        | {"minutes": round(result.seconds / 60, 2), "failed": result.error}
        for result in results
    ]


def verdicts(study: Study, results: Sequence[TrialResult]) -> list[str]:
    """For each measure a sentence that says which differences are more than spread."""
    return [
        _verdict(measure, differences(values_of(study, results, measure)))
        for measure in study.measures
    ]


def _verdict(measure: Measure, found: Sequence[Difference]) -> str:
    if not found:
        return (
            f"{measure.title}: without two cells, or two seeds of a cell, nothing tells a "
            "difference from chance."
        )
    clear = [f"{each.lower} < {each.higher} by {each.size:.3f}" for each in found if each.is_clear]
    within = [f"{each.lower}/{each.higher}" for each in found if not each.is_clear]
    return (
        f"{measure.title}: more than the spread: {', '.join(clear) or 'none'}; within it: "
        f"{', '.join(within) or 'none'}. (The spread of a difference is twice its standard error, "
        f"{found[0].spread:.3f} for {found[0].lower}/{found[0].higher}, from the seeds' variance "
        "pooled over all cells.)"
    )


def comparison_figure(study: Study, results: Sequence[TrialResult]) -> Figure:
    """A panel per measure: each seed's value as a dot, each cell's mean as a bar."""
    figure = Figure(figsize=(4.2 * len(study.measures), 3.6), layout="constrained")
    panels = figure.subplots(1, len(study.measures), squeeze=False)[0]
    labels = sorted({result.label for result in results if result.label})
    for axes, measure in zip(panels, study.measures, strict=True):
        values = values_of(study, results, measure)
        for place, each in enumerate(values.values()):
            axes.scatter([place] * len(each), each, color="C0", alpha=0.6, zorder=2)
            if each:
                mean = statistics.fmean(each)
                axes.hlines(mean, place - 0.3, place + 0.3, color="C1", linewidth=2, zorder=3)
        axes.set_xticks(range(len(values)), list(values))
        axes.set_xlim(-0.5, len(values) - 0.5)
        better = "higher" if measure.higher_is_better else "lower"
        axes.set_title(f"{measure.title}\n({better} is better)", fontsize=10)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle("\n".join([f"{study.title}: a dot is a seed, a bar the mean", *labels]), size=9)
    return figure


def compare_url(tracking_uri: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The address of MLflow's page that compares these runs.

    A database has no address of its own, so its pages are those of a bare ``mlflow ui``.
    """
    is_server = urlsplit(tracking_uri).scheme in ("http", "https")
    home = tracking_uri.rstrip("/") if is_server else LOCAL_MLFLOW_UI
    runs = quote(json.dumps(list(run_ids), separators=(",", ":")))
    experiments = quote(json.dumps([experiment_id]))
    return f"{home}/#/compare-runs?runs={runs}&experiments={experiments}"


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation; only the value where there is one.

    >>> mean_and_spread([0.5, 0.7])
    '0.600 ± 0.141'
    """
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values)
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def _figures(figures: Sequence[float]) -> str:
    return " or ".join(f"{figure:.3f}" if figure < 1 else f"{figure:g}" for figure in figures)
