"""`scg paper`: run a paper's claims again, print the verdicts, write results.json and the pictures.

    scg paper                                        the papers that are here
    scg paper schulman2015_scg --draws 100000 --seed 0 --out runs/schulman2015_scg

Exit code 0 if every claim was reproduced, 1 if one was not, 2 for arguments or kept runs that make no sense.
"""

from __future__ import annotations

import sys
import time
from dataclasses import fields, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from tyro.conf import arg

from scg import papers
from scg.agents.commands.shared import reported
from scg.agents.training.run_directory import RunError
from scg.errors import nearest
from scg.papers.report import show


@reported
def paper(argv: list[str]) -> int:
    """Reproduce the paper named first; without a name, list them."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    known = papers.names()
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: scg paper NAME [options]      (scg paper NAME --help says which)\n")
        for name in known:
            print(f"  {name:20} {_about(papers.load(name))}")
        return 0
    name = argv[0]
    if name not in known:
        raise RunError(f"there is no paper {name!r}.{nearest(name, known)} Known: {', '.join(known)}")
    module = papers.load(name)
    wish = vars(tyro.cli(options_of(name), prog=f"scg paper {name}", description=_about(module), args=argv[1:]))
    out: Path = wish.pop("out")
    try:
        settings = module.Settings(**wish)
    except ValueError as error:
        raise RunError(str(error)) from error
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--out {out}: {error.strerror}") from error
    began = time.perf_counter()
    columns = (TextColumn("{task.description:32}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        results = module.run(settings, out, lambda what, done: progress.update(task, description=what, completed=done))
    results.seconds = round(time.perf_counter() - began, 1)
    results.write(out)
    show(results, console)
    console.print(f"results and pictures in {out}", highlight=False)
    for row in results.failed:
        print(f"not reproduced: {row.claim}", file=sys.stderr)
    return 1 if results.failed else 0


paper.subjects = papers.names  # type: ignore[attr-defined]


def options_of(name: str) -> Any:
    """The dataclass behind `scg paper NAME`: every field of the paper's `Settings` is a flag, and so is `--out`."""
    options: list[Any] = []
    annotated: Any = Annotated  # of types that are known at run time only
    for setting in fields(papers.load(name).Settings):
        told = annotated[type(setting.default), arg(help=setting.metadata.get("help"))]
        options.append((setting.name, told, setting.default))
    told = annotated[Path, arg(help="where results.json and pictures go, and where a README.md that lies there is filled in")]
    return make_dataclass("Options", [*options, ("out", told, Path("runs") / name)], frozen=True)


def _about(module: ModuleType) -> str:
    return (module.__doc__ or "").splitlines()[0]
