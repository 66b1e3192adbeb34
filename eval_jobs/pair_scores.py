"""Scores of detectors on held-out pair tasks, by inner step: what adaptation gives (Fig. 5).

Measures by step: each branch's loss on query and support, the overlap of the box at the query's
highest score with the target, and whether that box lies on a look-alike rather than on the target,
which is asked only where the query shows one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray

from data_pipeline.pair_tasks import PairTask, load_task
from eval_jobs.results import file_name
from eval_jobs.row_tables import Row, table_number
from meta_train.detectors.backbone import BRANCHES
from meta_train.detectors.torchvision_ops import box_iou
from meta_train.kernel_rates import Rates
from meta_train.learner import Learner
from meta_train.validation import TaskCurves, one_task, prepare, task_curves

MEASURES = (
    "query_loss_cls",
    "query_loss_reg",
    "support_loss_cls",
    "support_loss_reg",
    "iou",
    "distracted",
)
"""What is measured of a task after each step."""

LEAST_DISTRACTED_IOU = 0.3
"""A box that overlaps a look-alike less does not lie on it."""

Values = Float[ndarray, "tasks 6 steps"]
"""Of each task the `MEASURES`, before any step and after each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairScore:
    """How one detector, with one choice of rates, did on the pair tasks."""

    name: str
    """How tables and plots call it."""

    rates: str
    """``learned``, ``initial``, or the constant that was chosen."""

    tasks: Mapping[str, Sequence[PairTask]]
    """By subset."""

    values: Mapping[str, Values]
    """By subset."""

    @property
    def title(self) -> str:
        """Name and rates."""
        return f"{self.name}, {self.rates} rates"

    @property
    def num_steps(self) -> int:
        """Inner steps."""
        return self.values["all"].shape[2] - 1

    def curve(self, subset: str, measure: str) -> Float[ndarray, "steps"]:
        """The mean of a measure over a subset's tasks; ``query_loss`` adds the branches.

        ``distracted`` is a share of the tasks that show a look-alike; NaN where none does.
        """
        values = self.values[subset]
        if measure == "distracted":
            values = values[[task.shows_look_alike for task in self.tasks[subset]]]
            if not len(values):
                return np.full(self.num_steps + 1, np.nan)
        names = [measure] if measure in MEASURES else [f"{measure}_cls", f"{measure}_reg"]
        columns = [values[:, MEASURES.index(name)].mean(axis=0) for name in names]
        return np.sum(columns, axis=0)

    def gain(self, subset: str) -> tuple[float, float]:
        """The overlap after all steps less that before, and its standard error."""
        overlap = self.values[subset][:, MEASURES.index("iou")]
        gains = overlap[:, -1] - overlap[:, 0]
        return float(gains.mean()), standard_error(gains, self._videos(subset))

    def num_videos(self, subset: str) -> int:
        """How many videos and images the subset's tasks are from."""
        return len(set(self._videos(subset)))

    def _videos(self, subset: str) -> list[str]:
        return [f"{task.dataset}/{task.video}" for task in self.tasks[subset]]


def standard_error(values: Float[ndarray, "tasks"], groups: Sequence[str]) -> float:
    """Of a mean over tasks of which those of one video go together; NaN for a single video.

    >>> round(standard_error(np.array([1.0, 1.0, 3.0, 3.0]), ["a", "a", "b", "b"]), 3)
    1.0
    """
    names, members = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return float("nan")
    sums = np.bincount(members, weights=values - values.mean())
    spread = np.sqrt((sums**2).sum() * len(names) / (len(names) - 1))
    return float(spread / len(values))


def measure(
    learner: Learner,
    variants: Mapping[str, Rates],
    folder: str,
    tasks: Sequence[PairTask],
    num_steps: int,
) -> dict[str, Values]:
    """The measures of one detector under several choices of rates, by the choice's name.

    Args:
        learner: the detector; features are computed once for all choices.
        variants: rates by name.
        folder: of the shards.
        tasks: at least one.
        num_steps: inner steps.
    """
    found: dict[str, list[Float[ndarray, "6 steps"]]] = {name: [] for name in variants}
    for each in tasks:
        loaded = load_task(folder, each)
        episode = one_task(loaded.episode, learner)
        task = prepare(learner, episode)
        others = torch.from_numpy(loaded.look_alikes).to(episode.query_boxes)
        for name, rates in variants.items():
            adapting = replace(learner, rates=rates)
            curves = task_curves(adapting, task, num_steps, with_support=True)
            found[name].append(_values(curves, episode.query_boxes[0], others))
    return {name: np.stack(values) for name, values in found.items()}


