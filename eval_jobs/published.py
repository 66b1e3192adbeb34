"""What the paper measured: its Tables 1 to 6, row by row, to stand beside our own numbers.

A column is named by a benchmark and its metric, ``otb100/auc``, as in `BENCHMARKS`; ``fps`` is the
paper's speed, on a P100. A row is named as this project names the same tracker, so that a score and
what the paper says of it share a line. The FCOS-MAML and Retina-MAML of Tables 4 to 6 update
online, so they are called that; on LaSOT they update cls only (Table 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass

FPS = "fps"
"""The column of speeds."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of the paper.

    Raises:
        ValueError: a row has another number of entries than there are columns.
    """

    number: int
    """As the paper counts."""

    title: str
    """What it compares."""

    columns: tuple[str, ...]
    """``benchmark/metric``, or ``fps``."""

    rows: Mapping[str, tuple[float | None, ...]]
    """An entry per column by tracker; None where the paper has a dash."""

    def __post_init__(self) -> None:
        for tracker, row in self.rows.items():
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table {self.number}, {tracker}: {len(self.columns)} entries expected, "
                    f"got {len(row)}"
                )


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """What the paper says of one tracker on one benchmark."""

    tracker: str
    """As this project names it."""

    table: int
    """Where the paper says it."""

    values: Mapping[str, float]
    """By metric; never empty."""

    fps: float | None
    """Frames per second; None where the table has none."""


TABLES = (
    PublishedTable(
        number=1,
        title="Domain adaptation, without online updating",
        columns=("otb100/auc", "vot2018/eao", "lasot/auc", "trackingnet/auc"),
        rows={
            "FCOS baseline, before adaptation": (0.460, 0.137, 0.391, 0.601),
            "FCOS baseline, after adaptation": (0.487, 0.174, 0.391, 0.634),
            "FCOS-MAML, before adaptation": (0.464, 0.162, 0.387, 0.626),
            "FCOS-MAML, after adaptation": (0.671, 0.341, 0.511, 0.743),
        },
    ),
    # Which of its two middle rows is cls and which reg, our copy of the paper does not show.
    PublishedTable(
        number=2,
        title="Learned rates, with online updating",
        columns=("otb100/auc", "vot2018/eao", "lasot/auc", "trackingnet/auc"),
        rows={
            "FCOS-MAML, rates learned in no branch": (0.628, 0.313, 0.490, 0.733),
            "FCOS-MAML, rates learned in one branch": (0.661, 0.368, 0.502, 0.737),
            "FCOS-MAML, rates learned in the other branch": (0.676, 0.315, 0.504, 0.744),
            "FCOS-MAML, rates learned in both branches": (0.704, 0.392, 0.523, 0.757),
        },
    ),
    PublishedTable(
        number=3,
        title="Online updating",
        columns=("otb100/auc", "vot2018/eao", "trackingnet/auc", "lasot/auc", FPS),
        rows={
            "FCOS-MAML, no online updating": (0.671, 0.341, 0.743, 0.511, 85.0),
            "FCOS-MAML, online updating of cls": (0.690, 0.394, 0.747, 0.523, 58.0),
            "FCOS-MAML, online updating of cls and reg": (0.704, 0.392, 0.757, 0.496, 42.0),
        },
    ),
    PublishedTable(
        number=4,
        title="OTB",
        columns=("otb2013/auc", "otb50/auc", "otb100/auc", FPS),
        rows={
            "CFNet": (0.611, 0.530, 0.568, 75.0),
            "BACF": (0.656, 0.570, 0.621, 35.0),
            "ECO-hc": (0.652, 0.592, 0.643, 60.0),
            "MCCT-hc": (0.664, None, 0.642, 45.0),
            "ECO": (0.709, 0.648, 0.687, 8.0),
            "RTINet": (None, 0.637, 0.682, 9.0),
            "MCCT": (0.714, None, 0.695, 8.0),
            "SiamFC": (0.607, 0.516, 0.582, 86.0),
            "SA-Siam": (0.677, 0.610, 0.657, 50.0),
            "RASNet": (0.670, None, 0.642, 83.0),
            "SiamRPN": (0.658, 0.592, 0.637, 200.0),
            "C-RPN": (0.675, None, 0.663, 23.0),
            "SPM": (0.693, 0.653, 0.687, 120.0),
            "SiamRPN++": (0.691, 0.662, 0.696, 35.0),
            "Meta-Tracker": (0.684, 0.627, 0.658, None),
            "MemTracker": (0.642, 0.610, 0.626, 50.0),
            "UnifiedDet": (0.656, None, 0.647, 3.0),
            "MLT": (0.621, None, 0.611, 48.0),
            "GradNet": (0.670, 0.597, 0.639, 80.0),
            "MDNet": (0.708, 0.645, 0.678, 1.0),
            "VITAL": (0.710, 0.657, 0.682, 2.0),
            "ATOM": (None, 0.628, 0.671, 30.0),
            "DiMP": (0.691, 0.654, 0.684, 43.0),
            "FCOS-MAML, online updating": (0.714, 0.665, 0.704, 42.0),
            "Retina-MAML, online updating": (0.709, 0.676, 0.712, 40.0),
        },
    ),
    PublishedTable(
        number=5,
        title="VOT-2018",
        columns=("vot2018/eao", "vot2018/accuracy", "vot2018/robustness"),
        rows={
            "DRT": (0.356, 0.519, 0.201),
            "SiamRPN++": (0.414, 0.600, 0.234),
            "UPDT": (0.378, 0.536, 0.184),
            "LADCF": (0.389, 0.503, 0.159),
            "ATOM": (0.401, 0.590, 0.204),
            "DiMP-18": (0.402, 0.594, 0.182),
            "DiMP-50": (0.440, 0.597, 0.153),
            "FCOS-MAML, online updating": (0.392, 0.635, 0.220),
            "Retina-MAML, online updating": (0.452, 0.604, 0.159),
        },
    ),
    PublishedTable(
        number=6,
        title="TrackingNet and LaSOT",
        columns=("trackingnet/auc", "trackingnet/normalized_precision", "lasot/auc"),
        rows={
            "C-RPN": (0.669, 0.746, 0.455),
            "SiamRPN++": (0.733, 0.800, 0.496),
            "SPM": (0.712, 0.779, 0.471),
            "ATOM": (0.703, 0.771, 0.515),
            "DiMP-18": (0.723, 0.785, 0.532),
            "DiMP-50": (0.740, 0.801, 0.569),
            "FCOS-MAML, online updating": (0.757, 0.822, 0.523),
            "Retina-MAML, online updating": (0.698, 0.786, 0.480),
        },
    ),
)
"""The paper's tables."""


