"""Files of tensors: written whole or not at all, loaded without executing code.

    state → temporary file → fsync → rename            a kill at any moment leaves the previous file as it was

`torch.load(weights_only=True)` refuses pickles that would run something; the archive's checksums are verified first.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or from another format."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """The state in `path`. CheckpointError says whether the file is absent, damaged or of another format."""
    if not path.exists():
        raise CheckpointError(f"checkpoint {path}: no such file. Nothing was saved yet, or the directory is another.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"checkpoint {path}: record {damaged!r} is damaged. Use an earlier checkpoint.")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        size = path.stat().st_size
        raise CheckpointError(f"checkpoint {path}: cannot be read ({size} bytes; {reason}). Use an earlier one.") from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"checkpoint {path}: format {found!r}, this version reads {FORMAT}. Train again, or convert.")
    return state
