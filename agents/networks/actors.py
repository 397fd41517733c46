"""Actors of the off-policy agents, on actions in [-1, 1]: a squashed Gaussian, or one action.

SquashedPolicy(obs) → SquashedNormal            DeterministicPolicy(obs) → action [*batch, dim]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from scg.agents.networks.encoder import Encoder
from scg.agents.networks.mlp import ReLUNetwork
from scg.agents.networks.policy import NumpyActor
from scg.agents.networks.squashed_normal import SquashedNormal

LOG_SCALES = (-20.0, 2.0)  # a policy's log-scale is clamped to these


class SquashedPolicy(nn.Module):
    """`a = tanh(u), u ~ N(loc(obs), scale(obs)²)`: both from one network."""

    def __init__(self, encoder: Encoder, dim: int, hidden: Sequence[int], generator: Generator | None = None) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim
        self.net = ReLUNetwork([encoder.features, *hidden, 2 * dim], generator)

    def forward(self, obs: Tensor) -> SquashedNormal:
        loc, log_scale = self.net(self.encoder(obs)).chunk(2, -1)
        return SquashedNormal(loc, log_scale.clamp(*LOG_SCALES))

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return torch.randn(*shape, self.dim, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode, dim = self.net.numpy(), self.encoder.numpy(), self.dim

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = net(encode(obs))
            loc = out[..., :dim]
            return np.tanh(loc if noise is None else loc + np.exp(np.clip(out[..., dim:], *LOG_SCALES)) * noise)

        return act


class DeterministicPolicy(nn.Module):
    """`a = tanh(net(obs))`. Its noise, when it explores, is not its own: see `scg.agents.experience.exploration`."""

    def __init__(
        self,
        encoder: Encoder,
        dim: int,
        hidden: Sequence[int],
        generator: Generator | None = None,
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim
        self.net = ReLUNetwork([encoder.features, *hidden, dim], generator, last_gain)

    def forward(self, obs: Tensor) -> Tensor:
        return self.net(self.encoder(obs)).tanh()

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0), np.float32)

    def numpy_actor(self) -> NumpyActor:
        net, encode = self.net.numpy(), self.encoder.numpy()
        return lambda obs, noise: np.tanh(net(encode(obs)))
