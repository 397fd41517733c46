"""The `scg` command. Subcommands are entry points of the group `scg.commands`: packages above this one add their own."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points, version

from scg.errors import nearest

SUMMARY = {
    "check": "prove a graph's gradient: scg check path/to/model.py:graph",
    "draw": "draw a graph, or write its estimator out: scg draw path/to/model.py:graph --out graph.png",
    "estimators": "the catalogue: what each estimator supports, needs and costs",
    "compare": "estimators of a node side by side: scg compare path/to/model.py:graph --node b",
    "train": "train an agent: scg train reinforce --env CartPole-v1 --steps 100000 --seed 0",
    "sweep": "search an agent's options: scg sweep ppo --env CartPole-v1 --search lr=loguniform(1e-5,1e-2)",
    "benchmark": "agents × environments × seeds, and what they say together: scg benchmark SUITE.toml",
    "eval": "evaluate a run on fresh episodes: scg eval RUN",
    "plot": "learning curves of runs: scg plot RUN…",
    "runs": "runs in a table: return, interval, speed, differing flags: scg runs RUNS…",
    "dashboard": "runs, curves, graphs and films on one page: scg dashboard RUNS… --out runs.html",
    "video": "film a trained policy, without a display: scg video RUN --out policy.gif",
    "overestimation": "a critic's estimates against the true returns: scg overestimation RUN…",
    "multigoal": "paths, level sets and samples on the four goals: scg multigoal RUN",
    "paper": "reproduce a paper's claims: scg paper schulman2015_scg",
}


def commands() -> dict[str, EntryPoint]:
    """Subcommands by name, in the order of the summary, others after."""
    found = {point.name: point for point in entry_points(group="scg.commands")}
    return {name: found[name] for name in [*SUMMARY, *sorted(found.keys() - SUMMARY.keys())] if name in found}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; its exit code is the process's."""
    argv = sys.argv[1:] if argv is None else argv
    available = commands()
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: scg COMMAND …      (scg COMMAND --help says more)\n")
        for name in available:
            print(f"  {name:15} {SUMMARY.get(name, '')}")
        print('\n  --completion    bash or zsh: completion, as in eval "$(scg --completion bash)"')
        return 0 if argv else 2
    if argv[0] == "--completion":
        return _completion(argv[1:], available)
    if argv[0] in ("-V", "--version"):
        print(f"scg {version('torch-scg')}")
        return 0
    if argv[0] not in available:
        print(f"scg: no command {argv[0]!r}.{nearest(argv[0], available)} Known: {', '.join(available)}", file=sys.stderr)
        return 2
    try:
        command = available[argv[0]].load()
    except ModuleNotFoundError as error:
        print(f"scg {argv[0]}: {error}. Install what it needs: pip install 'torch-scg[agents]'", file=sys.stderr)
        return 2
    try:
        return int(command(argv[1:]) or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _completion(argv: list[str], available: dict[str, EntryPoint]) -> int:
    from scg.commands.completion import SHELLS, script

    if len(argv) != 1 or argv[0] not in SHELLS:
        print(f"scg: --completion {' '.join(argv)}: say which shell, {' or '.join(SHELLS)}.", file=sys.stderr)
        return 2
    loaded = {}
    for name, point in available.items():
        with suppress(ModuleNotFoundError):  # a command that lacks what it needs completes nothing
            loaded[name] = point.load()
    print(script(argv[0], loaded), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
