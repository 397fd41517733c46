"""`check_gradient`: a loss in plain PyTorch, its gradient held against the true one."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scg.checks.path_check import left_to_differences
from scg.testing.losses.calls import Calls, Given, Loss, Stream
from scg.testing.losses.causes import Search, search
from scg.testing.losses.changes import Change
from scg.testing.losses.objective import truth_of
from scg.testing.losses.report import Direction, GradientReport, Interval
from scg.testing.monte_carlo import LOOPED, LOOPED_MOST
from scg.testing.oracle import Oracle
from scg.testing.parameters import Wrt
from scg.testing.report import Report
from scg.testing.sequential import FIRST, Outcome, judge, student_quantile
from scg.testing.unbiased import DETECTABLE, FALSE_ALARM, FLOOR, check_settings, refuse_not_finite, reported

KEPT = 2**25  # numbers of kept gradients
LIKELY = 1e-3  # of the intervals of scale and direction


@left_to_differences()
def check_gradient(
    loss: Loss,
    objective: Any = None,
    wrt: Wrt = None,
    *,
    given: Given | None = None,
    steps: int | None = None,
    false_alarm: float = FALSE_ALARM,
    detectable: float = DETECTABLE,
    floor: float = FLOOR,
    max_calls: int = LOOPED_MOST,
    seconds: float | None = None,
    causes: float = 60.0,
    seed: int = 0,
) -> GradientReport:
    """Is the mean gradient of `loss`, over its own randomness, the gradient of the objective?

        report = check_gradient(loss, objective=(graph, {"theta": theta}))
        assert report, report

    loss         any function that draws (or takes recorded draws) and returns the scalar whose gradient is meant. Parameters
                 with the names of the objective's inputs get those; all else it reads where it is
    objective    (graph, inputs); a function that returns the objective's value, one exact number or a vector of independent
                 samples; or (environment, policy). Default: the loss's attribute `objective`
    wrt          names of inputs, tensors, modules; default: what of the objective requires a gradient. Matched by identity
    given        a function that returns a fresh recording, which the loss takes as its one other parameter
    false_alarm  the probability that a right loss is called biased, and that a bias of the detectable size is called unbiased
    detectable   the bias that must not be missed, relative to the largest entry of a parameter's gradient
    floor        where that entry is smaller than this share of one call's root mean square, the share counts as its size
    max_calls    when to give up
    seconds      the same, in time: calls of the loss beyond so many seconds are not made
    causes       seconds of processor time to look for the causes of a bias; 0 does not look
    """
    check_settings(false_alarm, detectable, floor, max_calls)
    start = time.perf_counter()
    objective = getattr(loss, "objective", None) if objective is None else objective
    if objective is None:
        raise TypeError(
            "a loss says nothing of its true gradient: pass objective=(graph, inputs) or a function that returns the objective's "
            "value, or set the loss's attribute `objective`"
        )
    truth = truth_of(objective, loss, wrt, detectable, seed, steps)
    parameters = truth.parameters
    refuse_not_finite(truth.oracle, parameters, 1)
    calls = Calls(loss, parameters, given, seed)
    calls.first()
    each, most = _per_row(calls, seed), max_calls
    if seconds is not None:
        most = min(max_calls, max(FIRST * each, int(seconds / _time(calls, seed))))

    def run(change: Change | None, oracle: Oracle, keep: list[Tensor] | None = None) -> Outcome:
        stream = Stream(seed + 1_000_003)

        def take(k: int) -> Tensor:
            rows = calls.rows(k, each, stream, change)
            if keep is not None and sum(r.numel() for r in keep) < KEPT:
                keep.append(rows)
            return rows

        return judge(
            take, each, oracle, parameters.blocks(), false_alarm=false_alarm, detectable=detectable, floor=floor,
            max_draws=most if keep is not None else max(most // 4, FIRST * each), epsilon=parameters.epsilon,
        )  # fmt: skip

    kept: list[Tensor] = []
    outcome = run(None, truth.oracle, kept)
    table = reported(None, parameters, 1, None, truth.oracle, outcome, false_alarm, detectable)
    table = replace(table, rows=tuple(replace(r, nodes=(), estimators=()) for r in table.rows))
    rows, drawn = torch.cat(kept), calls.count
    scale, direction = (None, None) if outcome.verdict == "not finite" else _measured(rows, truth.oracle)
    searched = Search()
    if outcome.verdict == "biased" and causes > 0:

        def accepted(change: Change | None, oracle: Oracle) -> int | None:
            found = run(change, oracle)
            return found.draws if found.verdict == "unbiased" else None

        searched = search(calls, truth, rows, accepted, seed, causes)
    return GradientReport(
        calls.name, _worded(table, each), scale, direction, tuple(searched.causes), searched.tried, searched.left, drawn,
        time.perf_counter() - start,
    )  # fmt: skip


def assert_gradient(loss: Loss, *args: Any, **kwargs: Any) -> GradientReport:
    """`check_gradient`, as an assertion: fails on "biased" and on "undecided", with the report as its message."""
    __tracebackhide__ = True
    report = check_gradient(loss, *args, **kwargs)
    if not report:
        raise AssertionError(f"\n{report}")
    return report


def _per_row(calls: Calls, seed: int) -> int:
    """How many gradients make an observation: one, where they are all the same; more, where they are skewed."""
    rows = calls.rows(FIRST, 1, Stream(seed))
    if bool((rows == rows[0]).all()):
        return 1
    centred = rows - rows.mean(0)
    skewness = centred.pow(3).mean(0) / centred.square().mean(0).pow(1.5).clamp_min(1e-300)
    return LOOPED // 4 if float(skewness.abs().max()) < 1.0 else LOOPED


def _time(calls: Calls, seed: int) -> float:
    start = time.perf_counter()
    calls.rows(1, LOOPED, Stream(seed))
    return max((time.perf_counter() - start) / LOOPED, 1e-6)


def _measured(rows: Tensor, oracle: Oracle) -> tuple[Interval | None, Direction | None]:
    """The mean gradient along the true one, in units of it, and what is orthogonal to it.

    The length of what is orthogonal is measured along a direction that the first half of the rows says, on the second
    half, so that noise does not count: a lower bound in expectation, near the length where there is something.
    """
    length = float(oracle.exact.norm())
    if length == 0 or len(rows) < 4:
        return None, None
    unit = oracle.exact / length
    along = rows @ unit / length
    orthogonal = rows - (rows @ unit).unsqueeze(1) * unit
    half = len(rows) // 2
    direction = orthogonal[:half].mean(0)
    size = float(direction.norm())
    if size <= 1e-12 * length:
        return _interval(along), Direction(Interval(0.0, 0.0), 1.0)
    left = _interval(orthogonal[half:] @ (direction / size) / length)
    return _interval(along), Direction(left, _cosine(float(along.mean()), left))


def _cosine(scale: float, left: Interval) -> float:
    across = max(left.value, 0.0) if left.above(0.0) else 0.0
    return scale / math.hypot(scale, across) if scale or across else math.nan


def _interval(x: Tensor) -> Interval:
    spread = float(x.std()) / len(x) ** 0.5
    return Interval(float(x.mean()), student_quantile(LIKELY / 2, len(x) - 1) * spread)


def _worded(table: Report, each: int) -> Report:
    """Draws are calls of the loss."""
    note = table.note.replace("max_draws=", "max_calls=").replace(" draws would tell", " calls would tell")
    return replace(table, note=note.replace("one draw", "one call").replace("a draw of", "a call's"))


__all__ = ["assert_gradient", "check_gradient"]
