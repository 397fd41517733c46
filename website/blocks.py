"""The code blocks of a page: they run in order, and print what stands below them.

    python -m website.blocks docs/derive/index.md …      runs each page in a folder of its own and writes what it prints into it

    ```python      code of one program for the whole page; with a first line `# name.py` a file of that name
    ```sh          commands, each an `scg` or `pytest` command
    ```text        what the block before it prints

Blocks of other kinds, and indented ones, are not run.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(python|sh|text)\n(.*?)^```$", re.S | re.M)
FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    kind: str
    body: str
    start: int
    end: int


def blocks(page: str) -> list[Block]:
    """The blocks of a page's text, with the places of their bodies."""
    return [Block(m[1], m[2], m.start(2), m.end(2)) for m in BLOCK.finditer(page)]


def run(page: str, name: str, command: Callable[[Sequence[str]], None] | None = None) -> Iterator[tuple[Block, str]]:
    """Run a page in the current folder: each ```text``` block with what the block before it printed."""
    namespace: dict[str, object] = {"__name__": "page"}
    printed = ""
    for block in blocks(page):
        if block.kind == "text":
            yield block, printed
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if block.kind == "sh":
                for line in block.body.strip().splitlines():
                    (command or shell)(shlex.split(line, comments=True))
            elif file := FILE.match(block.body):
                Path(file[1]).write_text(block.body, encoding="utf-8")
            else:
                exec(compile(block.body, name, "exec"), namespace)
        printed = out.getvalue()


def shell(words: Sequence[str]) -> None:
    """`scg` in this process, which has torch already; anything else in another. A failure is an error."""
    if not words:
        return
    if words[0] == "scg":
        from scg.commands.cli import main

        if code := main(list(words[1:])):
            raise RuntimeError(f"{shlex.join(words)}: exit code {code}")
    elif words[0] == "pytest":
        subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)
    else:
        raise ValueError(f"{shlex.join(words)}: a page's commands are scg's and pytest's")


def written(page: str, name: str) -> str:
    """The page with what its blocks print now."""
    pieces, done = [], 0
    for block, printed in run(page, name):
        pieces += [page[done : block.start], printed.rstrip("\n") + "\n" if printed else ""]
        done = block.end
    return "".join([*pieces, page[done:]])


def main(paths: list[str]) -> None:
    import torch

    sys.path.insert(0, "")
    for path in [Path(p).resolve() for p in paths]:
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            text = written(path.read_text(encoding="utf-8"), path.name)
            os.chdir(path.parent)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
