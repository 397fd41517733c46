"""`scg check file.py:loss` and `scg check file.py:Mine`: what is no graph, a loss or an estimator of one's own.

A loss is a function with an attribute `objective` (as `check_gradient` takes it), or `--objective file.py:name` says what its
gradient is that of; a function in the attribute `given` makes its recordings. Where the objective is an `AnswerTask` it is a
language model's loss, as `check_answers` takes it. An estimator is a class that can be made
without arguments, or an instance: every law of an estimator is tried on it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from scg.errors import GraphError
from scg.estimator import Estimator
from scg.graph import Graph
from scg.targets import TargetError
from scg.testing import AnswerTask, NoOracle, check_answers, check_estimator, check_gradient

if TYPE_CHECKING:  # `check` hands its options on to this file: a circle of types alone
    from scg.commands.check import Check


class Report(Protocol):
    @property
    def ok(self) -> bool: ...


def made(thing: Any) -> Any:
    """An estimator's class as one of it."""
    if not (inspect.isclass(thing) and hasattr(thing, "branch")):
        return thing
    try:
        return thing()
    except TypeError as error:
        raise TargetError(f"{thing.__name__} cannot be made without arguments ({error}); name an instance of it") from error


def is_estimator(thing: Any) -> bool:
    return isinstance(thing, Estimator) or (callable(getattr(thing, "branch", None)) and not isinstance(thing, Graph))


def check_thing(thing: Any, objective: Any, wish: Check) -> int:
    """Check a loss or an estimator; an exit code as `scg check` has them."""
    if is_estimator(thing):
        return verdict(lambda: check_estimator(thing, seed=wish.seed))
    if isinstance(objective, AnswerTask):
        most = {} if wish.max_draws is None else {"max_groups": wish.max_draws}
        return verdict(
            lambda: check_answers(
                thing, objective, false_alarm=wish.false_alarm, detectable=wish.detectable, seed=wish.seed, **most
            )
        )
    limit = {} if wish.max_draws is None else {"max_calls": wish.max_draws}
    return verdict(
        lambda: check_gradient(
            thing, objective, wish.chosen, given=getattr(thing, "given", None), steps=wish.steps, false_alarm=wish.false_alarm,
            detectable=wish.detectable, seed=wish.seed, **limit,
        )
    )  # fmt: skip


def verdict(check: Callable[[], Report]) -> int:
    """Print what `check` reports, or what it refuses; an exit code as `scg check` has them."""
    try:
        report = check()
    except GraphError as error:
        print(f"error: {error}")
        return 1
    except (NoOracle, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.ok else 1
