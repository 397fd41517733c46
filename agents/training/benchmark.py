"""Benchmarks: agents × environments × seeds from a suite's file, and what they say together.

    SUITE.toml ─► runs/<agent>-<environment>-seed<n>, finished ones skipped, others begun or resumed ─► RESULTS.md, pictures

    agents = ["ppo", "a2c"]
    environments = ["CartPole-v1"]
    seeds = 10
    steps = 50000

    [run]                                  # flags of every run
    evaluations = 5
    [options.ppo]                          # flags of one agent
    lr = 1e-3
    [scores]                               # the returns that count 0 and 1 when environments are averaged
    CartPole-v1 = [20.0, 500.0]

A run's return is that of its last evaluation. Without `[scores]` nothing is averaged over environments.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from scg.agents import config_type, target_of, title
from scg.agents.execution.settings import Execution
from scg.agents.training import curves, reliability
from scg.agents.training.presets import preset
from scg.agents.training.run_config import RunConfig, RunError, Settings, is_of, spelt, typed_value
from scg.agents.training.run_directory import RunDirectory, read_table
from scg.errors import nearest
from scg.files import whole_file

PARTS = ("agents", "environments", "seeds", "steps", "run", "options", "scores")
TAUS = np.linspace(0.0, 1.0, 41)


@dataclass(frozen=True)
class Suite:
    """What is compared. `scores` are the reference returns (0, 1) of each environment."""

    agents: tuple[str, ...]
    environments: tuple[str, ...]
    seeds: int
    steps: int
    run: dict[str, Any] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Suite:
        """The suite in a TOML file. RunError says what is wrong with it."""
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"suite {file}: it cannot be read ({error}).") from error
        for key in content:
            if key not in PARTS:
                raise RunError(f"suite {file}: no part is called {key!r}.{nearest(key, PARTS)} There are {', '.join(PARTS)}.")
        for key in ("agents", "environments", "seeds", "steps"):
            if key not in content:
                raise RunError(f"suite {file}: {key} is missing. Add it.")
        where = f"suite {file}"
        suite = cls(
            _many(content["agents"], f"{where}: agents"),
            _many(content["environments"], f"{where}: environments"),
            _count(content["seeds"], f"{where}: seeds"),
            _count(content["steps"], f"{where}: steps"),
            _table(content.get("run", {}), f"{where}: run"),
            {
                name: _table(each, f"{where}: options.{name}")
                for name, each in _table(content.get("options", {}), where).items()
            },
            _references(content.get("scores", {}), f"{where}: scores"),
        )
        for part, known in (("options", suite.agents), ("scores", suite.environments)):
            for name in getattr(suite, part):
                if name not in known:
                    raise RunError(f"suite {file}: {part}.{name}: it is none of {', '.join(known)}.{nearest(name, known)}")
        missing = [env for env in suite.environments if env not in suite.scores]
        if suite.scores and missing:
            raise RunError(
                f"suite {file}: scores of {', '.join(missing)} are missing. Give those of all environments, or none."
            )
        suite.all_settings(f"suite {file}")
        return suite

    def all_settings(self, where: str = "suite") -> dict[tuple[str, str, int], Settings]:
        """The settings of every run, by agent, environment and seed."""
        return {
            (agent, env, seed): _settings(self, agent, env, seed, where)
            for env in self.environments
            for agent in self.agents
            for seed in range(self.seeds)
        }


@dataclass(frozen=True)
class Found:
    """Final returns by agent and environment `[seeds]`, and the minutes of training of a run."""

    suite: Suite
    returns: dict[tuple[str, str], np.ndarray]
    minutes: dict[tuple[str, str], float]

    def scores(self, agent: str) -> np.ndarray:
        """`[seeds, environments]`, 0 and 1 at the suite's reference returns."""
        columns = []
        for env in self.suite.environments:
            low, high = self.suite.scores[env]
            columns.append((self.returns[agent, env] - low) / (high - low))
        return np.stack(columns, 1)


def runs_of(suite: Suite, out: Path) -> list[RunDirectory]:
    """Every run of the suite, made where it is not there. RunError for one that is there and is another."""
    found = []
    for (agent, env, seed), wanted in suite.all_settings().items():
        path = out / "runs" / f"{title(agent)}-{env.replace('/', '-').replace(':', '-')}-seed{seed}"
        if not (path / "config.json").exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            RunDirectory.create(agent, wanted.run, wanted.agent, path, wanted.execution)
        elif not is_of(path / "config.json", wanted):
            raise RunError(
                f"run {path}: it is not the suite's, whose options have changed. Choose another --out, or move it away."
            )
        found.append(RunDirectory.open(path, trusted=True))
    return found


def is_finished(run: RunDirectory) -> bool:
    """The curve is drawn after the last checkpoint; an evaluation at the end tells it from one of a shorter run."""
    table = run.path / "evaluations.csv"
    rows = read_table(table) if table.exists() else []
    return bool(rows) and rows[-1]["step"] >= run.run.steps and (run.path / "curve.png").exists()


def collected(suite: Suite, out: Path) -> Found:
    """What the finished runs of a suite gave."""
    returns: dict[tuple[str, str], np.ndarray] = {}
    minutes: dict[tuple[str, str], float] = {}
    by_key = dict(zip(suite.all_settings(), runs_of(suite, out), strict=True))
    for agent in suite.agents:
        for env in suite.environments:
            runs = [by_key[agent, env, seed] for seed in range(suite.seeds)]
            returns[agent, env] = np.array([read_table(run.path / "evaluations.csv")[-1]["return"] for run in runs])
            minutes[agent, env] = float(np.mean([read_table(run.path / "metrics.csv")[-1]["seconds"] for run in runs])) / 60
    return Found(suite, returns, minutes)


