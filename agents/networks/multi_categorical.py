"""Several discrete actions at once, and continuous ones quantised to them.

    a = (a_1 … a_d),  a_i ~ Categorical(softmax(logits_i(obs))), independent given the observation

Sizes may differ: logits are laid out `[*batch, d, largest]`, and what lies beyond a dimension's own size has no probability.
Quantised continuous actions are the same policy over an environment whose action space is cut into bins
(`scg.agents.environments.envs.make(…, bins=K)`): every dimension takes one of K evenly spaced values. Tang & Agrawal (2020),
"Discretizing continuous action space for on-policy optimization".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Independent

from scg.agents.networks.encoder import Encoder
from scg.agents.networks.legal import NEVER, Legal
from scg.agents.networks.mlp import MLP, SMALL
from scg.agents.networks.policy import NumpyActor


class MultiCategoricalPolicy(nn.Module):
    """Actions `[*batch, d]` of integers below `sizes`; their log-probabilities are summed."""

    mask: Tensor

    def __init__(
        self,
        encoder: Encoder,
        sizes: Sequence[int],
        hidden: Sequence[int],
        generator: Generator | None,
        legal: Legal | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.sizes, self.legal = encoder, tuple(int(n) for n in sizes), legal
        largest = max(self.sizes)
        self.logits = MLP([encoder.features, *hidden, len(self.sizes) * largest], SMALL, generator)
        beyond = torch.arange(largest) >= torch.tensor(self.sizes).unsqueeze(-1)
        self.register_buffer("mask", beyond * NEVER, persistent=False)  # [d, largest]

    def forward(self, obs: Tensor) -> Independent:
        logits = self.logits(self.encoder(obs)).unflatten(-1, self.mask.shape)
        if self.legal:
            logits = self.legal(logits, obs)
        return Independent(Categorical(logits=logits + self.mask), 1)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        exponential = torch.empty(*shape, *self.mask.shape).exponential_(generator=generator)
        return -exponential.clamp_min(torch.finfo(torch.float32).tiny).log().numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode, mask, legal = self.logits.numpy(), self.encoder.numpy(), self.mask.cpu().numpy(), self.legal

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = net(encode(obs))
            logits = out.reshape(*out.shape[:-1], *mask.shape) + mask
            if legal:
                logits = legal(logits, obs)
            return (logits if noise is None else logits + noise).argmax(-1)

        return act
