"""Environments: vectors of them, whose data do not depend on how gymnasium resets.

    action [batch, …] → step → reward, terminated, truncated, next_obs (where the action led), obs (what acts next)

Where an episode goes on, `next_obs` and `obs` are equal. Where it ends, `next_obs` is its last observation (needed to
bootstrap a truncation) and `obs` the first one of the next episode. gymnasium has three autoreset modes, and this file
is the only place that knows them:

    SAME_STEP    the environment resets inside `step`; the last observation is in `info["final_obs"]`
    NEXT_STEP    the next `step` would reset and *ignore its action*; we reset the ended ones at once instead
    DISABLED     nobody resets; we do

so no transition with an ignored action enters the data, and all modes give the same bits.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from scg.agents.environments import batched_vector, environment_state, mujoco_vector, stateful_wrappers
from scg.agents.environments.action_maps import to_bins, to_space
from scg.agents.environments.checked_vector import SerialVector
from scg.agents.environments.faults import EnvironmentFailed, EnvironmentFault, Exhausted, FewInstances, described
from scg.agents.environments.flat_space import flat
from scg.agents.environments.goal_space import flattened
from scg.agents.environments.origin import origin
from scg.agents.environments.recipe import Recipe, recipe
from scg.agents.execution import memory

gym.register("MultiGoal-v0", entry_point="scg.agents.environments.multigoal:MultiGoal", max_episode_steps=30)


gym.register("Helicopter-v0", entry_point="scg.agents.environments.helicopter:Helicopter", max_episode_steps=600)
gym.register("Tetris-v0", entry_point="scg.agents.environments.tetris:Tetris", max_episode_steps=20_000)
gym.register(
    "TetrisSmall-v0", entry_point="scg.agents.environments.tetris:Tetris", kwargs={"height": 10}, max_episode_steps=20_000
)
gym.register("Brackets-v0", entry_point="scg.agents.environments.brackets:Brackets")
gym.register("PointReach-v0", entry_point="scg.agents.environments.goal_tasks:PointReach", max_episode_steps=50)

for _name, _id, _steps in (
    ("cartpole", "CartPoleForce-v0", 500),
    ("double-integrator", "DoubleIntegrator-v0", 100),
    ("push", "Push-v0", 20),
    ("wall", "Wall-v0", 1),
):
    gym.register(
        _id,
        entry_point="scg.agents.dynamics.as_env:DynamicsEnv",
        kwargs={"dynamics": _name},
        max_episode_steps=_steps,
    )

_PROBES = "scg.agents.environments.probes"
gym.register("RepeatPrevious-v0", entry_point=f"{_PROBES}:RepeatPrevious")
gym.register("MovingTarget-v0", entry_point=f"{_PROBES}:MovingTarget")
gym.register("HiddenDoors-v0", entry_point=f"{_PROBES}:HiddenDoors")
gym.register("HiddenDoorsUnmasked-v0", entry_point=f"{_PROBES}:HiddenDoors", kwargs={"masked": False})


for _bits in (4, 6, 8, 10, 15, 20, 30, 40, 50):
    gym.register(
        f"BitFlip{_bits}-v0",
        entry_point="scg.agents.environments.goal_tasks:BitFlip",
        kwargs={"bits": _bits},
        max_episode_steps=_bits,
    )


class Step(NamedTuple):
    reward: np.ndarray  # [batch]
    terminated: np.ndarray  # [batch] bool: the process ended; nothing follows
    truncated: np.ndarray  # [batch] bool: we stopped looking; something would have followed
    next_obs: np.ndarray  # [batch, obs…] where the action led
    obs: np.ndarray  # [batch, obs…] what the next action sees


class Environments:
    """`batch` environments behind one `step`. Close with `close()`, or use as a context manager.

    Agents act in [-1, 1] where the action space is a bounded box: an action is clipped to it and mapped to the space's
    own bounds here, so that one initial policy fits every environment; in other boxes it is clipped to what bounds there
    are (`action_maps`). What agents record is the unclipped action,
    whose log-density is the policy's; the clipping belongs to the environment. With `bins` such an environment takes
    one of that many evenly spaced values in every dimension, by its index, and is a discrete one to the agent.
    """

    def __init__(self, vector: VectorEnv, bins: int = 0, made: Recipe | None = None, step_timeout: float = 0.0) -> None:
        self.step_timeout = step_timeout
        self.vector, self.bins, self.recipe = vector, bins, made
        self.batch = vector.num_envs
        self.obs_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        for what, space in (("observation", self.obs_space), ("action", self.action_space)):
            if space.shape is None or space.dtype is None:
                raise EnvironmentFault(
                    f"{what} space {space} is not one array. "
                    "Wrap the environment, as gymnasium.wrappers.FlattenObservation does."
                )
        self._mode = AutoresetMode(vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._to_bounds = to_space(self.action_space)
        if bins:
            self._to_bounds = to_bins(self.action_space, bins)
            dims = cast(spaces.Box, self.action_space).shape[0]
            self.action_space = spaces.MultiDiscrete([bins] * dims) if dims > 1 else spaces.Discrete(bins)

    def reset(self, seeds: Sequence[int] | None = None) -> np.ndarray:
        """First observations `[batch, obs…]`. One seed an environment; they also seed the action space. Without
        seeds the environments go on with their own generators."""
        if seeds is None:
            return self.vector.reset()[0]
        if len(seeds) != self.batch:
            raise EnvironmentFault(f"reset: {len(seeds)} seeds for {self.batch} environments. Give one to each.")
        self.vector.action_space.seed(int(seeds[0]))
        self.action_space.seed(int(seeds[0]))
        obs, _ = self.vector.reset(seed=cast(Any, [int(seed) for seed in seeds]))
        return obs

    def restart(self, index: int, seed: int) -> np.ndarray:
        """The first observation `[obs…]` of an episode of environment `index` alone, which depends on nothing but `seed`."""
        return self._serial().reset_one(index, seed)

    @contextmanager
    def one_by_one(self) -> Iterator[dict[int, Exception]]:
        """Inside, no environment begins a new episode but by `restart`. One that raises in `step` has a reward of NaN, and what
        it raised is entered by its index in the dict; the others go on. And `step` takes `active`: the rest are not stepped."""
        vector = self._serial()
        vector.faults = {}
        try:
            yield vector.faults
        finally:
            vector.faults, vector.active = None, None

    def _serial(self) -> Any:
        if not isinstance(self.vector, SyncVectorEnv) or not hasattr(self.vector, "faults"):
            raise EnvironmentFault(
                f"{type(self.vector).__name__}: its environments cannot be reset one by one. Use agents.envs.make with SAME_STEP."
            )
        return self.vector

    def step(self, action: np.ndarray, active: np.ndarray | None = None) -> Step:
        """One step of every environment. The arrays may be reused by the next call: copy what you keep.

        `active [batch]`, inside `one_by_one`, says which are stepped; what is returned of the others is without meaning.
        """
        if active is not None:
            self.vector.active = active  # type: ignore[attr-defined]
        try:
            obs, reward, terminated, truncated, info = self.vector.step(self._to_bounds(action))
        except EnvironmentFault:
            raise
        except Exception as error:
            raise EnvironmentFailed(None, f"step raised {described(error)}") from error
        ended = terminated | truncated
        if not np.count_nonzero(ended):  # `any` costs ten times as much on so few
            return Step(reward, terminated, truncated, obs, obs)
        next_obs = obs.copy()
        if self._mode is AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(ended):
                next_obs[i] = info["final_obs"][i]
            return Step(reward, terminated, truncated, next_obs, obs)
        obs, _ = self.vector.reset(options={"reset_mask": ended})
        if not np.array_equal(obs[~ended], next_obs[~ended]):
            raise EnvironmentFault(
                f"{type(self.vector).__name__}: asked to reset {int(ended.sum())} of {self.batch} environments, it "
                "changed others too. Use a vector environment with autoreset mode SAME_STEP, or agents.envs.make."
            )
        return Step(reward, terminated, truncated, next_obs, obs)

    def state_dict(self) -> dict[str, Any] | None:
        """What `load_state_dict` needs to go on bit for bit, or None where an environment cannot be saved."""
        if not isinstance(self.vector, SyncVectorEnv):
            return None
        states = [environment_state.save(env) for env in self.vector.envs]
        return None if any(state is None for state in states) else {"envs": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put saved states back, after a `reset`."""
        assert isinstance(self.vector, SyncVectorEnv)
        for env, saved in zip(self.vector.envs, state["envs"], strict=True):
            environment_state.load(env, saved)

    def close(self) -> None:
        self.vector.close()

    def __enter__(self) -> Environments:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def make(
    env: str | Recipe,
    batch: int,
    autoreset: AutoresetMode = AutoresetMode.SAME_STEP,
    threads: int = 0,
    bins: int = 0,
    step_timeout: float = 0.0,
    **kwargs: Any,
) -> Environments:
    """`batch` copies of `env`. Extra arguments go to `gymnasium.make`.

    Two or more of gymnasium's MuJoCo environments are stepped as a batch, on `threads` threads (0: one for every four
    environments, as far as there are cores); any other, one after the other. No bit depends on it. `bins` quantises
    continuous actions. A call of an environment that takes longer than `step_timeout` seconds raises StepTimeout (0: none does).
    """
    how = recipe(env)
    made = _make_all(how, batch, **kwargs)
    try:
        return Environments(_vector(made, autoreset, threads, step_timeout), bins, how, step_timeout)
    except Exception as error:
        _close(made)
        if isinstance(error, RuntimeError):  # gymnasium's, on spaces that differ
            raise EnvironmentFault(f"environment {how.env_id!r}: its instances differ. {described(error)}") from error
        raise


