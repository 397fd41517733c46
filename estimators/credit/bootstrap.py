"""Credits that bootstrap: a critic estimates the costs of later steps.

    δ_t = c_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t)              the temporal-difference error

    terminated_t    the process ended at step t: no cost follows, so V(s_{t+1}) is replaced by 0
    truncated       only the record ended (a time limit, the end of a block): V of the final observation is used

Returns are not accumulated across episodes: `first` marks the step after a termination or a truncation. V(s_{t+1}) is a
node of its own, evaluated at the observation that followed step t, because the next row of the block may belong to another
episode. Outside a sequence each sample is an episode of one step.

A critic estimates the cost downstream of the credited node, in cost units; costs that the node does not influence are left
out. A return includes the cost of every later step. Where a node influences few steps (a bandit), MonteCarlo has less
variance, because it uses the number of steps that the node influences. Where a cost arrives one step later, the cost of a
truncated step is not recorded: declare it as a function of (s_t, a_t, s_{t+1}) at step t instead.

Sutton (1988); Pardo et al. (2018), "Time limits in reinforcement learning".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scg.credit import Credit, Downstream
from scg.errors import GraphError


@dataclass(frozen=True)
class Bootstrapped(Credit):
    """`critic` names the node V(s_t), `next_critic` the node V(s_{t+1}); `terminated` the node that says where an
    episode really ended, None for a process that never does."""

    critic: str = "value"
    next_critic: str = "next_value"
    terminated: str | None = "terminated"
    discount: float = 0.99

    def __post_init__(self) -> None:
        in_unit(self, "discount", self.discount)

    @property
    def critics(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.critic,)

    def __call__(self, downstream: Downstream) -> Tensor:
        if downstream.in_sequence:
            return self.estimate(downstream)
        return self.estimate(one_step(downstream)).squeeze(0)

    def estimate(self, downstream: Downstream) -> Tensor:
        """The credit on a block `[time, batch…]`."""
        raise NotImplementedError(f"{type(self).__name__} must define estimate(downstream)")

    def cost(self, downstream: Downstream) -> Tensor:
        """`c_t`."""
        return downstream.step_cost(self.discount)

    def value(self, downstream: Downstream) -> Tensor:
        """`V(s_t)`."""
        return read(downstream, self.critic, self)

    def following(self, downstream: Downstream) -> Tensor:
        """`(1 − terminated_t) V(s_{t+1})`, without the discount."""
        following = read(downstream, self.next_critic, self)
        if self.terminated is None:
            return following
        terminated = read(downstream, self.terminated, self).bool()
        return following.masked_fill(
            terminated, 0.0
        )  # not a product: 0 · NaN is NaN, and a critic may return NaN behind a termination

    def carried(self, downstream: Downstream) -> Tensor:
        """1 where step t + 1 belongs to the episode of step t, 0 where it ended or was cut."""
        carried = 1.0 - downstream.ends()
        if self.terminated is None:
            return carried
        return carried.masked_fill(read(downstream, self.terminated, self).bool(), 0.0)

    def error(self, downstream: Downstream) -> Tensor:
        """`δ_t`."""
        return self.cost(downstream) + self.discount * self.following(downstream) - self.value(downstream)


def read(downstream: Downstream, name: str, reader: object) -> Tensor:
    """The value of a node, expanded to the shape of the costs."""
    try:
        value = downstream.value(name)
    except KeyError:
        raise GraphError(
            f"{reader!r} reads {name!r}, which has no value here: declare a node of that name, give the observed one, "
            "or tell the credit the name it has in this graph."
        ) from None
    shape = torch.broadcast_shapes(*(cost.shape for cost, _, _ in downstream.costs))
    fits = value.ndim == len(shape) and all(n in (1, m) for n, m in zip(value.shape, shape, strict=True))
    if not fits and value.numel() != 1:
        raise GraphError(
            f"{reader!r} reads {name!r} of shape {tuple(value.shape)}, and the costs are {tuple(shape)}: they would broadcast "
            "into each other.\nReturn one number per batch element: squeeze the last axis of a network's output."
        )
    return value.expand(shape)


def one_step(downstream: Downstream) -> Downstream:
    """What lies downstream outside a sequence, as a block of one step."""
    rho = None if downstream.ratio is None else downstream.ratio.unsqueeze(0)
    costs = tuple((cost.unsqueeze(0), 0, 0.0) for cost, _, _ in downstream.costs)
    return replace(downstream, costs=costs, in_sequence=True, ratio=rho, value=lambda name: downstream.value(name).unsqueeze(0))


def ahead(x: Tensor, steps: int, fill: float = 0.0) -> Tensor:
    """`x_{t+steps}` along the block, `fill` beyond it."""
    if steps == 0:
        return x
    beyond = torch.full_like(x[:steps], fill)
    return torch.cat([x[steps:], beyond])


def in_unit(credit: object, name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{type(credit).__name__}({name}={value!r}): it lies between 0 and 1")
