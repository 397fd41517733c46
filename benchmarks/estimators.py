"""Time and variance of every estimator on discrete VAEs, beside losses by hand and beside the peers that have it.

    python -m benchmarks.estimators                                    # peers of this environment, if any
    python -m benchmarks.estimators --peers PATH/bin/python --works linear --only ARM --csv estimators.csv

Each side runs in a process of its own, all on one core and one thread, and they take turns: the ratio of processor
times is that of a round, and its median and quartiles are shown. The variance is the trace over the encoder's
parameters, from independent draws; `share` is how much of the true gradient the mean has (1 for an unbiased one);
work-normalised is variance × seconds, what equal computing time would leave of the variance.
Peers: `pip install 'torch-scg[peers]'`, here or in an environment that --peers names. Exit code 1 if an estimator is slower than a
peer that has it, or if a peer's best work-normalised variance is better than ours, among those whose mean is right.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.vae import WORKS

ROOT = Path(__file__).parent.parent
PEERS = ("storchastic", "pyro")
SIDES = ("ours", "by_hand", *PEERS)
# Name: evaluations of the cost for each layer's sample (four where there is a choice), and whether the mean is right.
ESTIMATORS: dict[str, tuple[str, bool]] = {
    "score function": ("4", True),
    "score, moving average": ("4", True),
    "leave-one-out": ("4", True),
    "antithetic": ("4", True),
    "quasi-random": ("4", True),
    "ARM": ("4", True),
    "DisARM": ("4", True),
    "ARMS": ("4", True),
    "REBAR": ("12", True),
    "REBAR, learning": ("12", True),
    "RELAX, learning": ("4", True),
    "MuProp": ("4", True),
    "double control": ("4", True),
    "unordered set": ("4", True),
    "sum and sample": ("4", True),
    "priority": ("4", True),
    "top-k": ("4", True),
    "enumeration": ("2^200", True),
    "measure-valued": ("401", True),
    "perturbation": ("201", True),
    "Gumbel-softmax": ("4", False),
    "straight-through": ("4", False),
    "straight-through Gumbel": ("4", False),
    "Rao-Gumbel": ("4", False),
    "ReinMax": ("4", False),
}
MARGIN = 1.0  # a ratio above it is slower
WRONG = 5.0  # standard errors of the share: the biased peers are off by far more


@dataclass
class Measured:
    """One line of the CSV: a side's estimator on a work. `ratio` is our time by this side's."""

    work: str
    estimator: str
    side: str
    evaluations: str
    why_not: str = ""
    milliseconds: float = math.nan
    ratio: float = math.nan
    ratio_low: float = math.nan
    ratio_high: float = math.nan
    draws: int = 0
    variance: float = math.nan
    variance_error: float = math.nan
    share: float = math.nan
    share_error: float = math.nan

    @property
    def normalised(self) -> float:
        return self.variance * self.milliseconds / 1e3

    @property
    def right(self) -> bool:
        return ESTIMATORS[self.estimator][1] and abs(self.share - 1) <= WRONG * self.share_error


class Side:
    """A worker process, started anew after a failure: what a failed library leaves behind is its own."""

    def __init__(self, name: str, python: str, core: int | None) -> None:
        self.name, self.python, self.core = name, python, core
        self.process: subprocess.Popen[str] | None = None
        self.missing = self.start().get("why")

    def start(self) -> dict[str, Any]:
        self.stop()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [self.python, "-m", "benchmarks.worker", self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        if self.core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, {self.core})
        return self.ask("hello")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": what, **request}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"why": "fails: its process ended"}


def measure(work: str, estimator: str, sides: list[Side], reference: str, options: argparse.Namespace) -> list[Measured]:
    """All sides that have it, in turns."""
    found, able = [], []
    for side in sides:
        row = Measured(work, estimator, side.name, ESTIMATORS[estimator][0])
        found.append(row)
        row.why_not = side.ask("open", work=work, estimator=estimator).get("why", "")
        if row.why_not.startswith("fails"):
            side.start()
        if not row.why_not:
            able.append((side, row))
    if not able or able[0][0].name != "ours":
        return found
    repeats = {}
    for side, _ in able:
        side.ask("time", repeats=2)
        repeats[side.name] = max(1, round(0.03 / side.ask("time", repeats=2)["seconds"]))
    times: dict[str, list[float]] = {side.name: [] for side, _ in able}
    for i in range(options.rounds):
        turn = i % len(able)
        for side, _ in able[turn:] + able[:turn]:
            times[side.name].append(side.ask("time", repeats=repeats[side.name])["seconds"])
    for side, row in able:
        row.milliseconds = 1e3 * statistics.median(times[side.name])
        ratios = [a / b for a, b in zip(times["ours"], times[side.name], strict=True)]
        row.ratio_low, row.ratio, row.ratio_high = statistics.quantiles(ratios, n=4)
        for key, value in side.ask("variance", draws=options.draws, seconds=options.seconds, path=reference).items():
            setattr(row, key, value)
    return found


def table(work: str, rows: list[Measured], sides: list[str]) -> Table:
    shown = Table(
        title=f"{work}: ms a gradient; our time by theirs; variance (trace); share of ∇; variance × seconds",
        title_justify="left",
    )
    for name in ("estimator", "evals"):
        shown.add_column(name, no_wrap=True)
    for name in ("ms", *(f"/ {s}" for s in sides if s != "ours")):
        shown.add_column(name, justify="right")
    for what in ("var", "share", "var·s"):
        for side in sides:
            if side != "by_hand":
                shown.add_column(f"{what}\n{side}", justify="right")
    best = min((r.normalised for r in rows if r.right), default=math.nan)
    for estimator in ESTIMATORS:
        own = {r.side: r for r in rows if r.estimator == estimator}
        if "ours" not in own:
            continue
        ours = own["ours"]
        evaluations, unbiased = ESTIMATORS[estimator]
        label = estimator if unbiased else f"{estimator} (biased)"
        if ours.why_not:
            shown.add_row(label, evaluations, "n/a", style="dim")
            continue
        cells = [label, evaluations, f"{ours.milliseconds:.2f}"]
        cells += [faster(own[s]) for s in sides if s != "ours"]
        others = [own[s] for s in sides if s != "by_hand"]
        cells += [spelt(r.variance) for r in others]
        cells += [share(r, unbiased) for r in others]
        cells += [f"[bold]{spelt(r.normalised)}[/]" if r.normalised == best else spelt(r.normalised) for r in others]
        shown.add_row(*cells)
    return shown


def spelt(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def faster(row: Measured) -> str:
    if math.isnan(row.ratio):
        return ""
    return f"[red]{row.ratio:.2f}[/]" if row.side in PEERS and row.ratio > MARGIN else f"{row.ratio:.2f}"


def share(row: Measured, unbiased: bool) -> str:
    if math.isnan(row.share):
        return ""
    text = f"{row.share:.2f}±{row.share_error:.2f}"
    return text if row.right or not unbiased else f"[red]{text}[/]"


def verdicts(rows: list[Measured]) -> tuple[list[str], int]:
    """What must hold, work by work, and how much of it does not."""
    lines, missed = [], 0
    for work in dict.fromkeys(r.work for r in rows):
        mine = [r for r in rows if r.work == work and not math.isnan(r.ratio)]
        peers = [r for r in mine if r.side in PEERS]
        slower = [r for r in peers if r.ratio > MARGIN]
        missed += len(slower)
        lines += [
            f"slower: {work}, {r.estimator}: {r.ratio:.2f} × {r.side} ({r.ratio_low:.2f}–{r.ratio_high:.2f})" for r in slower
        ]
        wrong = [
            f"{r.estimator} ({r.side}, {r.share:.2f}±{r.share_error:.2f})"
            for r in mine
            if ESTIMATORS[r.estimator][1] and not r.right
        ]
        if wrong:
            lines.append(f"mean not the gradient: {work}: {', '.join(wrong)}")
        missed += sum(r.side == "ours" and ESTIMATORS[r.estimator][1] and not r.right for r in mine)
        if peers:
            lines.append(f"{work}: faster than the peer in {len(peers) - len(slower)} of {len(peers)} comparisons")
            best = {
                who: min((r for r in mine if r.right and r.side in group), key=lambda r: r.normalised, default=None)
                for who, group in (("ours", ("ours",)), ("peers", PEERS))
            }
            if best["ours"] and best["peers"]:
                missed += best["ours"].normalised > best["peers"].normalised
                said = (f"{r.estimator} ({r.side}) {r.normalised:.3g}" for r in best.values() if r)
                lines.append(f"{work}: least variance × seconds: {' against '.join(said)}")
    return lines, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=sys.executable, help="the Python that has the peers")
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=WORKS)
    parser.add_argument("--only", default="", help="estimators whose name contains this")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--draws", type=int, default=200, help="gradients for a variance")
    parser.add_argument("--seconds", type=float, default=2.0, help="no more than this for one of them, and 16 draws at least")
    parser.add_argument("--core", type=int, default=None, help="the core to run on (default: the first that may be used)")
    parser.add_argument("--csv", type=Path, help="every number, one line for each work, estimator and side")
    options = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=200)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]
    core = options.core if options.core is not None else cores[-1]
    sides = [Side(name, options.peers if name in PEERS else sys.executable, core) for name in SIDES]
    for side in sides:
        if side.missing:
            console.print(f"{side.name}: left out, {side.missing} (pip install 'scg\\[peers]')", style="yellow")
    sides = [side for side in sides if not side.missing]
    rows: list[Measured] = []
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        reference = str(Path(folder) / "reference.pt")
        for work in options.works:
            sides[0].ask("open", work=work, estimator="reference")
            sides[0].ask("reference", draws=options.draws, path=reference)
            for estimator in (name for name in ESTIMATORS if options.only in name):
                rows += measure(work, estimator, sides, reference, options)
                load.append(os.getloadavg()[0])
            console.print(table(work, [r for r in rows if r.work == work], [s.name for s in sides]))
            for row in rows:
                if row.work == work and row.why_not and (row.side == "ours" or row.why_not.startswith("fails")):
                    console.print(f"  {row.side} {row.estimator}: {row.why_not}", style="dim", highlight=False)
    for side in sides:
        side.stop()
    lines, missed = verdicts(rows)
    for line in lines:
        console.print(line, highlight=False)
    console.print(f"load average of the machine while this ran: {min(load):.1f} to {max(load):.1f}", highlight=False)
    if options.csv:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*asdict(rows[0]), "normalised"])
            writer.writeheader()
            writer.writerows({**asdict(r), "normalised": r.normalised} for r in rows)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
