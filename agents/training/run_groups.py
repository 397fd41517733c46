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


def grouped(paths: Sequence[Path]) -> Groups:
    """The runs of `paths` by environment and label. RunError if there is none, or if one appears twice."""
    runs = [RunDirectory.open(path) for given in paths for path in _runs_in(given)]
    if not runs:
        raise RunError("no runs given. Give run directories, or a folder of them.")
    _refuse_duplicates(runs)
    panels: dict[str, list[RunDirectory]] = defaultdict(list)
    for run in runs:
        panels[run.run.env].append(run)
    return {env_id: _labelled(panel) for env_id, panel in sorted(panels.items())}


def _runs_in(path: Path) -> list[Path]:
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
        known = dict.fromkeys(key for own in configurations for key in own)  # an agent's file may have changed between runs
        differing = [key for key in known if any(own.get(key) != configurations[0].get(key) for own in configurations)]
        shown = title(name) if titles.count(title(name)) == 1 else name  # two files may have agents of one name
        for run, own in zip(same, configurations, strict=True):
            labelled[", ".join([shown, *(f"{key}={_text(own.get(key, '–'))}" for key in differing)])].append(run)
    return dict(sorted(labelled.items()))


def _text(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, tuple | list) else f"{value}"