def _vector(made: Sequence[gym.Env], autoreset: AutoresetMode, threads: int, step_timeout: float) -> VectorEnv:
    first, batch = made[0], len(made)
    constructors: list[Callable[[], gym.Env]] = [partial(_itself, env) for env in made]
    if autoreset is not AutoresetMode.SAME_STEP:
        return SyncVectorEnv(constructors, copy=False, autoreset_mode=autoreset)
    if batch > 1 and batched_vector.steps_many(first):
        return batched_vector.BatchedVector(constructors, step_timeout=step_timeout, copy=False, autoreset_mode=autoreset)
    if batch > 1 and mujoco_vector.family(first) is not None:
        threads = threads or max(1, min(len(os.sched_getaffinity(0)), batch // 4))
        return mujoco_vector.MujocoVector(constructors, threads, copy=False, autoreset_mode=autoreset)
    return SerialVector(constructors, step_timeout, copy=False, autoreset_mode=autoreset)


def _itself(env: gym.Env) -> gym.Env:
    return env


def _close(made: Sequence[gym.Env]) -> None:
    for env in made:
        with suppress(Exception):  # the first fault is the one to tell
            env.close()


def _make_all(how: Recipe, batch: int, **kwargs: Any) -> list[gym.Env]:
    made: list[gym.Env] = []
    try:
        for count in range(batch):
            if count % 256 == 255 and memory.free() < memory.SMALL:
                raise Exhausted(f"environment {how.env_id!r}: memory is full after {count} of {batch}. Give fewer --envs.")
            made.append(_make_one(how, **kwargs))
    except EnvironmentFault as error:
        _close(made)
        if not made or isinstance(error, Exhausted):
            raise
        raise FewInstances(
            f"{error}\nOnly {len(made)} of {batch} instances could be made. If there can be but one at a time, train with "
            "--envs 1 --evaluations 0, and evaluate afterwards with `scg eval RUN`."
        ) from error
    return made


def _make_one(how: Recipe, **kwargs: Any) -> gym.Env:
    env_id = how.env_id
    known, kwargs = origin(env_id), {**how.kwargs(), **kwargs}
    try:
        env = known.make(**kwargs)
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        mujoco = known.spec is not None and "mujoco" in str(known.spec.entry_point)
        remedy = 'pip install "gymnasium[mujoco]"' if mujoco else "Install what the message names."
        raise EnvironmentFault(f"environment {env_id!r} cannot start: {error} Remedy: {remedy}") from error
    except Exception as error:
        raise EnvironmentFault(f"environment {env_id!r} cannot start: {described(error)}") from error
    try:
        env = how.wrapped(env)
    except EnvironmentFault:
        env.close()
        raise
    learns = stateful_wrappers.learning(env)
    if learns:
        env.close()
        raise EnvironmentFault(f"environment {env_id!r} {learns}")
    try:
        return flat(flattened(env))
    except ValueError as error:
        raise EnvironmentFault(f"environment {env_id!r}: {error}") from error


def seeds(seed: int, stream: str, count: int, *index: int) -> list[int]:
    """`count` independent seeds for a named purpose, so that training, acting, initial weights and evaluation never
    share one. `index` gives further families (the evaluation at step 1000, at 2000, …)."""
    words = [seed, *stream.encode(), *index]
    return [int(word) for word in np.random.SeedSequence(words).generate_state(count, np.uint32)]


def versions(env_id: str) -> dict[str, Any]:
    """What a result depends on besides code and seed: interpreter, libraries, and the environment's own settings."""
    known, mujoco = origin(env_id).described(), None
    if "mujoco" in known["entry_point"].lower():
        import mujoco as simulator

        mujoco = simulator.__version__
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gym.__version__,
        "mujoco": mujoco,
        "env": known,
    }
