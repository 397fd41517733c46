"""Masks of actions, in the heads: a forbidden choice gets a logit, or a value, that no softmax and no maximum takes.

    logits + (1 − mask) · NEVER        the mask is the end of the observation (`scg.agents.environments.flat_space`)

One masked distribution does for acting, exploring, log-probabilities, entropies and targets.

Huang & Ontañón (2022), "A closer look at invalid action masking in policy gradient algorithms".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from scg.agents.environments.flat_space import mask_of

NEVER = -1e9  # a logit whose probability is zero in every float type, and whose gradient is zero and not NaN


class Legal:
    """What is to be added to the logits `[*batch, dims, largest]` of an observation, or `[*batch, choices]` of one dimension."""

    def __init__(self, obs: gym.Space, sizes: Sequence[int], flat: bool = False) -> None:
        self.space, self.sizes, self.flat = mask_of(obs), tuple(sizes), flat
        largest, starts = max(sizes), np.cumsum([0, *sizes[:-1]])
        # where in the mask each choice of each dimension stands; what lies beyond a dimension's own size points anywhere
        self.places = np.minimum(starts[:, None] + np.arange(largest), sum(sizes) - 1)  # [dims, largest]
        self.index = torch.from_numpy(self.places)

    def __bool__(self) -> bool:
        return self.space is not None

    def __call__(self, logits: Any, obs: Any) -> Any:
        """`logits`, those of forbidden choices moved to NEVER; of tensors and arrays."""
        if self.space is None:
            return logits
        mask = self.space.mask(obs)
        if not self.flat:
            places = self.index.to(mask.device) if isinstance(mask, Tensor) else self.places
            mask = mask[..., places]
        return logits + (1 - mask) * NEVER

    def uniform_entropy(self, obs: Tensor) -> Tensor:
        """The entropy of uniformly random allowed actions."""
        assert self.space is not None
        return self.space.mask(obs).sum(-1).log()
