"""One page of runs: the table, learning curves, each run's graph and films. A single file without scripts, to keep or to send.

    overview → table          curves.plot → SVG, an environment a panel          graph.png, *.gif, *.mp4 of a run → inside the page

A run's folder is data, maybe a stranger's: what is written in it is escaped, pictures are taken only as what their first bytes
say, never through a link, and the page forbids itself every address but its own bytes.
"""

from __future__ import annotations

import os
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from scg.agents.training import curves
from scg.agents.training.overview import TITLES, Overview, Row, overview
from scg.agents.training.run_config import options
from scg.agents.training.run_directory import RunError
from scg.agents.training.run_groups import text
from scg.errors import visible

LARGEST = 8 * 2**20  # bytes of one picture or film; a larger one is named and not shown
KINDS = {b"\x89PNG": "image/png", b"GIF8": "image/gif"}
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid #8884; padding: .3rem .6rem; text-align: right; white-space: nowrap; }
th:nth-child(-n+3), td:nth-child(-n+3), th:last-child, td:last-child { text-align: left; }
td:last-child { white-space: normal; min-width: 10rem; }
figure { margin: 1rem 0; }
img, video { background: white; border-radius: 4px; height: auto; max-width: 100%; }
.runs { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); }
article { border: 1px solid #8884; border-radius: 6px; min-width: 0; padding: .3rem 1rem 1rem; }
h3 { overflow-wrap: anywhere; }
pre { overflow-x: auto; }
.unread { color: #b00020; }
"""


def page(paths: Sequence[Path]) -> str:
    """The page of the runs at and below `paths`. RunError where there is none."""
    found = overview(paths)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>scg: {len(found.rows)} runs</title><style>{STYLE}</style></head><body>",
            "<h1>Runs</h1>",
            *_table(found),
            *_curves(found),
            "<h2>Each run</h2>",
            '<div class="runs">',
            *(piece for place, row in enumerate(found.rows) for piece in _run(place, row)),
            "</div></body></html>",
        ]
    )


def _table(found: Overview) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f"<th>{escape(title)}</th>" for title in TITLES)
    yield "</tr></thead><tbody>"
    for place, row in enumerate(found.rows):
        name, *rest = row.cells()
        link = f'<td><a href="#run{place}">{_text(name)}</a></td>'
        yield f"<tr>{link}{''.join(f'<td>{_text(cell)}</td>' for cell in rest)}</tr>"
    yield "</tbody></table></div>"
    for said in found.unread:
        yield f'<p class="unread">{_text(said)}</p>'


def _curves(found: Overview) -> Iterator[str]:
    """Learning curves: of one configuration on one environment its seeds are one curve."""
    environments = dict.fromkeys(row.runs[0].run.env for row in found.rows)
    for env in environments:
        runs = [
            run.path for row in found.rows for run in row.runs if run.run.env == env and (run.path / "evaluations.csv").exists()
        ]
        if not runs:
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                drawn = Path(folder) / "curve.svg"
                curves.plot(runs, drawn)
                yield f"<figure>{_image(drawn.read_bytes(), 'image/svg+xml', f'learning curves on {env}')}</figure>"
        except RunError as error:
            yield f'<p class="unread">{_text(str(error))}</p>'


def _run(place: int, row: Row) -> Iterator[str]:
    run = row.runs[0]
    yield f'<article id="run{place}"><h3>{_text(row.name)}</h3>'
    for file in sorted(run.path.iterdir()):
        if file.name == "graph.png":
            yield from _picture(file, "the graph of the agent")
        elif file.suffix in (".gif", ".mp4"):
            yield from _picture(file, f"film {file.name}")
    flags = {**options(run.run), **options(run.agent), **options(run.execution)}
    shown = "\n".join(f"--{_text(name.replace('_', '-'))} {_text(text(value))}" for name, value in flags.items())
    yield f"<details><summary>options</summary><pre>{shown}</pre></details></article>"


def _picture(file: Path, what: str) -> Iterator[str]:
    """A file of the run inside the page, if it is a picture or a film by its content, and not too large."""
    content = _content(file)
    if content is None:
        yield f"<p>{_text(file.name)}: not shown (a link, or larger than {LARGEST >> 20} MiB)</p>"
    elif content[4:8] == b"ftyp":
        yield f'<figure><video controls src="data:video/mp4;base64,{b64encode(content).decode()}"></video></figure>'
    elif kind := next((kind for start, kind in KINDS.items() if content.startswith(start)), None):
        yield f"<figure>{_image(content, kind, what)}</figure>"
    else:
        yield f"<p>{_text(file.name)}: not shown (no picture by its content)</p>"


def _content(file: Path) -> bytes | None:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError:
        return None
    return content if len(content) <= LARGEST else None


def _image(content: bytes, kind: str, what: str) -> str:
    return f'<img alt="{_text(what)}" src="data:{kind};base64,{b64encode(content).decode()}">'


def _text(words: str) -> str:
    return escape(visible(words))
