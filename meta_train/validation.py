"""Held-out pair tasks: does the detector find the target better after learning it?

Not in the paper, which judges by benchmarks alone. A pair task is one episode without
augmentation: learn from the support, look at the query; its losses and the overlap of the box at
the score's peak, without priors, are taken after each inner step.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from data_pipeline.episodes import NO_AUGMENTATION, stack
from data_pipeline.sampling import PairShares, SamplingConfig
from data_pipeline.stream import EpisodeStream
from meta_train.collectives import sum_over_workers
from meta_train.inner_loop import losses
from meta_train.learner import Learner
from meta_train.outer_step import Episodes, label_episodes, to_episodes
from meta_train.train_config import ValidationConfig

_SEED = 20
"""Of the validation's pairs: the same for every run, so that runs compare."""


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
    lanes: Sequence[int],
) -> dict[str, float]:
    """Mean losses and overlaps after each inner step, over all workers' pair tasks.

    Args:
        learner: is not changed.
        stream: from `validation_stream`.
        config: how many pairs.
        num_steps: K; the results are for steps 0..K.
        lanes: this worker's share of ``range(config.batch_pairs)``.

    Returns:
        ``val/query_loss_k``, ``val/query_loss_cls_k``, ``val/query_loss_reg_k`` and ``val/iou_k``
        for each step k; and ``val/query_loss_ratio``, the loss after all steps over that before.
    """
    names = ("cls", "reg", "iou", "pairs")
    sums = torch.zeros(len(names), num_steps + 1, dtype=torch.float64)
    for count in range(config.num_pairs // config.batch_pairs):
        for lane in lanes:
            batch = stack([stream.episode(lane, count)])
            dtype = learner.weights["trunk.conv1.weight"].dtype
            sums += _pair_task(learner, to_episodes(batch, learner.device, dtype), num_steps)
    (total,) = sum_over_workers([sums.to(learner.device)])  # NCCL sums no CPU tensors
    result: dict[str, float] = {}
    for k in range(num_steps + 1):
        cls, reg, iou, pairs = total[:, k].tolist()
        result |= {
            f"val/query_loss_{k}": (cls + reg) / pairs,
            f"val/query_loss_cls_{k}": cls / pairs,
            f"val/query_loss_reg_{k}": reg / pairs,
            f"val/iou_{k}": iou / pairs,
        }
    loss_before, loss_after = result["val/query_loss_0"], result[f"val/query_loss_{num_steps}"]
    return result | {"val/query_loss_ratio": loss_after / loss_before}


def _pair_task(learner: Learner, episode: Episodes, num_steps: int) -> Float[Tensor, "4 steps"]:
    """Losses of both branches, overlap and 1, after each step of one pair's inner loop."""
    detector = learner.detector
    support = learner.features(episode.support_images[0])
    query = learner.features(episode.query_images[0])
    query_labels, support_labels = label_episodes(detector, episode)
    weights = learner.weights
    columns = []
    for k in range(num_steps + 1):
        if k:
            weights = learner.adapt(weights, support, support_labels, num_steps=1)
        with torch.no_grad():
            by_branch = losses(detector, weights, query, query_labels, learner.adapts)
        boxes, scores = detector.decode(learner.outputs(weights, query))
        overlap = peak_iou(boxes, scores, episode.query_boxes[0]).mean()
        values = [by_branch["cls"].mean(), by_branch["reg"].mean(), overlap]
        columns.append(torch.stack(values).double().cpu())
    return torch.cat([torch.stack(columns, dim=1), torch.ones(1, num_steps + 1).double()])


def peak_iou(
    boxes: Float[Tensor, "N L 4"], scores: Float[Tensor, "N L"], truth: Float[Tensor, "N 4"]
) -> Float[Tensor, "N"]:
    """Overlap of each image's highest-scored box with the truth."""
    best = boxes[torch.arange(len(boxes), device=boxes.device), scores.argmax(dim=1)]
    return box_iou(best, truth).diagonal()
