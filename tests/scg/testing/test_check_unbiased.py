"""`check_unbiased` from a user's side: what it takes, what it says, whom it blames."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import scg
from scg import Branches, Credit, Estimator, GraphError, Pathwise, ScoreFunction, detach, prev
from scg.estimators import Enumeration, LeaveOneOut
from scg.testing import NoOracle, assert_unbiased, check_unbiased, exact_gradient
from scg.testing.monte_carlo import of_graph
from scg.testing.parameters import Parameters


@dataclass(frozen=True)
class Scaled(Estimator):
    """The score function with its gradient multiplied by `factor`: right at 1."""

    factor: float = 1.0

    def branch(self, distribution):
        value = distribution.sample()
        log_prob = distribution.log_prob(value)
        return Branches(value, score=self.factor * (log_prob - log_prob.detach()))


def leaf(value):
    return torch.tensor(value, requires_grad=True)


def mixed(below=None, above=None):
    graph = scg.Graph()
    graph.stochastic(above or Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.stochastic(below or LeaveOneOut(samples=4), lambda x, phi: Bernoulli(logits=x + phi), name="b")
    graph.cost(lambda x, b: (x - 1) ** 2 * b, name="loss")
    return graph


def inputs():
    return {"mu": leaf(0.3), "phi": leaf(-0.2)}


def chain(estimator=None, **settings):
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            estimator or ScoreFunction(),
            lambda theta, s: Bernoulli(logits=theta + s),
            name="a",
            parents=["theta", prev("s", init="s0")],
            **settings,
        )
        graph.deterministic(lambda a, s: 0.5 * s + a, name="s", parents=["a", prev("s", init="s0")])
        graph.cost(lambda s: s**2, name="loss")
    return graph


# -- verdicts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_a_mixed_graph_is_unbiased(order):
    report = assert_unbiased(mixed(), inputs(), order=order, detectable=0.1)
    assert report.verdict == "unbiased"
    assert report
    assert [row.oracle for row in report.rows] == ["quadrature"] * (2 if order == 1 else 3)


def test_a_biased_graph_fails_with_a_table_that_names_the_node():
    with pytest.raises(AssertionError) as failure:
        assert_unbiased(mixed(below=Scaled(1.5)), inputs())
    text = str(failure.value)
    assert "gradient: biased" in text
    assert "the bias comes from node 'b': its estimator, Scaled(factor=1.5)" in text


def test_undecided_fails_too_and_says_what_would_help():
    with pytest.raises(AssertionError, match="undecided: a bias of the detectable size could still hide"):
        assert_unbiased(mixed(below=ScoreFunction()), inputs(), max_draws=2**10, detectable=0.001)


def test_the_same_seed_gives_the_same_report():
    first, second, other = (check_unbiased(mixed(), inputs(), detectable=0.2, seed=s) for s in (1, 1, 2))
    assert str(first) == str(second)
    assert str(first) != str(other)


def test_the_random_stream_of_the_caller_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_unbiased(mixed(), inputs(), detectable=0.2)
    assert torch.equal(torch.rand(3), expected)


def test_a_report_is_data_and_an_aligned_table():
    report = check_unbiased(mixed(), inputs(), detectable=0.1)
    row = report.rows[0]
    assert (row.parameter, row.nodes, row.estimators) == ("mu", ("x", "b"), ("Pathwise", "LeaveOneOut(samples=4)"))
    assert row.exact == pytest.approx(exact_gradient(mixed(), inputs())["mu"].item())
    assert abs(row.z) < 5
    assert abs(row.mean - row.exact) < 5 * row.se
    assert row.detectable == pytest.approx(0.1 * abs(row.exact))
    assert row.draws == report.draws
    assert set(report.mean) == {"mu", "phi"}
    lines = str(report).splitlines()
    assert lines[1].split() == [
        "parameter",
        "node",
        "estimator",
        "oracle",
        "exact",
        "mean",
        "s.e.",
        "z",
        "detectable",
        "verdict",
    ]
    assert lines[1].index("verdict") == lines[2].index("unbiased") == lines[3].index("unbiased")


def test_a_vector_parameter_shows_its_worst_entry():
    graph = scg.Graph()
    graph.stochastic(Scaled(1.3), lambda w, data: Bernoulli(logits=data @ w), name="b")
    graph.cost(lambda b: b, name="loss")
    report = check_unbiased(graph, {"w": leaf([0.1, 0.2, -0.3]), "data": torch.tensor([[0.0, 0.0, 3.0]])})
    assert report.rows[0].entry == (2,)
    assert "w[2]" in str(report)


def test_a_gradient_of_zero_is_measured_against_one_draws_size():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: 0 * b + 2.0, name="constant")
    report = assert_unbiased(graph, {"theta": leaf(0.3)}, floor=0.5)
    assert "theta: the true derivative is small beside one draw" in report.note
    exact = assert_unbiased(graph.with_estimators(b=Enumeration()), {"theta": leaf(0.3)})  # no noise, nothing to relate to
    assert exact.note == ""


def test_single_precision_is_enough():
    graph = scg.Graph()
    graph.stochastic(Enumeration(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.stochastic(Pathwise(), lambda b, theta: Normal(b, theta.exp()), name="x")
    graph.cost(lambda x: x.sin(), name="loss")
    single = {"theta": torch.tensor(0.3, dtype=torch.float32, requires_grad=True)}
    assert_unbiased(graph, single)
    assert check_unbiased(graph.with_estimators(b=Scaled(0.0)), single).verdict == "biased"


# -- with respect to what ----------------------------------------------------------------------------------


def test_wrt_takes_names_tensors_modules_and_mappings():
    torch.manual_seed(0)
    layer, scale = nn.Linear(2, 1), leaf(0.7)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=scale * layer(x).squeeze(-1)), name="b")
    graph.cost(lambda b: b, name="loss")
    x = torch.tensor([[0.3, -0.8], [1.0, 0.4]])
    settings = {"detectable": 0.2, "floor": 0.2}
    names = [r.parameter for r in assert_unbiased(graph, {"x": x}, wrt=[layer, scale], **settings).rows]
    assert names == ["linear.weight", "linear.bias", "parameter2"]
    assert [r.parameter for r in assert_unbiased(graph, {"x": x}, wrt={"scale": scale}, **settings).rows] == ["scale"]
    assert [r.parameter for r in assert_unbiased(graph, {"x": x}, wrt="x", **settings).rows] == ["x"]
    assert not x.requires_grad
    assert scale.grad is None


def test_wrt_says_what_is_wrong_with_it():
    for wrt, message in (
        (None, "none of mu, phi does"),
        ("mue", "'mue' is no input. Did you mean 'mu'\\?"),
        ([], "wrt is empty"),
        (torch.ones(()), "no leaf tensor that requires a gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            check_unbiased(mixed(), {"mu": torch.tensor(0.3), "phi": torch.tensor(0.1)}, wrt)
    with pytest.raises(TypeError, match="wrt takes names of inputs, tensors and modules, got int"):
        check_unbiased(mixed(), inputs(), 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_alarm": 0.0}, "false_alarm=0.0: a probability"),
        ({"detectable": 0.0}, "detectable=0.0: a positive bias"),
        ({"floor": -1.0}, "floor=-1.0"),
        ({"max_draws": 3}, "max_draws=3: at least 32"),
        ({"order": 3}, "order=3"),
        ({"oracle": "magic"}, "oracle='magic': 'enumeration', 'quadrature', 'finite_difference'"),
        ({"oracle": torch.ones(())}, "one tensor for 2 parts"),
        ({"oracle": {"mu": torch.ones(())}}, "no value for 'phi'"),
        ({"oracle": {"mu": torch.ones(()), "phi": torch.ones(2)}}, "'phi' has shape \\(2,\\), the derivative \\(\\)"),
        ({"given": {"b": torch.ones(())}}, "a mapping fixes observed nodes only"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_unbiased(mixed(), inputs(), **settings)


# -- oracles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oracle", ["quadrature", "finite_difference", "given", "graph"])
def test_every_oracle_tells_right_from_wrong(oracle):
    truth = exact_gradient(mixed(), inputs())
    chosen = {"given": truth, "graph": mixed()}.get(oracle, oracle)
    settings = {"oracle": chosen, "detectable": 0.2, "localise": False}
    assert check_unbiased(mixed(), inputs(), **settings).verdict == "unbiased"
    assert check_unbiased(mixed(below=Scaled(2.0)), inputs(), **settings).verdict == "biased"


def test_an_oracle_that_is_insisted_on_may_refuse():
    with pytest.raises(NoOracle, match="cost 'loss' has ancestors with real values"):
        check_unbiased(mixed(), inputs(), oracle="enumeration")


def test_what_cannot_be_summed_is_held_against_finite_differences():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")  # six real axes
    graph.cost(lambda x: x.sin().sum(-1), name="loss")
    report = assert_unbiased(graph, {"mu": leaf([0.3, 0.1, -0.2, 0.5, 0.0, 1.0])}, detectable=0.1)
    assert report.rows[0].oracle == "finite difference (sampled)"


# -- draws -------------------------------------------------------------------------------------------------


def drawn(graph, given, steps=None, vectorise=True):
    return of_graph(graph, Parameters(given), 1, torch.Generator().manual_seed(0), steps, None, vectorise)


def test_draws_are_replicated_in_the_batch_where_functions_allow_it():
    assert drawn(mixed(), inputs()).per_row == 4096
    assert drawn(mixed(), inputs(), vectorise=False).per_row == 16
    assert drawn(chain(), {"theta": leaf(0.3), "s0": torch.tensor([0.1, 0.4])}, steps=3).per_row == 4096


def test_replicates_and_single_draws_have_the_same_mean():
    data = torch.tensor([0.4, -0.8])
    graph = scg.Graph()
    graph.stochastic(LeaveOneOut(samples=3), lambda mu, data: Bernoulli(logits=mu * data), name="b")
    graph.stochastic(Pathwise(samples=2), lambda b, mu: Normal(b * mu, 1.0), name="z")
    graph.cost(lambda z, b, data: (z - data) ** 2 * (1 + b), name="loss")
    rows = [drawn(graph, {"mu": leaf(0.3), "data": data}, vectorise=v).take(64) for v in (True, False)]
    means, errors = [r.mean(0) for r in rows], [r.std(0) / 8 for r in rows]
    assert abs(means[0] - means[1]) < 4 * (errors[0] ** 2 + errors[1] ** 2) ** 0.5


def test_a_function_that_looks_at_one_sample_is_drawn_call_by_call():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: 2.0 if b else 1.0, name="loss")
    given = {"theta": leaf(0.3)}
    assert drawn(graph, given).per_row == 16
    assert check_unbiased(graph, given, detectable=0.3).verdict == "unbiased"
    assert check_unbiased(graph.with_estimators(b=Scaled(3.0)), given, detectable=0.3).verdict == "biased"


def test_samples_on_a_plate_are_drawn_call_by_call():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, x: Bernoulli(logits=theta + 0 * x), name="z", plate=2)
    graph.cost(lambda z: (1 + z).prod(-2), name="both")
    given = {"theta": leaf(0.3), "x": torch.zeros(1)}
    assert drawn(graph, given).per_row == 16
    assert check_unbiased(graph, given, detectable=0.2).verdict == "unbiased"
    assert check_unbiased(graph.with_estimators(z=Scaled(2.0)), given, detectable=0.2).verdict == "biased"


class BatchMean(Credit):
    """The cost less the batch's mean, the own element included: a bias of 1/batch."""

    def __call__(self, downstream):
        cost = downstream.step_cost()
        return cost - cost.mean()


