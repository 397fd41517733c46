"""Gaussian noise as a distribution whose samples compiled code can draw, and which can be presampled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Independent, Normal

from scg.agents.execution.presampled_noise import standard_normal


class _Noise(Normal):
    """torch's `Normal.sample` goes through Python, 40 µs a time; this one calls the kernel."""

    def sample(self, sample_shape: Any = Size()) -> Tensor:
        with torch.no_grad():
            return self.loc + self.scale * standard_normal(self._extended_shape(sample_shape), self.loc)


def gaussian_noise(like: Tensor, dim: int, scale: float) -> Independent:
    """`N(0, scale²)` in `dim` dimensions for each row of `like`."""
    zeros = like.new_zeros((*like.shape[:1], dim), dtype=torch.get_default_dtype())
    return Independent(_Noise(zeros, scale), 1)
