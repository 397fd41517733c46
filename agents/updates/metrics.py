"""Metrics of updates: running means over a report, explained variance, and the signal-to-noise ratio of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import scg
from scg.agents.experience.rollout import Rows
from scg.agents.networks.finite_check import NotFinite as NotFinite

Metrics = dict[str, float]


class Means:
    """Means of metrics, each over the updates that reported it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, *metrics: Metrics) -> None:
        for name, value in (item for some in metrics for item in some.items()):
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)

    def take(self) -> Metrics:
        return {name: total / count for name, (total, count) in self._sums.items()}


def explained_variance(prediction: Tensor, target: Tensor) -> float:
    """`1 - Var[target - prediction] / Var[target]`: 1 is perfect, 0 no better than a constant; 0 for a constant target."""
    variance = target.var(correction=0)
    return float(1 - (target - prediction).var(correction=0) / variance) if variance > 0 else 0.0


PARTS = 4


def signal_to_noise(mean: float, power: float, squares: float) -> float:
    """`|E g|² / tr Var g` from weighted gradients, the weights w_i summing to one: A = |Σ w_i g_i|², B = Σ w_i |g_i|², c = Σ w_i².

    E A = |E g|² + c tr Var g and E B = |E g|² + tr Var g. Solved for the two, each estimate is unbiased; their ratio is not.
    """
    return max(mean - squares * power, 0.0) / (power - mean) if power > mean else 0.0


def parts_signal_to_noise(graph: scg.Graph, given: Rows, parameters: Sequence[Tensor], cost: str) -> float:
    """`|E g|² / tr Var g` of one objective's gradient on a quarter of the batch, estimated from the four quarters; 0 for a
    batch of fewer than four elements."""
    indices = torch.arange(next(iter(given.values())).shape[1]).chunk(PARTS)
    if len(indices) < PARTS:
        return 0.0
    gradients = []
    for index in indices:
        part = {name: value[:, index.to(value.device)] for name, value in given.items()}
        loss = graph.replay(part).surrogate(cost, reduce="mean")
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    g = torch.stack(gradients)
    return signal_to_noise(float(g.mean(0).square().sum()), float(g.square().sum(-1).mean()), 1 / PARTS)
