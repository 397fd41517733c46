"""The graph of all gradient-free search: a stochastic `theta` and a black-box return.

    (theta ~ p(·; distribution)) → utility = U(theta) → ⟨gain⟩          ∇J = E[credit(U) ∇ log p(theta)]
               ▲┄┄┄┄┄ credit ◄──────┘

    credit                     step of the distribution                            method
    U                          gradient                                            fd, spsa, pes
    U of the best directions   gradient                                            ars
    centred rank               gradient                                            es, pgpe
    elite indicator            weighted maximum likelihood                         cem
    exp(λ U), U                weighted maximum likelihood                         rwr, pi2; power
    log-rank weights           natural gradient (of the mean: the same as w.m.l.)  cma-es

A member is one element of the batch: the surrogate is a mean over members. With weights wₑ as credit,
the surrogate has the gradient of `1/n Σₑ wₑ log p(thetaₑ)`, which vanishes at the weighted maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

import scg
from scg import ScoreFunction


def search_graph(distribution: nn.Module, credit: str, objective: Callable[[Tensor], Tensor] | None = None) -> scg.Graph:
    """`distribution()` gives p; `credit` names the weight of each member.

    With an `objective` (`theta [*batch, d] → U [*batch]`) the graph is complete: no credit but the return itself, so that
    it can be sampled, and checked against an oracle of the smoothed objective.
    """
    graph = scg.Graph()
    if objective is not None:
        graph.stochastic(ScoreFunction(), distribution, name="theta")

        @graph.deterministic
        def utility(theta: Tensor) -> Tensor:
            return objective(theta)
    else:
        graph.stochastic(ScoreFunction(), distribution, name="theta", credit=credit)
        graph.observed("utility", parents=["theta"])
        graph.observed(credit, parents=["utility"])

    @graph.reward(trains=distribution)
    def gain(utility: Tensor) -> Tensor:
        return utility

    return graph


def surrogate(graph: scg.Graph, credit: str, theta: Tensor, utility: Tensor, weight: Tensor) -> Tensor:
    """The scalar whose gradient is that of `-1/n Σₑ weightₑ log p(thetaₑ)`: `theta [n, d]`, `utility`, `weight` `[n]`.

    A weight is in reward units, the graph's credit in cost units: it is negated here. Returns of failed members (NaN) do
    not reach the graph; their weights are what `credits` made of them.
    """
    given = {"theta": theta, "utility": utility.nan_to_num(0.0), credit: -weight}
    return graph.replay(given).surrogate("gain", reduce="mean")
