"""What trained critics say of their own policy, against the returns that follow: along a run, and state by state.

    along    step, estimate, truth, bias, error of every checkpoint      `scg.agents.training.overestimation`, whose measure it is
    pairs    (estimate, return) of states on the last policy's paths

A look at a run (`scg.papers.learning.Look`). What was seen lies in the run's `critics.json`, and is read while the checkpoints
are the same.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import EngFormatter

from scg.agents.execution.threads import torch_threads
from scg.agents.training.overestimation import Measurement, Paths, each_checkpoint
from scg.agents.training.run_directory import RunDirectory, write_json
from scg.papers.learning import Learned

HOW = Measurement()
PAIRS = 400


@dataclass(frozen=True)
class Critics:
    along: list[dict[str, float]]
    pairs: list[tuple[float, float]]

    @property
    def last(self) -> dict[str, float]:
        return self.along[-1]

    @property
    def overestimation(self) -> float:
        """The mean bias over the second half of the run's checkpoints."""
        return statistics.fmean(row["bias"] for row in self.along[len(self.along) // 2 :])

    @property
    def correlation(self) -> float:
        """Of estimates with returns, state by state; 0 where either is the same everywhere."""
        estimate, truth = np.array(self.pairs).T
        return float(np.corrcoef(estimate, truth)[0, 1]) if estimate.std() * truth.std() > 0 else 0.0

    @property
    def rms(self) -> float:
        """Root mean square of estimate − return over that of the returns, state by state."""
        estimate, truth = np.array(self.pairs).T
        return float(np.sqrt(np.square(estimate - truth).mean() / np.square(truth).mean()))

    def numbers(self) -> dict[str, Any]:
        """Rounded, for results.json."""
        rows = [{name: round(row[name], 3) for name in ("step", "estimate", "truth", "bias", "error")} for row in self.along]
        return {"along": rows, "correlation": round(self.correlation, 4), "error": round(self.rms, 4)}


def critics(run: RunDirectory) -> Critics:
    """Of every checkpoint that the run has."""
    file = run.path / "critics.json"
    of = {"how": asdict(HOW), "checkpoints": [path.name for path in run.checkpoints.paths()]}
    if file.exists():
        known = json.loads(file.read_text())
        if known["of"] == of:
            return Critics(known["along"], [(estimate, truth) for estimate, truth in known["pairs"]])
    along, last = [], None
    with torch_threads(1):
        for step, last in each_checkpoint(run, HOW, lambda text: None):
            along.append({"step": step, **last.measured()._asdict()})
    assert last is not None, f"{run.path}: no checkpoint"
    found = Critics(along, thinned(last))
    write_json(file, {"of": of, "along": along, "pairs": found.pairs})
    return found


def thinned(paths: Paths) -> list[tuple[float, float]]:
    """Every so many of the states, so that about `PAIRS` are left."""
    estimates, truths = paths.estimate[paths.counted], paths.truth[paths.counted]
    apart = max(1, len(estimates) // PAIRS)
    return list(zip(estimates[::apart].tolist(), truths[::apart].tolist(), strict=True))


def seen(runs: Sequence[Learned]) -> list[Critics]:
    """What `look=critics` found of each."""
    return [run.seen for run in runs]


def draw_along(axis: Any, runs: Sequence[Learned], label: str, colour: str) -> None:
    """Estimates solid, returns dashed; seeds averaged."""
    found = seen(runs)
    steps = [row["step"] for row in found[0].along]
    for column, line in (("estimate", "-"), ("truth", "--")):
        values = np.array([[row[column] for row in each.along] for each in found])
        named = {"label": label} if column == "estimate" else {}
        axis.plot(steps, values.mean(0), line, color=colour, linewidth=1.2, **named)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_pairs(axis: Any, runs: Sequence[Learned]) -> None:
    """A point a state, a colour a seed; on the diagonal they agree."""
    points = [np.array(each.pairs) for each in seen(runs)]
    for each in points:
        axis.plot(each[:, 1], each[:, 0], ".", markersize=2, alpha=0.5)
    least, most = min(each.min() for each in points), max(each.max() for each in points)
    axis.plot([least, most], [least, most], color="0.6", linewidth=0.8, zorder=0)
