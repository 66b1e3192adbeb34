"""Pictures of what adaptation does: losses by inner step and score maps (the paper's Fig. 5)."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from meta_train.detectors.backbone import MAP_SIZE
from meta_train.learner import Learner
from meta_train.outer_step import Episodes, label_episodes


def adaptation_curves(metrics: dict[str, float]) -> Figure:
    """Held-out losses and overlap by inner step, from the metrics of `validation.validate`."""
    steps = range(sum(name.startswith("val/iou_") for name in metrics))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {
        "query_loss_cls": "score loss",
        "query_loss_reg": "box loss",
        "iou": "overlap at peak",
    }
    for axes, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.plot(steps, [metrics[f"val/{name}_{k}"] for k in steps], marker="o")
        axes.set(title=f"held-out query: {title}", xlabel="inner steps", xticks=list(steps))
        axes.grid(alpha=0.3)
    return figure


def score_maps(learner: Learner, episodes: Episodes, num_steps: int) -> Float[ndarray, "P 2 33 33"]:
    """Each pair's query score map before and after adaptation to its support."""
    maps = []
    _, support_labels = label_episodes(learner.detector, episodes)
    num_support = episodes.support_images.shape[1]
    for pair in range(len(episodes.query_images)):
        rows = slice(pair * num_support, (pair + 1) * num_support)
        labels = type(support_labels)(*(field[rows] for field in support_labels))
        support = learner.features(episodes.support_images[pair])
        query = learner.features(episodes.query_images[pair][:1])
        adapted = learner.adapt(learner.weights, support, labels, num_steps=num_steps)
        for weights in (learner.weights, adapted):
            outputs = learner.outputs(weights, query)
            _, scores = learner.detector.decode(outputs)
            maps.append(scores.view(MAP_SIZE, MAP_SIZE).float().cpu().numpy())
    return np.stack(maps).reshape(-1, 2, MAP_SIZE, MAP_SIZE)


def score_map_figure(learner: Learner, episodes: Episodes, num_steps: int) -> Figure:
    """For each pair a row: support crop, query, and the query's score map before and after."""
    maps = score_maps(learner, episodes, num_steps)
    figure = Figure(figsize=(9, 2.3 * len(maps)), layout="constrained")
    grid = figure.subplots(len(maps), 4, squeeze=False)
    for pair, row in enumerate(grid):
        _show(row[0], episodes.support_images[pair, 1], episodes.support_boxes[pair, 1], "support")
        _show(row[1], episodes.query_images[pair, 0], episodes.query_boxes[pair, 0], "query")
        for axes, scores, title in zip(row[2:], maps[pair], ("before", "after"), strict=True):
            axes.imshow(scores, vmin=0, vmax=1, cmap="viridis")
            axes.set(title=f"{title}, peak {scores.max():.2f}", xticks=[], yticks=[])
    return figure


def _show(axes: object, image: torch.Tensor, box: torch.Tensor, title: str) -> None:
    """One crop with its box."""
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

    assert isinstance(axes, Axes)
    left, top, right, bottom = box.tolist()
    axes.imshow(image.movedim(0, -1).cpu().numpy())
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color="yellow", lw=2)
    )
    axes.set(title=title, xticks=[], yticks=[])
