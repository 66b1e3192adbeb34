"""One task's part of the meta-gradient, exact and without a graph through the inner loop.

A task is a loss as a function of the weights that adapt and of features at the boundary of what
adapts. With v_k = gamma_k * d query_loss(theta_k) / d theta_k and g_k the support gradient at
theta_k:

- first order takes g_k as constants, so d meta-loss / d theta_0 is the sum of all v_k, and
  d meta-loss / d alpha is minus the sum over k of v_k * (g_0 + ... + g_{k-1});
- second order goes back from v = v_K: d / d alpha collects -v * g_k, and
  v <- v + v_k - H_k (alpha * v), with H_k the support loss's Hessian at theta_k.

Features that carry a gradient (``requires_grad``) get theirs: the query's from each v_k, the
support's, in second order only, from the mixed derivative of g_k.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta_train.detectors.backbone import Weights
from meta_train.detectors.network import Features
from meta_train.inner_loop import mean_loss, step

Gammas = Sequence[float | Tensor]
"""gamma_0..gamma_K of Eqn. 4, as numbers or as tensors without dimensions."""

Loss = Callable[[Weights, Features, Any], dict[str, Tensor]]
"""Each image's loss in each branch, from adapted weights (and, among them, maps that are known
already), features and labels."""


class Task(NamedTuple):
    """A support set to learn from and a query set to be judged by."""

    support: Features
    support_labels: Any
    query: Features
    query_labels: Any


class TaskGradient(NamedTuple):
    """Derivatives of sum_k gamma_k * query_loss(theta_k) over the steps that were taken."""

    weights: Weights
    """By theta_0, for the adapted weights, less those whose part is in ``maps``."""

    alpha: list[Tensor]
    """By the rates of each adapted weight, in the same order and the rates' shapes."""

    query: list[Tensor]
    """By the query features that carry a gradient."""

    support: list[Tensor]
    """By the support features that carry a gradient (second order only)."""

    maps: list[Tensor]
    """By the query's entry maps at theta_0, where these were given."""

    query_losses: dict[str, list[Tensor]]
    """Each branch's loss after each step."""

    support_losses: list[Tensor]
    """The support loss before each step."""


def query_gradient(
    loss: Loss, adapted: Weights, features: Features, labels: Any, gamma: float | Tensor
) -> TaskGradient:
    """gamma * d query_loss / d (weights, features) at given weights; no step is taken."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in adapted.items()}
    by_branch = loss(leaves, features, labels)
    carriers = carrying(features)
    inputs = list(leaves.values()) + carriers
    gradients = gradients_by(gamma * mean_loss(by_branch), inputs)
    return TaskGradient(
        weights=dict(zip(leaves, gradients, strict=False)),
        alpha=[],
        query=gradients[len(leaves) :],
        support=[],
        maps=[],
        query_losses={branch: [each.detach().mean()] for branch, each in by_branch.items()},
        support_losses=[],
    )


def first_order(
    loss: Loss, theta_0: Weights, alpha: Weights, task: Task, gammas: Gammas
) -> TaskGradient:
    """The task's gradient over steps 1..K, inner gradients taken as constants."""
    adapted = theta_0
    taken = [torch.zeros_like(weight) for weight in theta_0.values()]  # g_0 + ... + g_{k-1}
    by_weights = {name: torch.zeros_like(weight) for name, weight in theta_0.items()}
    by_alpha = [torch.zeros_like(rate) for rate in alpha.values()]
    by_query = [torch.zeros_like(x) for x in carrying(task.query)]
    query_losses: dict[str, list[Tensor]] = {branch: [] for branch in task.query}
    support_losses = []
    for gamma in gammas[1:]:
        adapted, inner, support_loss = _descend(loss, adapted, alpha, task)
        torch._foreach_add_(taken, inner)
        query = query_gradient(loss, adapted, task.query, task.query_labels, gamma)
        v_k = list(query.weights.values())
        torch._foreach_add_(list(by_weights.values()), v_k)
        torch._foreach_sub_(by_alpha, _products(v_k, taken, by_alpha))
        if by_query:
            torch._foreach_add_(by_query, query.query)
        for branch, values in query.query_losses.items():
            query_losses[branch] += values
        support_losses.append(support_loss)
    return TaskGradient(by_weights, by_alpha, by_query, [], [], query_losses, support_losses)


