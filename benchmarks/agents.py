"""Environment steps per second, end to end, beside Stable-Baselines3 and SBX at the same hyperparameters; ratios are what counts.

    python -m benchmarks.agents --peer-python PATH/TO/python       # an interpreter with stable-baselines3, sb3-contrib, sbx-rl
    python -m benchmarks.agents --only ppo --repeats 5

Each measurement is a process of its own, kept to as many cores as it may have threads: collecting, updating and, for ours,
checking for NaN, without evaluation. Compilation and the first blocks are outside the clock and printed apart. In the first
round every side is measured with each number of threads, and goes on with its better one; rounds alternate, so that a busy
machine slows all. "Of simulator" is our rate over that of one environment of gymnasium's that is stepped and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Case:
    """One agent on one environment: ours, and what the peers call the same."""

    agent: str
    env: str = "HalfCheetah-v5"
    ours: dict[str, Any] = field(default_factory=dict)
    envs: int = 1
    warm: int = 4096  # environment steps before the clock starts
    steps: int = 20_480
    peer_steps: int = 6_144
    peers: tuple[str, ...] = ("sb3", "sbx")
    theirs: dict[str, Any] = field(default_factory=dict)


_BLOCK = {"n_steps": 2048, "batch_size": 64, "n_epochs": 10}
_OFF: dict[str, Any] = {"warmup": 1000, "compile": True, "replay": 100_000}
_OFF_PEER: dict[str, Any] = {
    "learning_starts": 1000,
    "batch_size": 256,
    "train_freq": 1,
    "gradient_steps": 1,
    "buffer_size": 100_000,
    "policy_kwargs": {"net_arch": [256, 256]},
}


def _off(agent: str, env: str = "HalfCheetah-v5", **ours: Any) -> Case:
    return Case(agent, env, {**_OFF, **ours}, 1, 1500, 3000, 1500, theirs=_OFF_PEER)


CASES: dict[str, Case] = {
    "ppo": Case("ppo", ours={"horizon": 2048, "compile": True}, theirs=_BLOCK),
    "ppo, 8 environments": Case("ppo", ours={"horizon": 256, "compile": True}, envs=8, theirs={**_BLOCK, "n_steps": 256}),
    "ppo, eager": Case("ppo", ours={"horizon": 2048}, peers=("sb3",), theirs=_BLOCK),
    "a2c": Case("a2c", ours={"compile": True}, steps=10_000, peers=("sb3",), theirs={"n_steps": 5}),
    "a2c, 16 environments": Case("a2c", ours={"compile": True}, envs=16, peers=("sb3",), theirs={"n_steps": 5}),
    "trpo": Case(
        "trpo",
        ours={"horizon": 2048, "compile": True},
        peers=("sb3",),
        theirs={"n_steps": 2048, "batch_size": 128, "n_critic_updates": 10},
    ),
    "sac": _off("sac"),
    "sac, bf16": _off("sac", bf16=True),
    "td3": _off("td3"),
    "td3, bf16": _off("td3", bf16=True),
    "ddpg": _off("ddpg"),
    "dqn": Case(
        "dqn",
        "CartPole-v1",
        {"warmup": 1000, "horizon": 256, "updates": 128, "lr": 2.3e-3, "double": False, "compile": True},
        warm=3000,
        steps=20_480,
        theirs={
            "learning_starts": 1000,
            "train_freq": 256,
            "gradient_steps": 128,
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
}


def _overlapped(name: str, **ours: Any) -> Case:
    """The same with a second thread; the newest step is learned from one update later than the peers do."""
    return replace(CASES[name], ours={**CASES[name].ours, "overlap": True, **ours}, peers=("sbx",))


CASES |= {f"overlapped {name}": _overlapped(name) for name in ("sac", "sac, bf16", "td3", "td3, bf16", "ddpg")}
CASES["dqn, 16 together"] = replace(CASES["dqn"], ours={**CASES["dqn"].ours, "together": 16}, peers=("sbx",))
CASES["overlapped dqn, 16 together"] = _overlapped("dqn", together=16)

PEER = """
import json, os, sys, time
library, agent, env_id, envs, warm, steps, threads, options, on_policy = json.loads(sys.argv[1])
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=" + str(threads > 1).lower()
import torch
torch.set_num_threads(threads)
if library == "sbx":
    import sbx as module
elif agent == "trpo":
    import sb3_contrib as module
