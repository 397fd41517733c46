"""A trained run as the start of another: what it has learned is copied, everything else starts afresh.

    networks, normalisers → copied            optimisers, generators, schedules, counters, replay buffers → fresh

Parts are matched by name, so that one agent's policy can start another's; what the earlier run does not have stays fresh and is
reported. The spaces of both runs must be of one kind and shape, and so must every network that both have. Bounds may differ: agents
act in [-1, 1], which each environment maps to its own. Nothing but tensors is read of the earlier run, and none of its code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from torch import nn

from scg.agents.common.agent import Agent
from scg.agents.environments.envs import Environments
from scg.agents.environments.flat_space import FlatSpace
from scg.agents.experience import tensor_files
from scg.agents.networks.normalisers import RewardScale
from scg.agents.training.checkpoint import Checkpoints
from scg.agents.training.run_config import RunError


def spaces_of(environments: Environments) -> dict[str, str]:
    """What a checkpoint says of the spaces that its networks are for."""
    return {"observation": _told(environments.obs_space), "action": _told(environments.action_space)}


def _told(space: gym.Space) -> str:
    match space:
        case FlatSpace():
            masked = f", masks of {space.choices}" if space.choices else ""
            return f"{_told(space.original)}{masked}"
        case spaces.Dict():
            return f"Dict({', '.join(f'{name}: {_told(part)}' for name, part in space.spaces.items())})"
        case spaces.Tuple():
            return f"Tuple({', '.join(map(_told, space.spaces))})"
        case spaces.Box():
            return f"Box{space.shape} {'of bytes' if space.dtype == 'uint8' else 'of numbers'}"
        case spaces.Discrete():
            return f"Discrete({space.n}{f', from {space.start}' if space.start else ''})"
        case spaces.MultiDiscrete():
            return f"MultiDiscrete({space.nvec.tolist()})"
    return f"{type(space).__name__}{space.shape}"


def check_spaces(where: str, then: dict[str, str] | None, now: dict[str, str]) -> None:
    """RunError where the spaces are not those that a checkpoint's networks are for. Older checkpoints do not say theirs."""
    for kind, space in now.items():
        if then is not None and then.get(kind) != space:
            raise RunError(f"{where}: its {kind} space is {then.get(kind)}, and this environment's is {space}. They must fit.")


def start(agent: Agent, source: Path, environments: Environments) -> str:
    """Copy what the run `source` (a folder: its last checkpoint; or a checkpoint's file) has learned. Returns what was done.

    RunError for spaces or networks that do not fit; the agent is as it was then.
    """
    path, state = _checkpoint(source)
    where = f"option start: {path}"
    check_spaces(where, state.get("spaces"), spaces_of(environments))
    theirs, ours = state["agent"], {name: part for name, part in agent.state.items() if _learned(part)}
    if not ours.keys() & theirs.keys():
        raise RunError(
            f"{where} has {', '.join(map(str, theirs))}; this agent's networks are {', '.join(ours)}. None has the name of another, "
            "so nothing can be copied. Start from a run of the same agent, or of one like it."
        )
    both = [name for name in ours if name in theirs]
    for name in both:
        _check_fit(where, name, ours[name], theirs[name], source)
    for name in both:
        ours[name].load_state_dict(theirs[name])
        if isinstance(part := ours[name], RewardScale):
            part.begin()
    fresh = ", ".join(sorted(ours.keys() - theirs.keys()))
    return f"started from {path}{f'; fresh, as that run has none: {fresh}' if fresh else ''}"


def _checkpoint(source: Path) -> tuple[Path, dict[str, Any]]:
    if source.is_file():
        return source, tensor_files.load(source)
    if not (source / "config.json").is_file():
        raise RunError(f"option start: {source} is no run, nor a checkpoint. Give a folder that `scg train` has made.")
    return Checkpoints(source / "checkpoints").load_latest(lambda text: None)


def _learned(part: object) -> bool:
    """Whether a part of an agent's state is a network or a normaliser."""
    return isinstance(part, nn.Module) and (isinstance(part, RewardScale) or next(part.parameters(), None) is not None)


def _check_fit(where: str, name: str, ours: Any, theirs: dict[str, Any], source: Path) -> None:
    mine = ours.state_dict()
    free = {"running", "age"} if isinstance(ours, RewardScale) else set()  # one for each environment
    for key in (*mine, *theirs):
        here, there = (tuple(state[key].shape) if key in state else None for state in (mine, theirs))
        if here != there and key not in free:
            raise RunError(
                f"{where}: {name}.{key} has shape {there}, and here {here}. Build the same networks: that run's options are "
                f"{_options(source)}."
            )


def _options(source: Path) -> str:
    """The options of the earlier run that make its networks."""
    folder = source.parent.parent if source.is_file() else source
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return "in its config.json"
    shape = ("network", "features", "hidden", "policy", "normalise_obs")
    return ", ".join(f"{key} {config[key]}" for key in shape if key in config) or f"in {folder / 'config.json'}"
