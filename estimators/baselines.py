"""Baselines: what is subtracted from the cost that multiplies a score.

    E[(L − b) ∇log p(x)] = E[L ∇log p(x)]          for every b that x does not influence

    constant           graph.stochastic(…, baseline=0.7)
    moving average     graph.stochastic(…, baseline=average), average = MovingAverage();
                       average.update(cost_to_go(trace, "x")) *after* the surrogate: a level that includes x is biased
    variance-optimal   the same, average.update(costs, squared_norm(scores(trace, "x", theta)))
    learned            graph.stochastic(…, baseline="level"), then learned_baseline(graph, "x", critic, name="level", …)
    batch leave-one-out, and what needs the other elements of the batch: a credit, `credit.BatchLeaveOneOut`

`baseline=` is right to second order and beyond, whatever the baseline depends on (Mao et al. 2019 for DiCE).

The best constant is not the mean cost: it minimises E‖(L − b) g‖² with g = ∇log p(x),

    b*  = E[‖g‖² L] / E[‖g‖²]          one level for all parameters
    b*ᵢ = E[gᵢ² L] / E[gᵢ²]            one for each: no scalar surrogate has it, so `optimal_gradient` returns the gradient

A level estimated from the samples that it is subtracted from is biased; so each sample gets the level of the others.
Greensmith, Bartlett & Baxter (2004); Weaver & Tao (2001); Peters & Schaal (2008); Williams (1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from scg.errors import GraphError, nearest
from scg.graph import Graph
from scg.node import Edge, detach
from scg.trace import Trace


class MovingAverage(nn.Module):
    """b = Σ decay^age u L / Σ decay^age u over the updates so far, 0 before the first. A node function without parents.

    shape   () keeps one level for the whole batch, the batch's shape one for each element (a data point, an environment)

    State lies in buffers, so `state_dict` resumes it, and nothing changes it but `update`.
    """

    def __init__(self, decay: float = 0.95, shape: Sequence[int] = ()) -> None:
        super().__init__()
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"MovingAverage(decay={decay!r}): it lies between 0 (the last update) and 1 (the mean of all)")
        self.decay = decay
        self.total: Tensor
        self.mass: Tensor
        self.register_buffer("total", torch.zeros(tuple(shape)))
        self.register_buffer("mass", torch.zeros(tuple(shape)))

    def forward(self) -> Tensor:
        return torch.where(self.mass > 0, self.total / self.mass, 0.0)

    @torch.no_grad()
    def update(self, cost_to_go: Tensor, weight: Tensor | float = 1.0) -> None:
        """Take in costs that were already used, `[…, *shape]`, averaged over the axes in front: time, batch, samples."""
        weight = torch.as_tensor(weight, dtype=cost_to_go.dtype, device=cost_to_go.device).expand_as(cost_to_go)
        shape, front = self.total.shape, cost_to_go.ndim - self.total.ndim
        if front < 0 or cost_to_go.shape[front:] != shape:
            raise ValueError(
                f"MovingAverage.update: costs of shape {tuple(cost_to_go.shape)} for levels of shape {tuple(shape)}; "
                "the last axes of the costs are those of the levels"
            )
        axes = tuple(range(front))
        total, mass = (x.mean(axes) if axes else x for x in (weight * cost_to_go, weight))
        # New tensors, not in place: a surrogate that has not been differentiated yet may still hold the old ones.
        self.total = self.decay * self.total + total
        self.mass = self.decay * self.mass + mass


def learned_baseline(
    graph: Graph,
    node: str,
    critic: Callable[..., Tensor],
    *,
    name: str,
    parents: Sequence[str | Edge],
    trains: nn.Module | Sequence[str] | None = None,
    target: str | None = None,
) -> str:
    """Add the baseline b = critic(parents) of `node`, and the cost ⟨(b − sg L)²⟩ that trains it; returns the cost's name.

    Call it last, with the node declared as `stochastic(…, baseline=name)`. `trains` are the critic's parameters: the
    module if it is one, else the names of inputs. L is the sum of the costs below `node` so far. In a sequence no node
    can be the cost-to-go, which looks ahead: `target` names the observed node where `cost_to_go(trace, node)` is given.
    """
    trained = critic if trains is None and isinstance(critic, nn.Module) else trains
    if trained is None:
        raise GraphError(f"learned_baseline({name!r}): say what the regression trains, as in trains=module or trains=['phi']")
    inside = node in graph.nodes and graph.nodes[node].in_sequence
    if inside and target is None:
        raise GraphError(
            f"learned_baseline({name!r}): node {node!r} is in a sequence, and its cost-to-go looks ahead in time.\n"
            "Declare graph.observed('cost_to_go') there, give it cost_to_go(trace, node), and pass target='cost_to_go'."
        )
    with graph.sequence() if inside else nullcontext():
        graph.deterministic(critic, name=name, parents=parents)
        if target is None:
            below = [c for c in graph.structure.costs if graph.structure.window(node, c, live=True)]
            if not below:
                raise GraphError(f"learned_baseline({name!r}): no cost is downstream of node {node!r}")
        else:
            below = [target]
        return _regression(graph, name, below, trained)


def _regression(graph: Graph, level: str, below: list[str], trained: nn.Module | Sequence[str]) -> str:
    def regression(predicted: Tensor, *costs: Tensor) -> Tensor:
        return (predicted - sum(costs[1:], costs[0])).square()

    graph.cost(regression, name=f"{level}_regression", parents=[level, *map(detach, below)], trains=trained)
    return f"{level}_regression"


def scores(trace: Trace, node: str, wrt: Tensor | Sequence[Tensor]) -> Tensor:
    """∇log p of each sample of `node`, `[samples, parameters]`: its branches, steps and batch elements in order."""
    if not trace.structure.is_a("stochastic", node):
        raise GraphError(f"{node!r} is no stochastic node of this trace.{nearest(node, trace.structure.stochastic)}")
    distribution, value = trace.dist(node), trace[node].detach()
    if isinstance(distribution, list):  # stepped through: one distribution for each step
        live = torch.stack([d.log_prob(x) for d, x in zip(distribution, value, strict=True)])
    else:
        live = distribution.log_prob(value)
    parameters = [wrt] if isinstance(wrt, Tensor) else list(wrt)
    each = torch.eye(live.numel(), dtype=live.dtype, device=live.device).reshape(-1, *live.shape)
    found = torch.autograd.grad(
        live, parameters, each, retain_graph=True, is_grads_batched=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.reshape(live.numel(), -1) for g in found], 1)


def squared_norm(scores: Tensor) -> Tensor:
    """‖g‖² of each sample: what a cost counts in the optimal level."""
    return scores.square().sum(-1)


def optimal_level(scores: Tensor, costs: Tensor, per_parameter: bool = False, p: Tensor | None = None) -> Tensor:
    """b* from `scores [samples, parameters]` and `costs [samples]`, of equal weight or of probability `p`.

    For *other* samples: subtracted from its own it is biased, by O(1/samples).
    """
    mass = scores.square() if per_parameter else squared_norm(scores).unsqueeze(-1)
    mass = mass if p is None else mass * p.unsqueeze(-1)
    level = _ratio((mass * costs.unsqueeze(-1)).sum(0), mass.sum(0))
    return level if per_parameter else level.squeeze(-1)


def optimal_gradient(scores: Tensor, costs: Tensor, per_parameter: bool = True) -> Tensor:
    """1/n Σ_k g_k (L_k − b*_{−k}), `[parameters]`: every sample with the optimal level of the others. Unbiased, n ≥ 2."""
    if scores.shape[0] < 2:
        raise ValueError(f"optimal_gradient needs 2 samples or more, got {scores.shape[0]}: each one's level is the others'")
    mass = scores.square() if per_parameter else squared_norm(scores).unsqueeze(-1)
    level = _ratio(_of_others(mass * costs.unsqueeze(-1)), _of_others(mass))
    return (scores * (costs.unsqueeze(-1) - level)).mean(0)


def _ratio(total: Tensor, mass: Tensor) -> Tensor:
    """0 where nothing has a score: any level is as good there."""
    return torch.where(mass > 0, total / mass, 0.0)


def _of_others(x: Tensor) -> Tensor:
    """Σ_{j ≠ k} x_j: those before and those after. The whole sum less x_k would be rounding where x_k is nearly all of it."""
    zero = torch.zeros_like(x[:1])
    before = torch.cat([zero, x[:-1].cumsum(0)])
    after = torch.cat([x[1:].flip(0).cumsum(0).flip(0), zero])
    return before + after
