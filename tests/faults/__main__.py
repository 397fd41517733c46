"""`python -m tests.faults --kills 50 --out docs/faults.md`: the campaign, and its table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults import files, kills, words
from tests.faults.trials import Outcome, Trial, trained, tried


def campaign(trials: Iterable[Trial], folder: Path) -> list[Outcome]:
    outcomes = []
    for number, trial in enumerate(trials):
        outcome = tried(trial, folder / f"{number}")
        outcomes.append(outcome)
        if outcome.lost:
            print(f"LOST  {trial.kind}: {trial.name}: {outcome.lost[:300]}", flush=True)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    lines = ["| fault | tried | held | lost |", "|---|---|---|---|"]
    for kind in [*dict.fromkeys(outcome.trial.kind for outcome in outcomes), "all"]:
        mine = [outcome for outcome in outcomes if kind in ("all", outcome.trial.kind)]
        lost = sum(bool(outcome.lost) for outcome in mine)
        lines.append(f"| {kind} | {len(mine)} | {len(mine) - lost} | {lost} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Do to runs what must not hurt them.")
    parser.add_argument("--kills", type=int, default=50, help="processes that are killed")
    parser.add_argument("--each", type=int, default=20, help="trials of each kind of fault of files")
    parser.add_argument("--share", type=float, default=1.0, help="of the malformed lines, declarations and environments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the page to write")
    wish = parser.parse_args(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = trained(folder / "whole")
        outcomes = campaign(words.trials(whole, wish.share, wish.seed), folder / "words")
        outcomes += campaign(files.trials(wish.each, whole, wish.seed), folder / "files")
        outcomes += campaign(kills.trials(wish.kills, wish.seed), folder / "kills")
    found = table(outcomes)
    print(found)
    if wish.out:
        command = f"python -m tests.faults --kills {wish.kills} --each {wish.each} --share {wish.share:g} --seed {wish.seed}"
        wish.out.write_text(
            PAGE.format(command=command, minutes=(time.monotonic() - began) / 60, table=found), encoding="utf-8"
        )
    return int(any(outcome.lost for outcome in outcomes))


PAGE = """# Faults: what was tried, and what held

Written by `{command} --out docs/faults.md` ({minutes:.0f} minutes).

A trial does one thing to a run, a file, a command line or a declaration. It holds if what follows is what is promised: one
message without a traceback where it is refused or stopped, and, where the run can go on, the bits and the tables of a run
that was never disturbed. Kills are SIGKILL; "in a checkpoint" is inside a write, half of which has reached the disk. Full
disks are a limit on the size of files, read-only folders an error of every later attempt to open a file for writing.

{table}
"""

if __name__ == "__main__":
    sys.exit(main())
