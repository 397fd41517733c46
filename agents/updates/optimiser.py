"""Optimisers over lists of tensors: clipping, running moments and an update rule, in one function that can be compiled whole.

    g ← g · min(1, max_norm / ‖g‖)        θ ← θ − rate · rule(g)

Why: torch's optimisers are called parameter by parameter from Python and cannot be compiled together with the gradient. These
keep their counters and rates in tensors, so that one compiled function serves every step.

Kingma & Ba (2015); ε = 1e-5 as in Huang et al. (2022), "The 37 implementation details of PPO".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from scg.agents.updates.metrics import signal_to_noise

Tensors = tuple[Tensor, ...]
MEMORY = 0.9  # decay of the mean gradient: Adam's first moment, and of the signal-to-noise ratio


class Optimiser:
    """Gradient clipping and running moments; subclasses add the update rule, `change`."""

    def __init__(
        self, parameters: Iterable[Tensor], max_norm: float = float("inf"), eps: float = 1e-5, rate: float = 0.0
    ) -> None:
        """`rate` is the initial learning rate; it may be filled with another value before each step."""
        self.parameters, self.max_norm, self.eps = list(parameters), max_norm, eps
        self.means = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.squares = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        device = self.parameters[0].device
        self.count, self.rate, self.power = (torch.zeros((), device=device) for _ in range(3))  # tensors: for `compile`
        self.rate.fill_(rate)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> Tensor:
        """Take one step and return the gradient's norm before clipping. A gradient that is not finite spoils all parameters."""
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        self.count.add_(1.0)
        shortened, length = tuple(gradients), norm
        if self.max_norm < float("inf"):
            # min(1, max_norm / norm) as exp(log …): a compiler computes this once, but would fuse a division into the loop over
            # the parameters and divide again for every few elements. NaN stays NaN.
            factor = (math.log(max(self.max_norm, 1e-30)) - norm.log()).clamp(max=0.0).exp()
            shortened, length = torch._foreach_mul(list(gradients), factor), norm * factor
        torch._foreach_mul_(self.means, MEMORY)
        torch._foreach_add_(self.means, shortened, alpha=1 - MEMORY)
        self.power.mul_(MEMORY).add_(length.square(), alpha=1 - MEMORY)
        torch._foreach_sub_(self.parameters, self.change(shortened))
        return norm

    @property
    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        return [*self.parameters, *self.means, *self.squares, self.count, self.power]

    def signal_to_noise(self) -> float:
        """`|E g|² / tr Var g` of the clipped gradients of about the last ten steps; 0 before the second step."""
        t = float(self.count)
        if t < 2:
            return 0.0
        known = 1 - MEMORY**t
        mean = float(torch.stack(torch._foreach_norm(self.means)).square().sum()) / known**2
        squares = (1 - MEMORY) * (1 - MEMORY ** (2 * t)) / ((1 + MEMORY) * known**2)
        return signal_to_noise(mean, float(self.power) / known, squares)

    def change(self, gradients: Tensors) -> Tensors:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "squares": self.squares, "count": self.count, "power": self.power}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for ours, saved in zip([*self.means, *self.squares], [*state["means"], *state["squares"]], strict=True):
            ours.copy_(saved)
        self.count.copy_(state["count"]), self.power.copy_(state["power"])


class Adam(Optimiser):
    """`rate · m̂ / (√v̂ + ε)`, where m̂ = m / (1 − 0.9^t) and v̂ = v / (1 − 0.999^t).

    The two denominators are looked up in a table: a compiler fuses powers into the loop over the parameters and computes them
    again for every few elements, which took two thirds of the function's time.
    """

    def __init__(
        self, parameters: Iterable[Tensor], max_norm: float = float("inf"), eps: float = 1e-5, rate: float = 0.0
    ) -> None:
        super().__init__(parameters, max_norm, eps, rate)
        self._corrections = corrections().to(self.rate)

    def change(self, gradients: Tensors) -> Tensors:
        t = self.count.long().clamp(max=len(self._corrections) - 1)
        mean, root = self._corrections.index_select(0, t.view(1)).view(2).unbind()
        torch._foreach_mul_(self.squares, 0.999)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 0.001)
        scale = torch._foreach_sqrt(self.squares)
        torch._foreach_mul_(scale, root)
        torch._foreach_add_(scale, self.eps)
        change = torch._foreach_div(self.means, scale)
        torch._foreach_mul_(change, self.rate * mean)
        return change


@cache
def corrections() -> Tensor:
    """`[t, 2]`: 1 / (1 − 0.9^t) and 1 / √(1 − 0.999^t), until both are 1 in single precision."""
    t = torch.arange(18_000, dtype=torch.float64)
    return torch.stack([1 / (1 - MEMORY**t), (1 - 0.999**t).rsqrt()], -1)


class RMSprop(Optimiser):
    """`rate · g / (√v + ε)`, v the running mean square over about a hundred steps."""

    def change(self, gradients: Tensors) -> Tensors:
        torch._foreach_mul_(self.squares, 0.99)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 0.01)
        scale = torch._foreach_sqrt(self.squares)
        torch._foreach_add_(scale, self.eps)
        change = torch._foreach_div(gradients, scale)
        torch._foreach_mul_(change, self.rate)
        return change


class RunningAverage(Optimiser):
    """`share · g`, whatever the rate: on half a squared distance, a running average that goes this share of the way."""

    def __init__(self, parameters: Iterable[Tensor], share: float = 0.01) -> None:
        super().__init__(parameters)
        self.share = share

    def change(self, gradients: Tensors) -> Tensors:
        return torch._foreach_mul(gradients, self.share)
