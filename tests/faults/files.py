"""Full disks, folders that vanish or cannot be written, damaged and foreign checkpoints, hostile run folders."""

from __future__ import annotations

import errno
import functools
import json
import os
import pickle
import random
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from scg.agents.training import loop
from tests.faults.trials import SMALL, Trial, refused, same, say


def trials(count: int, whole: Path, seed: int = 0) -> Iterator[Trial]:
    """`count` of each kind that is drawn at random, and every hostile folder. `whole` is an undisturbed run of `SMALL`."""
    dice = random.Random(seed)
    for number in range(count):
        yield Trial("full disk", f"{number}", functools.partial(full_disk, whole=whole, dice=dice.random()))
        yield Trial("folder vanishes", f"{number}", functools.partial(vanishing, update=1 + int(39 * dice.random())))
        yield Trial("folder turns read-only", f"{number}", functools.partial(read_only, whole=whole, dice=dice.random()))
        yield Trial("damaged checkpoint", f"{number}", functools.partial(damaged, whole=whole, dice=dice.random()))
    for name, content in FOREIGN.items():
        yield Trial("foreign checkpoint", name, functools.partial(foreign, whole=whole, content=content))
    for name, change in HOSTILE.items():
        yield Trial("hostile run folder", name, functools.partial(hostile, whole=whole, change=change))


# -- disks -----------------------------------------------------------------------------------------------------


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files larger than so many bytes cannot be written: a full disk, as the system tells of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk(folder: Path, whole: Path, dice: float) -> None:
    out, largest = folder / "run", max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    with room(int(dice * largest)):
        code, shown = say("train", *SMALL.split(), "--out", str(out))
    if code:  # pictures alone may have failed, which stops no run
        refused(code, shown, "File too large")
    ended(out, whole)


def ended(out: Path, whole: Path) -> None:
    """The run goes on, or begins again where nothing of it was left, and ends in the same bits."""
    words = ("--resume", str(out)) if (out / "config.json").exists() else (*SMALL.split(), "--out", str(out))
    code, shown = say("train", *words)
    assert code == 0, shown
    same(whole, out)


def vanishing(folder: Path, update: int) -> None:
    out, inner, left = folder / "run", loop._Training._update, [update]

    def vanish(self: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            out.rename(folder / "gone")
        inner(self)

    with mock.patch.object(loop._Training, "_update", vanish):
        refused(*say("train", *SMALL.split(), "--out", str(out)), "No such file")


def read_only(folder: Path, whole: Path, dice: float) -> None:
    """From some write on, no file is opened for writing."""
    out, inner, left = folder / "run", os.open, [3 + int(dice * 30)]

    def refuse(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(out) in str(path):
            left[0] -= 1
            if left[0] <= 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return inner(path, flags, *rest, **more)

    with mock.patch.object(os, "open", refuse):
        code, shown = say("train", *SMALL.split(), "--out", str(out))
    if left[0] <= 0:
        refused(code, shown, "Read-only file system")
    ended(out, whole)


# -- checkpoints -----------------------------------------------------------------------------------------------


def damaged(folder: Path, whole: Path, dice: float) -> None:
    """The newest checkpoint is cut, or has a flipped bit, or is empty: the one before it is resumed from."""
    out = Path(shutil.copytree(whole, folder / "run"))
    newest = max((out / "checkpoints").glob("step-*.pt"))
    content, at = bytearray(newest.read_bytes()), int(dice * newest.stat().st_size)
    if int(dice * 1000) % 3 == 0:
        content = content[:at]
    else:
        content[at] ^= 1 << (int(dice * 1e6) % 8)
    newest.write_bytes(content)
    code, shown = say("train", "--resume", str(out))
    assert code == 0 and newest.name in shown, shown
    same(whole, out)


class Explodes:
    """What a pickle would run when it is loaded."""

    def __reduce__(self) -> Any:
        return (exec, ("import sys; sys.exploded = True",))


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "a pickle that runs code": lambda path: path.write_bytes(pickle.dumps(Explodes())),
    "torch.save of an object": lambda path: torch.save({"agent": Explodes()}, path),
    "torch.save of tensors": lambda path: torch.save({"agent": torch.zeros(3)}, path),
    "a text": lambda path: path.write_text("weights"),
    "nothing": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "noise": lambda path: path.write_bytes(random.Random(0).randbytes(9000)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


def foreign(folder: Path, whole: Path, content: Callable[[Path], Any]) -> None:
    """In place of every checkpoint: refused, and nothing of it runs."""
    out = Path(shutil.copytree(whole, folder / "run"))
    for path in (out / "checkpoints").glob("*.pt"):
        content(path)
    for words in (("train", "--resume", str(out), "--steps", "2560"), ("eval", str(out)), ("eval", str(out), "--best")):
        refused(*say(*words))
    assert not hasattr(sys, "exploded")


# -- run folders of strangers ----------------------------------------------------------------------------------


def changed(**sections: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        content = json.loads((run / "config.json").read_text())
        for name, values in sections.items():
            content[name] = {**content[name], **values} if isinstance(values, dict) else values
        (run / "config.json").write_text(json.dumps(content))

    return change


def planted(run: Path) -> None:
    (run / "planted.py").write_text("import sys; sys.exploded = True")
    changed(run={"env": "planted:X-v0"})(run)


def linked(run: Path) -> None:
    shutil.move(run / "checkpoints", run.parent / "elsewhere")
    (run / "checkpoints").symlink_to(run.parent / "elsewhere")


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "an environment's module": changed(run={"env": "antigravity:X-v0"}),
    "a module in the folder": planted,
    "a wrapper's module": changed(run={"wrapper": ["antigravity:X"]}),
    "a module by its path": changed(run={"env": "../planted:X-v0"}),
    "a terminal's escape": changed(run={"env": "\x1b[2J"}),
    "an unknown agent": changed(agent="os.system"),
    "a list for an agent": changed(agent=["ppo"]),
    "a flag for a number": changed(run={"steps": True}),
    "an unknown option": changed(run={"command": "rm"}),
    "a later version": changed(version=99),
    "endless environments": changed(run={"envs": 10**9}),
    "widths without end": changed(config={"hidden": [10**9, 10**9]}),
    "a deep nest": lambda run: (run / "config.json").write_text("[" * 100_000),
    "no text": lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"),
    "a linked folder": linked,
}


def hostile(folder: Path, whole: Path, change: Callable[[Path], Any]) -> None:
    out = Path(shutil.copytree(whole, folder / "run"))
    change(out)
    code, shown = say("train", "--resume", str(out), "--steps", "2560")
    refused(code, shown)
    assert "\x1b" not in shown, repr(shown[-300:])
    assert not {"antigravity", "planted"} & set(sys.modules) and not hasattr(sys, "exploded")
