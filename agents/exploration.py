"""How an off-policy agent acts while it collects: uniformly at first, later as its actor does, with noise.

    uniform      a ~ U(-1, 1)                                            until the replay buffer has something to learn from
    Gaussian     a = clip(μ(obs) + σ ε),  ε ~ N(0, 1)                     Fujimoto et al. (2018)
    OU           a = clip(μ(obs) + σ x),  x ← (1 − θ) x + ε √(θ (2 − θ))   Ornstein & Uhlenbeck (1930); Lillicrap et al. (2016)

The Ornstein–Uhlenbeck process is in its discrete, stationary form: x has variance 1 at every step, so σ means the same for
both kinds of noise, and θ is what the process forgets in a step. It runs on from one episode into the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from scg.agents.nets import FastPolicy, NumpyActor, float_type


class Uniform(nn.Module):
    """Actions that look at nothing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return (2 * torch.rand(*shape, self.dim, generator=generator) - 1).numpy()

    def numpy_actor(self) -> NumpyActor:
        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            return np.zeros((*obs.shape[:1], self.dim), float_type()) if noise is None else noise

        return act


class Noise:
    """`[steps, batch, dim]` of standard deviation `scale`; `forget` = 1 is white, less is Ornstein–Uhlenbeck."""

    def __init__(self, dim: int, scale: float, forget: float = 1.0) -> None:
        self.dim, self.scale, self.forget = dim, scale, forget
        self._last: Tensor | None = None  # [batch, dim]: where the process stands

    def __call__(self, shape: Sequence[int], generator: Generator) -> Tensor:
        """The process goes on where the last call left it."""
        white = torch.randn(*shape, self.dim, generator=generator)
        if self.forget == 1.0:
            return self.scale * white
        gain = (self.forget * (2 - self.forget)) ** 0.5
        last = torch.randn(white.shape[1:], generator=generator) if self._last is None else self._last
        for t in range(len(white)):
            last = white[t] = (1 - self.forget) * last + gain * white[t]
        self._last = last.clone()
        return self.scale * white

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._last = state["last"]


class Noisy(nn.Module):
    """A deterministic actor with noise on its actions."""

    def __init__(self, actor: FastPolicy, noise: Noise) -> None:
        super().__init__()
        self.actor, self.process = actor, noise

    def noise(self, shape: Sequence[int], generator: Generator) -> np.ndarray:
        return self.process(shape, generator).numpy()

    def numpy_actor(self) -> NumpyActor:
        actor = self.actor.numpy_actor()

        def act(obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
            action = actor(obs, None)
            return action if noise is None else np.clip(action + noise, -1.0, 1.0)

        return act
