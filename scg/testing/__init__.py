"""Proof: is this estimate unbiased? `from scg.testing import assert_unbiased` in a test, `scg check file.py:graph` in a shell.

check_unbiased, assert_unbiased     a sequential test with a stated false-alarm rate and a stated detectable bias
check_estimator, assert_estimator   every law that an estimator must keep, on every distribution that it supports
check_credit, assert_credit         every law that a credit must keep, and what it claims, over all outcomes of small processes
check_gradient, assert_gradient     the same for a loss in plain PyTorch, with the causes of a bias that were measured
check_answers                       a language model's loss as trainers write it: its mean gradient over all groups of answers
compare_on_batch                    such a loss beside a graph, on the same recorded batch
exact_gradient                      the true gradient or Hessian, by enumeration and quadrature
finite_difference                   the same without any autograd, with its errors
tabular, lqr                        processes whose returns, gradients and Hessians are exact, and their recordings: an agent's
                                    graph is proved on them (`scg.testing.tabular` and `.lqr`)
strategies                          random graphs for Hypothesis (imported by name: it needs hypothesis)
"""

from scg.testing.battery import EstimatorReport, assert_estimator, check_estimator
from scg.testing.credit_battery import Claim, CreditReport, assert_credit, check_credit
from scg.testing.differences import Difference, finite_difference
from scg.testing.losses import (
    Answers,
    AnswerTask,
    GradientReport,
    LossError,
    assert_gradient,
    check_answers,
    check_gradient,
    compare_on_batch,
)
from scg.testing.oracle import NoOracle, exact_gradient
from scg.testing.report import Culprit, Report, Row
from scg.testing.unbiased import assert_unbiased, check_unbiased

__all__ = [
    "AnswerTask", "Answers", "Claim", "CreditReport", "Culprit", "Difference", "EstimatorReport", "GradientReport", "LossError", "NoOracle", "Report", "Row",
    "assert_credit", "assert_estimator", "assert_gradient", "assert_unbiased", "check_answers", "check_credit", "check_estimator", "check_gradient",
    "check_unbiased", "compare_on_batch", "exact_gradient", "finite_difference",
]  # fmt: skip
