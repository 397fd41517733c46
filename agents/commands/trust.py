"""Trust in run folders: a run folder is data, and the code that it names runs only with the user's consent.

    environment, wrapper, agent or network "module:Name" or "/path/to/file.py:Name" in config.json
        → found outside the run folder? → --trust, or yes on a terminal → imported

`module` may be any that Python finds, and importing runs it. Code inside the run folder may come from whoever made the run, and
is never imported: the folder is taken off `sys.path`, and a module or file that is found there in another way is refused.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scg import targets
from scg.agents import is_target
from scg.agents.environments.origin import GIVEN, give, is_given
from scg.agents.environments.recipe import look_here
from scg.agents.networks.networks import target_in
from scg.agents.training.run_config import options
from scg.agents.training.run_directory import RunDirectory, RunError


def opened(path: Path, trust: bool, env: Any = None) -> RunDirectory:
    """The run at `path`, whose environment and agent may be built. RunError if that imports code without the user's consent.

    `env` is the environment of a run that was given one as an object, or the class or function that its name leads to.
    """
    keep_out(path)
    run = RunDirectory.open(path)
    if env is not None:
        look_here()
        _given(run, env)
    vet(run, trust)
    return RunDirectory.open(path, trusted=True) if is_target(run.name) else run


def vet(run: RunDirectory, trust: bool) -> None:
    """RunError where the run's environment, agent or network imports code without the user's consent."""
    look_here()
    for kind, target in run.run.recipe.code:
        if not (kind == "environment" and is_given(target)):  # the caller has it: nothing is imported
            _vet_target(run, kind, target, trust)
    if is_target(run.name):
        _vet_target(run, "agent", run.name, trust)
    network = options(run.agent).get("network", "")
    if isinstance(network, str) and (network := target_in(network)):
        _vet_target(run, "network", network, trust)


def _given(run: RunDirectory, env: Any) -> None:
    """Take `env` as the run's environment. RunError where its name leads to another one."""
    name = run.run.env
    if name.startswith(GIVEN) and not isinstance(env, str):
        give(env, name)
        return
    named = give(env)
    if named != name:
        raise RunError(f"run {run.path}: its environment is {name!r}, and env is {named!r}. Leave env out, or give that one.")


def _vet_target(run: RunDirectory, kind: str, target: str, trust: bool) -> None:
    """Whether the file or module of `target`, the run's environment, wrapper, agent or network, may be run."""
    place, _, _ = target.rpartition(":")
    if place and targets.is_file(place):
        return _vet_file(run, f"{kind} {target!r}", Path(place), trust)
    with targets.importable(""):  # as the loader looks for it; a folder of the run stays out
        keep_out(run.path)
        _vet(run, f"{kind} {target!r}", place, trust)


def keep_out(folder: Path) -> None:
    """Take `folder` off the import path, also if it is the current one. An interpreter installed in it keeps its modules."""
    if _inside("", folder):
        os.environ["PYTHONSAFEPATH"] = "1"  # worker processes do not look into the current folder either
    prefixes = [prefix for prefix in (sys.prefix, sys.base_prefix) if _inside(prefix, folder)]
    sys.path[:] = [
        entry for entry in sys.path if not _inside(entry, folder) or any(_inside(entry, Path(prefix)) for prefix in prefixes)
    ]


def _vet(run: RunDirectory, what: str, module: str, trust: bool) -> None:
    """Whether `module`, which `what` names, may be imported."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        form = "Id" if what.startswith("environment") else "Name"
        raise RunError(f"run {run.path}: {what}: {module!r} is no module's name. It has the form module:{form}.")
    place = _place(run, what, parts[0])  # finding a module at the top imports nothing
    _ask(run, f"its {what} imports the Python module {module!r} ({place})", f"module {module!r}", trust)
    for depth in range(2, len(parts) + 1):  # finding one further down imports those above it
        _place(run, what, ".".join(parts[:depth]))


def _vet_file(run: RunDirectory, what: str, file: Path, trust: bool) -> None:
    """Whether the file that `what` is in may be run."""
    if not file.is_absolute():
        raise RunError(f"run {run.path}: {what}: the path of its file must be absolute. Correct it in config.json.")
    if _inside(str(file), run.path):
        raise RunError(
            f"run {run.path}: {what}: {file} lies in the run folder, and nothing is imported from there. If it is yours, move it "
            "out, and write its new path into config.json."
        )
    if not file.is_file():
        raise RunError(f"run {run.path}: {what}: there is no file {file}. Put it back, or write its new path into config.json.")
    _ask(run, f"its {what} runs the Python file {file}", f"file {file}", trust)


def _ask(run: RunDirectory, what: str, code: str, trust: bool) -> None:
    """RunError unless the user trusts it: by the flag, or by an answer on a terminal."""
    if trust:
        return
    said = f"run {run.path}: {what}, whose code then runs."
    kind, _, _ = code.partition(" ")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RunError(f"{said} Say --trust if you trust that {kind}.")
    print(f"{said} Import it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise RunError(f"run {run.path}: {code} was not imported.")


def _place(run: RunDirectory, what: str, module: str) -> str:
    """Where a module is. RunError if that is nowhere, or in the run folder."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError) as error:
        raise RunError(f"run {run.path}: {what}: module {module!r} cannot be found: {error}") from error
    if spec is None:
        raise RunError(f"run {run.path}: {what}: there is no module {module!r} outside of the run folder. Install it.")
    places = _places(spec)
    for place in places:
        if _inside(place, run.path):
            raise RunError(
                f"run {run.path}: {what}: module {module!r} lies in the run folder ({place}), and nothing is "
                "imported from there. If it is yours, move it to where Python finds it."
            )
    return ", ".join(places) or f"{spec.origin}"


def _places(spec: ModuleSpec) -> list[str]:
    return [*([spec.origin] if spec.has_location and spec.origin else []), *(spec.submodule_search_locations or [])]


def _inside(path: str, folder: Path) -> bool:
    """Whether `path` ("": the current folder) is `folder` or below it, by its name or where links lead."""
    forms = (os.path.abspath, os.path.realpath)
    return any(Path(one(path or ".")).is_relative_to(other(folder)) for one in forms for other in forms)
