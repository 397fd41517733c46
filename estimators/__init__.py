"""How a stochastic node is differentiated: one file an idea."""

from estimators.clipped import Clipped
from estimators.enumeration import Enumeration
from estimators.leave_one_out import LeaveOneOut
from estimators.no_gradient import NoGradient
from scg.estimator import Pathwise, ScoreFunction

__all__ = ["Clipped", "Enumeration", "LeaveOneOut", "NoGradient", "Pathwise", "ScoreFunction"]
