"""ClipUp: momentum along normalised gradients, no faster than a speed limit (Toklu, Liskowski & Srivastava 2020).

    v ← momentum · v + rate · g / ‖g‖          ‖v‖ > limit:  v ← limit · v / ‖v‖          x ← x − v

Rate and limit are lengths in parameter space: ranks have removed the scale of a search gradient anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ClipUp(Optimizer):
    """Minimises, as torch's optimisers do. `limit` defaults to twice the rate, as in the paper."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.9, limit: float | None = None) -> None:
        if lr <= 0 or not 0 <= momentum < 1 or (limit is not None and limit <= 0):
            raise ValueError(f"ClipUp(lr={lr}, momentum={momentum}, limit={limit}): lr, limit > 0 and momentum in [0, 1).")
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "limit": 2 * lr if limit is None else limit})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity, norm = state["velocity"], parameter.grad.norm()
                velocity.mul_(group["momentum"])
                if norm > 0:
                    velocity.add_(parameter.grad / norm, alpha=group["lr"])
                speed = velocity.norm()
                if speed > group["limit"]:
                    velocity.mul_(group["limit"] / speed)
                parameter.sub_(velocity)
