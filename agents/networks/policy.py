"""Policies and critics: multilayer perceptrons whose forward returns what the graph needs.

    policy(obs [*batch, obs…]) → Distribution        critic(obs [*batch, obs…]) → cost-to-go [*batch]

A policy is a module returning a torch `Distribution`, as in zuko, so a stochastic node is `lambda obs: policy(obs)`.
A critic predicts **cost**-to-go, minus the return: it enters a graph without a change of sign.

Weights are orthogonal (Saxe et al. 2014): gain √2 inside, small in a policy's last layer (nearly uniform at first) and
1 in a critic's (Engstrom et al. 2020, Andrychowicz et al. 2021, on why this matters in policy gradients).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeGuard

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from scg.agents.networks.encoder import Encoder
from scg.agents.networks.legal import Legal
from scg.agents.networks.mlp import MLP, SMALL

# (obs [batch, …], noise [batch, …] or None for the most probable action) -> action [batch, …]
NumpyActor = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


class FastPolicy(Protocol):
    """A policy that also acts in numpy, on noise drawn beforehand for a whole block."""

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray: ...

    def numpy_actor(self) -> NumpyActor: ...


def is_fast(policy: nn.Module) -> TypeGuard[FastPolicy]:
    """Whether it is one. (Asked by name: `isinstance` with a protocol costs as much as an action.)"""
    return hasattr(policy, "numpy_actor")


class CategoricalPolicy(nn.Module):
    """`a ~ Categorical(softmax(logits(obs)))`, sampled as `argmax(logits + Gumbel noise)`."""

    def __init__(
        self, encoder: Encoder, actions: int, hidden: Sequence[int], generator: Generator | None, legal: Legal | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.actions, self.legal = encoder, actions, legal
        self.logits = MLP([encoder.features, *hidden, actions], SMALL, generator)

    def forward(self, obs: Tensor) -> Categorical:
        logits = self.logits(self.encoder(obs))
        return Categorical(logits=self.legal(logits, obs) if self.legal else logits)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        exponential = torch.empty(*shape, self.actions).exponential_(generator=generator)
        return -exponential.clamp_min(torch.finfo(torch.float32).tiny).log().numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode, legal = self.logits.numpy(), self.encoder.numpy(), self.legal

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            logits = net(encode(obs))
            if legal:
                logits = legal(logits, obs)
            return (logits if noise is None else logits + noise).argmax(-1)

        return act


class GaussianPolicy(nn.Module):
    """`a ~ N(loc(obs), exp(log_scale)²)`, one log-scale a dimension whatever the observation."""

    def __init__(
        self,
        encoder: Encoder,
        shape: Sequence[int],
        hidden: Sequence[int],
        generator: Generator | None,
        log_scale: float = -0.5,
    ) -> None:
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"GaussianPolicy: actions of shape {tuple(shape)}; flatten the space to one axis.")
        self.encoder, self.shape = encoder, tuple(shape)
        self.loc = MLP([encoder.features, *hidden, shape[0]], SMALL, generator)
        self.log_scale = nn.Parameter(torch.full(self.shape, log_scale))

    def forward(self, obs: Tensor) -> Independent:
        loc = self.loc(self.encoder(obs))
        return Independent(Normal(loc, self.log_scale.exp().expand_as(loc)), 1)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return torch.randn(*shape, *self.shape, generator=generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        net, encode, scale = self.loc.numpy(), self.encoder.numpy(), np.exp(self.log_scale.detach().numpy())

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            loc = net(encode(obs))
            return loc if noise is None else loc + scale * noise

        return act
