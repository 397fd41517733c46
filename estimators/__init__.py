"""How a stochastic node is differentiated: one file an idea. `estimators.catalogue` is their table."""

from estimators.antithetic import Antithetic, AntitheticPathwise
from estimators.arms import ARMS
from estimators.clipped import Clipped
from estimators.disarm import ARM, DisARM
from estimators.disarm_tree import CategoricalDisARM
from estimators.enumeration import Enumeration
from estimators.gumbel_softmax import GumbelSoftmax
from estimators.implicit import Implicit
from estimators.leave_one_out import LeaveOneOut
from estimators.measure_valued import MeasureValued
from estimators.no_gradient import NoGradient
from estimators.perturbation import Perturbation
from estimators.quasi_random import QuasiRandom, QuasiRandomPathwise
from estimators.rao_gumbel import RaoGumbel
from estimators.rebar import REBAR, LearnedREBAR
from estimators.reinmax import ReinMax
from estimators.relax import LAX, RELAX
from estimators.straight_through import StraightThrough, StraightThroughGumbel
from estimators.top_k import TopK
from estimators.without_replacement import PrioritySampling, SumAndSample, UnorderedSet
from scg.estimator import Pathwise, ScoreFunction

__all__ = [
    "ARM",
    "ARMS",
    "LAX",
    "REBAR",
    "RELAX",
    "Antithetic",
    "AntitheticPathwise",
    "CategoricalDisARM",
    "Clipped",
    "DisARM",
    "Enumeration",
    "GumbelSoftmax",
    "Implicit",
    "LearnedREBAR",
    "LeaveOneOut",
    "MeasureValued",
    "NoGradient",
    "Pathwise",
    "Perturbation",
    "PrioritySampling",
    "QuasiRandom",
    "QuasiRandomPathwise",
    "RaoGumbel",
    "ReinMax",
    "ScoreFunction",
    "StraightThrough",
    "StraightThroughGumbel",
    "SumAndSample",
    "TopK",
    "UnorderedSet",
]  # fmt: skip
