"""The training runs: what is varied on Pendulum-v1, what is run on MuJoCo, and what is looked at in each when it has ended."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from scg.agents.common.agent import Agent
from scg.agents.environments import envs
from scg.agents.training.evaluation import evaluate
from scg.agents.training.loop import build
from scg.agents.training.run_directory import RunDirectory, read_table
from scg.papers.learning import Learned, learn_all
from scg.papers.report import Say

SWEPT = "Pendulum-v1"
TWIN, FIRST, FIXED = "SAC, α learned", "SAC as first published", "SAC, α = 0.2"
RATIO, NO_ENTROPY, DDPG = "SAC, likelihood-ratio actor", "SVG(0), no entropy", "DDPG"
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    TWIN: ("sac", {}),
    FIXED: ("sac", {"learn_alpha": False, "alpha": 0.2}),
    FIRST: ("sac-v1", {}),  # α = 0.2 there too: rewards scaled by 5
    RATIO: ("sac", {"actor": "score"}),
    NO_ENTROPY: ("svg", {"twin": True}),
    DDPG: ("ddpg", {}),
}
PUBLISHED = 5.0  # on most of MuJoCo
SCALES = (0.01, 0.1, PUBLISHED)
BY_SCALE = {
    f"rewards × {scale:g}": ("sac-v1", {} if scale == PUBLISHED else {"alpha": round(1 / scale, 4)}) for scale in SCALES
}
SWEEPS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {"form": FORMS, "reward scale": BY_SCALE}


@dataclass(frozen=True)
class Long:
    """An agent with its defaults; as many of `seeds` as is asked for."""

    env: str
    steps: int
    seeds: tuple[int, ...] = (0, 1, 2)
    agent: str = "sac"

    def __str__(self) -> str:
        return f"{self.env}, {self.steps:,} steps" + ("" if self.agent == "sac" else f", {self.agent.upper()}")


LONG = {
    "HalfCheetah": Long("HalfCheetah-v5", 100_000),
    "HalfCheetah-DDPG": Long("HalfCheetah-v5", 100_000, agent="ddpg"),
    "HalfCheetah-300k": Long("HalfCheetah-v5", 300_000, (0,)),
    "Hopper": Long("Hopper-v5", 100_000),
    "Walker2d": Long("Walker2d-v5", 200_000, (0,)),
    "Ant": Long("Ant-v5", 200_000, (0,)),
    "InvertedDoublePendulum": Long("InvertedDoublePendulum-v5", 50_000),
}


def long_runs(names: str, seeds: int) -> dict[str, Long]:
    """Those of a list `Hopper,Ant`. ValueError for a name that is not here."""
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in LONG:
            raise ValueError(f"--mujoco {name}: known are {','.join(LONG)}, several with commas, or none")
    return {name: replace(LONG[name], seeds=LONG[name].seeds[:seeds]) for name in wanted}


# -- what is looked at -----------------------------------------------------------------------------------------------

EPISODES = 10


def looked(run: RunDirectory) -> dict[str, float]:
    """The last policy's mean return on the same fresh episodes with its most probable actions and with sampled ones; the
    mean entropy of the last tenth of the run, and the temperature, where the agent has them."""
    agent = last_agent(run)
    found = {}
    for actions in ("mode", "sample"):  # training evaluates at positive steps, so 0 is a family of seeds of its own
        found[actions] = evaluate(agent.policy, run.run.env, EPISODES, run.run.seed, 0, actions).mean
    rows = [row["log_prob"] for row in read_table(run.path / "metrics.csv") if "log_prob" in row]
    if rows:
        found["entropy"] = -statistics.fmean(rows[-max(1, len(rows) // 10) :])
    if "temperature" in agent.state:
        found["α"] = float(agent.state["temperature"]().detach())  # type: ignore[operator]
    return found


def last_agent(run: RunDirectory) -> Agent:
    with envs.make(run.run.env, 1, bins=run.run.action_bins) as one:
        agent = build(run, one)
    _, state = run.checkpoints.load_latest(lambda text: None)
    agent.load_state_dict(state["agent"])
    return agent


# -- running ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """Every run: `swept[sweep][variant]` and `long[name]`, by seed."""

    swept: dict[str, dict[str, list[Learned]]]
    long: dict[str, list[Learned]]

    @property
    def everything(self) -> Iterable[list[Learned]]:
        yield from (runs for of in self.swept.values() for runs in of.values())
        yield from self.long.values()


def trained(steps: int, seeds: range, long: dict[str, Long], workers: int, say: Say, keep: str, executor: str) -> Lab:
    """A run that is part of several sweeps takes place once."""
    places: dict[tuple[str, str, int], str] = {}
    wanted: dict[str, dict[str, Any]] = {}

    def want(sweep: str, name: str, agent: str, env: str, steps: int, seed: int, **options: Any) -> None:
        run = {"agent": agent, "env": env, "steps": steps, "seed": seed, "points": 10, "look": looked, **options}
        places[sweep, name, seed] = str(run)
        wanted[str(run)] = run

    for seed in seeds:  # first, so that runs that are kept are of as few seeds as there is time for
        for sweep, variants in SWEEPS.items():
            for name, (agent, options) in variants.items():
                want(sweep, name, agent, SWEPT, steps, seed, **options)
    for name, one in long.items():
        for seed in one.seeds:
            want("", name, one.agent, one.env, one.steps, seed)
    found, lab = learn_all(wanted, workers, say, keep, executor), Lab({sweep: {} for sweep in SWEEPS}, {})
    for (sweep, name, _), run in places.items():
        (lab.swept[sweep] if sweep else lab.long).setdefault(name, []).append(found[run])
    return lab
