"""Whatever graph it is, its surrogate is unbiased; and the oracles, which share nothing but the graph, agree."""

import pytest
import torch
from hypothesis import event, given, settings

from scg.testing import NoOracle, assert_unbiased, exact_gradient, finite_difference
from scg.testing.oracle import exact
from scg.testing.parameters import Parameters
from scg.testing.reference import Enumerated
from scg.testing.strategies import Case, graphs

CASES = graphs()
FINITE = graphs(finite=[Enumerated()], real=[], sequences=False)


def examples(usual: int):
    """As many as the profile asks for, in proportion: some laws cost more than others."""
    return settings(max_examples=max(1, usual * settings.default.max_examples // 30))


def unbiased(case: Case, order: int) -> None:
    assert_unbiased(
        case.graph, case.inputs, order=order, steps=case.steps, detectable=0.1, floor=0.2, false_alarm=1e-5, max_draws=2**24
    )


@examples(10)
@given(CASES)
def test_every_graph_has_an_unbiased_gradient(case: Case):
    unbiased(case, 1)


@examples(5)
@given(CASES)
def test_every_graph_has_an_unbiased_hessian(case: Case):
    unbiased(case, 2)


@pytest.mark.parametrize("order", [1, 2])
@examples(40)
@given(FINITE)
def test_enumerating_every_node_gives_the_exact_derivatives(order: int, case: Case):
    parameters = Parameters(case.inputs)
    ours = parameters.derivative(case.graph.surrogate(**case.inputs), order)
    truth = exact(case.graph, parameters, order, None).exact
    assert torch.allclose(ours, truth, rtol=1e-9, atol=1e-11), (ours, truth)


@pytest.mark.parametrize("order", [1, 2])
@examples(8)
@given(graphs(detached=False))
def test_the_exact_oracle_is_the_limit_of_finite_differences(order: int, case: Case):
    truth = exact_gradient(case.graph, case.inputs, order=order, steps=case.steps, tolerance=1e-2)
    differences = finite_difference(case.graph, case.inputs, order=order, steps=case.steps)
    assert differences.kind == "finite difference"
    for name, value in truth.items():
        gap = (differences.value[name] - value).abs()
        assert bool((gap <= 1e-6 + 3 * differences.error[name]).all()), (name, gap, differences.error[name])


@examples(3)
@given(graphs(max_nodes=3, batched=False))
def test_sampled_finite_differences_stay_within_their_stated_errors(case: Case):
    truth = exact_gradient(case.graph, case.inputs, steps=case.steps, tolerance=1e-2)
    try:
        differences = finite_difference(case.graph, case.inputs, steps=case.steps, sampled=True, target=0.05)
    except NoOracle:  # a frozen copy of a weighed sample
        event("refused")
        return
    for name, value in truth.items():
        allowed = 5 * differences.se[name] + differences.error[name] + 0.02 * max(1.0, float(value.abs()))
        assert bool(((differences.value[name] - value).abs() <= allowed).all()), (name, value, differences)
