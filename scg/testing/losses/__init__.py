"""Losses that are no graphs: is the gradient of a hand-written one right, and if not, what is wrong with it?

check.py        `check_gradient`: the loss's mean gradient, the true one, a sequential test, scale and direction
objective.py    what the true gradient is taken of
calls.py        what a loss is called with, and must return
places.py       expressions of its source
changes.py      one thing done differently at a place; `catalogue.py`: what is worth trying; `causes.py`: what repairs it
answers.py      what a language model's loss is called with; `audit.py`: `check_answers`, its mean gradient over groups of answers
batch.py        `compare_on_batch`: a loss beside a graph on the same recorded batch, by parameter and by cost
"""

from scg.testing.losses.answers import Answers, AnswerTask
from scg.testing.losses.audit import AnswerReport, check_answers
from scg.testing.losses.batch import BatchComparison, compare_on_batch
from scg.testing.losses.calls import LossError
from scg.testing.losses.check import assert_gradient, check_gradient
from scg.testing.losses.report import GradientReport

__all__ = [
    "AnswerReport", "AnswerTask", "Answers", "BatchComparison", "GradientReport", "LossError", "assert_gradient", "check_answers",
    "check_gradient", "compare_on_batch",
]  # fmt: skip