def _values(
    curves: TaskCurves, truth: Float[torch.Tensor, "1 4"], others: Float[torch.Tensor, "alike 4"]
) -> Float[ndarray, "6 steps"]:
    """The measures of one task; a box that is no longer a number overlaps nothing."""
    overlap = box_iou(curves.peak_boxes, truth)[:, 0].nan_to_num(0.0)
    distracted = torch.zeros_like(overlap)
    if len(others):
        beside = box_iou(curves.peak_boxes, others).amax(dim=1)
        distracted = ((beside > overlap) & (beside >= LEAST_DISTRACTED_IOU)).to(overlap)
    both = (curves.query, curves.support)
    by_branch = [losses[branch] for losses in both for branch in BRANCHES]
    columns = [column.double() for column in (*by_branch, overlap, distracted)]
    return torch.stack(columns).cpu().numpy()


def score_rows(scores: Sequence[PairScore]) -> list[Row]:
    """A row per subset and score: overlap, its gain, losses, and how often it is distracted."""
    rows = []
    for subset in scores[0].values:
        for score in scores:
            gain, error = score.gain(subset)
            overlap = score.curve(subset, "iou")
            query = score.curve(subset, "query_loss")
            support = score.curve(subset, "support_loss")
            distracted = score.curve(subset, "distracted")
            values = {f"IoU {k}": overlap[k] for k in sorted({0, 1, score.num_steps})}
            values |= {"gain": gain, "±": error}
            values |= {f"query loss {k}": query[k] for k in (0, score.num_steps)}
            values |= {f"support loss {k}": support[k] for k in (0, score.num_steps)}
            values |= {f"distracted {k}": distracted[k] for k in (0, score.num_steps)}
            row: Row = {
                "detector": score.name,
                "rates": score.rates,
                "tasks": f"{len(score.tasks[subset])} {_subset_title(subset)}",
                "videos": score.num_videos(subset),
            }
            row |= {name: table_number(float(value)) for name, value in values.items()}
            rows.append(row)
    return rows


def step_metrics(scores: Sequence[PairScore]) -> list[dict[str, float]]:
    """The metrics of each inner step, under the names that they have in MLflow.

    The first score's are ``pair_tasks/iou``, ``pair_tasks/look_alike/iou`` and so on, so that runs
    compare; another one's are ``pair_tasks/<name>/iou``. What is no number, such as the loss of a
    detector that diverged, has none.
    """
    metrics: list[dict[str, float]] = [{} for _ in range(scores[0].num_steps + 1)]
    for index, score in enumerate(scores):
        own = "" if index == 0 else f"{file_name(score.title)}/"
        for subset in score.values:
            part = "" if subset == "all" else f"{subset}/"
            for name in ("query_loss", "support_loss", *MEASURES):
                for k, value in enumerate(score.curve(subset, name)):
                    if math.isfinite(value):
                        metrics[k][f"pair_tasks/{own}{part}{name}"] = float(value)
    return metrics


def task_rows(scores: Sequence[PairScore]) -> list[Row]:
    """A row per subset and task: what it is, and each score's overlap before and after."""
    rows = []
    column = MEASURES.index("iou")
    for subset, tasks in scores[0].tasks.items():
        for index, task in enumerate(tasks):
            row: Row = {"subset": subset}
            row |= {name: getattr(task, name) for name in ("dataset", "video", "target")}
            for score in scores:
                overlap = score.values[subset][index, column]
                row |= {f"{score.title}, before": round(float(overlap[0]), 4)}
                row |= {f"{score.title}, after": round(float(overlap[-1]), 4)}
            rows.append(row)
    return rows


def pair_figure(scores: Sequence[PairScore]) -> Figure:
    """Losses and overlaps by inner step, a line per score (Fig. 5)."""
    panels = [("all", "support_loss"), ("all", "query_loss"), ("all", "iou")]
    panels += [(subset, "iou") for subset in scores[0].values if subset != "all"]
    figure = Figure(figsize=(3.6 * len(panels), 3.6), layout="constrained")
    row = figure.subplots(1, len(panels))
    for axes, (subset, name) in zip(row, panels, strict=True):
        _draw_panel(axes, scores, subset, name)
    row[-1].legend(fontsize=7)
    return figure


def _draw_panel(axes: Axes, scores: Sequence[PairScore], subset: str, name: str) -> None:
    for score in scores:
        axes.plot(score.curve(subset, name), marker=".", label=score.title)
    title = "overlap at the score's peak" if name == "iou" else name.replace("_", " ")
    axes.set(title=f"{title}\n{len(scores[0].tasks[subset])} {_subset_title(subset)}")
    axes.set_xlabel("inner steps")
    if name != "iou":
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def _subset_title(subset: str) -> str:
    return {"all": "of all", "look_alike": "with a look-alike"}[subset]