def published_scores(benchmark: str) -> list[PublishedScore]:
    """Every row of the paper about a benchmark, in the tables' order; none where it has none.

    >>> [score.tracker for score in published_scores("otb50")][:2]
    ['CFNet', 'BACF']
    """
    scores = []
    for table in TABLES:
        for tracker, row in table.rows.items():
            entries = dict(zip(table.columns, row, strict=True))
            values = {
                column.removeprefix(f"{benchmark}/"): value
                for column, value in entries.items()
                if column.startswith(f"{benchmark}/") and value is not None
            }
            if values:
                fps = entries.get(FPS)
                scores.append(
                    PublishedScore(tracker=tracker, table=table.number, values=values, fps=fps)
                )
    return scores


def published_figures(table: int, *trackers: str) -> dict[str, tuple[float, ...]]:
    """What one row of a table says, by column; of several rows where it is open which one is meant.

    >>> published_figures(3, "FCOS-MAML, no online updating")["fps"]
    (85.0,)

    Raises:
        ValueError: the paper has no such table or row.
    """
    found = next((each for each in TABLES if each.number == table), None)
    if found is None or not set(trackers) <= set(found.rows):
        raise ValueError(f"the paper's Table {table} has no rows {trackers}")
    rows = [found.rows[tracker] for tracker in trackers]
    return {
        column: tuple(figure for row in rows if (figure := row[index]) is not None)
        for index, column in enumerate(found.columns)
    }
