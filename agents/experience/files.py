"""Files that cannot be written: the system's errors of a full disk do not say of which file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
