"""gymnasium's MuJoCo environments as one batch: the same bits, less Python, both cores.

    ctrl [batch, nu] ─► mj_step of every environment, on `threads` threads ─► obs, reward, terminated of the batch at once

What gymnasium computes around the simulator (observations, rewards, health) is written once for the whole batch, in the same
order of the same operations, so every number is bit for bit that of gymnasium's own environment; the tests hold each family
to that. An environment that is not exactly one of these families, or wears other wrappers, is stepped by gymnasium itself.

`mj_step` leaves Python's lock alone, so threads help as soon as a step of the batch takes longer than waking one up.
Resets, generators and simulations stay gymnasium's own objects: they are seeded, saved and restored as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from scg.agents.environments.checked_vector import CheckedVector

_WRAPPERS = ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker")


class Family:
    """What one kind of environment reads off the simulator. `qpos [batch, nq]`, `qvel [batch, nv]`, `action [batch, nu]`."""

    forces: ClassVar[bool] = False  # whether it reads what only `mj_rnePostConstraint` computes

    def __init__(self, envs: Sequence[Any]) -> None:
        self.envs, self.env = envs, envs[0]
        self.dt = self.env.dt

    def read(self, before: Any, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray, obs: np.ndarray) -> tuple[Any, Any]:
        """Fill `obs [batch, …]`; the rewards and terminations `[batch]`."""
        raise NotImplementedError

    def before(self, qpos: np.ndarray) -> Any:
        """What must be remembered of the state before the step."""
        return None


class _Runner(Family):
    """HalfCheetah, Hopper, Walker2d: forward speed, less control, more while healthy."""

    clipped: ClassVar[bool] = True

    def __init__(self, envs: Sequence[Any]) -> None:
        super().__init__(envs)
        self.skip = int(self.env._exclude_current_positions_from_observation)
        self.split = self.env.model.nq - self.skip
        self.forward, self.control = self.env._forward_reward_weight, self.env._ctrl_cost_weight

    def before(self, qpos: np.ndarray) -> np.ndarray:
        return qpos[:, 0].copy()

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray | None:
        return None

    def read(
        self, before: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray, obs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | bool]:
        obs[:, : self.split] = qpos[:, self.skip :]
        obs[:, self.split :] = qvel.clip(-10, 10) if self.clipped else qvel
        reward = self.forward * ((qpos[:, 0] - before) / self.dt)
        control = self.control * np.add.reduce(np.square(action), axis=-1)
        healthy = self.healthy(qpos, qvel)
        if healthy is None:
            return reward - control, False
        alive = self.env._healthy_reward
        return reward + healthy * alive - control, ~healthy & self.env._terminate_when_unhealthy


class HalfCheetah(_Runner):
    clipped = False


class Walker2d(_Runner):
    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = np.array([self.env._healthy_z_range, self.env._healthy_angle_range]).T
        return ((low < qpos[:, 1:3]) & (qpos[:, 1:3] < high)).all(-1)


class Hopper(Walker2d):
    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = self.env._healthy_state_range
        inside = [((low < x) & (x < high)).all(-1) for x in (qpos[:, 2:], qvel)]
        return super().healthy(qpos, qvel) & inside[0] & inside[1]


class Swimmer(Family):
    def before(self, qpos: np.ndarray) -> np.ndarray:
        return qpos[:, 0].copy()

    def read(
        self, before: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray, obs: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        skip = 2 * int(self.env._exclude_current_positions_from_observation)
        split = qpos.shape[1] - skip
        obs[:, :split], obs[:, split:] = qpos[:, skip:], qvel
        forward = self.env._forward_reward_weight * ((qpos[:, 0] - before) / self.dt)
        return forward - self.env._ctrl_cost_weight * np.add.reduce(np.square(action), axis=-1), False


class InvertedPendulum(Family):
    def read(
        self, before: None, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray, obs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        split = qpos.shape[1]
        obs[:, :split], obs[:, split:] = qpos, qvel
        terminated = ~np.isfinite(obs).all(-1) | (np.abs(obs[:, 1]) > 0.2)
        return (~terminated).astype(np.float64), terminated


class InvertedDoublePendulum(Family):
    def __init__(self, envs: Sequence[Any]) -> None:
        super().__init__(envs)
        self.tips = [env.data.site_xpos for env in envs]
        self.constraints = [env.data.qfrc_constraint for env in envs]

    def read(
        self, before: None, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray, obs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        tip = np.stack([tip[0] for tip in self.tips])
        constraint = np.stack([constraint[:1] for constraint in self.constraints])
        angles, n = qpos[:, 1:], qpos.shape[1] - 1
        obs[:, :1], obs[:, 1 : 1 + n], obs[:, 1 + n : 1 + 2 * n] = qpos[:, :1], np.sin(angles), np.cos(angles)
        obs[:, 1 + 2 * n : -1], obs[:, -1:] = qvel.clip(-10, 10), constraint.clip(-10, 10)
        terminated = tip[:, 2] <= 1
        # A scalar's square is pow(x, 2), an array's x · x: they may differ in the last bit.
        squares = np.array([[x**2, (y - 2) ** 2, v1**2, v2**2] for (x, _, y), (_, v1, v2) in zip(tip, qvel, strict=True)]).T
        distance = 0.01 * squares[0] + squares[1]
        speed = 1e-3 * squares[2] + 5e-3 * squares[3]
        return self.env._healthy_reward * (~terminated).astype(np.int64) - distance - speed, terminated


class Ant(Family):
    """Reads forces, which are computed after the step; what they cost and show is gymnasium's own method, one by one."""

    forces = True

    @staticmethod
    def place(env: Any) -> np.ndarray:
        return env.data.body(env._main_body).xpos[:2].copy()

    def before(self, qpos: np.ndarray) -> list[np.ndarray]:
        return [self.place(env) for env in self.envs]

    def read(
        self, before: list[np.ndarray], qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray, obs: np.ndarray
    ) -> tuple[list[float], list[bool]]:
        rewards, terminated = [], []
        for i, env in enumerate(self.envs):
            velocity, _ = (self.place(env) - before[i]) / self.dt
            obs[i] = env._get_obs()
            rewards.append(env._get_rew(velocity, action[i])[0])
            terminated.append((not env.is_healthy) and env._terminate_when_unhealthy)
        return rewards, terminated


