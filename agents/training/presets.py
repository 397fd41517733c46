"""Presets: the published hyperparameters of an agent for an environment, as defaults of its flags.

    on MuJoCo     [64, 64] tanh, γ 0.99, λ 0.95, normalised observations, scaled rewards, rates falling linearly (the
                  configs' own defaults); PPO 2048 steps × 10 epochs in minibatches of 64; TRPO KL 0.01; A2C RMSprop on
                  16 × 16 steps (of the published 16 × 5 some seeds lose what they have learned)
                  off-policy: [256, 256], batch 256, τ 0.005, 10,000 random steps, lr 3e-4 (DDPG 1e-3, and SAC too as in
                  tianshou's benchmark: it learns faster than with the paper's 3e-4); SAC on Hopper at a fixed α of 0.2;
                  TQC drops 2 quantiles a critic, none on HalfCheetah, 5 on Hopper (the paper's)
                  PPO on InvertedDoublePendulum: a Beta policy (Chou et al. 2017): it balances first states from which a Gaussian one falls
    on Pendulum   1,000 random steps, lr 1e-3 (NAF 3e-4)
                  through its equations: SHAC 1.4 million simulated steps; with a learned model 5,000 real ones
    on reaching   γ 0.95, τ 0.05 (RL Zoo's for FetchReach), lr 1e-3; on bit-flip a quick target, γ 0.98 (the paper's)
    by search     linear policies; ARS on HalfCheetah and Swimmer with the paper's step sizes; the helicopter's own controller
    on CartPole   short blocks, lower λ and γ, observations and rewards as they are (RL Zoo): statistics of a few hundred
                  steps move under the policy, and with them PPO kept losing what it had learned

Every one can be changed by its flag. What is not listed keeps the config's default. A preset file, which `--preset` names, is the
`config.json` of a run or of a sweep's best trial, and takes the place of all of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from scg.agents import config_type, target_of
from scg.agents.execution.settings import Execution
from scg.agents.training.run_config import RunConfig, RunError, read

Options = dict[str, Any]
_CARTPOLE: Options = {"normalise_obs": False, "scale_reward": False, "gamma": 0.98}
_PENDULUM: Options = {"warmup": 1000, "lr": 1e-3}
_MULTIGOAL: Options = {**_PENDULUM, "gamma": 0.9}
_REACH: Options = {"warmup": 1000, "lr": 1e-3, "gamma": 0.95, "tau": 0.05}
_BITS: Options = {"warmup": 500, "horizon": 8, "updates": 8, "lr": 1e-3, "gamma": 0.98, "target_every": 10, "tau": 0.2}
_HOVER: Options = {"policy": "hover", "scale": 0.1, "episodes": 2}
_TETRIS: Options = {"policy": "scores", "scale": 10.0, "scenarios": "fresh"}
_NOISY: Options = {"population": 100, "elite": 0.1, "noise_variance": 5.0, "noise_generations": 50}  # Szita & Lőrincz (2006)
_PENDULUM_MODEL: Options = {"log_scale": -0.5, "lr": 3e-3}
_RUN: dict[str, dict[str, Options]] = {
    "Pendulum-v1": {
        "bptt": {"steps": 5_000_000},
        "shac": {"steps": 1_433_600},  # 700 updates of 64 roll-outs of 32 steps
        "svg-k": {"steps": 10_000},
    },
    **{f"{name}-v0": {"bptt": {"steps": 500_000}, "shac": {"steps": 500_000}} for name in ("DoubleIntegrator", "Push", "Wall")},
    "mujoco": {"a2c": {"envs": 16}},
    "HalfCheetah-v5": {"ars": {"envs": 16}},
    "Swimmer-v5": {"ars": {"envs": 4}},
}


# By environment: of all agents of a family (`AgentConfig.family`), then of one agent.
_FAMILY: dict[str, dict[str, Options]] = {
    "Pendulum-v1": {"off-policy": _PENDULUM, "off-policy, discrete actions": _PENDULUM},
    "FetchReach-v4": {"off-policy": _REACH},
    "PointReach-v0": {"off-policy": _REACH},
    "MultiGoal-v0": {"off-policy": _MULTIGOAL},
    "Helicopter-v0": {"search": _HOVER},
    "Tetris-v0": {"search": _TETRIS},
    "TetrisSmall-v0": {"search": _TETRIS},
}
_AGENT: dict[str, dict[str, Options]] = {
    "mujoco": {"sac": {"lr": 1e-3}, "a2c": {"horizon": 16}},
    "HalfCheetah-v5": {
        "ars": {"normalise_obs": True, "population": 16, "best": 4, "rate": 0.02, "scale": 0.03, "scenarios": "fresh"},
        "tqc": {"drop": 0},
    },
    "Hopper-v5": {"sac": {"alpha": 0.2, "learn_alpha": False}, "tqc": {"drop": 5}},
    "InvertedDoublePendulum-v5": {"ppo": {"policy": "beta"}},
    "Pendulum-v1": {
        "naf": {"lr": 3e-4},
        "bptt": {**_PENDULUM_MODEL, "dynamics": "pendulum", "horizon": 100, "batch": 128},
        "shac": {**_PENDULUM_MODEL, "dynamics": "pendulum", "life": 96, "lr": 5e-3, "value_lr": 4e-3, "updates": 45},
        "svg-k": _PENDULUM_MODEL,
    },
    "CartPoleForce-v0": {name: {"dynamics": "cartpole"} for name in ("bptt", "shac")},
    "DoubleIntegrator-v0": {name: {"dynamics": "double-integrator"} for name in ("bptt", "shac")},
    "Push-v0": {name: {"dynamics": "push", "horizon": 20} for name in ("bptt", "shac")},
    "Wall-v0": {name: {"dynamics": "wall", "horizon": 1} for name in ("bptt", "shac")},
    **{f"Tetris{size}-v0": {"cem": _NOISY} for size in ("", "Small")},
    "Swimmer-v5": {"ars": {"population": 4, "best": 1, "rate": 0.02, "scale": 0.02, "scenarios": "fresh"}},
    **{f"BitFlip{bits}-v0": {"dqn": _BITS} for bits in (4, 6, 8, 10)},
    "MovingTarget-v0": {
        "ppo": {
            "network": "cnn",
            "hidden": (64,),
            "gamma": 0.7,
            "lam": 0.6,
            "horizon": 64,
            "lr": 1e-3,
            "epochs": 4,
            "minibatch": 128,
            "entropy_bonus": 0.005,
        },
    },
    "CartPole-v1": {
        "reinforce": {"scale_reward": False},
        "ppo": {**_CARTPOLE, "horizon": 32, "lam": 0.8, "lr": 1e-3, "epochs": 20, "minibatch": 256},
        "trpo-dual": {**_CARTPOLE, "horizon": 64, "lr": 1e-3, "minibatch": 128},
        "a2c": {**_CARTPOLE, "horizon": 16, "lr": 3e-3, "entropy_bonus": 0.0},
        "a3c": {**_CARTPOLE, "horizon": 16, "lr": 3e-3, "entropy_bonus": 0.0},
        "off-policy-pg": {**_CARTPOLE, "horizon": 64, "lam": 0.9, "lr": 1e-3, "value_lr": 3e-3},
        "npg": {**_CARTPOLE, "horizon": 128},
        "trpo": {**_CARTPOLE, "horizon": 128},
        "dqn": {
            "horizon": 256,
            "updates": 128,
            "lr": 1e-3,
            "lr_last": 0.0,
            "target_every": 1,
            "tau": 0.01,
            "epsilon_last": 0.04,
            "epsilon_share": 0.16,
        },
        "sac-discrete": {"lr": 1e-3, "tau": 0.05, "target_entropy_share": 0.5},
        "es": {"lr": 0.2, "scenarios": "fresh", "weight_decay": 0.0},
        "rwr": {"sharpness": 3.0, "least_scale": 0.3},
    },
}


class Preset(NamedTuple):
    """What to change in `RunConfig`, in the agent's config, and in `Execution`."""

    run: Options
    agent: Options
    execution: Options


