"""Papers whose claims are run again: one folder a paper, `<author><year>_<word>`.

A folder holds README.md (claim, the paper's number, ours with its standard error, command, verdict), run.py and
results.json. `run.py` defines `Settings`, a dataclass of the run's options, and `run(settings, out, say) -> Results`;
README's numbers are written from results.json.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def names() -> list[str]:
    """The papers that are here."""
    return sorted(path.parent.name for path in HERE.glob("*/run.py"))


def as_markdown() -> str:
    """README's table: each paper, what its run.py says it is about, and the verdicts that its results.json holds."""
    lines = ["| paper | what is run again | verdicts |", "|---|---|---|"]
    for name in names():
        results = json.loads((HERE / name / "results.json").read_text())
        verdicts = Counter(row["verdict"] for row in results["rows"])
        who, _, about = (load(name).__doc__ or "").splitlines()[0].partition(": ")
        told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        lines.append(f"| [{who}](../papers/{name}/README.md) | {about.rstrip('.')}; `scg paper {name}` | {told} |")
    return "\n".join(lines)


def load(name: str) -> ModuleType:
    """A paper's run.py."""
    return importlib.import_module(f"scg.papers.{name}.run")
