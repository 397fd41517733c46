"""The battery: every law that an estimator must keep, run as one call. `check_estimator` reports, `assert_estimator` raises.

subject       an estimator on one kind of distribution: its true derivatives, its estimates
scripted      its mean with no sampling noise, where all of its noise is samples of the distribution
sampled       its mean by the sequential test, where it is not
shapes, means, placement, running, refusal      the laws
"""

from scg.testing.battery.check import LAWS, assert_estimator, check_estimator
from scg.testing.battery.report import EstimatorReport, Result

__all__ = ["LAWS", "EstimatorReport", "Result", "assert_estimator", "check_estimator"]
