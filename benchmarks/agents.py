"""Environment steps per second, end to end, beside Stable-Baselines3 at the same hyperparameters; ratios are what counts.

    python -m benchmarks.agents                                    # PPO, A2C, TRPO on HalfCheetah-v5
    python -m benchmarks.agents --peer-python PATH/TO/python       # an interpreter that has stable-baselines3, sb3-contrib

Each measurement is a process of its own with one torch thread: collecting, updating and, for ours, checking for NaN,
without evaluation. Compilation and the first blocks are outside the clock and printed apart. Measurements alternate, so
that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
import time
from typing import Any

# name: (config of ours, environments, horizon, steps to time)
CASES: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "ppo": ({"compile": True}, 1, 2048, 20_480),
    "ppo, 8 environments": ({"compile": True}, 8, 256, 20_480),
    "ppo, eager": ({}, 1, 2048, 20_480),
    "a2c": ({"compile": True}, 1, 5, 5_000),
    "a2c, 16 environments": ({"compile": True}, 16, 5, 20_480),
    "trpo": ({"compile": True}, 1, 2048, 20_480),
}

PEER = """
import json, sys, time, torch
torch.set_num_threads(1)
from stable_baselines3 import A2C, PPO
from sb3_contrib import TRPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
name, envs, horizon, steps = json.loads(sys.argv[1])
kind = {"ppo": PPO, "a2c": A2C, "trpo": TRPO}[name]
extra = {"trpo": {"n_critic_updates": 10, "batch_size": 128}}.get(name, {})
model = kind("MlpPolicy", VecNormalize(make_vec_env("HalfCheetah-v5", envs)), n_steps=horizon, device="cpu", **extra)
model.learn(2 * envs * horizon)
start = time.perf_counter()
model.learn(steps, reset_num_timesteps=False)
print(json.dumps({"rate": steps / (time.perf_counter() - start), "warm_up": 0.0}))
"""


def ours(name: str) -> dict[str, float]:
    """Blocks of collecting and updating after two that warm up."""
    import torch
    from torch import Generator

    from agents import config_type, envs
    from agents.rollout import Rollout

    torch.set_num_threads(1)
    options, batch, horizon, steps = CASES[name]
    config = config_type(name.partition(",")[0])(horizon=horizon, **options)
    with envs.make("HalfCheetah-v5", batch) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, list(range(batch)), Generator().manual_seed(0))

        def block() -> None:
            agent.update(agent.collect(rollout, 10**9), 0.0)
            agent.check_finite()

        start = time.perf_counter()
        block(), block()
        middle = time.perf_counter()
        for _ in range(steps // (batch * horizon)):
            block()
        seconds = time.perf_counter() - middle
        return {"rate": steps // (batch * horizon) * batch * horizon / seconds, "warm_up": middle - start}


def measured(command: list[str]) -> dict[str, float] | None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(textwrap.indent(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "failed", "    "))
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.one:
        print(json.dumps(ours(wish.one)))
        return
    print(f"{'HalfCheetah-v5':<24}{'ours':>9}{'peer':>9}{'ratio':>8}{'warm-up':>10}")
    for name in CASES:
        if wish.only not in name:
            continue
        _, batch, horizon, steps = CASES[name]
        peer = json.dumps([name.partition(",")[0], batch, horizon, min(steps, 3 * 2048)])
        rates: dict[str, list[float]] = {"ours": [], "peer": []}
        warm_up = 0.0
        for _ in range(wish.repeats):
            mine = measured([sys.executable, "-m", "benchmarks.agents", "--one", name])
            theirs = measured([wish.peer_python, "-c", PEER, peer])
            if mine is not None:
                rates["ours"].append(mine["rate"])
                warm_up = max(warm_up, mine["warm_up"])
            if theirs is not None:
                rates["peer"].append(theirs["rate"])
        row = {key: statistics.median(values) if values else float("nan") for key, values in rates.items()}
        print(f"{name:<24}{row['ours']:>9.0f}{row['peer']:>9.0f}{row['ours'] / row['peer']:>8.1f}{warm_up:>9.1f}s", flush=True)


if __name__ == "__main__":
    main()
