"""`scg runs` and `scg dashboard`: runs side by side, in the terminal and on a page.

    scg runs                     every run below runs/                scg runs RUNS --together       seeds of a configuration as one
    scg runs RUNS --csv all.csv  the same numbers as a file
    scg dashboard RUNS           served on this machine alone         scg dashboard RUNS --out page.html      written, to send

Exit codes: 0, or 2 for arguments or folders that make no sense.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional

from scg.agents.commands.shared import reported
from scg.agents.commands.trust import keep_out
from scg.agents.training.overview import TITLES, Overview, overview
from scg.agents.training.run_directory import RunError
from scg.errors import visible
from scg.files import whole_file

LOOPBACK = "127.0.0.1"
WIDE = 200  # columns of a table that is not written to a terminal


@dataclass(frozen=True)
class Runs:
    paths: Positional[tuple[Path, ...]] = (Path("runs"),)
    """run directories, or folders of them"""
    together: bool = False
    """one row for the seeds of a configuration, with the bootstrap interval of their mean"""
    csv: Path | None = None
    """write the rows as a CSV file too"""


@reported
def runs(argv: list[str]) -> int:
    """List and compare runs."""
    wish = tyro.cli(Runs, prog="scg runs", args=argv)
    for path in wish.paths:
        keep_out(path)
    found = overview(wish.paths, wish.together)
    show(found)
    if wish.csv is not None:
        write_csv(found, wish.csv)
    return 0


def show(found: Overview) -> None:
    """The table; where it is not for a terminal, wide enough that no cell is broken."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in TITLES:
        left = title in ("run", "agent", "environment", "differs in")
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*(Text(visible(cell)) for cell in row.cells()))
    console.print(table)
    for said in found.unread:
        console.print(Text(visible(said)), style="red")


def write_csv(found: Overview, out: Path) -> None:
    """The rows as numbers."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        ["run", "agent", "environment", "seeds", "steps", "return", "low", "high", "steps_per_second", "seconds", "differs"]
    )
    for row in found.rows:
        first, seeds = row.runs[0], " ".join(str(run.run.seed) for run in row.runs)
        lines.writerow([row.runs[0].path, first.name, first.run.env, seeds, row.steps, row.value, row.low, row.high, row.speed, row.seconds, row.differs])  # fmt: skip
    with whole_file(out) as file:
        file.write(text.getvalue().encode())


@dataclass(frozen=True)
class Dashboard:
    paths: Positional[tuple[Path, ...]] = (Path("runs"),)
    """run directories, or folders of them"""
    out: Path | None = None
    """write the page to this file, which ends in .html, in place of serving it"""
    port: int = 8765
    """where it is served, on this machine alone; 0: any port that is free"""


@reported
def dashboard(argv: list[str]) -> int:
    """One page of runs, curves, graphs and films."""
    from scg.agents.training.dashboard import page

    wish = tyro.cli(Dashboard, prog="scg dashboard", args=argv)
    for path in wish.paths:
        keep_out(path)
    if wish.out is not None:
        if wish.out.suffix != ".html" or wish.out.is_dir():
            raise RunError(f"--out {wish.out}: a page is a file whose name ends in .html.")
        content = page(wish.paths).encode()
        with whole_file(wish.out) as file:
            file.write(content)
        print(wish.out)
        return 0
    page(wish.paths)  # what is wrong is said before anything is served
    with server(wish.paths, wish.port) as serving:
        print(f"http://{LOOPBACK}:{serving.server_port}/    (Ctrl-C ends it)", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def server(paths: tuple[Path, ...], port: int) -> ThreadingHTTPServer:
    """A server of one page, made anew at every request, bound to the loopback address."""
    from scg.agents.training.dashboard import POLICY, page

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in (LOOPBACK, "localhost"):  # a name of elsewhere that was made to point here
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            if self.path != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            try:
                content, status = page(paths), HTTPStatus.OK
            except RunError as error:
                content, status = f"<pre>{visible(str(error)).replace('<', '&lt;')}</pre>", HTTPStatus.INTERNAL_SERVER_ERROR
            body = content.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Requests are not told."""

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        raise RunError(f"--port {port}: it cannot be served there ({error}). Give another, or 0 for any.") from error
