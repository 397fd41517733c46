"""`scg paper`: run a paper's claims again, print the verdicts, write results.json and the pictures.

    scg paper                                        the papers that are here
    scg paper schulman2015_scg --draws 100000 --seed 0 --out runs/schulman2015_scg

Exit code 0 if every claim was reproduced, 1 if one was not, 2 for arguments or kept runs that make no sense.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from scg import papers
from scg.agents.training.run_directory import RunError
from scg.errors import nearest
from scg.papers.report import show


def paper(argv: list[str]) -> int:
    """Reproduce the paper named first; without a name, list them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    known = papers.names()
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: scg paper NAME [options]      (scg paper NAME --help says which)\n")
        for name in known:
            print(f"  {name:20} {(papers.load(name).__doc__ or '').splitlines()[0]}")
        return 0
    name = argv[0]
    if name not in known:
        print(f"error: there is no paper {name!r}.{nearest(name, known)} Known: {', '.join(known)}", file=sys.stderr)
        return 2
    module = papers.load(name)
    parser = argparse.ArgumentParser(prog=f"scg paper {name}", description=(module.__doc__ or "").splitlines()[0])
    defaults = module.Settings()
    for option in fields(module.Settings):
        default = getattr(defaults, option.name)
        described = f"{option.metadata.get('help', '')} (default: {default})"
        parser.add_argument(f"--{option.name}", type=type(default), default=default, help=described)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / name,
        help="where results.json and pictures go, and where a README.md that lies there is filled in (default: %(default)s)",
    )
    try:
        wish = vars(parser.parse_args(argv[1:]))
        out: Path = wish.pop("out")
        settings = module.Settings(**wish)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: --out {out}: {error.strerror}", file=sys.stderr)
        return 2
    began = time.perf_counter()
    columns = (TextColumn("{task.description:32}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        try:
            results = module.run(settings, out, lambda what, done: progress.update(task, description=what, completed=done))
        except RunError as error:  # of the runs that it is to go on with
            print(f"error: {error}", file=sys.stderr)
            return 2
    results.seconds = round(time.perf_counter() - began, 1)
    results.write(out)
    show(results, console)
    console.print(f"results and pictures in {out}", highlight=False)
    for row in results.failed:
        print(f"not reproduced: {row.claim}", file=sys.stderr)
    return 1 if results.failed else 0


paper.subjects = papers.names  # type: ignore[attr-defined]
