"""How a stochastic node is differentiated: one file an idea. `estimators.catalogue` is their table."""

from estimators.antithetic import Antithetic, AntitheticPathwise
from estimators.arms import ARMS
from estimators.arsm import ARSM
from estimators.black_box import FiniteDifference, SuppliedJacobian, SuppliedVJP
from estimators.carms import CARMS
from estimators.clipped import Clipped
from estimators.common_random_numbers import CommonRandomNumbers, CommonRandomNumbersPathwise
from estimators.disarm import ARM, DisARM
from estimators.disarm_tree import CategoricalDisARM
from estimators.double_control import DoubleControl, LearnedDoubleControl
from estimators.enumeration import Enumeration
from estimators.generalised_reparameterisation import GeneralisedReparameterisation
from estimators.gumbel_softmax import GumbelSoftmax
from estimators.implicit import Implicit
from estimators.importance import SelfNormalised, TruncatedRatio
from estimators.leave_one_out import LeaveOneOut
from estimators.measure_valued import MeasureValued
from estimators.mujoco_transition import MujocoTransition
from estimators.muprop import MuProp
from estimators.no_gradient import NoGradient
from estimators.nvil import NVIL
from estimators.perturbation import Perturbation
from estimators.quasi_random import QuasiRandom, QuasiRandomPathwise
from estimators.rao_gumbel import RaoGumbel
from estimators.rebar import REBAR, LearnedREBAR
from estimators.reinmax import ReinMax
from estimators.rejection_reparameterisation import RejectionReparameterisation
from estimators.relax import LAX, RELAX
from estimators.spsa import SPSA
from estimators.straight_through import StraightThrough, StraightThroughGumbel
from estimators.top_k import TopK
from estimators.without_replacement import PrioritySampling, SumAndSample, UnorderedSet
from scg.estimator import Pathwise, ScoreFunction

__all__ = [
    "ARM",
    "ARMS",
    "ARSM",
    "CARMS",
    "LAX",
    "NVIL",
    "REBAR",
    "RELAX",
    "SPSA",
    "Antithetic",
    "AntitheticPathwise",
    "CategoricalDisARM",
    "Clipped",
    "CommonRandomNumbers",
    "CommonRandomNumbersPathwise",
    "DisARM",
    "DoubleControl",
    "Enumeration",
    "FiniteDifference",
    "GeneralisedReparameterisation",
    "GumbelSoftmax",
    "Implicit",
    "LearnedDoubleControl",
    "LearnedREBAR",
    "LeaveOneOut",
    "MeasureValued",
    "MuProp",
    "MujocoTransition",
    "NoGradient",
    "Pathwise",
    "Perturbation",
    "PrioritySampling",
    "QuasiRandom",
    "QuasiRandomPathwise",
    "RaoGumbel",
    "ReinMax",
    "RejectionReparameterisation",
    "ScoreFunction",
    "SelfNormalised",
    "StraightThrough",
    "StraightThroughGumbel",
    "SumAndSample",
    "SuppliedJacobian",
    "SuppliedVJP",
    "TopK",
    "TruncatedRatio",
    "UnorderedSet",
]  # fmt: skip
