"""What no draw has seen widens the interval: rare events are never a bias."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

import scg
from scg import Pathwise, ScoreFunction
from scg.estimators import Enumeration, LeaveOneOut
from scg.testing import check_unbiased, exact_gradient, finite_difference
from scg.testing.oracle import exact
from scg.testing.parameters import Parameters
from tests.scg.testing.test_check_unbiased import Scaled


def leaf(value):
    return torch.tensor(value, requires_grad=True)


def alarm(level, estimator=None, price=10.0, slope=0.0, **kw):
    graph = scg.Graph()
    graph.stochastic(estimator or ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: price * (x > level).double() + slope * x, name="loss")
    return graph


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def test_a_rare_event_is_integrated():
    assert exact_gradient(alarm(3.5), {"theta": leaf(0.0)})["theta"].item() == pytest.approx(10 * density(3.5), rel=1e-8)
    settings = {"localise": False, "detectable": 0.3}
    assert check_unbiased(alarm(3.0), {"theta": leaf(0.0)}, **settings).verdict == "unbiased"
    assert check_unbiased(alarm(3.0, Scaled(2.0)), {"theta": leaf(0.0)}, **settings).verdict == "biased"


@pytest.mark.parametrize("slope", [0.0, 1.0], ids=["alone", "beside what is seen"])
def test_an_event_that_no_draw_has_seen_is_undecided(slope):
    """P(x > 6) = 1e-9: ten million draws miss it, and it is all or most of the gradient."""
    graph = alarm(6.0, price=1e9, slope=slope)
    report = check_unbiased(graph, {"theta": leaf(0.0)}, max_draws=2**20, localise=False)
    assert report.verdict == "undecided"
    assert "too few events" in report.note
    wrong = check_unbiased(alarm(1.0, Scaled(2.0), slope=slope), {"theta": leaf(0.0)}, max_draws=2**20, localise=False)
    assert wrong.verdict == "biased"


def test_how_much_lies_in_rare_outcomes_is_known():
    unseen = exact(alarm(3.0), Parameters({"theta": leaf(0.0)}), 1, None).unseen
    assert unseen is not None
    truth = 10 * density(3.0)
    assert unseen(1e-2).item() == pytest.approx(truth, rel=1e-3)  # P(x > 3) = 1.3e-3
    assert unseen(1e-5).item() < 0.1 * truth
    certain = exact(alarm(3.0).with_estimators(x=ScoreFunction()), Parameters({"theta": leaf(3.0)}), 1, None).unseen
    assert certain is not None
    assert certain(1e-5).item() < 1e-3


def many(level, parts=5):
    """A jump over more real axes than any grid holds."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Independent(Normal(theta.expand(parts), 1.0), 1), name="x")
    graph.cost(lambda x: (x.sum(-1) > level).double(), name="loss")
    return graph


def test_a_sampled_oracle_that_saw_no_event_knows_nothing():
    found = finite_difference(many(45.0), {"theta": leaf(0.0)})  # 20 standard deviations
    assert found.kind == "finite difference (sampled)"
    assert found.error["theta"].item() == math.inf
    report = check_unbiased(many(45.0), {"theta": leaf(0.0)}, max_draws=2**14, localise=False)
    assert report.verdict == "undecided"
    assert "too few events" in report.note


def test_a_sampled_oracle_that_saw_some_states_an_error_that_holds():
    found = finite_difference(many(3.0 * math.sqrt(5)), {"theta": leaf(0.0)})  # 3 standard deviations
    truth = math.sqrt(5) * density(3.0)
    allowed = found.error["theta"].item() + 5 * found.se["theta"].item()
    assert abs(found.value["theta"].item() - truth) < allowed < 0.5 * truth


def test_a_parameter_that_moves_nothing_has_a_sampled_derivative_of_zero():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b, w: b + 0 * w, name="loss")
    found = finite_difference(graph, {"theta": leaf(0.3), "w": leaf(0.1)}, sampled=True)
    assert (found.value["w"].item(), found.error["w"].item()) == (0.0, 0.0)


def test_compare_does_not_call_unseen_events_a_bias():
    choices = {"x": [ScoreFunction(), LeaveOneOut(samples=2)]}
    rare = scg.compare(alarm(3.5, price=1e3), {"theta": leaf(0.0)}, choices, draws=50, seed=0)
    assert {row.verdict for row in rare.rows} == {"no bias found"}
    seen = scg.compare(alarm(0.3), {"theta": leaf(0.0)}, {"x": [ScoreFunction(), Scaled(4.0)]}, draws=200, seed=0)
    assert {row.label: row.verdict for row in seen.rows}["Scaled(factor=4.0)"] == "biased"


# -- what is no number, and what is one number -------------------------------------------------------------


def test_nan_is_named_and_is_no_verdict():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: torch.where(x > 0, x.sqrt(), 0.1 * x), name="loss")
    try:
        report = check_unbiased(graph, {"theta": leaf(0.2)})
    except scg.GraphError as refused:  # the graph's own check may come first
        assert "finite" in str(refused)  # noqa: PT017
        return
    assert report.verdict == "not finite"
    assert not report
    assert "a draw of the derivative for theta was nan or infinite" in report.note


def test_an_objective_that_is_not_finite_has_no_oracle():
    graph = scg.Graph()
    graph.stochastic(Enumeration(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: b.log(), name="loss")
    with pytest.raises(ValueError, match="cost 'loss' is -inf at some of its outcomes"):
        exact_gradient(graph, {"theta": leaf(0.2)})
    fine = scg.Graph()
    fine.stochastic(Enumeration(), lambda theta: Bernoulli(logits=theta), name="b")
    fine.cost(lambda b: b.log1p(), name="loss")
    with pytest.raises(ValueError, match=r"the true derivative \(given\) for theta is not finite"):
        check_unbiased(fine, {"theta": leaf(0.2)}, oracle=torch.tensor(math.nan))


def test_a_loss_of_one_number_is_told_to_be_a_vector():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta, x: Normal(theta * x, 1.0), name="z")
    graph.cost(lambda z: (z**2).mean(), name="loss")
    given = {"theta": leaf(0.3), "x": torch.ones(16)}
    report = check_unbiased(graph, given, oracle=torch.tensor(0.6), detectable=1e-3)
    assert report.verdict == "undecided"
    assert report.draws == 512  # at the first look
    assert "cost 'loss' returns one number for all of 'z', whose batch shape is (16,)" in report.note
    assert "return a vector, one cost for each batch element" in report.note
    vector = scg.Graph()
    vector.stochastic(ScoreFunction(), lambda theta, x: Normal(theta * x, 1.0), name="z")
    vector.cost(lambda z: z**2, name="loss")
    assert check_unbiased(vector, given, detectable=0.1).verdict == "unbiased"
