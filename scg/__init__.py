"""`scg`: stochastic computation graphs, and surrogates whose derivatives are right."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from scg.checks.finding import Finding
from scg.checks.signature import examination
from scg.credit import Credit, Downstream
from scg.errors import GraphError
from scg.estimator import Branches, Estimator, Pathwise, ScoreFunction
from scg.graph import Graph
from scg.node import conditional, detach, dist, prefix, prev
from scg.randomness import randomness
from scg.shapes import cat
from scg.trace import Trace

__all__ = [
    "Branches", "Credit", "Downstream", "Estimator", "Finding", "Graph", "GraphError", "Pathwise", "ScoreFunction",
    "Trace", "cat", "conditional", "detach", "dist", "examination", "prefix", "prev", "randomness",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """`scg.testing`, `scg.__version__`, what measures estimators, and a run's policy: imported when it is asked for."""
    if name == "__version__":
        return version("torch-scg")
    if name in ("agents", "estimators", "papers", "testing"):
        return import_module(f"scg.{name}")
    if name == "load":
        return import_module("scg.agents.commands.load").load
    if name in ("train", "resume"):
        return getattr(import_module("scg.agents.commands.python"), name)
    if name in ("attribute", "compare", "tune"):
        return getattr(import_module("scg.comparison"), name)
    raise AttributeError(f"module 'scg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(
        [
            *__all__,
            "__version__",
            "agents",
            "attribute",
            "compare",
            "estimators",
            "load",
            "papers",
            "resume",
            "testing",
            "train",
            "tune",
        ]
    )
