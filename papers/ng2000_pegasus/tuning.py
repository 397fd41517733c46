"""Settings of the searches, chosen in winds of their own: no run of the table has these seeds, no flight of it these winds.

    python -m scg.papers.ng2000_pegasus.tuning [METHOD …]       each candidate: its cost over twenty winds, and forty flights

A run's winds come from its seed, here 100 and up; flights are judged in winds named TUNING, those of the table in hover.VERDICT.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from scg.agents.training.run_directory import RunDirectory
from scg.papers.learning import learn_all
from scg.papers.ng2000_pegasus.hover import NEAR, flights

TUNING = "winds of the tuning"
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "es": [{"population": 16}, {}],
    "cem": [
        {"scale": 0.5, "noise_variance": 0.05},
        {"scale": 0.5},
        {"scale": 0.5, "noise": "none"},
        {"noise": "none"},
    ],
}


def look(run: RunDirectory) -> list[float]:
    """Greatest distances of forty flights from the target."""
    saved = torch.load(run.checkpoints.paths()[-1], weights_only=True)
    theta = saved["agent"]["policy"]["theta"].numpy()
    print("   ", run.path.name, np.round(theta, 2).tolist(), flush=True)
    return flights(theta, 40, TUNING).held


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("methods", nargs="*", default=list(CANDIDATES))
    parser.add_argument("--steps", type=int, default=1_200_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", default="", help="a folder that keeps the runs")
    wish = parser.parse_args(argv)
    common: dict[str, Any] = {"env": "Helicopter-v0", "steps": wish.steps, "episodes": 20, "look": look}
    for method in wish.methods:
        for options in CANDIDATES[method]:
            runs = {seed: {**common, "agent": method, "seed": seed, **options} for seed in range(100, 100 + wish.seeds)}
            found = list(learn_all(runs, 1, lambda what, done: None, wish.runs).values())
            held = [sum(d < NEAR for d in run.seen) for run in found]
            worst = max(max(run.seen) for run in found)
            print(
                f"{method} {options}: cost {statistics.fmean(-run.final for run in found):.1f}; of 40 flights {held} within "
                f"half a metre, farthest {worst:.2f} m; {statistics.fmean(run.seconds for run in found):.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
