"""Every agent on environments of one or two steps whose best policy and return are known.

    python -m benchmarks.closed_form [AGENT …] [--only WORLD …] [--record FILE] [--out docs/closed-form.md]

With `--record FILE` every row is kept as a line of JSON, and a table that was stopped goes on: what is there is not trained
again, and the page is of all that the record has. A record is of one state of the code; delete it after a change.

Such tasks show what long ones hide: an offset of the rewards that the scale eats, a bootstrap after a termination or none
after a truncation, actions mapped to the wrong bounds, a discount in the wrong place. A row is one training with the seed
given and the agent's defaults, but for the lengths of `OPTIONS`. An agent has solved a task where the mean return of its
most probable actions is within `TOLERANCE` of the best one's, in units of the reward that the choice is worth.

Not tried: A3C, whose processes make their environments by id alone, and which learns as A2C does; agents that differentiate
through dynamics, whose models know no end of an episode; RLOO, whose observations are tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator

from scg.agents import AGENTS, config_type
from scg.agents.common.agent import Agent
from scg.agents.common.off_policy import OffPolicy
from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.experience.rollout import Rollout

TOLERANCE = 0.1
ENVS = 8
Outcome = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Bandit(gym.Env):
    """One step: reward = offset + [the action is the sign of obs]."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(2)

    def __init__(self, offset: float = 0.0) -> None:
        self.offset, self.best, self.worth = offset, offset + 1, 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.sign = self.np_random.choice([-1.0, 1.0])
        return self._obs(), {}

    def step(self, action: Any) -> Outcome:
        return self._obs(), self.offset + float(int(action) == int(self.sign > 0)), True, False, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.sign], np.float32)


class Corridor(gym.Env):
    """Two steps: 1 now and the end, or nothing now and 2 for the same choice at the second step (0 for the other)."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def __init__(self) -> None:
        self.best, self.worth = 2.0, 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.at == 0 and int(action) == 0:
            return 2, 1.0, True, False, {}
        if self.at == 0:
            self.at = 1
            return 1, 0.0, False, False, {}
        return 2, 2.0 * int(action), True, False, {}


class Survival(gym.Env):
    """The same reward at each of two steps, but action 0 ends the episode at the first: stay for reward 1, leave for −1."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self, reward: float = 1.0, truncates: bool = False) -> None:
        self.reward, self.truncates, self.worth = reward, truncates, 1.0
        self.best = max(reward, 2 * reward)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return 0, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        over, self.at = self.at == 1, 1
        leaves = int(action) == 0 and not over
        return 1, self.reward, leaves or (over and not self.truncates), over and self.truncates, {}


class Aim(gym.Env):
    """One step: reward = offset − ((action − target) / half the width of the range)²."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, low: float = -1.0, high: float = 1.0, target: float = 0.5, offset: float = 0.0) -> None:
        self.action_space = spaces.Box(np.float32(low), np.float32(high), (1,))
        self.target, self.half, self.offset, self.best, self.worth = target, (high - low) / 2, offset, offset, 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Outcome:
        assert self.action_space.contains(action), action
        miss = (float(action[0]) - self.target) / self.half
        return np.zeros(1, np.float32), self.offset - miss**2, True, False, {}


class World(NamedTuple):
    """An environment's id and arguments, and what it is in words."""

    env_id: str
    arguments: dict[str, Any]
    what: str


WORLDS = {
    "bandit": World("ClosedBandit-v0", {}, "reward 0 or 1"),
    "bandit + 5": World("ClosedBandit-v0", {"offset": 5.0}, "reward 5 or 6"),
    "bandit + 100": World("ClosedBandit-v0", {"offset": 100.0}, "reward 100 or 101"),
    "bandit - 100": World("ClosedBandit-v0", {"offset": -100.0}, "reward −100 or −99"),
    "corridor": World("ClosedCorridor-v0", {}, "1 now, or 2 a step later"),
    "stay": World("ClosedSurvival-v0", {"reward": 1.0}, "+1 a step: stay, and be terminated"),
    "stay, truncated": World("ClosedSurvival-v0", {"reward": 1.0, "truncates": True}, "+1 a step: stay, and be truncated"),
    "leave": World("ClosedSurvival-v0", {"reward": -1.0}, "−1 a step: leave"),
    "aim": World("ClosedAim-v0", {}, "a number in [−1, 1]"),
    "aim + 100": World("ClosedAim-v0", {"offset": 100.0}, "the same, reward at most 100"),
    "aim, asymmetric": World("ClosedAim-v0", {"low": 2.0, "high": 10.0, "target": 3.5}, "a number in [2, 10]"),
}
for _name, _kind in {"Bandit": Bandit, "Corridor": Corridor, "Survival": Survival, "Aim": Aim}.items():
    gym.register(f"Closed{_name}-v0", entry_point=_kind)

