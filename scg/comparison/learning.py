"""Estimators that learn are compared as they are after some steps down the variance of the gradient."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Distribution

from scg.comparison.parameters import Parameters
from scg.errors import GraphError
from scg.graph import Graph
from scg.randomness import randomness

RATE = 0.02


def learn(graph: Graph, nodes: list[str], parameters: Parameters, steps: int | None, count: int, seed: int) -> int:
    """`count` steps of Adam on `trace.variance` for the estimators of `nodes`; how many were taken (0: nothing learns)."""
    modules = [graph.nodes[n].estimator for n in nodes if isinstance(graph.nodes[n].estimator, nn.Module)]
    learned = [p for p in dict.fromkeys(p for m in modules for p in m.parameters()) if p.requires_grad]
    if not learned or not count:
        return 0
    validates = Distribution._validate_args
    optimiser = torch.optim.Adam(learned, lr=RATE)
    Distribution.set_default_validate_args(validates)  # the first optimiser loads the compiler, which switches it off
    with randomness(torch.Generator(parameters.device).manual_seed(seed)):
        for _ in range(count):
            variance = graph.sample(steps=steps, **parameters.inputs).variance(list(parameters.tensors.values()))
            for parameter, slope in zip(learned, torch.autograd.grad(variance, learned, allow_unused=True), strict=True):
                parameter.grad = slope
            optimiser.step()
    for parameter in learned:
        parameter.grad = None
    if not all(bool(torch.isfinite(p).all()) for p in learned):
        raise GraphError(f"its learning diverged within {count} steps; pass learn=0, or an estimator that is trained already")
    return count
