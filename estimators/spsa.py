"""Simultaneous perturbation: all coordinates at once along random signs, two evaluations whatever the dimension.

    ĝⱼ = 1/n Σᵢ (f(x + h Δᵢ) − f(x − h Δᵢ)) / (2 hⱼ Δᵢⱼ),        Δᵢⱼ = ±1 with probability ½ each

    E[ĝⱼ] = ∂ⱼf + h²/6 (∂ⱼ³f + 3 Σ_{k ≠ j} ∂ⱼ∂ₖ²f) + O(h⁴)       for one h; the mean is exact where f is quadratic

Biased by O(h²), so it asks for `allow_bias=True`; where f is free of noise, a small h makes the bias small. Its variance grows
with the dimension: Var ĝⱼ ≈ 1/n Σ_{k ≠ j} (∂ₖf)². Every call, so every step of a sequence, draws its own signs.
Spall (1992), "Multivariate stochastic approximation using a simultaneous perturbation gradient approximation".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scg.estimators.black_box import BlackBox, Pullback, finite_slopes, positive_step, step_at
from scg.estimators.black_box_call import Call


class SPSA(BlackBox):
    """`samples` sign vectors a call, 2 · samples evaluations in one call of a batched f.

    step    h is `step · max(1, |x|)` in each coordinate; by default ε^⅓ of the dtype that f is called with
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        shapes: str | None = None,
        *,
        samples: int = 1,
        step: float | None = None,
        allow_bias: bool = False,
        batched: bool = True,
        numpy: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(fn, shapes, batched=batched, numpy=numpy, dtype=dtype)
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"SPSA(samples={samples!r}): samples is an integer, at least 1")
        if not allow_bias:
            raise ValueError(
                f"{self!r} is biased by O(step²) unless the function is quadratic. If that is what you want, opt in with "
                "allow_bias=True."
            )
        self.samples, self.step = samples, positive_step(self, step)

    def draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Random signs, from torch's default generator (see `generator=`)."""
        return 2 * torch.randint(0, 2, shape, device=like.device).to(like.dtype) - 1

    def prepare(self, call: Call) -> None:
        call.signs = {name: self.draw((self.samples, *x.shape), x) for name, x in call.floating().items()}

    def linearise(self, call: Call) -> tuple[Tensor, Pullback]:
        value, points = call(watch=True), call.points()
        signs = [call.signs[name].to(x.dtype) for name, x in zip(call.wanted, points, strict=True)]
        moves = [step_at(x, self.step, 1 / 3) * s for x, s in zip(points, signs, strict=True)]
        up, down = ([x + sign * m for x, m in zip(points, moves, strict=True)] for sign in (1, -1))
        above, below = call([torch.cat(pair) for pair in zip(up, down, strict=True)]).chunk(2)
        rise = finite_slopes(self, value, above - below)  # [samples, *batch, *value]

        def pullback(grad: Tensor) -> list[Tensor]:
            along = call.over_value(rise * grad)  # [samples, *batch]
            widths = (u - d for u, d in zip(up, down, strict=True))
            return [(along.reshape((*along.shape, *[1] * (w.ndim - along.ndim))) / w).mean(0) for w in widths]

        return value, pullback
