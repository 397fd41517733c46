"""Engines by name, as the command line says them.

local                     this machine: in process for one worker, else a pool of processes
ray, ray:address=…        Ray Core: started here without network or dashboard, or the cluster at the address (or RAY_ADDRESS)
slurm:partition=…,…       SLURM arrays through submitit, whose parameters follow the colon; slurm:cluster=local runs them here
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from scg.errors import nearest
from scg.executors.executor import Executor
from scg.executors.in_process import InProcess
from scg.executors.local_pool import LocalPool
from scg.executors.task import ExecutorError


def _local(workers: int, threads: int) -> Executor:
    return InProcess(1, threads) if workers == 1 else LocalPool(workers, threads)


def _ray(workers: int, threads: int, **options: str) -> Executor:
    _needs("ray")
    from scg.executors.ray_core import RayCore

    return RayCore(workers, threads, **options)


def _slurm(workers: int, threads: int, **options: str) -> Executor:
    _needs("submitit", "slurm")
    from scg.executors.slurm import Slurm

    return Slurm(workers, threads, **options)


ENGINES: dict[str, Callable[..., Executor]] = {"local": _local, "ray": _ray, "slurm": _slurm}


def opened(engine: str = "local", workers: int = 1, threads: int = 1) -> Executor:
    """The executor `NAME` or `NAME:option=value,…`. ExecutorError for an unknown one, or a package that it lacks."""
    name, options = parsed(engine)
    try:
        return ENGINES[name](workers, threads, **options)
    except TypeError as error:
        raise ExecutorError(f"executor {engine!r}: {error}. See scg.executors.engines for what it takes.") from error


def parsed(engine: str) -> tuple[str, dict[str, Any]]:
    """The name of an engine and its options. ExecutorError where it makes no sense."""
    name, _, text = engine.partition(":")
    if name not in ENGINES:
        raise ExecutorError(f"executor {name!r} is unknown.{nearest(name, ENGINES)} There are: {', '.join(ENGINES)}.")
    options: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise ExecutorError(f"executor {engine!r}: {part!r}. Say {name}:option=value, with commas between several.")
        options[key] = value
    return name, options


def _needs(module: str, extra: str = "") -> None:
    try:
        import_module(module)
    except ImportError as error:
        extra = extra or module
        raise ExecutorError(
            f"executor {extra!r} needs the package {module} ({error}). Install it: pip install 'torch-scg[{extra}]'"
        ) from error
