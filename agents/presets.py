"""Presets: the published hyperparameters of an agent for an environment, as defaults of its flags.

    on MuJoCo     [64, 64] tanh, γ 0.99, λ 0.95, normalised observations, scaled rewards, rates falling linearly (the
                  configs' own defaults); PPO 2048 steps × 10 epochs in minibatches of 64; TRPO KL 0.01; A2C 16 × 5, RMSprop
    on CartPole   short blocks, lower λ and γ, observations and rewards as they are (RL Zoo): statistics of a few hundred
                  steps move under the policy, and with them PPO kept losing what it had learned

Every one can be changed by its flag. What is not listed keeps the config's default.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

Options = dict[str, Any]

COMPILED = ("ppo", "npg", "trpo")  # where many small minibatches are what takes the time
COMPILE_FROM = 200_000  # steps after which 13 s of compilation have paid off: PPO saves 0.13 ms a step

_CARTPOLE: Options = {"normalise_obs": False, "scale_reward": False, "gamma": 0.98}
_RUN: dict[str, dict[str, Options]] = {
    "mujoco": {"a2c": {"envs": 16}},
    "CartPole-v1": {},
}
_AGENT: dict[str, dict[str, Options]] = {
    "mujoco": {},
    "CartPole-v1": {
        "ppo": {**_CARTPOLE, "horizon": 32, "lam": 0.8, "lr": 1e-3, "epochs": 20, "minibatch": 256},
        "a2c": {**_CARTPOLE, "horizon": 16, "lr": 3e-3, "entropy_bonus": 0.0},
        "npg": {**_CARTPOLE, "horizon": 128},
        "trpo": {**_CARTPOLE, "horizon": 128},
    },
}


def preset(agent: str, env_id: str, steps: int) -> tuple[Options, Options]:
    """What to change in `RunConfig` and in the agent's config; nothing for an environment without published settings."""
    family = "mujoco" if _is_mujoco(env_id) else env_id
    run, config = _RUN.get(family, {}).get(agent, {}), dict(_AGENT.get(family, {}).get(agent, {}))
    if agent in COMPILED and steps >= COMPILE_FROM:
        config["compile"] = True
    return run, config


def _is_mujoco(env_id: str) -> bool:
    spec = gym.registry.get(env_id)
    return spec is not None and "mujoco" in str(spec.entry_point)
