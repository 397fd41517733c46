"""Files that are written whole or not at all, and never through a link.

    new file of a random name beside `path` (O_EXCL) → write → fsync → rename over `path`

A kill at any moment leaves the previous file as it was. Where `path` is a symbolic link, the link is replaced and what
it points to stays as it was: a folder from a stranger cannot make its reader's program write elsewhere.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp(\.\w+)?")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file with the suffix of `path` to write into, which takes its place at the end; an exception removes it."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp{path.suffix}")
    with writing(path):  # the name that was asked for
        opened = open(temporary, "xb")  # noqa: SIM115  "x": never through a link, never into a file that is there
    with opened as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    _sync(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in `folder`. Only for one who knows that nobody writes there now."""
    if folder.is_dir():
        for path in list(folder.iterdir()):
            if TEMPORARY.fullmatch(path.name) and not (path.is_dir() and not path.is_symlink()):
                path.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Make a rename in `directory` outlast a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- what cannot be written: the system's errors of a full disk do not say of which file ------------------------


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """OSErrors inside name `path`, also where a library has put its own error around one."""
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if cause is None or cause.errno is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def cause_of(error: BaseException | None) -> OSError | None:
    """The OSError that it is, or that it was raised from."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def told(error: OSError) -> str:
    """Which file, and what the system said."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {said}" if error.filename else said
