"""Proof: is this estimate unbiased? `from scg.testing import assert_unbiased` in a test, `scg check file.py:graph` in a shell.

check_unbiased, assert_unbiased     a sequential test with a stated false-alarm rate and a stated detectable bias
exact_gradient                      the true gradient or Hessian, by enumeration and quadrature
finite_difference                   the same without any autograd, with its errors
strategies                          random graphs for Hypothesis (imported by name: it needs hypothesis)
"""

from scg.testing.differences import Difference, finite_difference
from scg.testing.oracle import NoOracle, exact_gradient
from scg.testing.report import Culprit, Report, Row
from scg.testing.unbiased import assert_unbiased, check_unbiased

__all__ = [
    "Culprit", "Difference", "NoOracle", "Report", "Row", "assert_unbiased", "check_unbiased", "exact_gradient",
    "finite_difference",
]  # fmt: skip
