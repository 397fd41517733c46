"""Training runs for a paper: agents by name, as `scg train` makes them; what they earned, and how far their updates went."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from agents import config_type
from agents.curves import on_common_steps
from agents.presets import preset
from agents.runs import RunConfig, RunDirectory, read_table
from agents.train import train
from papers.report import Say

Key = TypeVar("Key", bound=Hashable)

UNDECIDED = "undecided"
"""The verdict where the difference lies within its own standard errors."""
CONTRARY = "not in so few steps"
"""The verdict where the difference is clear, and against the paper, in runs much shorter than its own."""
CLEAR = 2.0  # standard errors of a difference that make it one


@dataclass(frozen=True)
class Learned:
    """One run. `returns` are training episodes', means of the last twenty, at `steps`; `final` that of fresh episodes at
    the end, the most probable actions taken; `kl` each update's, where the agent has one; `seconds` of CPU."""

    steps: list[float]
    returns: list[float]
    kl: list[float]
    final: float
    seconds: float

    @property
    def along(self) -> float:
        """The mean return along the run, from the first finished episode on: how fast it learned."""
        seen = [r for r in self.returns if not math.isnan(r)]
        return statistics.fmean(seen) if seen else math.nan

    @property
    def last(self) -> float:
        """Training episodes' at the end."""
        return self.returns[-1]

    def numbers(self) -> dict[str, Any]:
        """Rounded, for results.json."""
        return {
            "final": round(self.final, 2),
            "last": round(self.last, 2),
            "along": round(self.along, 2),
            "seconds": round(self.seconds, 1),
        }


def learn(agent: str, env: str, steps: int, seed: int, episodes: int = 10, **options: Any) -> Learned:
    """Train `agent` as `scg train` would, with its preset for `env`, changed by `options`; its files are not kept."""
    run, config = preset(agent, env, steps)
    settings = RunConfig(
        **{**run, "env": env, "steps": steps, "seed": seed, "evaluations": 1, "eval_episodes": episodes, "checkpoints": 1},
        step_threads=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(agent, settings, config_type(agent)(**{**config, **options}), Path(folder) / "run")
        began = time.process_time()
        final = train(directory, quiet=True).mean
        rows = read_table(directory.path / "metrics.csv")
    return Learned(
        [row["step"] for row in rows],
        [row["return"] for row in rows],
        [row["kl"] for row in rows if "kl" in row],
        final,
        time.process_time() - began,
    )


def learn_all(runs: Mapping[Key, Mapping[str, Any]], workers: int, say: Say) -> dict[Key, Learned]:
    """`learn(**run)` of each, in `workers` processes; the results do not depend on how many."""
    found: dict[Key, Learned] = {}
    if workers == 1:
        for key, run in runs.items():
            say(f"{run['agent']}, {run['env']}, seed {run['seed']}", len(found) / (len(runs) + 1))
            found[key] = learn(**run)
        return found
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(learn, **run): key for key, run in runs.items()}
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            say(f"{len(found)} of {len(runs)} runs", len(found) / (len(runs) + 1))
    return {key: found[key] for key in runs}


def clearly_more(ones: Sequence[float], others: Sequence[float]) -> bool | str:
    """Whether the mean of `ones` exceeds that of `others`, paired: CONTRARY if it is clearly less, UNDECIDED if neither."""
    gaps = [a - b for a, b in zip(ones, others, strict=True)]
    mean, error = statistics.fmean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5
    if abs(mean) <= CLEAR * error:
        return UNDECIDED
    return True if mean > 0 else CONTRARY


def curve(axis: Any, runs: Sequence[Learned], label: str, **style: Any) -> None:
    """The mean over seeds of the training return, and the span of the seeds."""
    seen = [[(s, r) for s, r in zip(run.steps, run.returns, strict=True) if not math.isnan(r)] for run in runs]
    if not all(seen):
        return
    points, values = on_common_steps([tuple(np.array(column) for column in zip(*run, strict=True)) for run in seen])  # type: ignore[misc]
    (line,) = axis.plot(points, values.mean(0), label=label, linewidth=1.2, **style)
    axis.fill_between(points, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, linewidth=0)


def cpu(runs: Sequence[Learned]) -> str:
    return f"{statistics.fmean(run.seconds for run in runs):.0f} s of CPU a run"


def by_seed(runs: Mapping[str, Sequence[Learned]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [run.numbers() for run in found] for name, found in runs.items()}
