"""The pages of the API: which module is on which page."""

from __future__ import annotations

import re
from pathlib import Path

ROOMS = {  # page, title, modules: each with its exported names
    "scg": ("The core", ["scg"]),
    "graph": ("Graph and Trace", ["scg.graph.Graph", "scg.trace.Trace"]),
    "derivation": ("Derivations", ["scg.derivation", "scg.derivation.derivation"]),
    "draw": ("Drawings", ["scg.draw"]),
    "testing": ("Tests of gradients", ["scg.testing"]),
    "tabular": ("Processes whose gradients are known", ["scg.testing.tabular", "scg.testing.lqr"]),
    "comparison": ("Comparisons", ["scg.comparison"]),
    "distributions": ("Distributions", ["scg.distributions", "scg.shapes", "scg.randomness"]),
    "executors": ("Executors", ["scg.executors", "scg.executors.task", "scg.executors.executor"]),
    "python": ("Runs from Python", ["scg.agents.commands.python", "scg.agents.commands.load"]),
    "agents": ("Agents: what yours is made of", [
        "scg.agents.common.agent", "scg.agents.common.from_graph", "scg.agents.common.from_function",
        "scg.agents.common.callbacks", "scg.agents.networks.networks", "scg.agents.dynamics.base",
    ]),
    "runs": ("Runs", ["scg.agents.training.run_config", "scg.agents.execution.settings"]),
}  # fmt: skip


def pages(root: Path) -> dict[str, str]:
    """Every page of the reference by its name on the site."""
    made = {}
    for name, (title, modules) in ROOMS.items():
        made[f"reference/{name}.md"] = _page(title, [m for module in modules for m in _expanded(root, module)])
    estimators = [p.stem for p in sorted((root / "estimators").glob("*.py")) if p.stem not in _MACHINERY]
    for stem in estimators:
        made[f"reference/estimators/{stem}.md"] = _page(f"estimators.{stem}", [f"scg.estimators.{stem}"])
    credits_ = [p.stem for p in sorted((root / "estimators" / "credit").glob("*.py")) if p.stem not in _MACHINERY]
    made["reference/credits.md"] = _page("Credits", [f"scg.estimators.credit.{stem}" for stem in credits_])
    index = ["# Reference", "", "From the docstrings; formulas and tables stand as they were written.", ""]
    index += [f"* [{ROOMS[name][0]}]({name}.md): {', '.join(f'`{m}`' for m in ROOMS[name][1])}" for name in ROOMS]
    index += ["* [Credits](credits.md): `scg.estimators.credit`", "* Estimators, one module an idea:", ""]
    index += [f"    * [`scg.estimators.{stem}`](estimators/{stem}.md)" for stem in estimators]
    made["reference/index.md"] = "\n".join(index) + "\n"
    return made


_MACHINERY = {"__init__", "catalogue", "candidates", "cli", "compare_cli"}


def _expanded(root: Path, module: str) -> list[str]:
    """A package by the names that it exports, where they are defined; a module as it is."""
    init = root.joinpath(*module.split("."), "__init__.py")
    if not init.exists():
        return [module]
    source = init.read_text()
    exported = re.search(r"__all__ = \[(.*?)\]", source, re.S)
    names = re.findall(r'"(\w+)"', exported[1]) if exported else []
    return [f"{module}.{name}" for name in names] or [module]


def _page(title: str, identifiers: list[str]) -> str:
    return f"# {title}\n\n" + "\n\n".join(f"::: {name}" for name in identifiers) + "\n"
