"""Expectations over a finite graph as the finite sums they are, without the surrogate's algebra.

`outcomes` lists every joint value of the stochastic nodes; `expectation` sums costs against live probabilities, for
autograd to differentiate; `mean_surrogate` sums the library's surrogate, replayed at every outcome, against
probabilities that are constants. That both agree, with all derivatives, is unbiasedness with no sampling noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

import scg


def outcomes(
    supports: Mapping[str, list[float]], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Every joint value: of each node once for each element of its shape (`(steps, batch)` in a sequence)."""
    shapes = shapes or {}
    names = list(supports)
    per_node = []
    for name in names:
        shape = shapes.get(name, ())
        size = int(torch.Size(shape).numel())
        per_node.append([torch.tensor(v).reshape(shape) for v in itertools.product(supports[name], repeat=size)])
    for combination in itertools.product(*per_node):
        yield dict(zip(names, combination, strict=True))


def log_prob(trace: scg.Trace, names: Any) -> Tensor:
    """log p of an outcome: the sum over nodes, steps and batch."""
    total = torch.zeros(())
    for name in names:
        distribution = trace.dist(name)
        if isinstance(distribution, list):
            total = total + sum(d.log_prob(trace[name][t]).sum() for t, d in enumerate(distribution))
        else:
            total = total + distribution.log_prob(trace[name]).sum()
    return total


def expectation(
    graph: scg.Graph, every: list[dict[str, Tensor]], given: Mapping[str, Any] | None = None, **inputs: Any
) -> Tensor:
    """E[Σ costs] as a live sum over outcomes: mean over the batch, sum over time."""
    total = torch.zeros(())
    for outcome in every:
        trace = graph.replay({**(given or {}), **outcome}, **inputs)
        cost = torch.zeros(())
        for name in graph.structure.costs:
            value = trace[name]
            cost = cost + (value.sum(0).mean() if graph.nodes[name].in_sequence else value.mean())
        total = total + log_prob(trace, outcome).exp() * cost
    return total


def mean_surrogate(
    graph: scg.Graph,
    every: list[dict[str, Tensor]],
    given: Mapping[str, Any] | None = None,
    behaviour: Callable[[scg.Trace], Tensor] | None = None,
    **inputs: Any,
) -> Tensor:
    """Σ p(outcome) · surrogate(outcome), with p held constant; under another policy's p where `behaviour` gives it."""
    total = torch.zeros(())
    for outcome in every:
        trace = graph.replay({**(given or {}), **outcome}, **inputs)
        log_p = log_prob(trace, [n for n in outcome if "." not in n]) if behaviour is None else behaviour(trace)
        total = total + log_p.exp().detach() * trace.surrogate()
    return total


def derivatives(value: Tensor, wrt: list[Tensor], order: int = 2) -> list[Tensor]:
    """Value, gradient and Hessian, flat."""
    found = [value.detach()]
    first = torch.autograd.grad(value, wrt, create_graph=order > 1, allow_unused=True, materialize_grads=True)
    gradient = torch.cat([g.reshape(-1) for g in first])
    found.append(gradient.detach())
    if order > 1:
        rows = []
        for entry in gradient:
            if not entry.requires_grad:
                rows.append(torch.zeros(gradient.numel()))
                continue
            second = torch.autograd.grad(entry, wrt, retain_graph=True, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([s.reshape(-1) for s in second]))
        found.append(torch.stack(rows).detach())
    return found


def assert_same(ours: Tensor, truth: Tensor, wrt: list[Tensor], order: int = 2) -> None:
    for mine, exact, what in zip(
        derivatives(ours, wrt, order), derivatives(truth, wrt, order), ("value", "gradient", "Hessian"), strict=False
    ):
        assert torch.allclose(mine, exact, rtol=1e-10, atol=1e-12), f"{what}: {mine.tolist()} for {exact.tolist()}"
