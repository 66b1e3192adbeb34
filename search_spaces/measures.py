"""The numbers by which cells are compared: what trials report, and what of the paper is beside."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from eval_jobs.benchmarks import find_benchmark
from eval_jobs.pipeline import EvaluationConfig
from eval_jobs.published import FPS

Published = Mapping[str, tuple[float, ...]]
"""Figures of the paper by its column; several where the paper does not tell which one it is."""

FOR_THE_ORDER = "otb100/auc"
"""The paper's column that stands beside a benchmark of which the paper says nothing: its size means
nothing there, only which row is ahead."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number by which cells are compared."""

    name: str
    """Among a trial's metrics: ``tracking/auc``, ``val/query_loss_ratio``."""

    title: str
    """How tables and plots write it."""

    higher_is_better: bool
    """Which way is better."""


MOST_SHOWN = 3
"""So many of a benchmark's metrics are columns; MLflow has the others too."""

SPEED = Measure(name="tracking/fps", title="frames/s", higher_is_better=True)
"""Frames a second, on the machine that tracked."""

LOSS_RATIO = Measure(
    name="val/query_loss_ratio", title="query loss, after / before", higher_is_better=False
)
"""How much of the held-out loss adaptation leaves."""


def benchmark_measures(evaluation: EvaluationConfig) -> tuple[Measure, ...]:
    """The most important that a benchmark measures, of the first phase: OTB's AUC, VOT's EAO.

    >>> [measure.name for measure in benchmark_measures(EvaluationConfig(benchmark="vot2018"))]
    ['tracking/eao', 'tracking/accuracy', 'tracking/robustness']
    """
    return tuple(
        Measure(
            name=f"tracking/{metric.name}",
            title=metric.name,
            higher_is_better=metric.higher_is_better,
        )
        for metric in find_benchmark(evaluation.benchmark).metrics[:MOST_SHOWN]
    )


def require_reported(measures: Sequence[Measure], evaluations: Sequence[EvaluationConfig]) -> None:
    """Checks that trials with these evaluations report every measure.

    Raises:
        ValueError: none does; it names what they report.
    """
    phases = dict.fromkeys(phase for each in evaluations for phase in each.phases)
    metrics = dict.fromkeys(
        metric.name for each in evaluations for metric in find_benchmark(each.benchmark).metrics
    )
    known = [f"{phase}/{name}" for phase in ("tracking", *phases) for name in (*metrics, "fps")]
    unknown = [
        measure.name
        for measure in measures
        if measure.name not in known and not measure.name.startswith("val/")
    ]
    if unknown:
        raise ValueError(
            f"a study cannot compare by {unknown}, which no trial reports; they report "
            f"{', '.join(known)} and the validation's val/..."
        )


def paper_columns(published: Iterable[Published], benchmarks: Iterable[str]) -> list[str]:
    """Those of the paper's columns that belong beside ours: these benchmarks', and speeds.

    Where the paper says nothing of the benchmarks, `FOR_THE_ORDER` takes their place.

    >>> table = {"otb100/auc": (0.7,), "vot2018/eao": (0.4,), "fps": (40.0,)}
    >>> paper_columns([table], ["vot2018"]), paper_columns([table], ["synthetic"])
    (['vot2018/eao', 'fps'], ['otb100/auc', 'fps'])
    """
    columns, names = (column for each in published for column in each), set(benchmarks)
    given = list(dict.fromkeys(columns))
    own = [column for column in given if column.partition("/")[0] in names]
    return [column for column in given if column in (own or [FOR_THE_ORDER]) or column == FPS]
