"""`scg`: stochastic computation graphs, and surrogates whose derivatives are right."""

from scg.check import Finding
from scg.credit import Credit, Downstream
from scg.errors import GraphError
from scg.estimator import Branches, Estimator, Pathwise, ScoreFunction
from scg.graph import Graph
from scg.node import detach, dist, prev
from scg.randomness import randomness
from scg.shapes import cat
from scg.trace import Trace

__all__ = [
    "Branches", "Credit", "Downstream", "Estimator", "Finding", "Graph", "GraphError", "Pathwise", "ScoreFunction",
    "Trace", "cat", "detach", "dist", "prev", "randomness",
]  # fmt: skip
