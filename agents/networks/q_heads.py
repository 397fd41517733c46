"""Discrete actions for the off-policy agents: the value of every choice from one pass, and how they explore.

    QHeads(obs) → Q [*batch, dims, choices]      one choice (Discrete) is a single head, several (MultiDiscrete) one head each
    atoms(obs) → [*batch, dims, choices, atoms]  what `returns` reads Q from: Q itself, or a distribution of returns
    duelling     V(obs) + A(obs, ·) − mean A(obs, ·) of each atom, in place of one output a choice    Wang et al. (2016)

    random       every choice equally probable                                until the buffer has something to learn from
    ε-greedy     argmax Q(obs, ·), in every environment a random choice with probability ε            Watkins (1989)

Sizes may differ between dimensions: what lies beyond a dimension's own size has a value that no maximum takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

from scg.agents.environments.action_spaces import choices
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.legal import NEVER, Legal
from scg.agents.networks.mlp import ReLUNetwork
from scg.agents.networks.policy import NumpyActor
from scg.agents.networks.returns import Expected, Returns


class QHeads(nn.Module):
    """Q(obs, ·) `[*batch, dims, choices]` on one network; its greedy action is its policy."""

    mask: Tensor
    share: Tensor

    def __init__(
        self,
        encoder: Encoder,
        space: gym.Space,
        hidden: Sequence[int],
        generator: Generator | None = None,
        obs: gym.Space | None = None,
        duelling: bool = False,
        returns: Returns | None = None,
    ) -> None:
        """With the space `obs` of observations, those that have masks forbid actions."""
        super().__init__()
        self.duelling, self.returns = duelling, returns or Expected()
        self.encoder, self.sizes = encoder, choices(space)
        self.legal = None if obs is None else Legal(obs, self.sizes)
        self.scalar = isinstance(space, spaces.Discrete)  # actions [*batch], not [*batch, dims]
        largest = max(self.sizes)
        beyond = torch.arange(largest) >= torch.tensor(self.sizes).unsqueeze(-1)
        self.register_buffer("mask", beyond * NEVER, persistent=False)  # [dims, choices]
        share = (~beyond).to(torch.get_default_dtype()) / torch.tensor(self.sizes).unsqueeze(-1)
        self.register_buffer("share", share.unsqueeze(-1), persistent=False)  # [dims, choices, 1], of a mean over choices
        self.shape = (len(self.sizes), largest + duelling, self.returns.atoms)
        self.net = ReLUNetwork([encoder.features, *hidden, math.prod(self.shape)], generator)

    def forward(self, obs: Tensor) -> Tensor:
        return self.valued(self.atoms(obs), obs)

    def atoms(self, obs: Tensor) -> Tensor:
        """What is learned of each choice, `[*batch, dims, choices, atoms]`."""
        out = self.net(self.encoder(obs)).unflatten(-1, self.shape)
        if not self.duelling:
            return out
        advantage = out[..., :-1, :]
        return out[..., -1:, :] + advantage - (self.share * advantage).sum(-2, keepdim=True)

    def valued(self, atoms: Tensor, obs: Tensor) -> Tensor:
        """The values `[*batch, dims, choices]` of atoms; of choices that there are not, and of forbidden ones, none that counts."""
        values = self.returns.mean(atoms) + self.mask
        return self.legal(values, obs) if self.legal else values

    def best(self, obs: Tensor) -> Tensor:
        """The greedy action."""
        index = self(obs).argmax(-1)
        return index[..., 0] if self.scalar else index

    def at(self, values: Tensor, action: Tensor) -> Tensor:
        """The values `[*batch, dims]` of a recorded action, from those of all."""
        index = action.unsqueeze(-1) if self.scalar else action
        return values.gather(-1, index.unsqueeze(-1)).squeeze(-1)

    def atoms_at(self, atoms: Tensor, index: Tensor) -> Tensor:
        """The atoms `[*batch, dims, atoms]` of the choices `index [*batch, dims]`."""
        wide = index[..., None, None].expand(*index.shape, 1, atoms.shape[-1])
        return atoms.gather(-2, wide).squeeze(-2)

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return np.zeros((*shape, 0), np.float32)

    def numpy_actor(self) -> NumpyActor:
        net, encode, mask, scalar = self.net.numpy(), self.encoder.numpy(), self.mask.cpu().numpy(), self.scalar
        legal, duelling, share, returns = self.legal, self.duelling, self.share.cpu().numpy(), self.returns

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            out = net(encode(obs))
            atoms = out.reshape(*out.shape[:-1], *self.shape)
            if duelling:
                advantage = atoms[..., :-1, :]
                atoms = atoms[..., -1:, :] + advantage - (share * advantage).sum(-2, keepdims=True)
            values = returns.numpy_mean(atoms) + mask
            best = (legal(values, obs) if legal else values).argmax(-1)
            return best[..., 0] if scalar else best

        return act
