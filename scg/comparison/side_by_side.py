"""`compare`: choices of estimators measured side by side, on the same seeds, in turns."""

from __future__ import annotations

import copy
import itertools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scg.auto import chosen
from scg.checks.signature import examination
from scg.comparison import reference as references
from scg.comparison.bias import bias
from scg.comparison.candidates import candidates, distribution_of
from scg.comparison.learning import learn as train
from scg.comparison.measurement import Clock, Measurement, evaluations
from scg.comparison.memory import peak_bytes
from scg.comparison.parameters import Parameters
from scg.comparison.reference import Reference
from scg.comparison.result import Comparison, Refused, Row, Verdict
from scg.comparison.seeds import seed_of
from scg.comparison.statistics import Interval, Resampled, percentile, resampled
from scg.draw.labels import brief
from scg.errors import GraphError
from scg.estimator import Estimator
from scg.graph import Graph

Choices = Mapping[str, Sequence[Any] | None] | Sequence[str] | str
Progress = Callable[[int, int], None]
MOST, LEAST, WARM = 256, 16, 3  # choices; draws; calls before the clock counts


def compare(
    graph: Graph,
    inputs: Mapping[str, Any],
    choices: Choices,
    *,
    zipped: bool = False,
    wrt: Any = None,
    steps: int | None = None,
    draws: int = 1000,
    budget: float | None = None,
    seed: int = 0,
    reference: Any = None,
    confidence: float = 0.95,
    false_alarm: float = 1e-3,
    learn: int = 100,
    clock: Clock = time.perf_counter,
    progress: Progress | None = None,
) -> Comparison:
    """Bias, variance, time, memory and evaluations of each choice of estimators, with intervals.

        comparison = scg.compare(graph, {"theta": theta}, {"b": [ScoreFunction(), LeaveOneOut(samples=4)]})
        print(comparison)
        comparison.best().estimators

    choices      estimators by node, `{"x": […], "b": […]}`; None, or the name alone, stands for every known estimator
                 that takes the node's distribution (entry points of the group `scg.candidates`)
    zipped       the first of each node, the second of each, …; else all combinations
    wrt          inputs by name, tensors, modules; default: the inputs that require a gradient, else all modules
    draws        gradients of each choice. Round by round every choice is drawn once, in shuffled order, on one seed
    budget       stop after so many seconds of rounds, though not before 16 of them
    reference    "exact", "finite_difference", "draws", the true gradient, or None for the first of the three that
                 can be had (finite differences for 4 parameters at most)
    confidence   of the intervals; they are not corrected for their number
    false_alarm  probability that any unbiased choice is called biased (all entries of all choices together)
    learn        steps on `trace.variance` that estimators with parameters take before, on copies; the time of learning
                 is not counted
    clock        what measures time; seconds from any origin
    progress     called with rounds done and rounds asked for

    A choice that cannot be used here (its estimator refuses the distribution, the graph refuses its branches, a draw is not
    finite) is listed with the reason. GraphError where none can. Interrupted by hand (Ctrl-C) after a first few rounds, it
    returns what was measured so far, marked `interrupted`.
    """
    _check(draws, budget, confidence, false_alarm, learn)
    check_seed(seed)
    parameters = Parameters(graph, inputs, wrt)
    combinations = _combinations(graph, parameters.inputs, steps, choices, zipped)
    nodes = list(combinations[0])
    refused: list[Refused] = []
    meters: list[Measurement] = []
    with torch.random.fork_rng(), torch.enable_grad():
        for label, combination in _labelled(combinations):
            try:
                meters.append(_prepared(graph, label, combination, parameters, steps, learn, seed))
            except Exception as error:  # a cost may fail in any way at samples that it was not written for
                refused.append(Refused(label, _reason(error), error))
        _some(meters, refused)
        truth = references.known(meters[0].graph, parameters, steps, seed, reference)
        interrupted = _rounds(meters, refused, draws, budget, seed, clock, progress)
        _some(meters, refused)
        if truth is None and not interrupted:
            base = references.primitive(meters[0].graph, nodes, parameters, steps)
            base = base or min(
                (m for m in meters if m.unbiased), key=lambda m: float(m.moments.se.square().sum()), default=None
            )
            if base is not None:
                truth, interrupted = references.sampled(base, 4 * draws, seed, clock, budget)
    return _result(meters, refused, parameters, truth, confidence, false_alarm, seed, interrupted)


