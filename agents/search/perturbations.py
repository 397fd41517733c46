"""Perturbations: a member's unit noise is a function of (seed, generation, index), so that no noise is stored or sent.

    normal    ξ ~ N(0, I)                               es, ars, pgpe, cem, cma-es, …
    signs     ξⱼ = ±1                                   spsa
    axes      ξ = ± √d eⱼ, j = 0, 1, …, d − 1, 0, …     fd

    mirrored    members 2k and 2k + 1 have ξ and −ξ     (axes always are)

Every kind has mean zero and, over its whole law, covariance I. So `1/n Σₑ U(mean + s ξₑ) ξₑ / s`, the score-function estimate
for theta ~ N(mean, s²I), is one formula for three methods: with `normal` noise evolution strategies; with mirrored `signs`
`Δ (U(mean + s Δ) − U(mean − s Δ)) / 2s`, SPSA; with the 2d `axes`, of step h = s √d, the central differences
`(U(mean + h eⱼ) − U(mean − h eⱼ)) / 2h`. The axes are the Gaussian's cubature of degree 3: where U is quadratic the
differences, SPSA's mean and the gradient of the smoothed U are all equal.

The generator is Philox, which is counter-based and keyed by seed and position (Salmon et al. 2011): any member's noise can be
drawn without that of the members before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

NoiseKind = Literal["normal", "signs", "axes"]


@dataclass(frozen=True)
class Perturbations:
    """Unit noise of every member of every generation."""

    seed: int
    dim: int
    kind: NoiseKind = "normal"
    mirrored: bool = False

    def rows(self, generation: int, members: Iterable[int]) -> Tensor:
        """`[len(members), dim]`, float64. A member's row does not depend on which others are asked for."""
        return torch.from_numpy(np.stack([self.row(generation, member) for member in members]))

    def row(self, generation: int, member: int) -> np.ndarray:
        """The noise `[dim]` of one member."""
        sign = 1.0 - 2.0 * (member % 2)
        if self.kind == "axes":
            axis = np.zeros(self.dim)
            axis[member // 2 % self.dim] = sign * np.sqrt(self.dim)
            return axis
        index, sign = (member // 2, sign) if self.mirrored else (member, 1.0)
        stream = np.random.Generator(np.random.Philox(key=[self.seed, generation << 32 | index]))
        if self.kind == "signs":
            return sign * (2.0 * stream.integers(2, size=self.dim) - 1.0)
        return sign * stream.standard_normal(self.dim)
