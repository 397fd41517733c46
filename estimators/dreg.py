"""Doubly reparameterised gradients (DReG): the parameters of q in multi-sample bounds, without the score of q.

Through z_k = g(ε_k; φ), −log 1/K Σ_k w_k has two ways to φ: log w_k moves with its sample, and with q_φ's own parameters.
The second is a score, whose signal falls behind its noise as K grows; reparameterised once more, it joins the first:

    E[ h(z_k) ∇_φ log q_φ(z_k) ] = E[ ∂_z h(z_k) ∂_φ z_k ],       w̃_k = w_k / Σ_j w_j

    ∇_φ E[cost] = −E[ Σ_k c_k ∂_z log w_k ∂_φ z_k ]          c_k
    iwae        −log 1/K Σ w_k                                 w̃_k²
    wake        −Σ sg(w̃_k) log q_φ(z_k), φ of wake-sleep       w̃_k − w̃_k²
    jackknife   −J_K                                           K w̃_k² − (K−1)/K Σ_i (w̃_k without i)²

with q's own parameters detached in log w. Where c_k = w̃_k s_k (iwae: s = w̃, wake: s = 1 − w̃), that is the plain bound at
samples whose gradient is scaled by s_k, known from log-weights taken before, without a gradient. In general it is a cost of
the same log-weights seen twice, at z and at detach(z),

    cost = bound(fixed) − Σ_k sg(c_k) (moving_k − fixed_k)

whose value is the bound, whose gradient for the model p is that of the bound, and whose second term is 0 in value and
reaches φ alone. `dreg` declares either, from the log-weights as they would be declared for the plain bound:

    graph.stochastic(Pathwise(), …, name="z", plate=K)
    dreg(graph, "z", log_weight, parents=["z", dist("z"), "x"], name="bound")

Unbiased, first order; K = 1 is sticking the landing. At q = p(z|x) every draw of the iwae gradient is 0. One layer of
latents: below another one on the plate, log q(z₂|z₁) moves with z₁ too, and that part must not be left out (Bauer & Mnih
2021 say what is). Tucker, Lawson, Gu & Maddison (2019); Bornschein & Bengio (2015); Nowozin (2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from scg.checks.slopes import meant
from scg.distributions import barrier
from scg.errors import GraphError, nearest
from scg.estimator import Pathwise
from scg.estimators.multi_sample import at_least, negative_bound, negative_jackknife, without_each
from scg.graph import Graph
from scg.node import Edge, edges_of

Bound = Literal["iwae", "wake", "jackknife"]


def dreg(
    graph: Graph,
    sample: str,
    log_weight: Callable[..., Tensor],
    *,
    parents: Sequence[str | Edge],
    name: str,
    bound: Bound = "iwae",
    dim: int = -2,
    trains: Any = None,
) -> None:
    """Declare the cost `name`, and nodes `name_…` that it is made of.

    `log_weight(*parents)` is log p − log q, `[K, batch…]`, a function of the plate's pathwise `sample` and of its `dist`.
    """
    if bound not in ("iwae", "wake", "jackknife"):
        raise ValueError(f"dreg(bound={bound!r}): it is 'iwae', 'wake' or 'jackknife'")
    edges, _ = edges_of(name, log_weight, parents)
    _check(graph, sample, edges, name)
    own = [replace(e, detached=True, conditional=False) if e.source == sample and e.dist else e for e in edges]
    fixed = [replace(e, detached=True, conditional=False) if e.source == sample else e for e in edges]

    def first_order(x: Tensor) -> Tensor:
        return x if torch.compiler.is_compiling() else barrier(x, sample)

    if bound == "jackknife":
        graph.deterministic(log_weight, name=f"{name}_moving", parents=own)
        graph.deterministic(log_weight, name=f"{name}_fixed", parents=fixed)

        def twice(moving: Tensor, fixed: Tensor) -> Tensor:
            return doubly_reparameterised(first_order(moving), fixed, bound, dim)

        graph.cost(twice, name=name, parents=[f"{name}_moving", f"{name}_fixed"], trains=trains)
        return

    def scaled(z: Tensor, log_weights: Tensor) -> Tensor:
        meant()
        share = log_weights.softmax(dim)
        scale = share if bound == "iwae" else 1 - share
        scale = scale.reshape(*scale.shape, *[1] * (z.ndim - scale.ndim))  # over the event
        return first_order(z.detach() + scale * (z - z.detach()))

    at_scaled = [replace(e, source=f"{name}_samples") if e.source == sample and not e.dist else e for e in own]
    graph.deterministic(torch.no_grad()(log_weight), name=f"{name}_shares", parents=fixed)
    graph.deterministic(scaled, name=f"{name}_samples", parents=[sample, f"{name}_shares"])
    graph.deterministic(log_weight, name=f"{name}_log_weights", parents=at_scaled)
    graph.cost(lambda x: negative_bound(x, dim), name=name, parents=[f"{name}_log_weights"], trains=trains)


def doubly_reparameterised(moving: Tensor, fixed: Tensor, bound: Bound = "iwae", dim: int = -2) -> Tensor:
    """The bound as a cost, from log-weights `[…, K, batch…]` at the samples and at the detached samples."""
    if bound not in ("iwae", "wake", "jackknife"):
        raise ValueError(f"doubly_reparameterised(bound={bound!r}): it is 'iwae', 'wake' or 'jackknife'")
    if moving is fixed:
        raise ValueError(
            "doubly_reparameterised: moving and fixed are the same tensor, so the samples move both and the gradient of q is "
            "lost.\nDeclare the log-weights a second time, with parents=[detach('z'), …], and pass those as fixed."
        )
    if moving.shape != fixed.shape:
        raise ValueError(
            f"doubly_reparameterised: moving has shape {tuple(moving.shape)}, fixed {tuple(fixed.shape)}; they are the same "
            "log-weights, at z and at detach('z')"
        )
    meant()
    value = negative_jackknife(fixed, dim) if bound == "jackknife" else negative_bound(fixed, dim)
    return value - (coefficients(fixed.detach(), bound, dim) * (moving - fixed)).sum(dim)


def coefficients(log_weights: Tensor, bound: Bound, dim: int = -2) -> Tensor:
    """`c_k`, shaped like the log-weights."""
    share = log_weights.softmax(dim)
    if bound == "wake":
        return share * (1 - share)
    if bound == "iwae":
        return share.square()
    count = at_least("doubly_reparameterised(bound='jackknife')", 2, log_weights, dim)
    dim = dim % log_weights.ndim
    without = without_each(log_weights, dim).softmax(dim).square().sum(dim + 1)
    return count * share.square() - (count - 1) / count * without


def _check(graph: Graph, sample: str, edges: Sequence[Edge], name: str) -> None:
    if sample not in graph.nodes:
        raise GraphError(f"dreg({name!r}): {sample!r} is no node of this graph.{nearest(sample, graph.nodes)}")
    node = graph.nodes[sample]
    plates = graph.structure.on_plate
    if not isinstance(node.estimator, Pathwise) or sample not in plates:
        found = f"a {node.kind} node" if node.estimator is None else f"{node.estimator!r}, plate={node.plate}"
        raise GraphError(
            f"dreg({name!r}): it reparameterises the samples of a plate, and node {sample!r} is {found}.\n"
            "Declare it with Pathwise() and plate=K; for discrete samples use credit=VIMCO()."
        )
    own = [e for e in edges if e.source == sample]
    if not any(e.plain for e in own) or not any(e.dist for e in own):
        raise GraphError(
            f"dreg({name!r}): the log-weights are log p − log q, so their parents are {sample!r} and dist({sample!r})"
        )
    for above in graph.ancestors(sample):
        if above in plates:
            raise GraphError(
                f"dreg({name!r}): node {above!r} is on the plate too, and moves log q of {sample!r}; its gradient would be biased.\n"
                "Use one layer of latents on the plate, or the plain negative_bound."
            )
    for edge in edges:
        if edge.source != sample and edge.source in graph.nodes and graph.lags(sample, edge.source) is not None:
            raise GraphError(
                f"dreg({name!r}): its parent {edge.source!r} moves with {sample!r}, so the log-weights cannot be had at the detached "
                f"sample.\nCompute {edge.source!r} inside the function of the log-weights."
            )