# Environment steps, and options that make the agents' defaults fit so few: these are tuned for a million.
STEPS = {"on-policy": 8_000, "off-policy": 2_000, "search": 6_400}
OPTIONS: dict[str, dict[str, Any]] = {
    "on-policy": {"hidden": (16,), "horizon": 32, "minibatch": 128, "report": 256},
    "off-policy": {
        **{"hidden": (32,), "warmup": 200, "horizon": 4, "updates": 4, "batch": 64, "replay": 4_000},
        **{"tau": 0.05, "lr": 3e-3},
    },
    "search": {},
    "reinforce": {"lr": 0.03},  # a policy makes one step a block
    "a2c": {"horizon": 4, "lr": 5e-3},
    "ppo": {"epochs": 4},  # in less time
    "dqn": {"target_every": 1},  # of 500 steps, two in a run
}


class Row(NamedTuple):
    agent: str
    world: str
    found: float
    best: float
    worth: float
    seconds: float

    @property
    def solved(self) -> bool:
        return self.found >= self.best - TOLERANCE * self.worth


def kind_of(name: str) -> str:
    config = config_type(name)
    return "off-policy" if issubclass(config, OffPolicy) else "search" if config.family == "search" else "on-policy"


def tried() -> list[str]:
    """The agents that take such environments, by name."""
    return [name for name in sorted(AGENTS) if name not in ("a3c", "rloo") and config_type(name).family != "model-based"]


def config_of(name: str) -> Any:
    config, options = config_type(name), OPTIONS[kind_of(name)] | OPTIONS.get(name, {})
    return config(**{key: value for key, value in options.items() if key in config.__dataclass_fields__})


def solve(name: str, world: str, seed: int = 0, steps: int = 0) -> Row | None:
    """Train and measure; None where the agent refuses the environment's spaces."""
    env_id, arguments, _ = WORLDS[world]
    began, budget = time.perf_counter(), steps or STEPS[kind_of(name)]
    with envs.make(env_id, ENVS, **arguments) as vector:
        try:
            agent = config_of(name).build(vector.obs_space, vector.action_space, Generator().manual_seed(seed))
        except EnvironmentFault:
            return None
        rollout, done = Rollout(vector, envs.seeds(seed, "environments", ENVS), Generator().manual_seed(seed)), 0
        while done < budget:
            block = agent.collect(rollout, budget - done)
            agent.update(block, min(done / budget, 1.0))
            done += block.steps
    found, env = measured(agent, env_id, arguments), gym.make(env_id, **arguments).unwrapped
    best, worth = env.best, env.worth  # type: ignore[attr-defined]
    return Row(name, world, found, best, worth, time.perf_counter() - began)


def measured(agent: Agent, env_id: str, arguments: dict[str, Any], episodes: int = 64) -> float:
    with envs.make(env_id, episodes, **arguments) as vector:
        rollout = Rollout(vector, envs.seeds(1, "evaluation", episodes), Generator().manual_seed(0))
        block = rollout.episodes(agent.policy, deterministic=True, log_prob=False)
    return float(np.mean([episode.total for episode in block.episodes]))


Found = dict[tuple[str, str], Row | None]  # by agent and world; None where the agent refuses the spaces


def solutions(names: Sequence[str], worlds: Sequence[str], record: Path | None = None) -> Iterator[Found]:
    """What is known, after each training; first what the record has."""
    found = recorded(record)
    yield found
    for name, world in itertools.product(names, worlds):
        if (name, world) in found:
            continue
        row = found[name, world] = solve(name, world)
        if record is not None:
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, world, row]) + "\n")
        if row is not None:
            said = "" if row.solved else "  MISSED"
            print(f"{name:14} {world:18} {row.found:9.3f} of {row.best:7.1f}  {row.seconds:5.1f} s{said}", flush=True)
        yield found


