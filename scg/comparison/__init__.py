"""Estimators side by side: measured together, chosen by what was measured, and where their variance comes from.

compare            bias, variance, time, memory and evaluations of each choice, with intervals
tune               the unbiased choice of least work-normalised variance, node by node
compare_horizons   variance and error of each choice against the steps of a sequence
attribute          the variance of one graph's gradient, by node and by cost
"""

from scg.comparison.attribution import Attribution, attribute
from scg.comparison.horizons import Horizons, compare_horizons
from scg.comparison.result import Comparison, Refused, Row
from scg.comparison.side_by_side import compare
from scg.comparison.tuning import Tuned, tune

__all__ = [
    "Attribution",
    "Comparison",
    "Horizons",
    "Refused",
    "Row",
    "Tuned",
    "attribute",
    "compare",
    "compare_horizons",
    "tune",
]