# -- choices -----------------------------------------------------------------------------------------------


def _check(draws: int, budget: float | None, confidence: float, false_alarm: float, learn: int) -> None:
    if not isinstance(draws, int) or draws < LEAST:
        raise GraphError(f"draws={draws!r}: at least {LEAST}, to say anything about a variance")
    if budget is not None and not budget > 0:
        raise GraphError(f"budget={budget!r}: seconds, more than 0")
    for name, share in (("confidence", confidence), ("false_alarm", false_alarm)):
        if not 0 < share < 1:
            raise GraphError(f"{name}={share!r}: a probability between 0 and 1")
    if not isinstance(learn, int) or learn < 0:
        raise GraphError(f"learn={learn!r}: a number of steps, 0 or more")


def check_seed(seed: int) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise GraphError(f"seed={seed!r}: an integer, 0 or more")


def _combinations(
    graph: Graph, inputs: Mapping[str, Any], steps: int | None, choices: Choices, zipped: bool
) -> list[dict[str, Estimator]]:
    if isinstance(choices, str):
        choices = {choices: None}
    elif not isinstance(choices, Mapping):
        choices = dict.fromkeys(choices)
    if not choices:
        raise GraphError("choices is empty: name a node and its estimators, {'b': [ScoreFunction(), …]}")
    lists = {node: _options(graph, node, inputs, steps, options) for node, options in choices.items()}
    sizes = {node: len(options) for node, options in lists.items()}
    if zipped:
        if len(set(sizes.values())) > 1:
            raise GraphError(f"zipped=True pairs estimators up, and the nodes have different numbers of them: {sizes}")
        rows: Iterable[tuple[Estimator, ...]] = zip(*lists.values(), strict=True)
    else:
        rows = itertools.product(*lists.values())
    found = [dict(zip(lists, row, strict=True)) for row in rows]
    if len(found) > MOST:
        raise GraphError(
            f"{len(found)} combinations of estimators ({sizes}), more than {MOST}: name fewer, compare one node at a time, or "
            "call scg.tune, which goes node by node"
        )
    return found


def _options(
    graph: Graph, node: str, inputs: Mapping[str, Any], steps: int | None, options: Sequence[Any] | None
) -> list[Estimator]:
    graph._known(node)
    if graph.nodes[node].kind != "stochastic":
        raise GraphError(f"node {node!r}: a {graph.nodes[node].kind} node has no estimator to choose")
    if options is None:
        found = candidates(distribution_of(graph, node, inputs, steps))
        if not found:
            raise GraphError(f"node {node!r}: no known estimator takes its distribution; name some")
        return found
    if isinstance(options, (str, Estimator)):
        options = [options]
    for option in options:
        if isinstance(option, type) or not (isinstance(option, str) or hasattr(option, "branch")):
            raise GraphError(f"node {node!r}: {option!r} is no estimator; pass instances, as in ScoreFunction()")
    if not options:
        raise GraphError(f"node {node!r}: no estimators to choose from; pass None for all that take its distribution")
    return [chosen(option) for option in options]


def _labelled(combinations: list[dict[str, Estimator]]) -> Iterable[tuple[str, dict[str, Estimator]]]:
    """Short names; with the node's where there are several nodes, numbered where two would be the same."""
    seen: dict[str, int] = {}
    for combination in combinations:
        words = [brief(e) if len(combination) == 1 else f"{n}={brief(e)}" for n, e in combination.items()]
        label = ", ".join(words)
        seen[label] = seen.get(label, 0) + 1
        yield label if seen[label] == 1 else f"{label} #{seen[label]}", combination


def _prepared(
    graph: Graph, label: str, estimators: dict[str, Estimator], parameters: Parameters, steps: int | None, learn: int, seed: int
) -> Measurement:
    """A choice that was drawn once without a fault, trained where it learns, its evaluations counted and memory measured."""
    own = {n: copy.deepcopy(e) if isinstance(e, nn.Module) else e for n, e in estimators.items()}
    meter = Measurement(label, own, graph.with_estimators(**own), parameters, steps)
    meter.draw(seed, time.perf_counter)
    meter.learned = train(meter.graph, list(own), parameters, steps, learn, seed)
    meter.evaluations = evaluations(meter.graph, parameters, steps)
    for _ in range(WARM):
        meter.draw(seed, time.perf_counter)
    with examination(again=False):
        meter.memory = peak_bytes(
            lambda: parameters.gradient(meter.graph.surrogate(steps=steps, **parameters.inputs)), parameters.device
        )
    return meter


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, GraphError) else f"{type(error).__name__}: {error}"