def first_order_by_maps(
    loss: Loss,
    entry: Callable[[Weights, Features], Weights],
    theta_0: Weights,
    alpha: Weights,
    task: Task,
    starts: Weights,
    gammas: Gammas,
) -> TaskGradient:
    """As `first_order`, without a kernel gradient of the query at each step.

    The layers that read the features are linear, so their maps at theta_k are those at theta_0
    less alpha times what the sum of the inner gradients gives on the same features. The derivative
    by the former adds up over the steps, and gives the kernels' once, at the end; that by alpha
    comes along. On heads, that spares an eighth of a step's operations.

    Args:
        loss: takes known maps among the weights.
        entry: the maps of the entry layers, from weights and features.
        theta_0: the weights that adapt.
        alpha: their rates; an entry layer's kernels share theirs with their biases.
        task: its query features carry no gradient.
        starts: the query's entry maps at theta_0, under ``LAYER.map``.
        gammas: of Eqn. 4.
    """
    layers = [name.removesuffix(".map") for name in starts]
    deeper = [name for name in theta_0 if name.rpartition(".")[0] not in layers]
    adapted = theta_0
    taken = {name: torch.zeros_like(weight) for name, weight in theta_0.items()}
    by_weights = {name: torch.zeros_like(theta_0[name]) for name in deeper}
    by_alpha = {name: torch.zeros_like(rate) for name, rate in alpha.items()}
    by_maps = [torch.zeros_like(start) for start in starts.values()]
    query_losses: dict[str, list[Tensor]] = {branch: [] for branch in task.query}
    support_losses = []
    for gamma in gammas[1:]:
        adapted, inner, support_loss = _descend(loss, adapted, alpha, task)
        torch._foreach_add_(list(taken.values()), inner)
        with torch.no_grad():
            moved = entry(taken, task.query)
        leaves = {name: adapted[name].detach().requires_grad_() for name in deeper}
        rates = [alpha[f"{layer}.weight"].detach().requires_grad_() for layer in layers]
        first = [start.detach().requires_grad_() for start in starts.values()]
        maps = {
            name: start - rate.view(1, -1, 1, 1) * moved[name]
            for name, start, rate in zip(starts, first, rates, strict=True)
        }
        by_branch = loss(leaves | maps, task.query, task.query_labels)
        found = gradients_by(gamma * mean_loss(by_branch), [*leaves.values(), *rates, *first])
        for name, each in zip(deeper, found, strict=False):
            by_weights[name] += each
            by_alpha[name] -= (each * taken[name]).sum_to_size(alpha[name].shape)
        for layer, each in zip(layers, found[len(deeper) :], strict=False):
            by_alpha[f"{layer}.weight"] += each
        torch._foreach_add_(by_maps, found[len(deeper) + len(layers) :])
        for branch, losses in by_branch.items():
            query_losses[branch].append(losses.detach().mean())
        support_losses.append(support_loss)
    return TaskGradient(
        weights=by_weights,
        alpha=list(by_alpha.values()),
        query=[],
        support=[],
        maps=by_maps,
        query_losses=query_losses,
        support_losses=support_losses,
    )


def _descend(
    loss: Loss, adapted: Weights, alpha: Weights, task: Task
) -> tuple[Weights, list[Tensor], Tensor]:
    """theta_{k+1}, the inner gradient that led there, and the support loss before it."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in adapted.items()}
    support_loss = mean_loss(loss(leaves, task.support, task.support_labels))
    inner = list(torch.autograd.grad(support_loss, list(leaves.values())))
    with torch.no_grad():
        return step(leaves, inner, alpha), inner, support_loss.detach()


def second_order(
    loss: Loss, theta_0: Weights, alpha: Weights, task: Task, gammas: Gammas
) -> TaskGradient:
    """The task's gradient over steps 1..K through the inner gradients."""
    adapted = theta_0
    rates = list(alpha.values())
    carriers = carrying(task.support)
    trace: list[tuple[Weights, list[Tensor]]] = []  # theta_k and g_k with its own graph
    support_losses = []
    for _ in gammas[1:]:
        leaves = {name: weight.detach().requires_grad_() for name, weight in adapted.items()}
        support_loss = mean_loss(loss(leaves, task.support, task.support_labels))
        inner = list(torch.autograd.grad(support_loss, list(leaves.values()), create_graph=True))
        trace.append((leaves, inner))
        support_losses.append(support_loss.detach())
        with torch.no_grad():
            adapted = step(leaves, inner, alpha)

    v = [torch.zeros_like(weight) for weight in theta_0.values()]
    by_alpha = [torch.zeros_like(rate) for rate in rates]
    by_query = [torch.zeros_like(x) for x in carrying(task.query)]
    by_support = [torch.zeros_like(x) for x in carriers]
    query_losses: dict[str, list[Tensor]] = {branch: [] for branch in task.query}
    for gamma in reversed(gammas[1:]):
        query = query_gradient(loss, adapted, task.query, task.query_labels, gamma)
        adapted, g_k = trace.pop()  # from theta_{k+1} back to theta_k
        torch._foreach_add_(v, list(query.weights.values()))
        torch._foreach_sub_(by_alpha, _products(v, [g.detach() for g in g_k], by_alpha))
        direction = [rate * each for rate, each in zip(rates, v, strict=True)]
        products = gradients_by(g_k, list(adapted.values()) + carriers, direction)
        torch._foreach_sub_(v, products[: len(v)])
        if carriers:
            torch._foreach_sub_(by_support, products[len(v) :])
        if by_query:
            torch._foreach_add_(by_query, query.query)
        for branch, values in query.query_losses.items():
            query_losses[branch] = values + query_losses[branch]
    by_weights = dict(zip(theta_0, v, strict=True))
    return TaskGradient(
        by_weights, by_alpha, by_query, by_support, [], query_losses, support_losses
    )


def _products(a: list[Tensor], b: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """Of each pair of tensors the product, summed over what shares a rate."""
    return [(x * y).sum_to_size(z.shape) for x, y, z in zip(a, b, like, strict=True)]


def carrying(features: Features) -> list[Tensor]:
    """The features that carry a gradient."""
    return [x for x in features.values() if x.requires_grad]


def gradients_by(
    of: Tensor | list[Tensor], by: list[Tensor], weights: list[Tensor] | None = None
) -> list[Tensor]:
    """Derivatives; 0 where there is no path (a linear loss has no Hessian)."""
    found = torch.autograd.grad(of, by, weights, allow_unused=True, materialize_grads=True)
    return list(found)