class Humanoid(Ant):
    @staticmethod
    def place(env: Any) -> np.ndarray:
        mass = env.model.body_mass
        return (np.einsum("b,bj->j", mass, env.data.xipos) / mass.sum())[:2]


_FAMILIES: dict[str, type[Family]] = {
    f"gymnasium.envs.mujoco.{module}_v5.{family.__name__}Env": family
    for module, family in {
        "half_cheetah": HalfCheetah,
        "hopper": Hopper,
        "walker2d": Walker2d,
        "swimmer": Swimmer,
        "inverted_pendulum": InvertedPendulum,
        "inverted_double_pendulum": InvertedDoublePendulum,
        "ant": Ant,
        "humanoid": Humanoid,
    }.items()
}


def family(env: gym.Env) -> type[Family] | None:
    """What reads `env`'s simulator in its place; None where gymnasium has to step it."""
    layers = env
    while isinstance(layers, gym.Wrapper):
        if type(layers).__name__ not in _WRAPPERS:
            return None
        layers = layers.env
    kind = type(layers)
    return None if env.render_mode == "human" else _FAMILIES.get(f"{kind.__module__}.{kind.__qualname__}")


class MujocoVector(CheckedVector):
    """A vector environment in mode SAME_STEP. `infos` hold what the mode needs and nothing else."""

    def __init__(self, constructors: Sequence[Callable[[], gym.Env]], threads: int = 1, **kwargs: Any) -> None:
        import mujoco

        super().__init__(constructors, **kwargs)
        bases: list[Any] = [env.unwrapped for env in self.envs]
        kind = family(self.envs[0])
        assert kind is not None
        self._family, self._limits = kind(bases), [_time_limit(env) for env in self.envs]
        self._qpos = np.empty((self.num_envs, bases[0].model.nq))
        self._qvel = np.empty((self.num_envs, bases[0].model.nv))
        # mujoco.MjData's arrays are views of the simulator's memory: taken once.
        self._views = [(base.data.qpos, base.data.qvel) for base in bases]
        jobs = [(base.model, base.data, base.data.ctrl, i) for i, base in enumerate(bases)]
        threads = min(threads, self.num_envs)
        self._shares = [jobs[k::threads] for k in range(threads)]
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._step_one, self._forces, self._skip = mujoco.mj_step, mujoco.mj_rnePostConstraint, bases[0].frame_skip

    def step(self, actions: Any) -> Any:
        self._gather()
        before = self._family.before(self._qpos)
        if self._pool is None:
            self._simulate(self._shares[0], actions)
        else:
            others = [self._pool.submit(self._simulate, share, actions) for share in self._shares[1:]]
            self._simulate(self._shares[0], actions)
            for other in others:
                other.result()
        self._gather()
        obs = self._observations
        self._rewards[:], self._terminations[:] = self._family.read(before, self._qpos, self._qvel, actions, obs)  # type: ignore[arg-type]
        for i, limit in enumerate(self._limits):
            limit._elapsed_steps += 1
            self._truncations[i] = limit._elapsed_steps >= limit._max_episode_steps
        if self.active is not None:
            self._terminations &= self.active
            self._truncations &= self.active
        info: dict[str, Any] = {}
        ended = self._terminations | self._truncations
        if ended.any():
            info["final_obs"] = np.empty(self.num_envs, object)
            for i in np.flatnonzero(ended).tolist():
                info["final_obs"][i] = obs[i].copy()  # type: ignore[index]
                if self.faults is None:
                    obs[i] = self.reset_one(i)  # type: ignore[index]
        return obs, self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), info

    def _gather(self) -> None:
        for i, (qpos, qvel) in enumerate(self._views):
            self._qpos[i], self._qvel[i] = qpos, qvel

    def _simulate(self, share: Sequence[Any], actions: np.ndarray) -> None:
        for model, data, ctrl, i in share:
            if self.active is not None and not self.active[i]:
                continue
            ctrl[:] = actions[i]
            self._step_one(model, data, self._skip)
            if self._family.forces:
                self._forces(model, data)

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        super().close_extras(**kwargs)


def _time_limit(env: gym.Env) -> Any:
    """The wrapper that counts steps: ours counts in it, so that saving and gymnasium's own `reset` find it right."""
    while isinstance(env, gym.Wrapper):
        if type(env).__name__ == "TimeLimit":
            return env
        env = env.env
    raise AssertionError("gymnasium.make gave a MuJoCo environment without a time limit")