else:
    import stable_baselines3 as module
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
env = make_vec_env(env_id, envs)
model = getattr(module, agent.upper())("MlpPolicy", VecNormalize(env) if on_policy else env, **({"device": "cpu"} if library == "sb3" else {}), **options)
model.learn(warm)
start = time.perf_counter()
model.learn(steps, reset_num_timesteps=False)
print(json.dumps({"rate": steps / (time.perf_counter() - start), "warm_up": 0.0}))
"""

ON_POLICY = ("a2c", "ppo", "trpo")


def ours(name: str, threads: int) -> dict[str, float]:
    """Blocks of collecting and updating after those that warm up."""
    import torch
    from torch import Generator

    from scg.agents import config_type
    from scg.agents.environments import envs
    from scg.agents.execution.settings import Execution
    from scg.agents.experience.acting import one_blas_thread
    from scg.agents.experience.rollout import Rollout
    from scg.agents.training.presets import apart

    case = CASES[name]
    options, executed = apart(case.ours)
    config, execution = config_type(case.agent)(**options), Execution(**executed)
    torch.set_num_threads(max(1, threads // 2) if execution.overlap else threads)
    with one_blas_thread(), envs.make(case.env, case.envs, threads=threads) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0), execution)
        rollout = Rollout(vector, list(range(case.envs)), Generator().manual_seed(0))

        def run(steps: int) -> int:
            done = reported = 0
            while done < steps:
                block = agent.collect(rollout, 10**9)
                agent.update(block, 0.0)
                done += block.steps
                if done - reported >= agent.report:
                    agent.check_finite()
                    reported = done
            return done

        start = time.perf_counter()
        run(case.warm)
        middle = time.perf_counter()
        done = run(case.steps)
        return {"rate": done / (time.perf_counter() - middle), "warm_up": middle - start, "simulator": simulator(case.env)}


def simulator(env_id: str, steps: int = 4000) -> float:
    """Steps per second of one environment of gymnasium's under random actions, and nothing else."""
    import gymnasium as gym

    env = gym.make(env_id)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps)]
    start = time.perf_counter()
    for action in actions:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - start)


def measured(command: list[str], threads: int) -> dict[str, float] | str:
    """What a process of its own reports, kept to `threads` cores; its last words if it fails."""
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    return json.loads(done.stdout.strip().splitlines()[-1])


def command(name: str, side: str, threads: int, python: str) -> list[str]:
    case = CASES[name]
    if side == "ours":
        return [sys.executable, "-m", "benchmarks.agents", "--one", name, "--threads", str(threads)]
    on_policy = case.agent in ON_POLICY
    what = [side, case.agent, case.env, case.envs, case.warm, case.peer_steps, threads, case.theirs, on_policy]
    return [python, "-c", PEER, json.dumps(what)]


def row(name: str, python: str, repeats: int, choices: list[int], say: Any) -> dict[str, Any]:
    """Rates of all sides at their better number of threads."""
    sides = ["ours", *CASES[name].peers]
    rates: dict[tuple[str, int], list[float]] = {}
    warm_up = simulated = 0.0
    for repeat in range(repeats):
        for side in sides:
            tried = choices if repeat == 0 else [_best(rates, side)]
            for threads in tried:
                found = measured(command(name, side, threads, python), threads)
                if isinstance(found, str):
                    say(f"    {name}, {side}, {threads} threads: {found}")
                    continue
                rates.setdefault((side, threads), []).append(found["rate"])
                if side == "ours":
                    warm_up, simulated = max(warm_up, found["warm_up"]), max(simulated, found["simulator"])
        sides = [side for side in sides if any(key[0] == side for key in rates)]
    result: dict[str, Any] = {"case": name, "warm_up": round(warm_up, 1)}
    for side in sides:
        threads = _best(rates, side)
        result[side], result[f"{side}_threads"] = round(statistics.median(rates[side, threads]), 1), threads
        if side != "ours" and "ours" in result:
            result[f"ratio_{side}"] = round(result["ours"] / result[side], 2)
    if "ours" in result:
        result["of_simulator"] = round(result["ours"] / simulated, 3)
    return result


def _best(rates: dict[tuple[str, int], list[float]], side: str) -> int:
    found = {threads: statistics.median(values) for (name, threads), values in rates.items() if name == side}
    return max(found, key=lambda threads: found[threads])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", default="1,2", help="numbers of threads to try, by commas")
    parser.add_argument("--only", default="", help="cases by the beginning of their names, by commas")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    wish = parser.parse_args()
    choices = [int(n) for n in wish.threads.split(",")]
    if wish.one:
        print(json.dumps(ours(wish.one, choices[0])))
        return
    console = Console()
    table = Table(
        "case",
        "ours, steps/s",
        "SB3",
        "×",
        "SBX",
        "×",
        "of simulator",
        "threads",
        "warm-up, s",
        title="environment steps per second",
    )
    rows = []
    for name in CASES:
        if not any(name.startswith(start) for start in wish.only.split(",")):
            continue
        found = row(name, wish.peer_python, wish.repeats, choices, console.print)
        rows.append(found)
        console.print(found)
        shown = [str(found.get(key, "–")) for key in ("ours", "sb3", "ratio_sb3", "sbx", "ratio_sbx", "of_simulator")]
        threads = "/".join(str(found[key]) for key in ("ours_threads", "sb3_threads", "sbx_threads") if key in found)
        table.add_row(name, *shown, threads, str(found["warm_up"]))
    console.print(table)
    if wish.csv:
        with open(wish.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, sorted({key for found in rows for key in found}))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
