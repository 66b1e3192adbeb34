"""Pictures of adaptation: losses by inner step (the paper's Fig. 5), rates, score maps."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray
from torch import Tensor

from meta_train.detectors.backbone import MAP_SIZE
from meta_train.kernel_rates import Rates
from meta_train.learner import Learner
from meta_train.outer_step import Episodes
from meta_train.validation import prepare, task_curves

FIGURE_5_STEPS = 20
"""Inner steps that the paper's figure shows, five times those that are trained for."""


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


def loss_curves(
    learner: Learner, episodes: Episodes, num_steps: int = FIGURE_5_STEPS
) -> dict[str, list[float]]:
    """Support and query loss at theta_0..theta_K on the way to each pair's target (Fig. 5), means.

    The paper's curves are of one sequence; ours are of the pairs given.
    """
    tasks = [prepare(learner, episode) for episode in _each(episodes)]
    curves = [task_curves(learner, task, num_steps, with_support=True) for task in tasks]
    return {
        "support": _mean([each.support for each in curves]),
        "query": _mean([each.query for each in curves]),
    }


def _each(episodes: Episodes) -> list[Episodes]:
    """Batches of one."""
    count = len(episodes.query_images)
    return [Episodes(*(field[at : at + 1] for field in episodes)) for at in range(count)]


def _mean(curves: list[dict[str, Float[Tensor, "steps"]]]) -> list[float]:
    """Over pairs, of curves whose branches add up."""
    by_pair = torch.stack([torch.stack([*each.values()]).sum(0) for each in curves])
    means: list[float] = by_pair.mean(0).tolist()
    return means


def loss_curves_figure(curves: dict[str, list[float]]) -> Figure:
    """The curves of `loss_curves`."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(values, marker=".", label=f"{name} loss")
    axes.set(xlabel="inner steps", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def rates_figure(rates: Rates) -> Figure:
    """How the rates of each layer are spread: quartiles, and the furthest."""
    figure = Figure(figsize=(7, 0.4 * len(rates) + 1.2), layout="constrained")
    axes = figure.subplots()
    values = [rate.detach().flatten().cpu().numpy() for rate in rates.values()]
    axes.boxplot(values[::-1], orientation="horizontal", whis=(0, 100))
    axes.set_yticks(range(1, len(rates) + 1), list(rates)[::-1])
    axes.axvline(0, color="grey", lw=0.8)
    axes.set(xlabel="inner rate")
    axes.grid(alpha=0.3, axis="x")
    return figure


def score_maps(learner: Learner, episodes: Episodes, num_steps: int) -> Float[ndarray, "P 2 33 33"]:
    """Each pair's query score map before and after adaptation to its support."""
    maps = []
    for episode in _each(episodes):
        task = prepare(learner, episode)
        adapted = learner.adapt(
            learner.weights, task.support, task.support_labels, num_steps=num_steps
        )
        for weights in (learner.weights, adapted):
            outputs = learner.outputs(weights, task.query)
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
