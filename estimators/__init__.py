"""How a stochastic node is differentiated: one file an idea. `scg.estimators.catalogue` is their table."""

from scg.estimator import Pathwise, ScoreFunction
from scg.estimators.antithetic import Antithetic, AntitheticPathwise
from scg.estimators.arms import ARMS
from scg.estimators.arsm import ARSM
from scg.estimators.black_box import FiniteDifference, SuppliedJacobian, SuppliedVJP
from scg.estimators.carms import CARMS
from scg.estimators.clipped import Clipped
from scg.estimators.common_random_numbers import CommonRandomNumbers, CommonRandomNumbersPathwise
from scg.estimators.disarm import ARM, DisARM
from scg.estimators.disarm_tree import CategoricalDisARM
from scg.estimators.double_control import DoubleControl, LearnedDoubleControl
from scg.estimators.enumeration import Enumeration
from scg.estimators.generalised_reparameterisation import GeneralisedReparameterisation
from scg.estimators.gumbel_softmax import GumbelSoftmax
from scg.estimators.implicit import Implicit
from scg.estimators.importance import SelfNormalised, TruncatedRatio
from scg.estimators.leave_one_out import LeaveOneOut
from scg.estimators.measure_valued import MeasureValued
from scg.estimators.mixed import Mixed
from scg.estimators.mujoco_transition import MujocoTransition
from scg.estimators.muprop import MuProp
from scg.estimators.no_gradient import NoGradient
from scg.estimators.nvil import NVIL
from scg.estimators.perturbation import Perturbation
from scg.estimators.pruned import Pruned
from scg.estimators.quasi_random import QuasiRandom, QuasiRandomPathwise
from scg.estimators.rao_gumbel import RaoGumbel
from scg.estimators.rebar import REBAR, LearnedREBAR
from scg.estimators.reinmax import ReinMax
from scg.estimators.rejection_reparameterisation import RejectionReparameterisation
from scg.estimators.relax import LAX, RELAX
from scg.estimators.spsa import SPSA
from scg.estimators.straight_through import StraightThrough, StraightThroughGumbel
from scg.estimators.top_k import TopK
from scg.estimators.total_propagation import AlphaOrder, TotalPropagation
from scg.estimators.without_replacement import PrioritySampling, SumAndSample, UnorderedSet

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
    "AlphaOrder",
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
    "Mixed",
    "MuProp",
    "MujocoTransition",
    "NoGradient",
    "Pathwise",
    "Perturbation",
    "PrioritySampling",
    "Pruned",
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
    "TotalPropagation",
    "TruncatedRatio",
    "UnorderedSet",
]  # fmt: skip
