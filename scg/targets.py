"""Targets: objects in a user's Python files and modules, by name. Every command finds what it is given here.

    path/to/file.py:name        package.module:name        file.py:outer.inner

A file's own folder is importable while the file runs, as in `python file`; so is the current folder while a module is
imported. A file is run again only where it has changed, so that a class found twice is one class.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from scg.errors import nearest


class TargetError(ValueError):
    """What was named is not there, or is not what it should be."""


def split(target: str, what: str = "graph") -> tuple[str, str]:
    """File or module, and the name in it."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise TargetError(f"{target!r} names no {what}: say path/to/model.py:{what}, with the {what}'s name after the colon")
    return place, name


def found(target: str, what: str = "graph", like: Callable[[Any], bool] = lambda thing: False) -> Any:
    """The object that `target` names; names of those that are `like` it are listed where it is not there."""
    place, name = split(target, what)
    return attribute(module(place), place, name, what, like)


def attribute(
    home: ModuleType, place: str, name: str, what: str = "graph", like: Callable[[Any], bool] = lambda thing: False
) -> Any:
    """`name` in the module `home`, dots leading on."""
    thing: Any = home
    for part in name.split("."):
        if not hasattr(thing, part):
            known = [k for k, v in vars(thing).items() if like(v)] if hasattr(thing, "__dict__") else []
            hint = nearest(part, [k for k in dir(thing) if not k.startswith("_")])
            there = f" {what.capitalize()}s there: {', '.join(known)}" if known else ""
            raise TargetError(f"{place} has no {part!r}.{hint}{there}")
        thing = getattr(thing, part)
    return thing


def called(function: Callable[[], Any], name: str) -> Any:
    """What a function of the user's file returns; TargetError with what it raised."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise TargetError(f"{name}() failed: {type(error).__name__}: {error}") from error


def is_file(place: str) -> bool:
    """Whether a target's place is a file; a folder with an `__init__.py` is a package, so its name is a module's."""
    path = Path(place)
    return path.suffix == ".py" or (path.exists() and not (path / "__init__.py").exists())


def absolute(target: str, what: str) -> str:
    """The same target for another working directory: a file by its whole path, and so a lone module of the current folder."""
    place, name = split(target, what)
    if is_file(place):
        return f"{Path(place).resolve()}:{name}"
    home = module(place)
    file = Path(getattr(home, "__file__", None) or "")
    if "." not in place and not hasattr(home, "__path__") and file.is_file() and file.resolve().parent == Path.cwd():
        return f"{file.resolve()}:{name}"
    return target


def place_of(thing: Any, what: str) -> str:
    """The target of a class or function that is at the top of a file or module; TargetError for what no other process finds."""
    name, home = getattr(thing, "__qualname__", ""), sys.modules.get(getattr(thing, "__module__", ""))
    if not name or "<locals>" in name or "<lambda>" in name:
        raise TargetError(
            f"{what} {name or type(thing).__name__} is inside a function, where no other process finds it. Put it at the top."
        )
    file, spec = getattr(home, "__file__", None), getattr(home, "__spec__", None)
    if spec is not None and spec.parent:  # in a package, be it python -m package.module
        return f"{spec.name}:{name}"
    if file is None:
        raise TargetError(f"{what} {name} was typed in, so no other process finds it. Put it into a file.")
    return absolute(f"{file}:{name}", what)


def with_whole_path(text: str) -> str:
    """A target for other working directories, its file by the whole path; any other text as it is. Nothing is imported."""
    place, colon, name = text.rpartition(":")
    return f"{Path(place).resolve()}:{name}" if colon and place and is_file(place) else text


def module(place: str) -> ModuleType:
    """A module by its file or by its dotted name."""
    if is_file(place):
        return _from_file(Path(place))
    with importable(""):
        try:
            return importlib.import_module(place)
        except (ModuleNotFoundError, TypeError) as error:  # a TypeError: a relative name
            raise TargetError(f"{place!r} is neither a file nor a module that can be imported ({error})") from error
        except (Exception, SystemExit) as error:
            raise _failed(place, error) from error


@contextmanager
def importable(folder: str) -> Iterator[None]:
    """Inside, Python looks into `folder` ("": the current one, unless PYTHONSAFEPATH forbids it) first."""
    if not folder and (sys.flags.safe_path or os.environ.get("PYTHONSAFEPATH")):
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


Stamp = tuple[int, int]
_loaded: dict[Path, tuple[Stamp, ModuleType]] = {}  # by file: time of change and size, and the module


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"{path} is a folder, not a Python file" if path.is_dir() else f"there is no file {path}")
    whole, now = path.resolve(), path.stat()
    stamp, known = (now.st_mtime_ns, now.st_size), _loaded.get(whole)
    if known is not None and known[0] == stamp:
        return known[1]
    name = _name(whole)
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is no Python file")
    made = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = made  # dataclasses look their module up
    with importable(str(whole.parent)):
        try:
            spec.loader.exec_module(made)
        except BaseException as error:
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
            if isinstance(error, Exception | SystemExit):
                raise _failed(f"{path}", error) from error
            raise
    _loaded[whole] = stamp, made
    return made


def _name(path: Path) -> str:
    """The file's own, where no other module has it: `random.py` must not become Python's `random`."""
    taken = sys.modules.get(path.stem)
    ours = taken is not None and getattr(taken, "__file__", None) == str(path)
    if ours or (taken is None and path.stem not in sys.stdlib_module_names):
        return path.stem
    return f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _failed(place: str, error: BaseException) -> TargetError:
    return TargetError(f"{place} failed when it was imported: {type(error).__name__}: {error}")
