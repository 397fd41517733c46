"""Papers whose claims are run again: one folder a paper, `<author><year>_<word>`.

A folder holds README.md (claim, the paper's number, ours with its standard error, command, verdict), run.py and
results.json. `run.py` defines `Settings`, a dataclass of the run's options, and `run(settings, out, say) -> Results`;
README's numbers are written from results.json.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent


def names() -> list[str]:
    """The papers that are here."""
    return sorted(path.parent.name for path in HERE.glob("*/run.py"))


def load(name: str) -> ModuleType:
    """A paper's run.py."""
    return importlib.import_module(f"papers.{name}.run")
