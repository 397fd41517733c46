"""Checkpoints: written atomically, loaded without executing code.

    state → temporary file → fsync → rename                 a process that is killed leaves the previous file intact
    newest file → (damaged? warn) → the one before it       digest checked first, plain values and tensors only

Older checkpoints are deleted once the new one has been read back: never the new one, and never the one that this process
resumed from before a newer one is verified. Damaged files do not count as kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scg.agents.experience.tensor_files import CheckpointError, load, save, verify


class Checkpoints:
    """The last `keep` checkpoints of a run (0: all), by step, in one directory; and `best`, which is kept apart."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory, self.keep = directory, keep
        self._good: list[Path] = []  # read or verified by this process, oldest first

    @property
    def best(self) -> Path:
        return self.directory / "best.pt"

    def paths(self) -> list[Path]:
        """Oldest first."""
        found = [path for path in self.directory.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
        return sorted(found, key=lambda path: int(path.stem.removeprefix("step-")))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write, read back, then delete all but the `keep` newest verified ones. CheckpointError if the new file is damaged."""
        path = self.directory / f"step-{step:012d}.pt"
        save(path, state)
        verify(path)
        self._good = [*(good for good in self._good if good != path), path]
        if self.keep:
            kept = self._kept(path)
            for old in self.paths():
                if old not in kept:
                    old.unlink()
        return path

    def _kept(self, newest: Path) -> set[Path]:
        """`newest` and the verified ones before it, `keep` in all: those that this process has verified, then others."""
        kept = [newest]
        others = [path for path in reversed(self.paths()) if path != newest]
        for path in [*reversed(self._good), *others]:
            if len(kept) == self.keep:
                break
            if path not in kept and _is_good(path):
                kept.append(path)
        return set(kept)

    def save_best(self, state: dict[str, Any]) -> None:
        save(self.best, state)

    def load_latest(
        self, warn: Callable[[str], None], use: Callable[[dict[str, Any]], None] = lambda state: None
    ) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint that can be read, and that `use` takes without a CheckpointError (it reads what lies beside
        it, as replay buffers do). Others are reported to `warn`; CheckpointError if none is left."""
        paths = self.paths()
        for path in reversed(paths):
            try:
                state = load(path)
                use(state)
            except CheckpointError as error:
                warn(f"{error}")
                continue
            self._good = [path]
            return path, state
        found = f"{len(paths)} damaged" if paths else "none"
        raise CheckpointError(f"run {self.directory.parent}: no usable checkpoint ({found} found). Train it again.")


def _is_good(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True
