"""Presets: the published hyperparameters of an agent for an environment, as defaults of its flags.

    on MuJoCo     [64, 64] tanh, γ 0.99, λ 0.95, normalised observations, scaled rewards, rates falling linearly (the
                  configs' own defaults); PPO 2048 steps × 10 epochs in minibatches of 64; TRPO KL 0.01; A2C RMSprop on
                  16 × 16 steps (of the published 16 × 5 some seeds lose what they have learned)
                  off-policy: [256, 256], batch 256, τ 0.005, 10,000 random steps, lr 3e-4 (DDPG 1e-3, and SAC too as in
                  tianshou's benchmark: it learns faster than with the paper's 3e-4); SAC on Hopper at a fixed α of 0.2
                  PPO on InvertedDoublePendulum: a Beta policy (Chou et al. 2017), which holds the first states that a Gaussian drops
    on Pendulum   1,000 random steps, lr 1e-3 (NAF 3e-4)
    on reaching   γ 0.95, τ 0.05 (RL Zoo's for FetchReach), lr 1e-3; on bit-flip a quick target, γ 0.98 (the paper's)
    on CartPole   short blocks, lower λ and γ, observations and rewards as they are (RL Zoo): statistics of a few hundred
                  steps move under the policy, and with them PPO kept losing what it had learned

Every one can be changed by its flag. What is not listed keeps the config's default.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

Options = dict[str, Any]
OFF_POLICY = ("ddpg", "double-q", "naf", "sac", "sac-v1", "soft-q", "svg", "td3")  # one environment, an update a step
DISCRETE = ("dqn", "sac-discrete")  # off-policy too
COMPILED_OFF_POLICY = (*OFF_POLICY, "sac-discrete")  # DQN's updates are small, and there is one in four steps
COMPILE_OFF_POLICY_FROM = 10_000  # an update is 256 rows of wide nets: 4 ms saved a step
SEARCH = ("ars", "cem", "cma-es", "es", "fd", "pes", "pgpe", "pi2", "power", "rwr", "spsa")  # a slot a member, or nearly
COMPILED = ("a2c", "ppo", "npg", "trpo", "trpo-dual")  # where many small minibatches are what takes the time
COMPILE_FROM = 200_000  # steps after which 13 s of compilation have paid off: PPO saves 0.13 ms a step
_CARTPOLE: Options = {"normalise_obs": False, "scale_reward": False, "gamma": 0.98}
_PENDULUM: Options = {"warmup": 1000, "lr": 1e-3}
_MULTIGOAL: Options = {**_PENDULUM, "gamma": 0.9}
_REACH: Options = {"warmup": 1000, "lr": 1e-3, "gamma": 0.95, "tau": 0.05}
_BITS: Options = {"warmup": 500, "horizon": 8, "updates": 8, "lr": 1e-3, "gamma": 0.98, "target_every": 10, "tau": 0.2}
_RUN: dict[str, dict[str, Options]] = {
    "mujoco": {"a2c": {"envs": 16}},
}


_AGENT: dict[str, dict[str, Options]] = {
    "mujoco": {"sac": {"lr": 1e-3}, "a2c": {"horizon": 16}},
    "Hopper-v5": {"sac": {"alpha": 0.2, "learn_alpha": False}},
    "InvertedDoublePendulum-v5": {"ppo": {"policy": "beta"}},
    "Pendulum-v1": {**dict.fromkeys((*OFF_POLICY, *DISCRETE), _PENDULUM), "naf": {**_PENDULUM, "lr": 3e-4}},
    **{env_id: dict.fromkeys(OFF_POLICY, _REACH) for env_id in ("FetchReach-v4", "PointReach-v0")},
    **{f"BitFlip{bits}-v0": {"dqn": _BITS} for bits in (4, 6, 8, 10)},
    "MultiGoal-v0": dict.fromkeys(OFF_POLICY, _MULTIGOAL),
    "CartPole-v1": {
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
    },
}


def preset(agent: str, env_id: str, steps: int) -> tuple[Options, Options]:
    """What to change in `RunConfig` and in the agent's config; nothing for an environment without published settings."""
    family = "mujoco" if _is_mujoco(env_id) else env_id
    run: Options = {"envs": 1} if agent in (*OFF_POLICY, *DISCRETE) else {"envs": 32} if agent in SEARCH else {}
    run = {**run, **_RUN.get(family, {}).get(agent, {}), **_RUN.get(env_id, {}).get(agent, {})}
    config = {**_AGENT.get(family, {}).get(agent, {}), **_AGENT.get(env_id, {}).get(agent, {})}
    worthwhile = COMPILE_FROM if agent in COMPILED else COMPILE_OFF_POLICY_FROM if agent in COMPILED_OFF_POLICY else None
    if worthwhile is not None and steps >= worthwhile:
        config["compile"] = True
    return run, config


def _is_mujoco(env_id: str) -> bool:
    spec = gym.registry.get(env_id)
    return spec is not None and "mujoco" in str(spec.entry_point)