def report(found: Found, command: str) -> str:
    """RESULTS.md: returns by environment; with reference returns what they say together; probabilities of improvement."""
    suite = found.suite
    lines = [
        f"# {' and '.join(suite.environments) if len(suite.environments) < 3 else f'{len(suite.environments)} environments'}",
        f"\n`{command}`: {suite.steps:,} steps, {suite.seeds} seeds a cell. Interquartile mean of the last evaluation's return "
        "with the 95 % interval of a stratified bootstrap; minutes of training a run.\n",
        "| | " + " | ".join(suite.environments) + " | minutes |",
        "|---" * (len(suite.environments) + 2) + "|",
    ]
    for agent in suite.agents:
        cells = [_cell(reliability.iqm, found.returns[agent, env][:, None]) for env in suite.environments]
        spent = np.mean([found.minutes[agent, env] for env in suite.environments])
        lines.append(f"| {title(agent)} | {' | '.join(cells)} | {spent:.1f} |")
    if suite.scores:
        lines += [
            "\n## Over environments\n",
            "Scores are 0 and 1 at the reference returns: "
            + "; ".join(f"{env} {low:g} and {high:g}" for env, (low, high) in suite.scores.items())
            + ".\n",
            "| | interquartile mean | mean | optimality gap |",
            "|---|---|---|---|",
        ]
        for agent in suite.agents:
            scores = found.scores(agent)
            cells = [_cell(s, scores, 3) for s in (reliability.iqm, reliability.mean, reliability.optimality_gap)]
            lines.append(f"| {title(agent)} | {' | '.join(cells)} |")
    if len(suite.agents) > 1:
        lines += [
            "\n## Probability of improvement\n",
            "That a run of the row returns more than a run of the column, mean over environments.\n",
            "| | " + " | ".join(map(title, suite.agents)) + " |",
            "|---" * (len(suite.agents) + 1) + "|",
        ]
        for agent in suite.agents:
            cells = [
                "" if other == agent else _cell(reliability.improvement, _raw(found, agent), 2, _raw(found, other))
                for other in suite.agents
            ]
            lines.append(f"| {title(agent)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(found: Found, out: Path) -> None:
    """`curves.png`, and `profiles.png` where there are reference returns."""
    runs = runs_of(found.suite, out)
    curves.plot([run.path for run in runs], out / "curves.png", "iqm")
    if not found.suite.scores:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axis = figure.subplots()
    for agent in found.suite.agents:
        scores = found.scores(agent)
        (line,) = axis.plot(TAUS, reliability.profile(TAUS)(scores), label=title(agent))
        lower, upper = reliability.interval(reliability.profile(TAUS), scores)
        axis.fill_between(TAUS, lower, upper, color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel="score τ", ylabel="share of runs with score > τ")
    axis.legend()
    with whole_file(out / "profiles.png") as file:
        figure.savefig(file, format="png", dpi=150)


def _raw(found: Found, agent: str) -> np.ndarray:
    """Returns `[seeds, environments]`: only their order within an environment counts."""
    return np.stack([found.returns[agent, env] for env in found.suite.environments], 1)


def _cell(statistic: Callable[..., np.ndarray], scores: np.ndarray, digits: int = 1, *others: np.ndarray) -> str:
    value = float(statistic(scores, *others))
    lower, upper = reliability.interval(statistic, scores, *others)
    return f"{value:.{digits}f} ({float(lower):.{digits}f}–{float(upper):.{digits}f})".replace("-", "−")


def _settings(suite: Suite, agent: str, env: str, seed: int, where: str) -> Settings:
    known = preset(agent, env, suite.steps)
    kinds = {"run": RunConfig, "agent": config_type(agent), "execution": Execution}
    values = {"run": dict(known.run), "agent": dict(known.agent), "execution": dict(known.execution)}
    for place, given in (("run", suite.run), (f"options.{agent}", suite.options.get(agent, {}))):
        for key, value in given.items():
            part = next((name for name, kind in kinds.items() if key in {f.name for f in fields(kind)}), None)
            if part is None or key in ("env", "steps", "seed"):
                raise RunError(f"{where}: {place}.{key}: {title(agent)} has no such option that a suite may set.")
            hint = get_type_hints(kinds[part])[key]
            try:
                values[part][key] = typed_value(value, hint)
            except TypeError:
                raise RunError(f"{where}: {place}.{key} is {value!r}, expected {spelt(hint)}.") from None
    run = RunConfig(**{**values["run"], "env": env, "steps": suite.steps, "seed": seed})
    if run.evaluations < 1:
        raise RunError(f"{where}: run.evaluations is 0: a run is judged by its last one. Give at least 1.")
    return Settings(target_of(agent), run, kinds["agent"](**values["agent"]), Execution(**values["execution"]))


def _many(value: Any, where: str) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(each, str) for each in value)
        or len(set(value)) < len(value)
    ):
        raise RunError(f"{where} is {value!r}, expected a list of different names.")
    return tuple(value)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RunError(f"{where} is {value!r}, expected a table of options.")
    return value


def _count(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise RunError(f"{where} is {value!r}, expected a whole number of at least 1.")
    return value


def _references(value: Any, where: str) -> dict[str, tuple[float, float]]:
    found = {}
    for env, pair in _table(value, where).items():
        try:
            low, high = map(float, pair)
        except (TypeError, ValueError):
            raise RunError(f"{where}.{env} is {pair!r}, expected [return of score 0, return of score 1].") from None
        if not low < high:
            raise RunError(f"{where}.{env}: {low:g} is not below {high:g}.")
        found[env] = low, high
    return found
