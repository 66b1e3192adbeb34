"""Held-out pair tasks: does the detector find the target better after learning it?

Not in the paper, which judges by benchmarks alone. A pair task is one episode without
augmentation: learn from the support, look at the query; its losses and the overlap of the box at
the score's peak, without priors, are taken after each inner step. Those whose query shows a
look-alike also count apart: there it does not help to find anything of the target's kind.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.episodes import NO_AUGMENTATION, Episode, stack
from data_pipeline.sampling import PairShares, SamplingConfig
from data_pipeline.stream import EpisodeStream
from meta_train.collectives import sum_over_workers
from meta_train.detectors.torchvision_ops import box_iou
from meta_train.inner_loop import converged, losses, mean_loss
from meta_train.learner import Learner
from meta_train.outer_step import Episodes, label_episodes, to_episodes
from meta_train.task_gradient import Task
from meta_train.train_config import ValidationConfig

_SEED = 20
"""Of the validation's pairs: the same for every run, so that runs compare."""

_LARGE = 1e9
"""Beyond any loss."""


def validation_stream(shards: str, sampling: SamplingConfig) -> EpisodeStream:
    """The pair tasks of the validation split: one target in both images, nothing augmented."""
    same = PairShares(same_target=1.0, same_category=0.0)
    quiet = replace(sampling, augmentation=NO_AUGMENTATION, video_pairs=same, still_pairs=same)
    return EpisodeStream(shards, quiet, split="val", seed=_SEED)


def validate(
    learner: Learner,
    stream: EpisodeStream,
    config: ValidationConfig,
    *,
    num_steps: int,
    diverges_at: float,
    lanes: Sequence[int],
) -> dict[str, float]:
    """Mean losses and overlaps after each inner step, over all workers' pair tasks.

    Those that diverge are left out, of the means before any step too, and counted.

    Args:
        learner: is not changed.
        stream: from `validation_stream`.
        config: how many pairs.
        num_steps: K; the results are for steps 0..K.
        diverges_at: which pairs do (`InnerLoopConfig`).
        lanes: this worker's share of ``range(config.batch_pairs)``.

    Returns:
        ``val/query_loss_k``, ``val/query_loss_cls_k``, ``val/query_loss_reg_k`` and ``val/iou_k``
        for each step k; ``val/query_loss_ratio``, the loss after all steps over that before; and
        ``val/diverged_pairs``. All but the last are NaN where every pair diverged.
        Where queries show look-alikes, the same of these alone as ``val/look_alike_...``, and
        their number, ``val/look_alike_pairs``.
    """
    sums = torch.zeros(2, 4, num_steps + 1, dtype=torch.float64)  # of all, of look-alikes alone
    for count in range(config.num_pairs // config.batch_pairs):
        for lane in lanes:
            episode = stream.episode(lane, count)
            task = one_task(episode, learner)
            curves = task_curves(learner, prepare(learner, task), num_steps)
            (first, last), query = curves.support_ends, torch.stack([*curves.query.values()])
            if not converged(query, first, last, diverges_at):
                continue
            overlap = box_iou(curves.peak_boxes, task.query_boxes[0])[:, 0]
            columns = [curves.query["cls"], curves.query["reg"], overlap, torch.ones_like(overlap)]
            found = torch.stack(columns).double().cpu()
            sums[0] += found
            if episode.origin.shows_look_alike:
                sums[1] += found
    (total,) = sum_over_workers([sums.to(learner.device)])  # NCCL sums no CPU tensors
    result = _means("val/", total[0])
    num_drawn = config.num_pairs // config.batch_pairs * config.batch_pairs
    result["val/diverged_pairs"] = num_drawn - float(total[0, 3, 0])
    if num_alike := float(total[1, 3, 0]):
        result |= _means("val/look_alike_", total[1]) | {"val/look_alike_pairs": num_alike}
    return result


def held_out_rank(metrics: Mapping[str, float | int], num_steps: int) -> float:
    """What orders checkpoints, the best first: fewer pairs that diverge, then a lower loss.

    Not finite where the metrics hold no validation, or every pair diverged.
    """
    loss = metrics.get(f"val/query_loss_{num_steps}", math.nan)
    return _LARGE * metrics.get("val/diverged_pairs", 0.0) + loss


def _means(prefix: str, sums: Float[Tensor, "4 steps"]) -> dict[str, float]:
    """Metrics from sums of both branches' losses, overlaps and pairs."""
    cls, reg, iou = sums[:3] / sums[3]
    both = cls + reg
    result = {f"{prefix}query_loss_ratio": float(both[-1] / both[0])}
    named = {"query_loss": both, "query_loss_cls": cls, "query_loss_reg": reg, "iou": iou}
    for name, values in named.items():
        result |= {f"{prefix}{name}_{k}": value for k, value in enumerate(values.tolist())}
    return result


class TaskCurves(NamedTuple):
    """What becomes of one pair task, before any inner step and after each."""

    query: dict[str, Float[Tensor, "steps"]]
    """Each branch's loss on the query."""

    support: dict[str, Float[Tensor, "steps"]]
    """Each branch's loss on the support; empty where it was not asked for."""

    support_ends: Float[Tensor, "2"]
    """The support loss before the first step and before the last."""

    peak_boxes: Float[Tensor, "steps 4"]
    """The box at the query's highest score, in the crop."""


def one_task(episode: Episode, learner: Learner) -> Episodes:
    """An episode as a batch of one, where the learner is and in its precision."""
    dtype = learner.weights["trunk.conv1.weight"].dtype
    return to_episodes(stack([episode]), learner.device, dtype)


def prepare(learner: Learner, episode: Episodes) -> Task:
    """A batch of one episode at the boundary of what adapts: what no inner step changes."""
    query_labels, support_labels = label_episodes(learner.detector, episode)
    return Task(
        learner.features(episode.support_images[0]),
        support_labels,
        learner.features(episode.query_images[0]),
        query_labels,
    )


def task_curves(
    learner: Learner, task: Task, num_steps: int, *, with_support: bool = False
) -> TaskCurves:
    """The losses and the box at the score's peak after each of ``num_steps`` inner steps.

    Args:
        learner: is not changed; its rates may be others than those of training.
        task: from `prepare` with these weights.
        num_steps: K; the results are for steps 0..K.
        with_support: also look at the loss on the support, for a third more time (Fig. 5).
    """
    detector, weights = learner.detector, learner.weights
    query, boxes = [], []
    support: dict[int, dict[str, Tensor]] = {}
    ends = 0, max(num_steps - 1, 0)
    for k in range(num_steps + 1):
        if k:
            weights = learner.adapt(weights, task.support, task.support_labels, num_steps=1)
        with torch.no_grad():
            outputs = learner.outputs(weights, task.query)
            query.append(detector.losses(outputs, task.query_labels))
            if with_support or k in ends:
                support[k] = losses(
                    detector, weights, task.support, task.support_labels, learner.adapts
                )
        candidates, scores = detector.decode(outputs)
        boxes.append(candidates[0, scores[0].argmax()])
    return TaskCurves(
        query=_by_step(query),
        support=_by_step(list(support.values())) if with_support else {},
        support_ends=torch.stack([mean_loss(support[k]) for k in ends]),
        peak_boxes=torch.stack(boxes),
    )


def _by_step(found: list[dict[str, Tensor]]) -> dict[str, Float[Tensor, "steps"]]:
    """Each branch's mean loss over the images, step by step."""
    return {branch: torch.stack([each[branch].mean() for each in found]) for branch in found[0]}
