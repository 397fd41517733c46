"""`check_estimator`: every law on every distribution that an estimator supports."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.draw.labels import brief
from scg.errors import nearest
from scg.estimator import Estimator
from scg.testing.battery import means, placement, refusal, running, shapes
from scg.testing.battery.report import Broken, EstimatorReport, NotApplicable, Result, Undecided
from scg.testing.battery.subject import THETAS, Subject
from scg.testing.trial_distributions import KINDS, Make

Law = Callable[[Subject], str]
Mean = Callable[[Distribution, Callable[[Tensor], Tensor]], Tensor]

# In the order in which they are run and shown. A law returns how it was decided, "exact" or "sampled", with its evidence.
LAWS: Mapping[str, Law] = {
    "refusal": refusal.refusal,
    "opt-in": refusal.opt_in,
    "shapes": shapes.shapes,
    "elements": shapes.elements,
    "precision": shapes.precision,
    "device": shapes.device,
    "seed": running.seed,
    "compiled": running.compiled,
    "first order": means.first_order,
    "second order": means.second_order,
    "constant": means.constant,
    "stated bias": means.stated_bias,
    "composition": placement.composition,
    "composition, second order": placement.composition_twice,
    "sequence": placement.sequence,
}
SAMPLED = 8  # calls of the sequential test on one distribution, at most
OF_REFUSED = ("refusal",)  # the laws for a distribution that is refused
SLOW = ("compiled",)
FALSE_ALARM, DETECTABLE, MAX_DRAWS = 1e-3, 0.1, 2**21


def check_estimator(
    estimator: Any,
    distributions: Iterable[str] | Mapping[str, Make] | None = None,
    *,
    laws: Iterable[str] | None = None,
    waived: Mapping[str, str] | None = None,
    mean: Mean | None = None,
    slow: bool = False,
    thetas: tuple[tuple[float, float, float], ...] = THETAS,
    false_alarm: float = FALSE_ALARM,
    detectable: float = DETECTABLE,
    max_draws: int = MAX_DRAWS,
    seed: int = 0,
) -> EstimatorReport:
    """Does `estimator` keep the laws that apply to it?

        report = check_estimator(MyEstimator())
        assert report, report

    distributions   names of `scg.testing.trial_distributions.KINDS` to try it on, or distributions of your own: {name: function of θ
                    [*batch, 3] that returns a distribution of batch shape `batch`}. Default: all of KINDS. Of those that
                    `refuses` accepts, all laws; of the others, that they are refused
    laws            names of the laws to run; default: all but the slow ones
    waived          {law: why it does not apply}
    mean            the documented mean of a biased estimator: a function of (distribution, f) that returns a scalar, of
                    which the gradient is the one that the estimator has on average
    slow            run the slow laws too: torch.compile
    thetas          where: θs that stand side by side in a batch
    false_alarm     the probability that a right estimator fails, over all laws and distributions
    detectable      the bias that sampled laws must not miss, relative to the largest entry of the gradient, or to half of one
                    draw's root mean square where that is greater
    max_draws       when a sampled law gives up
    seed            of the draws; torch's streams are left as they were

    An estimator with parameters of its own is copied first.
    """
    _check_estimator(estimator)
    _check_settings(false_alarm, detectable, max_draws, thetas)
    kinds = _kinds(distributions)
    chosen = _laws(laws, slow)
    waived = dict(waived or {})
    for law in waived:
        _known_law(law)
    share = false_alarm / (SAMPLED * len(kinds))
    results: list[Result] = []
    with surroundings(seed):
        for name, make in kinds.items():
            subject = Subject(estimator, name, make, share, detectable, max_draws, seed, thetas, mean)
            try:
                accepted = subject.estimator.refuses(subject.distribution) is None
            except Exception as error:
                results.append(Result("refusal", name, "failed", f"refuses() raised {words(error)}"))
                continue
            for law in chosen:
                if law in waived:
                    results.append(Result(law, name, "does not apply", waived[law]))
                elif accepted == (law not in OF_REFUSED):
                    results.append(result(law, name, partial(_kept, law, subject)))
    if any(law not in OF_REFUSED for law in chosen) and not any(r.law not in OF_REFUSED for r in results):
        results.append(
            Result("refusal", "", "failed", "it refuses every distribution. Pass distributions={name: θ -> distribution}")
        )
    order = list(LAWS)
    results.sort(key=lambda r: order.index(r.law))
    return EstimatorReport(tuple(results), brief(Estimator.of(estimator)), false_alarm, detectable)


def assert_estimator(estimator: Any, *args: Any, **kwargs: Any) -> EstimatorReport:
    """`check_estimator`, as an assertion: fails where a law is broken or undecided, with the table as its message."""
    __tracebackhide__ = True
    report = check_estimator(estimator, *args, **kwargs)
    if not report.ok:
        raise AssertionError(f"\n{report}")
    return report


def _kept(law: str, subject: Subject) -> str:
    torch.set_default_dtype(torch.float64)
    return LAWS[law](subject)


def result(law: str, kind: str, run: Callable[[], str]) -> Result:
    """What became of a law: `run` returns how it was decided, with its evidence, or raises why it was not kept."""
    try:
        how, _, evidence = run().partition(": ")
    except NotApplicable as reason:
        return Result(law, kind, "does not apply", str(reason))
    except Broken as broken:
        return Result(law, kind, "failed", str(broken))
    except Undecided as undecided:
        return Result(law, kind, "undecided", str(undecided))
    except Exception as error:  # what is checked raises: the law that ran it is broken
        return Result(law, kind, "failed", f"it raised {words(error)}")
    return Result(law, kind, "passed", evidence, how)


def words(error: Exception) -> str:
    """An error in one line of the table."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"