def preset(agent: str, env_id: str, steps: int) -> Preset:
    """The published settings of an agent for an environment; how many environments and whether to compile, for any."""
    config = config_type(agent)
    kind = "mujoco" if _is_mujoco(env_id) else env_id
    run: Options = {} if config.environments == RunConfig.envs else {"envs": config.environments}
    options = {
        **_FAMILY.get(env_id, {}).get(config.family, {}),
        **_AGENT.get(kind, {}).get(agent, {}),
        **_AGENT.get(env_id, {}).get(agent, {}),
    }
    execution: Options = {"compile": True} if compiles(agent, steps) else {}
    found = {**_RUN.get(kind, {}).get(agent, {}), **_RUN.get(env_id, {}).get(agent, {})}
    return Preset({**run, **found}, options, execution)


def preset_file(file: Path, agent: str) -> Preset:
    """The settings in a preset file for `agent`. RunError says what is wrong with it."""
    where = f"preset {file}"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{where}: it cannot be read ({error}). Give the config.json of a run, or a sweep's best.json."
        ) from error
    found = read(content, where, print, trusted=isinstance(content, dict) and content.get("agent") == target_of(agent))
    if found.name != target_of(agent):
        raise RunError(f"{where}: it is of agent {found.name!r}. Say scg train {found.name} --preset {file}.")
    return Preset(*({field.name: getattr(part, field.name) for field in fields(part)} for part in found[1:]))


def compiles(agent: str, steps: int) -> bool:
    """Whether compiling the agent's updates pays off in a run of so many steps."""
    since = config_type(agent).compile_from
    return since is not None and steps >= since


def apart(options: Mapping[str, Any]) -> tuple[Options, Options]:
    """Options of an agent's config and of `Execution`, told apart by their names."""
    known = {field.name for field in fields(Execution)}
    return {k: v for k, v in options.items() if k not in known}, {k: v for k, v in options.items() if k in known}


def _is_mujoco(env_id: str) -> bool:
    spec = gym.registry.get(env_id)
    return spec is not None and "mujoco" in str(spec.entry_point)