def recorded(record: Path | None) -> Found:
    if record is None or not record.exists():
        return {}
    lines = map(json.loads, record.read_text(encoding="utf-8").splitlines())
    return {(name, world): None if row is None else Row(*row) for name, world, row in lines}


def whole(found: Found) -> Found:
    """The part of the agents that were tried on every world that any of them was."""
    worlds = {world for _, world in found}
    return {(name, world): row for (name, world), row in found.items() if all((name, other) in found for other in worlds)}


def table(found: Found) -> str:
    """Agents down, environments across: how far below the best return; a dash where the spaces do not fit."""
    worlds = [world for world in WORLDS if any(world == other for _, other in found)]
    lines = ["| agent | " + " | ".join(worlds) + " |", "|---" * (len(worlds) + 1) + "|"]
    for agent in sorted({name for name, _ in found}):
        lines.append(f"| {agent} | " + " | ".join(cell(found[agent, world]) for world in worlds) + " |")
    return "\n".join(lines)


def cell(row: Row | None) -> str:
    if row is None:
        return "–"
    gap = f"{max(row.best - row.found, 0.0):.2f}"
    return gap if row.solved else f"**{gap}**"


def page(found: Found, command: str) -> str:
    """Of the agents that have a whole row; the others are named."""
    found = whole(found)
    rows = [row for row in found.values() if row is not None]
    missed = [f"{row.agent} on {row.world}" for row in rows if not row.solved]
    absent = [f"`{name}`" for name in tried() if all(name != agent for agent, _ in found)]
    return "\n".join(
        [
            "# Tasks with a known optimum",
            "",
            f"Written by `{command}`; one seed, eight environments side by side.",
            "",
            f"The return that an agent's most probable actions lose to the best policy, after {STEPS['on-policy']:,} steps of an "
            f"on-policy agent, {STEPS['off-policy']:,} of one with a replay buffer, {STEPS['search']:,} of a search. "
            f"Solved, at a loss of at most {TOLERANCE} of what the choice is worth: {len(rows) - len(missed)} of {len(rows)}. "
            + (f"Missed, and bold: {', '.join(missed)}. " if missed else "")
            + "A dash: the agent refuses these spaces.",
            "",
            *(
                [f"Not run for this page, though the command without an agent's name does: {', '.join(absent)}.", ""]
                if absent
                else []
            ),
            "No use here: A3C, which learns as A2C does; `bptt`, `shac` and `svg-k`, whose models of the dynamics know no end of an "
            "episode; `rloo`, which observes tokens.",
            "",
            table(found),
            "",
            *[f"* **{name}**: {world.what}." for name, world in WORLDS.items() if any(name == other for _, other in found)],
            "",
            "Three options were chosen by looking at the result, so these agents' rows are no independent evidence: REINFORCE's "
            "learning rate 0.03, A2C's learning rate 0.005 with a horizon of 4, DQN's `target_every` 1. The others have their "
            "defaults, but for lengths and sizes that fit so few steps (`OPTIONS` in `benchmarks/closed_form.py`).",
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closed_form", description=__doc__.split("\n")[0])
    parser.add_argument("agents", nargs="*", metavar="AGENT", help="by default all that take such environments")
    parser.add_argument("--only", nargs="+", choices=WORLDS, default=list(WORLDS), metavar="WORLD")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", type=Path, help="rows are kept here, and those that are there are not trained again")
    wish = parser.parse_args(argv)
    torch.set_num_threads(1)
    words = shlex.join(["python", "-m", "benchmarks.closed_form", *(sys.argv[1:] if argv is None else argv)])
    found: Found = {}
    for found in solutions(wish.agents or tried(), wish.only, wish.record):
        if wish.out and whole(found):  # row by row: a run that is stopped leaves what it has found
            wish.out.write_text(page(found, words), encoding="utf-8")
    print(f"\n{table(whole(found))}")
    return int(not all(row is None or row.solved for row in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