@contextmanager
def surroundings(seed: int) -> Iterator[None]:
    """Double precision, a stream of its own, gradients on; everything as it was afterwards."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(), torch.enable_grad(), warnings.catch_warnings():
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _kinds(distributions: Iterable[str] | Mapping[str, Make] | None) -> dict[str, Make]:
    if distributions is None:
        return dict(KINDS)
    if isinstance(distributions, str):
        distributions = [distributions]
    if isinstance(distributions, Mapping):
        found = dict(distributions)
        for name, make in found.items():
            if not callable(make):
                raise TypeError(f"distributions[{name!r}] is {type(make).__name__}; it is a function of θ [*batch, 3]")
            _try(name, make)
    else:
        found = {}
        for name in distributions:
            if name not in KINDS:
                raise ValueError(f"no distribution {name!r} in the battery.{nearest(name, KINDS)} Known: {', '.join(KINDS)}")
            found[name] = KINDS[name]
    if not found:
        raise ValueError("distributions is empty: name some, or leave it out for all")
    return found


def _try(name: str, make: Make) -> None:
    for batch in ((), (4, 2)):
        distribution = make(torch.zeros(*batch, 3))
        if not isinstance(distribution, Distribution) or distribution.batch_shape != batch:
            found = (
                f"batch shape {list(distribution.batch_shape)}"
                if isinstance(distribution, Distribution)
                else type(distribution).__name__
            )
            raise ValueError(
                f"distributions[{name!r}]: for θ of shape {[*batch, 3]} it returned {found}, and should return a distribution of "
                f"batch shape {list(batch)}. Index θ from the right, θ[..., 0]; bind axes of one sample with Independent."
            )


def _laws(laws: Iterable[str] | None, slow: bool) -> list[str]:
    if laws is None:
        return [law for law in LAWS if slow or law not in SLOW]
    wanted = [laws] if isinstance(laws, str) else list(laws)
    for law in wanted:
        _known_law(law)
    return wanted


def _known_law(law: str) -> None:
    if law not in LAWS:
        raise ValueError(f"no law {law!r}.{nearest(law, LAWS)} Known: {', '.join(LAWS)}")


def _check_estimator(estimator: Any) -> None:
    if isinstance(estimator, type) or not callable(getattr(estimator, "branch", None)):
        name = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
        raise TypeError(f"check_estimator takes an estimator, an object with branch(distribution): {name}(), not {estimator!r}")
    itself = Estimator.of(estimator)
    if not itself.unbiased and not itself.allow_bias:
        raise ValueError(f"{estimator!r} is biased: pass it as a graph would take it, with allow_bias=True")


def _check_settings(false_alarm: float, detectable: float, max_draws: int, thetas: Any) -> None:
    if not 0 < false_alarm < 0.5:
        raise ValueError(f"false_alarm={false_alarm}: a probability between 0 and 0.5")
    if not detectable > 0:
        raise ValueError(f"detectable={detectable}: a positive bias, relative to the gradient")
    if max_draws < 2**13:
        raise ValueError(f"max_draws={max_draws}: at least 8192")
    if not thetas or any(len(theta) != 3 for theta in thetas):
        raise ValueError(f"thetas={thetas}: at least one θ, of three numbers each")
