"""`scg benchmark`: a suite of agents × environments × seeds, its table and its pictures.

scg benchmark SUITE.toml --out RESULTS --workers 4        the same again goes on with what was killed, and skips what is done
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from scg.agents.commands.many import train_all
from scg.agents.commands.shared import executor_of, reported
from scg.agents.training.benchmark import Suite, collected, draw, is_finished, report, runs_of
from scg.files import whole_file


@dataclass(frozen=True)
class Benchmark:
    suite: Positional[Path]
    """TOML file: agents, environments, seeds, steps; see scg.agents.training.benchmark"""
    out: Path | None = None
    """where runs, RESULTS.md and pictures go; default runs/<name of the suite>"""
    workers: int = 1
    """runs at a time"""
    executor: str = "local"
    """what runs them: local, ray, or slurm; no bit depends on it"""


@reported
def benchmark(argv: list[str]) -> int:
    """Train what is left of a suite, and write its results."""
    wish = tyro.cli(Benchmark, prog="scg benchmark", args=argv)
    suite = Suite.read(wish.suite)
    out = wish.out or Path("runs") / wish.suite.stem
    with executor_of(wish) as executor:
        runs = runs_of(suite, out)
        left = [run for run in runs if not is_finished(run)]
        print(f"{len(runs) - len(left)} of {len(runs)} runs are finished", flush=True)
        worst = 0
        for run, ended in train_all(left, executor, None):
            print(f"{run.path.name}: {ended.said}", file=sys.stderr if ended.code else sys.stdout, flush=True)
            worst = max(worst, ended.code)
            if ended.code > 2:  # a signal
                break
    if worst:
        return worst
    found = collected(suite, out)
    with whole_file(out / "RESULTS.md") as file:
        file.write(report(found, f"scg benchmark {wish.suite.name}").encode())
    draw(found, out)
    print(f"{out / 'RESULTS.md'}")
    return 0
