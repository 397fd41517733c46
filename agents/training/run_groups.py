"""Groups of runs that form one curve: equal configurations up to the seed, labelled by the options in which curves differ.

paths → runs (a folder stands for the runs below it) → panel (environment) → label → runs, of different seeds each
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scg.agents import title
from scg.agents.training.run_config import options
from scg.agents.training.run_directory import RunDirectory, RunError

IGNORED = {"env", "seed", "evaluations", "eval_episodes", "checkpoints", "keep_checkpoints", "threads", "step_threads"}
"""options of a run that leave its expected curve unchanged: how often it is evaluated and saved, and how fast it is"""

Groups = dict[str, dict[str, list[RunDirectory]]]


def grouped(paths: Sequence[Path], labels: Sequence[str] = ()) -> Groups:
    """The runs of `paths` by environment and label; `labels` are of all runs of a path each. RunError where there is none, one
    is there twice, or labels and curves do not fit each other."""
    if labels and len(labels) != len(paths):
        raise RunError(f"option label: {len(labels)} for {len(paths)} paths. Give one to each, in their order.")
    for label in labels:
        _drawable(label)
    placed = [(place, RunDirectory.open(path)) for place, given in enumerate(paths) for path in runs_in(given)]
    runs = [run for _, run in placed]
    if not runs:
        raise RunError("no runs given. Give run directories, or a folder of them.")
    _refuse_duplicates(runs)
    panels: dict[str, list[RunDirectory]] = defaultdict(list)
    for run in runs:
        panels[run.run.env].append(run)
    named = {id(run): labels[place] for place, run in placed} if labels else {}
    return {env_id: _renamed(_labelled(panel), named) for env_id, panel in sorted(panels.items())}


def runs_in(path: Path) -> list[Path]:
    """`path` itself where it is a run, else all runs below it."""
    if not path.is_dir():
        raise RunError(f"run {path}: no such directory. Give a directory that `scg train` has made, or a folder of them.")
    if (path / "config.json").exists():
        return [path]
    found = sorted(file.parent for file in path.rglob("config.json"))
    if not found:
        raise RunError(f"run {path}: no config.json there or below. Give a directory that `scg train` has made.")
    return found


def configuration(run: RunDirectory) -> dict[str, Any]:
    """The options that determine the expected curve on an environment: the agent, its options, and those of the run."""
    of_run = {name: value for name, value in options(run.run).items() if name not in IGNORED}
    return {"agent": run.name, **of_run, **options(run.agent)}


def _key(run: RunDirectory) -> str:
    return repr(sorted(configuration(run).items()))


def _refuse_duplicates(runs: Sequence[RunDirectory]) -> None:
    seen: dict[tuple[str, str, int], Path] = {}
    for run in runs:
        key = (run.run.env, _key(run), run.run.seed)
        if key in seen:
            both = (
                "given twice" if seen[key].resolve() == run.path.resolve() else f"has the configuration and seed of {seen[key]}"
            )
            raise RunError(f"run {run.path}: {both}, so it is no further sample. Leave one of them out.")
        seen[key] = run.path


def _labelled(runs: Sequence[RunDirectory]) -> dict[str, list[RunDirectory]]:
    """Runs of one configuration under the agent's name and the options in which that agent's configurations differ."""
    agents: dict[str, list[RunDirectory]] = defaultdict(list)
    for run in runs:
        agents[run.name].append(run)
    titles = [title(name) for name in agents]
    labelled: dict[str, list[RunDirectory]] = defaultdict(list)
    for name, same in sorted(agents.items()):
        configurations = [configuration(run) for run in same]
        names = differing(configurations)
        shown = title(name) if titles.count(title(name)) == 1 else name  # two files may have agents of one name
        for run, own in zip(same, configurations, strict=True):
            labelled[", ".join([shown, *(f"{key}={text(own.get(key, '–'))}" for key in names)])].append(run)
    return dict(sorted(labelled.items()))


def _drawable(label: str) -> None:
    """matplotlib reads what is between dollars as mathematics."""
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("path").parse(label)
    except ValueError as error:
        raise RunError(
            f"option label: {label!r} cannot be drawn. Between $ and $ stands mathematics; write \\$ for a dollar."
        ) from error


def _renamed(groups: dict[str, list[RunDirectory]], named: dict[int, str]) -> dict[str, list[RunDirectory]]:
    """The same curves under the names that were given to their runs."""
    if not named:
        return groups
    renamed: dict[str, list[RunDirectory]] = {}
    for label, runs in groups.items():
        given = list(dict.fromkeys(named[id(run)] for run in runs))
        if len(given) > 1:
            raise RunError(
                f"option label: {given[0]!r} and {given[1]!r} are runs of one configuration ({label}), which differ in their "
                "seed alone: one curve. Give both the same label."
            )
        if given[0] in renamed:
            raise RunError(
                f"option label: {given[0]!r} has runs of several configurations, each a curve ({label} is one). Give each "
                "configuration a path and a label of its own."
            )
        renamed[given[0]] = runs
    return renamed


def differing(configurations: Sequence[dict[str, Any]]) -> list[str]:
    """The options that are not the same in all of them."""
    known = dict.fromkeys(key for own in configurations for key in own)  # an agent's file may have changed between runs
    return [key for key in known if any(own.get(key) != configurations[0].get(key) for own in configurations)]


def text(value: Any) -> str:
    """An option's value, as a label shows it."""
    return "×".join(map(str, value)) if isinstance(value, tuple | list) else f"{value}"
