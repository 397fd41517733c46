"""MuJoCo's environments as dynamics: the simulator steps, and its own derivatives are those of the graph.

    state = (qpos, qvel), float64      s' = MuJoCo(s, scale · action), frame_skip steps, differentiated by `MujocoTransition`

Observations and rewards are gymnasium's formulas, written in torch, so that they have slopes; where a reward has none (1 at every step
that a pole stands), it is ours, and the page of the environment below says so. Evaluations are in gymnasium's own environment.
Todorov, Erez & Tassa (2012).
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Generator, Tensor

from scg.agents.dynamics.base import Dynamics
from scg.agents.execution.options import OptionError
from scg.errors import nearest
from scg.estimators import MujocoTransition


class Simulator(Dynamics):
    """Any of gymnasium's MuJoCo environments whose state is (qpos, qvel). Subclasses say `observe` and `reward`."""

    env_id: str
    noise: float
    """starts are the model's own, moved uniformly by up to this"""

    def __init__(self) -> None:
        super().__init__()
        env: Any = gym.make(self.env_id)
        self.horizon = env.spec.max_episode_steps
        base = env.unwrapped
        self.step = MujocoTransition(base.model, base.frame_skip)
        self.dt = base.dt
        self.rest = torch.from_numpy(base.init_qpos.copy()), torch.from_numpy(base.init_qvel.copy())
        self.scale = torch.from_numpy(base.action_space.high.copy()).double()  # symmetric in all of them
        self.obs_size, self.action_size = base.observation_space.shape[0], base.action_space.shape[0]
        self.positions, self.state_size = base.model.nq, base.model.nq + base.model.nv
        env.close()

    def start(self, batch: int, generator: Generator | None = None) -> Tensor:
        rest = torch.cat(self.rest)
        moved = 2 * torch.rand(batch, self.state_size, generator=generator, dtype=torch.float64) - 1
        return rest + self.noise * moved

    def transition(self, state: Tensor, action: Tensor) -> Tensor:
        return self.step(state, self.scale * action.double().clamp(-1.0, 1.0))

    def parts(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """qpos and qvel."""
        return state[..., : self.positions], state[..., self.positions :]

    def observe(self, state: Tensor) -> Tensor:
        return state.to(torch.get_default_dtype())


class InvertedPendulum(Simulator):
    """`InvertedPendulum-v5`; the reward, there 1 at each step with |angle| ≤ 0.2, is here 1 − (angle / 0.2)² − (x / 2)²/10."""

    env_id, noise = "InvertedPendulum-v5", 0.01

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        x, angle, _, _ = after.unbind(-1)
        return (1.0 - (angle / 0.2).square() - 0.1 * (x / 2).square()).to(torch.get_default_dtype())

    def ended(self, state: Tensor) -> Tensor:
        return state[..., 1].abs() > 0.2


class Swimmer(Simulator):
    """`Swimmer-v5`: forward velocity less 1e-4 |action|²."""

    env_id, noise = "Swimmer-v5", 0.1

    def observe(self, state: Tensor) -> Tensor:
        return state[..., 2:].to(torch.get_default_dtype())

    def reward(self, state: Tensor, action: Tensor, after: Tensor) -> Tensor:
        forward = (after[..., 0] - state[..., 0]) / self.dt
        return (forward - 1e-4 * (self.scale * action.double().clamp(-1.0, 1.0)).square().sum(-1)).to(torch.get_default_dtype())


SIMULATORS: dict[str, type[Simulator]] = {kind.env_id: kind for kind in (InvertedPendulum, Swimmer)}


def simulator(env_id: str) -> Simulator:
    """OptionError for an environment whose observations and rewards are not written here."""
    if env_id not in SIMULATORS:
        raise OptionError(
            f"option dynamics: mujoco:{env_id} is unknown.{nearest(env_id, SIMULATORS)} Known are {', '.join(SIMULATORS)}; write a "
            "subclass of scg.agents.dynamics.mujoco.Simulator with observe and reward, and name it as path/to/file.py:Name."
        )
    return SIMULATORS[env_id]()