def test_replicates_are_refused_to_a_credit_that_looks_across_the_batch():
    """Among 4,096 replicates its bias of one half would be gone; so single draws are taken, unasked."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, data: Bernoulli(logits=theta + data), name="b", credit=BatchMean())
    graph.cost(lambda b: 2 * b, name="loss")
    given = {"theta": leaf(0.3), "data": torch.zeros(2)}
    assert drawn(graph, given).per_row == 16
    report = check_unbiased(graph, given)
    assert report.verdict == "biased"
    assert report.rows[0].mean == pytest.approx(0.5 * report.rows[0].exact, rel=0.2)
    assert [c.what for c in report.culprits] == ["its credit, BatchMean"]


def test_a_function_may_draw_where_an_oracle_is_given():
    def surrogate(given, sign=1.0):
        p = torch.sigmoid(given["theta"])
        b = torch.bernoulli(p.detach())
        log_prob = b * p.log() + (1 - b) * (1 - p).log()
        return sign * log_prob * (b + 1)

    def many(given):
        return torch.stack([surrogate(given) for _ in range(64)])

    p = torch.sigmoid(torch.tensor(0.3))
    truth = p * (1 - p)
    settings = {"oracle": truth, "detectable": 0.2}
    assert check_unbiased(surrogate, {"theta": leaf(0.3)}, **settings).verdict == "unbiased"
    assert check_unbiased(many, {"theta": leaf(0.3)}, **settings).verdict == "unbiased"
    assert check_unbiased(lambda g: surrogate(g, -1.0), {"theta": leaf(0.3)}, **settings).verdict == "biased"
    with pytest.raises(ValueError, match="says nothing of its true gradient: pass oracle="):
        check_unbiased(surrogate, {"theta": leaf(0.3)})
    with pytest.raises(ValueError, match=r"must return a scalar surrogate .* got shape \(2, 2\)"):
        check_unbiased(lambda g: g["theta"].expand(2, 2), {"theta": leaf(0.3)}, oracle=truth)


def test_recordings_are_drawn_anew_and_weighed():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, data: Bernoulli(logits=theta + data), name="b")
    graph.cost(lambda b, data: (b + 1) * (1 + data**2), name="loss")
    behaviour = Bernoulli(torch.tensor([0.7, 0.4]))
    given = {"theta": leaf(0.3), "data": torch.tensor([0.5, -0.5])}

    def recording(weighed=True):
        b = behaviour.sample()
        return {"b": b, "b.log_prob": behaviour.log_prob(b)} if weighed else {"b": b}

    assert_unbiased(graph, given, given=recording, detectable=0.2)
    assert check_unbiased(graph, given, given=lambda: recording(False), detectable=0.2).verdict == "biased"


def test_an_environment_recorded_anew_needs_a_true_value():
    graph = scg.Graph()
    graph.observed("obs")
    graph.stochastic(ScoreFunction(), lambda theta, obs: Bernoulli(logits=theta * obs), name="b")
    graph.cost(lambda b, obs: b * obs, name="loss")
    given = {"theta": leaf(0.3)}

    def recording():
        return {"obs": 1.0 + torch.bernoulli(torch.tensor(0.5))}

    with pytest.raises(NoOracle, match="observed node 'obs' is recorded anew at each draw"):
        check_unbiased(graph, given, given=recording)
    truth = sum(
        x * torch.sigmoid(torch.tensor(0.3 * x)) * (1 - torch.sigmoid(torch.tensor(0.3 * x))) * x / 2 for x in (1.0, 2.0)
    )
    assert check_unbiased(graph, given, given=recording, oracle=truth, detectable=0.2).verdict == "unbiased"
    fixed = {"obs": torch.tensor([1.0, 2.0])}
    assert check_unbiased(graph, given, given=fixed, detectable=0.1).verdict == "unbiased"


def test_an_error_of_the_graph_comes_through_as_it_is():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: b, name="loss")
    with pytest.raises(scg.GraphError, match="node 'b': Pathwise needs a reparameterised distribution"):
        check_unbiased(graph, {"theta": leaf(0.3)})


# -- whom it blames ----------------------------------------------------------------------------------------


def culprits(report):
    assert report.verdict == "biased", report
    return [(c.node, c.what) for c in report.culprits]


def test_the_estimator_to_blame_is_found_above_and_below():
    assert culprits(check_unbiased(mixed(above=Scaled(0.5)), inputs())) == [("x", "its estimator, Scaled(factor=0.5)")]
    assert culprits(check_unbiased(mixed(below=Scaled(0.5)), inputs())) == [("b", "its estimator, Scaled(factor=0.5)")]


def test_a_node_of_a_sequence_is_found():
    report = check_unbiased(chain(Scaled(1.4)), {"theta": leaf(0.3), "s0": torch.tensor(0.2)}, steps=3)
    assert culprits(report) == [("a", "its estimator, Scaled(factor=1.4)")]


def test_a_wrong_credit_is_found():
    graph = chain(credit=lambda s: 0 * s + 1.0)
    report = check_unbiased(graph, {"theta": leaf(0.3), "s0": torch.tensor(0.2)}, steps=2)
    assert culprits(report) == [("a", "its credit, a function")]


def test_a_fault_of_several_nodes_is_said_to_be_shared():
    graph = scg.Graph()
    for name in ("a", "b", "c"):
        graph.stochastic(Scaled(1.5), lambda theta: Bernoulli(logits=theta), name=name)
    graph.cost(lambda a, b, c: a + b + c, name="loss")
    report = check_unbiased(graph, {"theta": leaf(0.3)})
    assert report.culprits == ()
    assert "several nodes together, among 'a', 'b', 'c'" in str(report)


def test_a_function_that_cuts_a_gradient_is_not_blamed_on_an_estimator():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b, theta: b + theta.detach() ** 2, name="loss")
    report = check_unbiased(graph, {"theta": leaf(0.9)}, oracle="finite_difference")
    assert report.culprits == ()
    assert "look for a node function that cuts or changes a gradient" in report.note


def test_detached_edges_are_part_of_what_is_estimated():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.cost(lambda x, copy=detach("x"): x * copy, name="loss")
    assert_unbiased(graph, {"mu": leaf(0.8)}, detectable=0.1)
    weighed = graph.with_estimators(x=ScoreFunction())  # its weight would take all of its influence: another estimand
    with pytest.raises(GraphError, match="node 'x': the cost 'loss' depends on it with a gradient, and beside that through"):
        exact_gradient(weighed, {"mu": leaf(0.8)})
