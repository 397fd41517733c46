"""Files of tensors: written atomically, verified by a digest, loaded without executing code.

    archive ‖ SHA-256(archive)         → `scg.files.whole_file`

A process that is killed leaves the previous file intact. The digest is checked before the archive is read, because an
archive's own checksums do not cover its directory. `torch.load(weights_only=True)` refuses pickles that would run code.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, BinaryIO

import torch

from scg.errors import visible
from scg.files import whole_file, writing

FORMAT = 1
MARK = b"scg-sha256:"  # the end of a file: mark, then the digest of all before the mark
TAIL = len(MARK) + hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or from another format."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` atomically."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            hashing = _Hashing(file)
            torch.save({"format": FORMAT, **state}, hashing)  # type: ignore[arg-type]
            file.write(MARK + hashing.digest.digest())


class _Hashing:
    """A file that is written sequentially, with the digest of what was written, so that no second copy is held in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def verify(path: Path) -> None:
    """Read `path` back and compare the digest. CheckpointError where it is damaged."""
    _content(path)


def load(path: Path) -> dict[str, Any]:
    """The state in `path`. CheckpointError says whether the file is absent, damaged or of another format."""
    content = _content(path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises many types on bytes that `save` did not write
        raise _unreadable(path, error, len(content)) from error
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"checkpoint {path}: format {found!r}, this version reads {FORMAT}. Train again, or convert.")
    return state


def _content(path: Path) -> memoryview:
    """The archive in `path`, its digest checked."""
    try:
        whole = memoryview(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {path}: no such file. Nothing was saved yet, or the directory is another."
        ) from error
    except OSError as error:
        raise _unreadable(path, error, None) from error
    content, tail = whole[:-TAIL], whole[-TAIL:]
    if tail != MARK + hashlib.sha256(content).digest():
        raise CheckpointError(
            f"checkpoint {path}: cannot be read ({len(whole)} bytes; its digest is missing or differs: it is damaged, or was "
            "not written by this version). Use an earlier one."
        )
    return content


def _unreadable(path: Path, error: Exception, size: int | None) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    reason = visible(reason)  # an unpickler quotes what it found
    found = reason if size is None else f"{size} bytes; {reason}"
    return CheckpointError(f"checkpoint {path}: cannot be read ({found}). Use an earlier one.")
