"""The training runs: DQN on bits, DDPG and SAC on reaching, each with and without hindsight, and what is looked at in them."""

from __future__ import annotations

import statistics
from importlib.util import find_spec
from typing import Any

import torch
from torch import Generator

from scg.agents.environments import envs
from scg.agents.environments.goal_space import GoalSpace
from scg.agents.training.loop import build
from scg.agents.training.run_directory import RunDirectory, read_table
from scg.papers.andrychowicz2017_her import variants  # registers
from scg.papers.learning import Learned, learn_all
from scg.papers.report import Say

assert variants

BITS = (4, 8, 10, 15, 20, 30, 40, 50)
COMPARED = 10  # bits on which strategies are compared
STRATEGIES = ("final", "future", "episode", "random")
MULTIPLES = (1, 4, 8, 64)
DQN: dict[str, Any] = {
    "warmup": 500, "horizon": 8, "updates": 8, "lr": 1e-3, "gamma": 0.98, "target_every": 10, "tau": 0.2,
    "hidden": (128, 128), "epsilon_share": 0.3,
}  # fmt: skip
REACH: dict[str, Any] = {"warmup": 1000, "lr": 1e-3, "gamma": 0.95, "tau": 0.05, "hidden": (64, 64), "batch": 128}
POINT, ONE_GOAL, SHAPED = "PointReach, DDPG", "one goal, DDPG", "shaped reward, DDPG"
REACHING: dict[str, tuple[str, str, dict[str, Any]]] = {
    POINT: ("ddpg", "PointReach-v0", {**REACH, "noise": 0.2}),
    ONE_GOAL: ("ddpg", "OneGoalReach-v0", {**REACH, "noise": 0.2}),
    SHAPED: ("ddpg", "ShapedReach-v0", {**REACH, "noise": 0.2}),
}
FETCH: dict[str, Any] = {"hidden": (128, 128), "alpha": 0.1}
ARM = "FetchReach, SAC"


def on_bits(n: int) -> str:
    return f"{n} bits"


def replayed(strategy: str, k: int) -> str:
    return f"{strategy}, k = {k}"


WITH, WITHOUT = replayed("future", 4), "without HER"


def robotics() -> bool:
    return find_spec("gymnasium_robotics") is not None


# -- what is looked at -----------------------------------------------------------------------------------------------


def looked(run: RunDirectory) -> dict[str, Any]:
    """Success of fresh episodes along the run; for DQN on bits also its values, by the distance to the goal."""
    rows = read_table(run.path / "evaluations.csv")
    found: dict[str, Any] = {"success": [(row["step"], row["success"]) for row in rows]}
    if run.name == "dqn":
        found["values"] = values(run)
    return found


def values(run: RunDirectory, states: int = 256) -> list[float]:
    """The mean of max_a Q over random states and goals at distance 1, 2, …, all bits."""
    with envs.make(run.run.env, 1) as one:
        agent, space = build(run, one), one.obs_space
    _, saved = run.checkpoints.load_latest(lambda text: None)
    agent.load_state_dict(saved["agent"])
    assert isinstance(space, GoalSpace)
    generator, means = Generator().manual_seed(run.run.seed), []
    for distance in range(1, space.goal + 1):
        state = torch.randint(2, (states, space.goal), generator=generator)
        flipped = torch.rand(states, space.goal, generator=generator).argsort(-1) < distance
        goal = torch.where(flipped, 1 - state, state)
        obs = torch.cat([state, goal, state], -1).float()
        with torch.no_grad():
            means.append(float(agent.state["critic"](obs).amax(-1).mean()))  # type: ignore[operator]
    return means


def shortest(distance: int, gamma: float) -> float:
    """−Σ_{i < distance − 1} γ^i: a step costs 1, the last one nothing."""
    return -(1 - gamma ** (distance - 1)) / (1 - gamma)


# -- running ---------------------------------------------------------------------------------------------------------

Runs = dict[tuple[str, str], list[Learned]]  # by task and by how it is replayed; of each, by seed
Options = dict[str, Any]


def budget(n: int, steps: int) -> int:
    """Steps for `n` bits: `steps` up to 10 bits, in proportion to the square beyond."""
    return int(steps * max(1.0, (n / 10) ** 2))


def planned(bits: int, steps: int, reach: int, fetch: int) -> dict[tuple[str, str], Options]:
    """Every task with hindsight and without; the strategies and numbers of goals on one of them."""
    both: dict[str, Options] = {WITH: {"her": "future"}, WITHOUT: {}}
    plan: dict[tuple[str, str], Options] = {}
    for n in BITS:
        if n <= bits:
            task = {"agent": "dqn", "env": f"BitFlip{n}-v0", "steps": budget(n, steps), "episodes": 50, **DQN}
            plan |= {(on_bits(n), name): {**task, **her} for name, her in both.items()}
            if n == COMPARED:
                plan |= {(on_bits(n), replayed(s, 4)): {**task, "her": s} for s in STRATEGIES}
                plan |= {(on_bits(n), replayed("future", k)): {**task, "her": "future", "her_k": float(k)} for k in MULTIPLES}
    for name, (agent, env, options) in REACHING.items():
        task = {"agent": agent, "env": env, "steps": reach, "episodes": 50, **options}
        plan |= {(name, how): {**task, **her} for how, her in both.items()}
    if fetch and robotics():
        task = {"agent": "sac", "env": "FetchReach-v4", "steps": fetch, "episodes": 20, **FETCH}
        plan |= {(ARM, how): {**task, **her} for how, her in both.items()}
    return plan


def trained(plan: dict[tuple[str, str], Options], seeds: range, workers: int, say: Say, keep: str, executor: str) -> Runs:
    wanted = {
        (task, how, seed): {**options, "seed": seed, "points": 6, "look": looked}
        for seed in seeds  # first, so that runs that are kept are of as few seeds as there is time for
        for (task, how), options in plan.items()
    }
    runs: Runs = {}
    for (task, how, _), learned in learn_all(wanted, workers, say, keep, executor).items():
        runs.setdefault((task, how), []).append(learned)
    return runs


def success(runs: list[Learned]) -> list[float]:
    """At the end, by seed."""
    return [r.seen["success"][-1][1] for r in runs]


def along(runs: list[Learned]) -> list[float]:
    """The mean over the run's evaluations, by seed: how fast it learned."""
    return [statistics.fmean(s for _, s in r.seen["success"]) for r in runs]
