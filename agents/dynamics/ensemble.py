"""A learned model: an ensemble of probabilistic networks, fitted to recorded transitions.

    (obs, reward)' = obs + σ_Δ · μ_k(obs, a) + σ_Δ · s_k(obs, a) · ε          member k, ε ~ N(0, 1)

    fit: minimise Σ_k E[ |(y − μ_k)/s_k|²/2 + log s_k ]                y: the change of obs, and the reward, in units of their spread σ_Δ

A state is an observation with the reward of the step that led to it, so that a recorded step tells the noise of both. A roll-out
stays with one member: row i of a batch of n has member ⌊i · K/n⌋ from its first step to its last, so members disagree between
roll-outs and a node's function draws nothing. Ends of episodes are not modelled.

Chua et al. (2018), "Deep reinforcement learning in a handful of trials" (PETS: the ensemble, TS∞, the bounds of log s); Nix &
Weigend (1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import silu, softplus

from scg.agents.dynamics.base import Dynamics, gaussian
from scg.agents.networks.linear import linear
from scg.agents.networks.mlp import uniform_within

LOWEST, HIGHEST = -6.0, 0.5  # of log s, in units of the spread


class Ensemble(Dynamics):
    """`members` networks side by side, one matrix product a layer. State: obs and reward, `[*batch, obs + 1]`."""

    stochastic = True
    horizon = 1  # every roll-out is a branch of its own
    mean: Tensor
    scale: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(
        self, obs: int, actions: int, hidden: Sequence[int], members: int = 5, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.obs_size, self.action_size, self.state_size, self.members = obs, actions, obs + 1, members
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n, m in pairwise([obs + actions, *hidden, 2 * (obs + 1)]):
            for many, shape in ((self.weights, (members, n, m)), (self.biases, (members, 1, m))):
                parameter = nn.Parameter(torch.empty(shape))
                uniform_within(parameter, n, generator)
                many.append(parameter)
        for name, value, size in (("mean", 0.0, obs + actions), ("scale", 1.0, obs + actions), ("middle", 0.0, obs + 1)):
            self.register_buffer(name, torch.full((size,), value))
        self.register_buffer("spread", torch.ones(obs + 1))

    def outputs(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log s, `[members, rows, obs + 1]`, of inputs `[members, rows, …]` or `[rows, …]` for all."""
        x = (torch.cat([obs, action], -1) - self.mean) / self.scale
        x = x.expand(self.members, -1, -1) if x.ndim == 2 else x
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = linear(x, weight, bias)
            x = x if i == last else silu(x)
        mean, log_scale = x.chunk(2, -1)
        log_scale = HIGHEST - softplus(HIGHEST - log_scale)
        return mean, LOWEST + softplus(log_scale - LOWEST)

    def transition(self, state: Tensor, action: Tensor) -> Distribution:
        obs, act = state[..., :-1], action.clamp(-1.0, 1.0)
        batch = obs.shape[:-1]
        flat = [x.reshape(-1, x.shape[-1]) for x in (obs, act)]
        rows = len(flat[0])
        each = -(-rows // self.members)
        padded = [nn.functional.pad(x, (0, 0, 0, each * self.members - rows)).unflatten(0, (self.members, each)) for x in flat]
        mean, log_scale = (out.flatten(0, 1)[:rows].unflatten(0, batch) for out in self.outputs(*padded))
        change = self.middle + self.spread * mean
        after = change + nn.functional.pad(obs, (0, 1))  # the last number is the reward itself
        return gaussian(after, self.spread * log_scale.exp())

    def observe(self, state: Tensor) -> Tensor:
        return state[..., :-1]

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        return after[..., -1]

    def state(self, obs: Tensor, reward: Tensor | None = None) -> Tensor:
        """Recorded observations, with the reward that came with each (0 for first ones), as states."""
        last = torch.zeros_like(obs[..., :1]) if reward is None else reward.unsqueeze(-1)
        return torch.cat([obs, last], -1)

    @torch.no_grad()
    def normalise(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> None:
        """Take the units of inputs and outputs from recorded rows."""
        x, y = torch.cat([obs, action.clamp(-1.0, 1.0)], -1), self._change(obs, next_obs, reward)
        self.mean.copy_(x.mean(0)), self.middle.copy_(y.mean(0))
        self.scale.copy_(x.std(0).clamp_min(1e-6)), self.spread.copy_(y.std(0).clamp_min(1e-6))

    def loss(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        """The members' mean negative log-likelihood, less its constant; rows `[members, rows, …]`: each member has its own."""
        mean, log_scale = self.outputs(obs, action.clamp(-1.0, 1.0))
        y = (self._change(obs, next_obs, reward) - self.middle) / self.spread
        return (((y - mean) * (-log_scale).exp()).square() / 2 + log_scale).sum(-1).mean()

    @torch.no_grad()
    def error(self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor) -> float:
        """Root mean square error of the members' mean prediction, in units of the spread."""
        mean, _ = self.outputs(obs, action.clamp(-1.0, 1.0))
        y = (self._change(obs, next_obs, reward) - self.middle) / self.spread
        return float((y - mean.mean(0)).square().mean().sqrt())

    @staticmethod
    def _change(obs: Tensor, next_obs: Tensor, reward: Tensor) -> Tensor:
        return torch.cat([next_obs - obs, reward.unsqueeze(-1)], -1)
