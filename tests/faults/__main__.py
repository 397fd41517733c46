"""`python -m tests.faults --out docs/faults.md`: the campaign, and its table.

With `--record FILE` every outcome is kept as a line of JSON, and a campaign that was stopped goes on: what held is not tried
again. The table is then of all that the record has. A record is of one state of the code; delete it after a change.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults import files, kills, words
from tests.faults.trials import Outcome, Trial, trained, tried


def campaign(trials: Iterable[Trial], folder: Path, record: Path | None = None) -> list[Outcome]:
    """Try each in a folder of its own. What `record` says has held is not tried again."""
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record and record.exists() else []
    known = {(line["kind"], line["name"]): line for line in lines if not line["lost"]}
    outcomes = []
    for number, trial in enumerate(trials):
        if kept := known.get((trial.kind, trial.name)):
            outcomes.append(Outcome(trial, seconds=kept["seconds"]))
            continue
        outcome = tried(trial, folder / f"{number}")
        outcomes.append(outcome)
        if outcome.lost:
            print(f"LOST  {trial.kind}: {trial.name}: {outcome.lost[:300]}", flush=True)
        if record:
            line = {"kind": trial.kind, "name": trial.name, "lost": outcome.lost, "seconds": round(outcome.seconds, 2)}
            with open(record, "a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
    return outcomes


def recorded(record: Path) -> list[Outcome]:
    """The last outcome of every trial in a record."""
    found = {(line["kind"], line["name"]): line for line in map(json.loads, record.read_text().splitlines())}
    return [
        Outcome(Trial(kind, name, lambda folder: None), line["lost"], line["seconds"]) for (kind, name), line in found.items()
    ]


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
    parser.add_argument("--record", type=Path, help="outcomes are kept here, and those that held are not tried again")
    wish = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = trained(folder / "whole")
        outcomes = campaign(words.trials(whole, wish.share, wish.seed), folder / "words", wish.record)
        outcomes += campaign(files.trials(wish.each, whole, wish.seed), folder / "files", wish.record)
        outcomes += campaign(kills.trials(wish.kills, wish.seed), folder / "kills", wish.record)
    outcomes = recorded(wish.record) if wish.record else outcomes
    found = table(outcomes)
    print(found)
    if wish.out:
        command = f"python -m tests.faults --kills {wish.kills} --each {wish.each} --share {wish.share:g} --seed {wish.seed}"
        minutes = sum(outcome.seconds for outcome in outcomes) / 60
        wish.out.write_text(PAGE.format(command=command, minutes=minutes, table=found), encoding="utf-8")
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
