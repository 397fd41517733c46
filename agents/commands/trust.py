"""Runs of strangers: a run folder is data, and no code runs because it says so.

    env "module:Id" in config.json → found outside the run folder? → --trust, or yes on a terminal → imported

`module` may be any that Python finds, and importing is running it. What lies in the run folder itself came with it and is
never imported: the folder is taken off `sys.path`, and a module that is found there by another way is refused.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from scg.agents.environments.recipe import look_here
from scg.agents.training.run_directory import RunDirectory, RunError


def opened(path: Path, trust: bool) -> RunDirectory:
    """The run at `path`, whose environment may be made. RunError where that imports a module that nobody trusts."""
    keep_out(path)
    run = RunDirectory.open(path)
    for module in run.run.recipe.modules:
        _vet(run, module, trust)
    return run


def keep_out(folder: Path) -> None:
    """Nothing is imported from `folder` from now on, be it the current one. An interpreter that is installed there keeps its own."""
    if _inside("", folder):
        os.environ["PYTHONSAFEPATH"] = "1"  # worker processes do not look into the current folder either
    prefixes = [prefix for prefix in (sys.prefix, sys.base_prefix) if _inside(prefix, folder)]
    sys.path[:] = [
        entry for entry in sys.path if not _inside(entry, folder) or any(_inside(entry, Path(prefix)) for prefix in prefixes)
    ]


def _vet(run: RunDirectory, module: str, trust: bool) -> None:
    look_here()
    env, parts = run.run.env, module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise RunError(f"run {run.path}: environment {env!r}: {module!r} is no module's name. It has the form module:Id.")
    place = _place(run, parts[0])  # finding a module at the top imports nothing
    if not trust:
        what = f"run {run.path}: its environment {env!r} imports the Python module {module!r} ({place}), whose code then runs."
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise RunError(f"{what} Say --trust if you trust that module.")
        print(f"{what} Import it? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RunError(f"run {run.path}: module {module!r} was not imported.")
    for depth in range(2, len(parts) + 1):  # finding one further down imports those above it
        _place(run, ".".join(parts[:depth]))


def _place(run: RunDirectory, module: str) -> str:
    """Where a module is. RunError if that is nowhere, or in the run folder."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError) as error:
        raise RunError(f"run {run.path}: environment {run.run.env!r}: module {module!r} cannot be found: {error}") from error
    if spec is None:
        raise RunError(
            f"run {run.path}: environment {run.run.env!r}: there is no module {module!r} outside of the run folder. Install it."
        )
    places = _places(spec)
    for place in places:
        if _inside(place, run.path):
            raise RunError(
                f"run {run.path}: environment {run.run.env!r}: module {module!r} lies in the run folder ({place}), and nothing is "
                "imported from there. If it is yours, move it to where Python finds it."
            )
    return ", ".join(places) or f"{spec.origin}"


def _places(spec: ModuleSpec) -> list[str]:
    return [*([spec.origin] if spec.has_location and spec.origin else []), *(spec.submodule_search_locations or [])]


def _inside(path: str, folder: Path) -> bool:
    """Whether `path` ("": the current folder) is `folder` or below it, by its name or where links lead."""
    forms = (os.path.abspath, os.path.realpath)
    return any(Path(one(path or ".")).is_relative_to(other(folder)) for one in forms for other in forms)
