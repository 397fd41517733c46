"""`check_unbiased`: the derivative that a graph's surrogate estimates, held against the true one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scg.checks.path_check import left_to_differences
from scg.draw.labels import brief
from scg.graph import Graph
from scg.testing.differences import dependence
from scg.testing.monte_carlo import Draws, of_callable, of_graph
from scg.testing.oracle import Choice, NoOracle, Oracle, check_order, choose
from scg.testing.parameters import Parameters, Values, Wrt
from scg.testing.report import Report, Row
from scg.testing.sequential import FIRST, Outcome, judge
from scg.testing.unroll import Program

FALSE_ALARM, DETECTABLE, FLOOR = 1e-3, 0.05, 0.03


@left_to_differences()
def check_unbiased(
    graph: Graph | Callable[..., Tensor],
    inputs: Mapping[str, Any],
    wrt: Wrt = None,
    order: int = 1,
    *,
    given: Callable[[], Mapping[str, Any]] | Mapping[str, Any] | None = None,
    steps: int | None = None,
    oracle: Choice | Values | Graph | None = None,
    false_alarm: float = FALSE_ALARM,
    detectable: float = DETECTABLE,
    floor: float = FLOOR,
    max_draws: int | None = None,
    seed: int = 0,
    vectorise: bool = True,
    localise: bool = True,
) -> Report:
    """Is the mean of the surrogate's gradient (`order=1`) or Hessian (`order=2`) the derivative of the objective?

        report = check_unbiased(graph, {"theta": theta})
        assert report, report

    graph        a graph; or `draw(inputs)`, a function that returns a scalar surrogate (or a vector of independent ones),
                 which needs an `oracle`
    wrt          names of inputs, tensors, modules; default: the inputs that require a gradient
    given        a function that returns a fresh recording for `graph.replay` at each call; a mapping gives observed nodes
    oracle       "enumeration", "quadrature", "finite_difference"; the true derivative as a tensor or `{name: tensor}`;
                 or a graph whose objective is the true one. Default: the most precise that the graph allows
    false_alarm  the probability that an unbiased estimate is called biased, and that a bias of the detectable size is
                 called unbiased
    detectable   the bias that must not be missed, relative to the largest entry of a parameter's gradient
    floor        where that entry is smaller than this share of one draw's root mean square, the share counts as its size
    max_draws    when to give up; default 16,777,216 where draws are vectorised, 32,768 where each is a call
    vectorise    draw many replicates in one batch where the graph's functions allow it. Turn it off for an estimator or
                 a credit that looks across the batch
    localise     where a bias is found, look for the node that it comes from

    The objective is the one that the surrogate is of: costs summed over time, averaged over the batch; each cost
    counts for what it `trains`; a detached edge passes its value on as a constant. Baselines and credits are no part of it.
    """
    check_order(order)
    check_settings(false_alarm, detectable, floor, max_draws)
    inputs = dict(inputs)
    if isinstance(given, Mapping):
        inputs, given = {**inputs, **_observed(graph, given)}, None
    parameters = Parameters(inputs, wrt)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(graph, Graph):
        _refuse_unknown(graph, given, oracle)
        draws = of_graph(graph, parameters, order, generator, steps, given, vectorise)
    elif oracle is None or isinstance(oracle, str):
        raise ValueError(
            "a function that draws says nothing of its true gradient: pass oracle=tensor, {name: tensor} or a graph"
        )
    else:
        draws = of_callable(graph, parameters, order, generator)
    truth = choose(graph if isinstance(graph, Graph) else Graph(), parameters, order, steps, oracle, detectable, seed)
    refuse_not_finite(truth, parameters, order)
    outcome = run(
        draws,
        truth,
        parameters,
        order,
        false_alarm=false_alarm,
        detectable=detectable,
        floor=floor,
        max_draws=max_draws,
    )
    report = reported(graph, parameters, order, steps, truth, outcome, false_alarm, detectable)
    if report.verdict == "undecided" and draws.slow:
        report = replace(report, note=f"{draws.slow}\n{report.note}")
    if report.verdict == "biased" and localise and isinstance(graph, Graph) and not truth.note:
        from scg.testing.localise import culprits

        return culprits(report, graph, parameters, order, steps, given, truth, outcome, generator, vectorise)
    return report


@left_to_differences()
def assert_unbiased(graph: Graph | Callable[..., Tensor], inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Report:
    """`check_unbiased`, as an assertion: fails on "biased" and on "undecided", with the table as its message."""
    __tracebackhide__ = True
    report = check_unbiased(graph, inputs, *args, **kwargs)
    if not report.ok:
        raise AssertionError(f"\n{report}")
    return report


def run(
    draws: Draws,
    truth: Oracle,
    parameters: Parameters,
    order: int,
    *,
    false_alarm: float = FALSE_ALARM,
    detectable: float = DETECTABLE,
    floor: float = FLOOR,
    max_draws: int | None = None,
) -> Outcome:
    """Judge the draws, giving up where they say."""
    return judge(
        draws.take,
        draws.per_row,
        truth,
        parameters.blocks(order),
        false_alarm=false_alarm,
        detectable=detectable,
        floor=floor,
        max_draws=draws.most if max_draws is None else max_draws,
        epsilon=parameters.epsilon,
        patient=not draws.slow,
    )


def check_settings(false_alarm: float, detectable: float, floor: float, max_draws: int | None) -> None:
    if not 0 < false_alarm < 0.5:
        raise ValueError(f"false_alarm={false_alarm}: a probability between 0 and 0.5")
    if not detectable > 0:
        raise ValueError(f"detectable={detectable}: a positive bias, relative to the gradient")
    if not floor >= 0:
        raise ValueError(f"floor={floor}: a share of one draw's size, 0 or more")
    if max_draws is not None and max_draws < FIRST:
        raise ValueError(f"max_draws={max_draws}: at least {FIRST}")


def refuse_not_finite(truth: Oracle, parameters: Parameters, order: int) -> None:
    bad = [str(b) for b in parameters.blocks(order) if not bool(torch.isfinite(truth.exact[b.index]).all())]
    if bad:
        raise NoOracle(
            f"the true derivative ({truth.kind}) for {', '.join(bad)} is not finite, so nothing can be held against it: the objective "
            "has none here. Move the parameter, or bound the cost."
        )


def _observed(graph: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if not isinstance(graph, Graph) or name not in graph.nodes or graph.nodes[name].kind != "observed":
            raise ValueError(
                f"given[{name!r}]: a mapping fixes observed nodes only. For recorded samples pass a function that returns a "
                "fresh recording at each call: unbiased is what a recording is on average."
            )
    return dict(given)


def _refuse_unknown(graph: Graph, given: Any, oracle: Any) -> None:
    if given is None or (oracle is not None and not isinstance(oracle, str)):
        return
    observed = [n.name for n in graph.nodes.values() if n.kind == "observed"]
    if observed:
        raise NoOracle(
            f"observed node {observed[0]!r} is recorded anew at each draw and has no function, so no oracle can integrate over "
            "it: pass oracle=tensor, or as a graph in which the environment is a node."
        )


def reported(
    graph: Any,
    parameters: Parameters,
    order: int,
    steps: int | None,
    truth: Oracle,
    outcome: Outcome,
    false_alarm: float,
    detectable: float,
) -> Report:
    nodes = nodes_of(graph, parameters, steps) if isinstance(graph, Graph) else {}
    rows = []
    for block in parameters.blocks(order):
        worst = outcome.worst(block.index, truth.exact)
        se = math.hypot(float(outcome.se[worst]), float(truth.se[worst]))
        bias = float(outcome.mean[worst] - truth.exact[worst])
        verdicts = {outcome.verdicts[i] for i in block.index.tolist()}
        entry = torch.unravel_index(torch.tensor(block.index.tolist().index(worst)), block.shape) if block.shape else ()
        rows.append(
            Row(
                str(block),
                moved := tuple(dict.fromkeys(n for name in block.names for n in nodes.get(name, ()))),
                tuple(brief(graph.nodes[n].estimator) for n in moved),
                truth.kind,
                float(truth.exact[worst]),
                float(outcome.mean[worst]),
                se,
                bias / se
                if se > 0
                else (0.0 if bias == 0 else math.copysign(math.inf, bias))
                if not math.isnan(bias)
                else math.nan,
                float(outcome.allowed[worst]),
                next(v for v in ("not finite", "biased", "undecided", "unbiased") if v in verdicts),  # type: ignore[arg-type]
                outcome.draws,
                tuple(int(i) for i in entry),
            )
        )
    exact, mean = parameters.named(truth.exact, order), parameters.named(outcome.mean, order)
    note = truth.note
    if outcome.verdict == "undecided":
        note += ("\n" if note else "") + _advice(truth, outcome)
    if outcome.verdict == "not finite":
        bad = [str(b) for b in parameters.blocks(order) if any(outcome.verdicts[i] == "not finite" for i in b.index.tolist())]
        note += ("\n" if note else "") + (
            f"a draw of the derivative for {', '.join(bad)} was nan or infinite. Look for √, log or a division at 0 in the functions "
            "that it goes through: torch.where passes a nan on from the branch that was not taken"
        )
    small = [str(b) for b in parameters.blocks(order) if bool(outcome.floored[b.index].any())]
    if small:
        note += ("\n" if note else "") + (
            f"{', '.join(small)}: the true derivative is small beside one draw, so its detectable bias is relative to one draw's size"
        )
    return Report(outcome.verdict, tuple(rows), order, outcome.draws, false_alarm, detectable, exact, mean, note=note)


def _advice(truth: Oracle, outcome: Outcome) -> str:
    open_ = torch.tensor([v == "undecided" for v in outcome.verdicts])
    if bool(torch.isinf(truth.error)[open_].any()):
        return (
            f"undecided: too few events. The oracle ({truth.kind}) saw next to no draw that a shift of the parameter changes. Pass "
            "oracle=tensor, or make the event less rare."
        )
    if truth.unseen is not None:
        missing = truth.unseen(min(1.0, 10 / outcome.draws))
        off = (outcome.mean - truth.exact).abs() > outcome.half  # but for what may be missing
        if bool((off & (missing > outcome.allowed))[open_].any()):
            return (
                f"undecided: too few events. Outcomes that {outcome.draws:,} draws may all have missed make up to "
                f"{float(missing[open_].max()):.2g} of the true derivative. Raise max_draws=, or make the event less rare."
            )
    if bool((truth.error + 4 * truth.se > 0.5 * outcome.allowed)[open_].any()):
        return f"undecided: the oracle ({truth.kind}) is too imprecise. Use another oracle=, or allow a larger detectable=."
    room = (outcome.allowed - (outcome.mean - truth.exact).abs()).maximum(0.2 * outcome.allowed).clamp_min(1e-300)
    need = (outcome.half / room)[open_].max() ** 2 * outcome.draws
    return (
        f"undecided: a bias of the detectable size could still hide; about {float(need):.1e} draws would tell. "
        "Raise max_draws=, or allow a larger detectable= (relative to the gradient) or floor= (to one draw)."
    )


def nodes_of(graph: Graph, parameters: Parameters, steps: int | None) -> dict[str, tuple[str, ...]]:
    """For each parameter, the stochastic nodes whose distributions it moves."""
    found: dict[str, dict[str, None]] = {}
    try:
        program = Program(graph, parameters.inputs, steps)
        for (name, _), names in dependence(program, parameters).items():
            for parameter in names:
                found.setdefault(parameter, {})[name] = None
    except Exception:  # labels only: an oracle of the caller's own may do without the rest
        return {}
    return {k: tuple(v) for k, v in found.items()}