def _some(meters: list[Measurement], refused: list[Refused]) -> None:
    if meters:
        return
    reasons = dict.fromkeys(r.reason for r in refused)
    if len(reasons) == 1:
        raise GraphError(next(iter(reasons))) from refused[-1].error
    raise GraphError("no choice can be used here:\n" + "\n".join(f"{r.label}: {r.reason}" for r in refused)) from refused[
        -1
    ].error


# -- measuring ---------------------------------------------------------------------------------------------


def _rounds(
    meters: list[Measurement],
    refused: list[Refused],
    draws: int,
    budget: float | None,
    seed: int,
    clock: Clock,
    progress: Progress | None,
) -> bool:
    """Draw every choice once a round, on the round's seed; True where a hand stopped it."""
    turns = random.Random(seed)
    start = clock()
    try:
        for r in range(draws):
            if budget is not None and r >= LEAST and clock() - start > budget:
                break
            for meter in turns.sample(meters, len(meters)):
                try:
                    meter.add(*meter.draw(seed_of(seed, "round", r), clock))
                except Exception as error:
                    meters.remove(meter)
                    refused.append(Refused(meter.label, f"at draw {r + 1}: {_reason(error)}", error))
            if progress is not None:
                progress(r + 1, draws)
    except KeyboardInterrupt:
        if min((m.count for m in meters), default=0) < 2:
            raise
        return True
    return False


def _result(
    meters: list[Measurement],
    refused: list[Refused],
    parameters: Parameters,
    truth: Reference | None,
    confidence: float,
    false_alarm: float,
    seed: int,
    interrupted: bool,
) -> Comparison:
    deviations = [m.squared_deviations().numpy() for m in meters]
    seconds = [torch.tensor(m.seconds[1 : m.count], dtype=torch.float64).numpy() for m in meters]
    replicates = resampled(deviations, seconds, seed)
    tail = false_alarm / (parameters.size * len(meters))
    rows = [_row(m, r, parameters, truth, confidence, tail) for m, r in zip(meters, replicates, strict=True)]
    rows.sort(key=lambda row: (row.work.value, row.time.value))
    kind = truth.kind if truth is not None else "nothing: interrupted before" if interrupted else "nothing: no unbiased choice"
    named = {m.label: r for m, r in zip(meters, replicates, strict=True)}
    return Comparison(tuple(rows), tuple(refused), kind, confidence, false_alarm, seed, interrupted, named)


def _row(
    meter: Measurement, found: Resampled, parameters: Parameters, truth: Reference | None, confidence: float, tail: float
) -> Row:
    variances = [percentile(float(v), b, confidence) for v, b in zip(found.variance_value, found.variance, strict=True)]
    total, seconds = variances[0], percentile(found.time_value, found.time, confidence)
    work = percentile(total.value * seconds.value, found.variance[0] * found.time, confidence)
    value = half = torch.full((parameters.size,), float("nan"), dtype=torch.float64)
    verdict: Verdict = "unknown"
    worst, shown = "", Interval(float("nan"), float("nan"), float("nan"))
    if truth is not None:
        seen = bias(meter, truth, tail, confidence)
        value, half = seen.value, seen.half_width
        verdict, worst = "biased" if seen.biased else "no bias found", parameters.entry(seen.worst)
        v, h = float(value[seen.worst]), float(half[seen.worst])
        shown = Interval(v, v - h, v + h)
    return Row(
        meter.label,
        meter.estimators,
        meter.count,
        verdict,
        meter.unbiased,
        worst,
        shown,
        parameters.named(value),
        parameters.named(half),
        total,
        dict(zip(parameters.tensors, variances[1:], strict=True)),
        seconds,
        meter.memory,
        meter.evaluations,
        work,
        total.scaled(meter.evaluations),
        meter.learned,
    )
