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

Loss = Callable[[Weights, Features, Any], dict[str, Tensor]]
"""Each image's loss in each branch, from adapted weights, features and labels."""


class Task(NamedTuple):
    """A support set to learn from and a query set to be judged by."""

    support: Features
    support_labels: Any
    query: Features
    query_labels: Any


class TaskGradient(NamedTuple):
    """Derivatives of sum_k gamma_k * query_loss(theta_k) over the steps that were taken."""

    weights: list[Tensor]
    """By theta_0, in the order of the adapted weights."""

    alpha: list[Tensor]
    """By the rates of each adapted weight, in the same order and the rates' shapes."""

    query: list[Tensor]
    """By the query features that carry a gradient."""

    support: list[Tensor]
    """By the support features that carry a gradient (second order only)."""

    query_losses: dict[str, list[Tensor]]
    """Each branch's loss after each step."""


def query_gradient(
    loss: Loss, adapted: Weights, features: Features, labels: Any, gamma: float
) -> TaskGradient:
    """gamma * d query_loss / d (weights, features) at given weights; no step is taken."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in adapted.items()}
    by_branch = loss(leaves, features, labels)
    carriers = _carriers(features)
    inputs = list(leaves.values()) + carriers
    gradients = _gradients(gamma * mean_loss(by_branch), inputs)
    return TaskGradient(
        weights=gradients[: len(leaves)],
        alpha=[],
        query=gradients[len(leaves) :],
        support=[],
        query_losses={branch: [each.detach().mean()] for branch, each in by_branch.items()},
    )


def first_order(
    loss: Loss, theta_0: Weights, alpha: Weights, task: Task, gammas: Sequence[float]
) -> TaskGradient:
    """The task's gradient over steps 1..K, inner gradients taken as constants."""
    adapted = theta_0
    taken = [torch.zeros_like(weight) for weight in theta_0.values()]  # g_0 + ... + g_{k-1}
    by_weights = [torch.zeros_like(weight) for weight in theta_0.values()]
    by_alpha = [torch.zeros_like(rate) for rate in alpha.values()]
    by_query = [torch.zeros_like(x) for x in _carriers(task.query)]
    query_losses: dict[str, list[Tensor]] = {branch: [] for branch in task.query}
    for gamma in gammas[1:]:
        leaves = {name: weight.detach().requires_grad_() for name, weight in adapted.items()}
        support_loss = mean_loss(loss(leaves, task.support, task.support_labels))
        inner = torch.autograd.grad(support_loss, list(leaves.values()))
        with torch.no_grad():
            adapted = step(leaves, inner, alpha)
        torch._foreach_add_(taken, list(inner))
        query = query_gradient(loss, adapted, task.query, task.query_labels, gamma)
        torch._foreach_add_(by_weights, query.weights)
        torch._foreach_sub_(by_alpha, _products(query.weights, taken, by_alpha))
        if by_query:
            torch._foreach_add_(by_query, query.query)
        for branch, values in query.query_losses.items():
            query_losses[branch] += values
    return TaskGradient(by_weights, by_alpha, by_query, [], query_losses)


def second_order(
    loss: Loss, theta_0: Weights, alpha: Weights, task: Task, gammas: Sequence[float]
) -> TaskGradient:
    """The task's gradient over steps 1..K through the inner gradients."""
    adapted = theta_0
    rates = list(alpha.values())
    carriers = _carriers(task.support)
    trace: list[tuple[Weights, list[Tensor]]] = []  # theta_k and g_k with its own graph
    for _ in gammas[1:]:
        leaves = {name: weight.detach().requires_grad_() for name, weight in adapted.items()}
        support_loss = mean_loss(loss(leaves, task.support, task.support_labels))
        inner = list(torch.autograd.grad(support_loss, list(leaves.values()), create_graph=True))
        trace.append((leaves, inner))
        with torch.no_grad():
            adapted = step(leaves, inner, alpha)

    v = [torch.zeros_like(weight) for weight in theta_0.values()]
    by_alpha = [torch.zeros_like(rate) for rate in rates]
    by_query = [torch.zeros_like(x) for x in _carriers(task.query)]
    by_support = [torch.zeros_like(x) for x in carriers]
    query_losses: dict[str, list[Tensor]] = {branch: [] for branch in task.query}
    for gamma in reversed(gammas[1:]):
        query = query_gradient(loss, adapted, task.query, task.query_labels, gamma)
        adapted, g_k = trace.pop()  # from theta_{k+1} back to theta_k
        torch._foreach_add_(v, query.weights)
        torch._foreach_sub_(by_alpha, _products(v, [g.detach() for g in g_k], by_alpha))
        direction = [rate * each for rate, each in zip(rates, v, strict=True)]
        products = _gradients(g_k, list(adapted.values()) + carriers, direction)
        torch._foreach_sub_(v, products[: len(v)])
        if carriers:
            torch._foreach_sub_(by_support, products[len(v) :])
        if by_query:
            torch._foreach_add_(by_query, query.query)
        for branch, values in query.query_losses.items():
            query_losses[branch] = values + query_losses[branch]
    return TaskGradient(v, by_alpha, by_query, by_support, query_losses)


def _products(a: list[Tensor], b: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    """Of each pair of tensors the product, summed over what shares a rate."""
    return [(x * y).sum_to_size(z.shape) for x, y, z in zip(a, b, like, strict=True)]


def _carriers(features: Features) -> list[Tensor]:
    return [x for x in features.values() if x.requires_grad]


def _gradients(
    of: Tensor | list[Tensor], by: list[Tensor], weights: list[Tensor] | None = None
) -> list[Tensor]:
    """Derivatives; 0 where there is no path (a linear loss has no Hessian)."""
    found = torch.autograd.grad(of, by, weights, allow_unused=True, materialize_grads=True)
    return list(found)
