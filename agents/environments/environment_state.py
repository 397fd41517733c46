"""The state of one environment as plain values and tensors: saved without pickle, so loaded without running code.

    state(env) = { plain attributes of every wrapper and of the environment, its random generator, MuJoCo's data }
    state(env) = { plain attributes of every wrapper, env.get_state(), the random generator }        where it offers that

Saved are environments whose whole state is known to lie there, gymnasium's classic control, toy text and MuJoCo, and those
with `get_state()` and `set_state(state)`, a state of numbers, text, arrays, and tuples, lists and dicts of them; both under
standard wrappers. `save` returns None for any other; a run that resumes then restarts its episodes cleanly. A deep copy
would be pickled to be saved, and loading a pickle runs code.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
import torch

_KNOWN = (
    "gymnasium.envs.classic_control.",
    "gymnasium.envs.toy_text.",
    "gymnasium.envs.mujoco.",
    "gymnasium_robotics.envs.fetch.",
    "scg.agents.environments.brackets",
    "scg.agents.environments.goal_tasks",
    "scg.agents.environments.helicopter",
    "scg.agents.environments.multigoal",
    "scg.agents.environments.probes",
    "scg.agents.environments.tetris",
)


_WRAPPERS = ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker", "FlattenGoals", "FlatObservation", "Lent")
_SCALARS = (bool, int, float, str, type(None))


def save(env: gym.Env) -> dict[str, Any] | None:
    """The state, or None where it cannot be known to be complete."""
    layers = list(_layers(env))
    base = layers[-1]
    if any(type(layer).__name__ not in _WRAPPERS for layer in layers[:-1]):
        return None
    offers = False
    if not type(base).__module__.startswith(_KNOWN):
        offers = callable(getattr(base, "get_state", None)) and callable(getattr(base, "set_state", None))
        if not offers:
            return None
        layers.pop()
    plain = [{name: _pack(value) for name, value in vars(layer).items() if _is_plain(value)} for layer in layers]
    state = {"layers": plain, "random": base.np_random.bit_generator.state}
    if offers:
        own = base.get_state()
        if not _is_plain(own):
            return None
        state["own"] = _pack(own)
    elif hasattr(base, "data"):
        state["simulation"] = _save_simulation(base)
    return state


def load(env: gym.Env, state: dict[str, Any]) -> None:
    """Put a saved state into an environment of the same making that has been reset."""
    layers = list(_layers(env))
    for layer, attributes in zip(layers, state["layers"], strict="own" not in state):
        for name, value in attributes.items():
            setattr(layer, name, _unpack(value))
    base = layers[-1]
    if "own" in state:
        base.set_state(_unpack(state["own"]))
    base.np_random.bit_generator.state = state["random"]
    if "simulation" in state:
        _load_simulation(base, state["simulation"])


def _layers(env: gym.Env) -> Iterator[Any]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biuf"
    return isinstance(value, _SCALARS)


def _pack(value: Any) -> Any:
    """Arrays become tensors, which a checkpoint may hold; the tag brings them back."""
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_pack(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: _pack(item) for key, item in value.items()}}
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return {"scalar": torch.from_numpy(np.array(value))}
    return value


def _unpack(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag in ("tuple", "list"):
        return (tuple if tag == "tuple" else list)(_unpack(item) for item in content)
    if tag == "dict":
        return {key: _unpack(item) for key, item in content.items()}
    return content.numpy().copy() if tag == "array" else content.numpy()[()]


def _save_simulation(base: Any) -> dict[str, torch.Tensor]:
    """MuJoCo's integration state, and every derived array: some environments read positions before they step."""
    mujoco: Any = import_module("mujoco")  # its functions are made at import and have no stubs
    spec = mujoco.mjtState.mjSTATE_INTEGRATION
    core = np.empty(mujoco.mj_stateSize(base.model, spec))
    mujoco.mj_getState(base.model, base.data, core, spec)
    derived = {name: torch.from_numpy(array.copy()) for name, array in _arrays(base.data)}
    return {"core": torch.from_numpy(core), **{f"derived.{name}": tensor for name, tensor in derived.items()}}


def _load_simulation(base: Any, saved: dict[str, torch.Tensor]) -> None:
    mujoco: Any = import_module("mujoco")
    mujoco.mj_setState(base.model, base.data, saved["core"].numpy(), mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, array in _arrays(base.data):
        before = saved[f"derived.{name}"].numpy()
        if array.shape == before.shape:
            array[...] = before


def _arrays(data: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The fixed-size float arrays of `MjData`; contacts and constraints are made anew by every step."""
    for name in dir(data):
        if name.startswith(("_", "efc_", "contact", "iefc", "iM_", "J_")):
            continue
        array = getattr(data, name, None)
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            yield name, array
