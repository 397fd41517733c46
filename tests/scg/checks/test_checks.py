"""Fails closed: what would make a gradient wrong is an error that names the node, what was found, what to do."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Dirichlet,
    Gamma,
    Independent,
    Normal,
    Uniform,
)

import scg
from scg import GraphError, detach, prev
from scg.estimators import REBAR, Enumeration, GeneralisedReparameterisation, LeaveOneOut, NoGradient, Pathwise, ScoreFunction
from scg.estimators.credit import GAE

DATA = torch.randn(6, 3, dtype=torch.float64)
THETA = torch.zeros(3, dtype=torch.float64, requires_grad=True)


def layer(estimator=None, cost=None, middle=None, distribution=None):
    """θ, data → (z) → [h] → ⟨f⟩ over a batch of six."""
    graph = scg.Graph()
    graph.stochastic(
        estimator or ScoreFunction(), distribution or (lambda theta, data: Independent(Normal(theta + data, 1.0), 1)), name="z"
    )
    graph.deterministic(middle or (lambda z: 2 * z), name="h")
    graph.cost(cost or (lambda h: h.square().sum(-1)), name="f")
    return graph


def run(graph, **inputs):
    return graph.surrogate(**(inputs or {"theta": THETA, "data": DATA}))


def refused(graph, *fragments, **inputs):
    with pytest.raises(GraphError) as caught:
        run(graph, **inputs)
    for fragment in fragments:
        assert fragment in str(caught.value)
    found = graph.check(**(inputs or {"theta": THETA, "data": DATA}))
    assert found and found[0].severity == "error"
    for fragment in fragments[1:]:
        assert fragment in found[0].message


# -- what passes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator", [ScoreFunction(), ScoreFunction(samples=3), LeaveOneOut(4), Pathwise(), Pathwise(samples=2)]
)
@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(3, 4),
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 2)),
        nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).eval(),
        nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Softmax(-1)),
    ],
    ids=["linear", "layer norm", "batch norm in eval", "softmax"],
)
def test_ordinary_networks_pass(network, estimator):
    if any(isinstance(m, nn.BatchNorm1d) for m in network.modules()) and getattr(estimator, "samples", 1) > 1:
        pytest.skip("BatchNorm1d takes no extra leading axis")
    network = network.double()
    graph = layer(estimator, middle=lambda z: network(z))
    assert torch.isfinite(run(graph))
    assert graph.check(theta=THETA, data=DATA) == []


def test_control_flow_on_a_sample_is_legal_where_it_is_scored():
    """`if`, .item() and in-place writes inside a node lose no dependency: the node is the unit."""
    theta = torch.tensor(0.3, requires_grad=True)

    def branching(b):
        out = torch.zeros(3)
        out[int(b.item())] = 2.0
        if b.item() > 0.5:
            out += 1.0
        return out

    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b")
        graph.deterministic(branching, name="h")
        graph.cost(lambda h: h.sum() ** 2, name="f")
        return graph

    assert build(ScoreFunction()).check(theta=theta) == []
    draws = torch.stack([torch.autograd.grad(build(ScoreFunction()).surrogate(theta=theta), theta)[0] for _ in range(400)])
    p = torch.sigmoid(theta.detach())
    exact = p * (1 - p) * (25.0 - 4.0)
    assert abs(draws.mean() - exact) < 5 * draws.std() / math.sqrt(400)


def test_the_first_sample_leaves_the_random_stream_alone():
    draws = []
    for fresh in (True, False):
        graph = layer()
        if not fresh:
            run(graph)
        torch.manual_seed(5)
        draws.append(graph.sample(theta=THETA, data=DATA)["z"])
    assert torch.equal(*draws)


# -- undeclared dependencies -------------------------------------------------------------------------------


def closure_graph(kind):
    memory = {"value": None}

    def keep(z):
        memory["value"] = {"float": z, "integer": int(z.sum().item() * 1000), "in-place": memory["value"]}[kind]
        if kind == "in-place":
            memory["value"] = torch.zeros_like(z) if memory["value"] is None else memory["value"]
            memory["value"].copy_(z.detach())
        return 2 * z

    def cost(other):
        value = memory["value"]
        return other.sum(-1) + (value if isinstance(value, int) else value.sum(-1))

    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, data: Independent(Normal(theta + data, 1.0), 1), name="z")
    graph.stochastic(ScoreFunction(), lambda theta, data: Independent(Normal(theta - data, 1.0), 1), name="other")
    graph.deterministic(keep, name="h")
    graph.cost(cost, name="f")
    graph.cost(lambda h: h.sum(-1), name="g")
    return graph


@pytest.mark.parametrize("kind", ["float", "integer", "in-place"])
def test_a_closure_over_a_sample_is_an_undeclared_dependency(kind):
    refused(closure_graph(kind), "node 'f'", "after another draw of the rest of the graph", "Make what it reads a parameter")


def test_a_closure_over_a_single_bit_is_found_too():
    """A bit repeats itself half of the time; draws go on until it has differed."""
    memory = []
    graph = scg.Graph()

    def keep(b):
        memory[:] = [int(b)]
        return b

    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.deterministic(keep, name="kept")
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="c")
    graph.cost(lambda c: c + memory[0], name="f")
    graph.cost(lambda kept: kept, name="g")
    refused(graph, "node 'f'", "does not declare", theta=torch.tensor(0.0, requires_grad=True))


def test_dropout_gets_its_own_message():
    drop = nn.Dropout(0.5)
    refused(layer(middle=lambda z: drop(z)), "node 'h'", "draws random numbers of its own (dropout", "Call .eval()")
    drop.eval()
    run(layer(middle=lambda z: drop(z)))


def test_writing_into_a_parent_is_refused():
    refused(layer(middle=lambda z: z.add_(1.0)), "node 'h'", "writes into a parent in place", "Clone it")
    run(layer(middle=lambda z: z.clone().add_(1.0)))


# -- mixing ------------------------------------------------------------------------------------------------


def test_batch_norm_in_training_mode_mixes_the_batch():
    norm = nn.BatchNorm1d(3)
    refused(layer(middle=lambda z: norm(z)), "node 'h'", "mixes batch elements", "batch normalisation in training mode")
    norm.eval()
    run(layer(middle=lambda z: norm(z)))


def test_a_hidden_reduction_over_the_batch_is_found():
    refused(layer(middle=lambda z: z - z.mean(0)), "node 'h'", "mixes batch elements")
    run(layer(middle=lambda z: z - z.mean(-1, keepdim=True)))


def test_a_cost_reduced_over_the_batch_is_refused():
    refused(
        layer(cost=lambda h: h.square().sum(-1).mean()),
        "node 'z'",
        "more axes than the cost 'f'",
        "return one cost per batch element",
    )


def test_a_product_over_the_wrong_axis_is_found_on_branches():
    """bmm takes the leading axis for the batch: with branches in front it multiplies the wrong matrices."""

    def wrong(z):
        return torch.einsum("n...,m...->n...", z, z) if z.ndim == 3 else z * z

    refused(layer(ScoreFunction(samples=3), middle=wrong), "node 'h'", "mixes branches", "address axes from the right")
    square = torch.eye(3)
    run(layer(ScoreFunction(samples=3), middle=lambda z: z @ square))


def test_a_reduction_over_a_leading_axis_is_found_on_branches():
    refused(
        layer(ScoreFunction(samples=3), middle=lambda z: z - z.mean(0, keepdim=True) if z.ndim == 3 else z),
        "node 'h'",
        "mixes branches",
    )


def test_an_error_inside_a_function_names_the_node_and_its_arguments():
    with pytest.raises(IndexError) as caught:
        run(layer(ScoreFunction(samples=3), middle=lambda z: z[0, 0, 0]))
    assert caught.value.__notes__ == ["in node 'h', called with z: (6, 3)"]


def test_a_function_that_mixes_time_steps_is_refused():
    def build(body):
        graph = scg.Graph()
        with graph.sequence():
            graph.observed("obs")
            graph.stochastic(ScoreFunction(), lambda obs, w: Normal(w * obs, 1.0), name="a")
            graph.cost(body, name="f", parents=["a", "obs"])
        return graph

    given, w = {"obs": torch.randn(5, 4), "a": torch.randn(5, 4)}, torch.tensor(0.3, requires_grad=True)
    build(lambda a, obs: (a - obs) ** 2).replay(given, w=w).surrogate()
    with pytest.raises(GraphError, match=r"node 'f': .*mixes"):
        build(lambda a, obs: (a - obs) ** 2 + (obs.cumsum(0) if obs.ndim == 2 else obs)).replay(given, w=w)


# -- pathwise ----------------------------------------------------------------------------------------------


def test_pathwise_needs_a_reparameterised_distribution():
    graph = layer(Pathwise(), distribution=lambda theta, data: Independent(Bernoulli(logits=theta + data), 1))
    refused(
        graph,
        "node 'z': Pathwise needs a reparameterised distribution, but Bernoulli has has_rsample=False.",
        "Use ScoreFunction() or LeaveOneOut(samples=4), or opt into a relaxation such as GumbelSoftmax(allow_bias=True).",
    )


@pytest.mark.parametrize(
    "cut",
    [
        lambda z: z.round(),
        lambda z: (z > 0).double(),
        lambda z: z * 0 + z.sum(-1, keepdim=True).round(),
        lambda z: torch.tensor(z.tolist()),
        lambda z: z.long(),
    ],
    ids=["round", "comparison", "hidden round", "item", "integer"],
)
def test_a_pathwise_gradient_that_is_cut_downstream_is_refused(cut):
    refused(
        layer(Pathwise(), middle=cut, cost=lambda h: h.double().sum(-1)),
        "node 'h'",
        "the pathwise gradient of 'z' ends here",
        "Use ScoreFunction() at 'z', or detach('z')",
    )
    run(layer(ScoreFunction(), middle=cut, cost=lambda h: h.double().sum(-1)))


def test_flat_and_kinked_functions_are_not_cut():
    run(layer(Pathwise(), middle=lambda z: torch.relu(z)))
    run(layer(Pathwise(), middle=lambda z: z.clamp(-0.1, 0.1)))
    run(layer(Pathwise(), middle=lambda z: torch.ones_like(z)))


def test_a_cut_that_is_declared_detached_passes():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta, data: Independent(Normal(theta + data, 1.0), 1), name="z")
    graph.cost(lambda z, r: (z - r.round()).square().sum(-1), name="f", parents=["z", detach("z")])
    run(graph)


def test_a_cut_on_the_way_to_a_distribution_is_found():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="z")
    graph.stochastic(ScoreFunction(), lambda z: Bernoulli(probs=0.2 + 0.6 * (z > 0)), name="b")
    graph.cost(lambda b: b, name="f")
    refused(graph, "node 'b'", "the pathwise gradient of 'z' ends here", theta=torch.tensor(0.1, requires_grad=True))


@pytest.mark.parametrize(
    "distribution",
    [lambda t: Gamma(1.0 + t**2, 1.0), lambda t: Beta(1.0 + t**2, 2.0), lambda t: Dirichlet(torch.stack([1 + t**2, t**2 + 2]))],
    ids=["Gamma", "Beta", "Dirichlet"],
)
def test_a_second_derivative_through_a_first_order_sampler_is_refused(distribution):
    """Even where the cost is linear in the sample, so that autograd never meets the sampler's derivative again."""
    theta = torch.tensor(0.7, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: distribution(theta), name="x")
    graph.cost(lambda x: x if x.ndim == 0 else x[..., 0], name="f")
    (first,) = torch.autograd.grad(graph.surrogate(theta=theta), theta, create_graph=True)
    with pytest.raises(
        GraphError, match="node 'x': a second derivative was asked through an estimator that is right to first order only"
    ):
        torch.autograd.grad(first, theta)
    smooth = graph.with_estimators(x=ScoreFunction()).surrogate(theta=theta)
    (first,) = torch.autograd.grad(smooth, theta, create_graph=True)
    torch.autograd.grad(first, theta)


def test_a_second_derivative_of_a_density_with_a_moving_kink_is_refused():
    """Laplace: ∂²p/∂μ² has a point mass at μ that log p does not show at any sample. A fixed kink does no harm."""
    from torch.distributions import Laplace

    mu = torch.tensor(0.3, requires_grad=True)
    for distribution, allowed in ((lambda mu: Laplace(mu, 1.0), False), (lambda mu: Laplace(0.0, mu), True)):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda mu: distribution(mu), name="x")
        graph.cost(lambda x: x.sin(), name="f")
        (first,) = torch.autograd.grad(graph.surrogate(mu=mu), mu, create_graph=True)
        if allowed:
            torch.autograd.grad(first, mu)
        else:
            with pytest.raises(GraphError, match="node 'x': a second derivative"):
                torch.autograd.grad(first, mu)


# -- weights -----------------------------------------------------------------------------------------------


def test_a_distribution_with_more_batch_axes_than_its_costs_is_refused():
    graph = layer(distribution=lambda theta, data: Normal(theta + data, 1.0))
    refused(graph, "node 'z'", "has batch shape [6, 3], more axes than the cost 'f' (rank 1)", "Wrap it in Independent(…, 1)")
    run(layer(Pathwise(), distribution=lambda theta, data: Normal(theta + data, 1.0)))


def test_a_support_that_moves_with_the_parameters_is_refused_under_a_score_function():
    theta = torch.tensor(1.0, requires_grad=True)

    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Uniform(torch.zeros(()), theta), name="u")
        graph.cost(lambda u: u**2, name="f")
        return graph

    refused(
        build(ScoreFunction()),
        "node 'u'",
        "the support of Uniform depends on a parameter through its upper_bound",
        "Use Pathwise()",
        theta=theta,
    )
    run(build(Pathwise()), theta=theta)


def test_a_baseline_that_its_node_influences_is_refused():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x", baseline=lambda x: x)
    graph.cost(lambda x: x, name="f")
    theta = torch.tensor(0.0, requires_grad=True)
    refused(graph, "node 'x'", "its baseline 'x.baseline' is influenced by 'x' itself", theta=theta)


def test_a_baseline_on_the_previous_sample_is_legal():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x", baseline="before")
        graph.deterministic(lambda x: x, name="before", parents=[prev("x", init="x0")])
        graph.cost(lambda x: x, name="f")
    graph.surrogate(steps=3, theta=torch.tensor(0.0, requires_grad=True), x0=torch.tensor(0.0))


def test_a_critic_that_misses_the_hidden_state_is_refused():
    def build(critic):
        graph = scg.Graph()
        with graph.sequence():
            graph.observed("terminated")
            graph.observed("next_obs", parents=["h", "action"])
            graph.stochastic(
                NoGradient(),
                lambda h, a: Normal(h + a, 1.0),
                name="h",
                parents=[prev("h", init="h0"), prev("action", init="a0")],
            )
            graph.deterministic(lambda h: h.detach(), name="obs", parents=["h"])
            graph.deterministic(lambda o: o.round(), name="glimpse", parents=["obs"])
            graph.deterministic(lambda o: -o, name="value", parents=[critic])
            graph.deterministic(lambda o: -o, name="next_value", parents=["next_obs"])
            graph.stochastic(
                ScoreFunction(), lambda o, w: Normal(w * o, 1.0), name="action", parents=["obs", "w"], credit=GAE()
            )
            graph.cost(lambda h, a: h * a, name="f", parents=[detach("h"), "action"])
        return graph

    errors = [f for f in build("glimpse").check() if f.severity == "error"]
    assert errors and errors[0].node == "action"
    assert "the critic 'value' of its credit stands in for the cost-to-go, but misses 'h'" in errors[0].message
    assert not [f for f in build("h").check() if f.severity == "error"]


def test_a_sample_without_gradient_must_be_detached():
    theta = torch.tensor(0.0, requires_grad=True)

    def build(edge):
        graph = scg.Graph()
        graph.stochastic(NoGradient(), lambda theta: Normal(theta, 1.0), name="x")
        graph.cost(lambda x, theta: x * theta, name="f", parents=[edge, "theta"])
        return graph

    refused(build("x"), "node 'x'", "NoGradient() gives no gradient, but a cost depends on this sample", theta=theta)
    run(build(detach("x")), theta=theta)


def test_a_biased_estimator_must_be_opted_into():
    class Biased(ScoreFunction):
        unbiased = False

    class Known(Biased):
        allow_bias = True

    graph = scg.Graph()
    with pytest.raises(GraphError, match="node 'x': .* is biased. If that is what you want, opt in with allow_bias=True"):
        graph.stochastic(Biased(), lambda theta: Normal(theta, 1.0), name="x")
    graph.stochastic(Known(), lambda theta: Normal(theta, 1.0), name="x")
    with pytest.raises(GraphError, match="is biased"):
        graph.with_estimators(x=Biased())


def test_enumeration_of_what_has_no_finite_support_is_refused():
    refused(layer(Enumeration()), "node 'z'", "Enumeration needs a finite support, and Normal has none")
    wide = layer(
        Enumeration(),
        distribution=lambda theta, data: Independent(Bernoulli(logits=torch.zeros(6, 20) + theta[0]), 1),
        middle=lambda z: z,
    )
    refused(wide, "node 'z'", "Enumeration would take 1048576 branches, the budget is 4096")


def test_a_credit_needs_a_likelihood_ratio():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x", credit=1.0)
    graph.cost(lambda x: x, name="f")
    with pytest.raises(GraphError, match="node 'x': a credit multiplies a likelihood ratio, and Pathwise"):
        run(graph, theta=torch.tensor(0.0, requires_grad=True))


def test_a_distribution_with_fewer_axes_than_its_cost_is_refused():
    """Batch [6] against a cost [6, 6] would be weighed along the wrong axis without a word."""
    theta = torch.zeros(6, requires_grad=True)

    def build(shape, cost=lambda x: x.unsqueeze(-1) * torch.ones(6)):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta.reshape(shape), 1.0), name="x")
        graph.cost(cost, name="f")
        return graph

    refused(
        build((6,)),
        "node 'x'",
        "has batch shape [6], fewer axes than the cost 'f' (rank 2)",
        "give the distribution axes of size 1",
        theta=theta,
    )
    run(build((6, 1), lambda x: x * torch.ones(6)), theta=theta)


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        (
            lambda d, x: scg.Branches(x, weights=torch.ones(())),
            r"returned weights of shape \(\); they are \[n, \*batch\] = \(6,\)",
        ),
        (
            lambda d, x: scg.Branches(x, score=d.log_prob(x).sum() * 0),
            r"returned score of shape \(\); they are \[n, \*batch\] = \(6,\)",
        ),
        (lambda d, x: scg.Branches(x, score=d.log_prob(x)), "returned a score that is not 0 in value; it is log p − sg log p"),
        (
            lambda d, x: scg.Branches(x.unsqueeze(0)),
            r"returned values of shape \(1, 6, 3\) for no branch axis and a distribution of batch \(6,\)",
        ),
        (lambda d, x: scg.Branches(x, n=6), r"returned values of shape \(6, 3\) for n=6"),
    ],
    ids=["scalar weights", "summed score", "score with a value", "an axis too many", "an axis too few"],
)
def test_what_an_estimator_returns_is_held_against_the_protocol(branches, message):
    class Mine(scg.Estimator):
        def branch(self, distribution):
            return branches(distribution, distribution.sample())

    with pytest.raises(GraphError, match=f"node 'z': .*{message}"):
        run(layer(Mine()))


@pytest.mark.parametrize("what", ["baseline", "credit"])
def test_a_baseline_or_credit_with_an_axis_too_many_is_refused(what):
    """[6, 1] against weights [6] would make [6, 6]."""
    graph = scg.Graph()
    distribution = lambda theta, data: Independent(Normal(theta + data, 1.0), 1)  # noqa: E731
    graph.stochastic(ScoreFunction(), distribution, name="z", **{what: lambda data: data.sum(-1, keepdim=True)})
    graph.cost(lambda z: z.sum(-1), name="f")
    refused(graph, "node 'z'", f"its {what} 'z.{what}' has 2 axes, the costs have 1", "squeeze a trailing axis of size 1")


def test_a_recorded_credit_with_an_axis_too_many_is_refused():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, data: Independent(Normal(theta + data, 1.0), 1), name="z", credit=1.0)
    graph.cost(lambda z: z.sum(-1), name="f")
    with pytest.raises(GraphError, match=r"node 'z': its credit has shape \(6, 1\), its weights \(6,\)"):
        graph.replay({"z": DATA, "z.credit": torch.randn(6, 1)}, theta=THETA, data=DATA).surrogate()


def test_a_baseline_at_a_pathwise_node_is_noted():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x", baseline=1.0)
    graph.cost(lambda x: x, name="f")
    (note,) = graph.check(theta=torch.tensor(0.0, requires_grad=True))
    assert note.severity == "note"
    assert "the baseline does nothing" in note.message


def test_recorded_log_probabilities_have_the_shape_of_their_values():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, data: Normal((theta + data).sum(-1), 1.0), name="z")
    graph.cost(lambda z: z, name="f")
    value = torch.randn(6)
    with pytest.raises(GraphError, match=r"given\['z.log_prob'\] has shape \(6, 1\), the recorded values have batch \(6,\)"):
        graph.replay({"z": value, "z.log_prob": torch.randn(6, 1)}, theta=THETA, data=DATA).surrogate()
    with pytest.raises(GraphError, match=r"given\['z.log_prob'\]: the value 'z' that it belongs to is not given"):
        graph.replay({"z.log_prob": torch.randn(6)}, theta=THETA, data=DATA)
    with pytest.raises(GraphError, match=r"given\['z.credit'\]: node 'z' has no credit"):
        graph.replay({"z.credit": torch.randn(6)}, theta=THETA, data=DATA)
    with pytest.raises(GraphError, match=r"given\['z.prev'\]: no node asks for the previous value of 'z'"):
        graph.replay({"z.prev": torch.randn(6)}, theta=THETA, data=DATA)


def test_a_cycle_through_an_observed_node_is_a_cycle():
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs", parents=["action"])
        graph.stochastic(ScoreFunction(), lambda obs, w: Normal(w * obs, 1.0), name="action")
        graph.cost(lambda action: action, name="f")
    with pytest.raises(GraphError, match="cycle .*; break it with prev"):
        graph.ancestors("f")


# -- numbers -----------------------------------------------------------------------------------------------


def test_nan_and_infinite_values_name_the_first_node():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.deterministic(lambda x: torch.log(x - x), name="h")
    graph.cost(lambda h: h**2, name="f")
    with pytest.raises(GraphError, match=r"node 'h': its value is not finite \(-inf at index \[\]"):
        run(graph, theta=torch.tensor(0.0, requires_grad=True))


def test_weights_that_are_not_finite_name_their_node():
    class Broken(ScoreFunction):
        def branch(self, distribution):
            branches = super().branch(distribution)
            return scg.Branches(branches.values, weights=branches.values * math.nan)

    graph = layer(Broken(), distribution=lambda theta, data: Normal(theta.sum() + data.sum(-1), 1.0), cost=lambda h: h)
    with pytest.raises(GraphError, match="node 'z': its weight is not finite"):
        run(graph)


def test_a_recorded_action_of_probability_zero_is_refused():
    logits = torch.tensor([0.0, -math.inf], requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda logits: Categorical(logits=logits), name="a")
    graph.cost(lambda a: a.double(), name="f")
    for extra in ({}, {"a.log_prob": torch.tensor(-0.7)}):
        with pytest.raises(GraphError, match="node 'a': .*a recorded value has probability 0"):
            graph.replay({"a": torch.tensor(1), **extra}, logits=logits).surrogate()


@pytest.mark.parametrize("validating", [True, False], ids=["as usual", "after something was compiled"])
def test_a_relaxed_value_outside_a_downstream_support_is_refused(validating, monkeypatch):
    """The compiler switches the validation of distributions off for the process; the first sample switches it on."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", validating)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: torch.distributions.RelaxedBernoulli(torch.tensor(0.5), logits=theta), name="b")
    graph.cost(lambda b: -Bernoulli(probs=0.3).log_prob(b), name="f")
    with pytest.raises(GraphError, match="node 'f': a value lies outside the support"):
        run(graph, theta=torch.tensor(0.3, requires_grad=True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_asserts_finite_weights(backend):
    """Right values pass in either precision, with every reduction fused; a NaN names its node."""

    class Scaled(ScoreFunction):
        factor = 1.0

        def branch(self, distribution):
            branches = super().branch(distribution)
            return scg.Branches(branches.values, weights=branches.score.exp() * self.factor)

    for kind in (torch.float32, torch.float64):
        theta, data = THETA.detach().to(kind).requires_grad_(), DATA.to(kind)
        for factor in (1.0, math.nan):
            estimator = Scaled()
            object.__setattr__(estimator, "factor", factor)
            graph = layer(estimator, distribution=lambda theta, data: Normal(theta.sum() + data.sum(-1), 1.0), cost=lambda h: h)
            torch._dynamo.reset()
            compiled = torch.compile(graph.surrogate, fullgraph=True, backend=backend)
            if math.isfinite(factor):
                compiled(theta=theta, data=data).backward()
                assert torch.isfinite(theta.grad).all()
            else:
                with pytest.raises(GraphError, match="node 'z': its weight is not finite"):
                    compiled(theta=theta, data=data)


def test_compiled_to_cpp_the_check_names_a_node_whatever_its_name():
    """The name becomes a literal of the C++ wrapper: a quote, a comma or a new line must not end it."""
    name, theta = 'a "b",\n\\c', torch.tensor([1.0, 4.0], requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x, scale: x * scale, name=name)
    compiled = torch.compile(graph.surrogate, fullgraph=True, options={"cpp_wrapper": True})
    compiled(theta=theta, scale=torch.ones(2)).backward()
    with pytest.raises(
        RuntimeError, match="GraphError: .*its value is not finite"
    ) as error:  # what C++ makes of a Python error
        compiled(theta=theta, scale=torch.tensor([1.0, math.inf]))
    assert repr(name) in str(error.value)


# -- findings ----------------------------------------------------------------------------------------------


def test_findings_list_errors_first_and_notes_after():
    graph = layer(middle=lambda z: z - z.mean(0))
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta.sum(), 1.0), name="idle")
    found = graph.check(theta=THETA, data=DATA)
    assert [f.severity for f in found] == ["error", "note"]
    assert str(found[0]).startswith("error: node 'h': ") and found[1].node == "idle"


def test_findings_of_the_structure_need_no_inputs():
    graph = layer()
    assert graph.check() == []
    graph.stochastic(ScoreFunction(), lambda q: Normal(q, 1.0), name="p", parents=["q"])
    graph.deterministic(lambda p: p, name="q")
    assert "cycle p → q → p" in graph.check()[0].message or "cycle q → p → q" in graph.check()[0].message


@pytest.mark.parametrize("f", [torch.round, lambda x: (x > 0.3) * 1.0], ids=["round", "comparison"])
def test_a_cut_path_below_an_estimator_of_values_and_weights_is_refused(f):
    """REBAR and generalised reparameterisation differentiate the cost, besides their score."""
    relaxed = scg.Graph()
    relaxed.stochastic(REBAR(), lambda theta: Bernoulli(logits=theta), name="b")
    relaxed.cost(lambda b: f(b + 0.2), name="loss")
    with pytest.raises(scg.GraphError, match="the pathwise gradient of 'b' ends here"):
        relaxed.surrogate(theta=torch.tensor(0.3, requires_grad=True))

    positive = scg.Graph()
    positive.stochastic(GeneralisedReparameterisation(), lambda theta: Gamma(theta.exp(), 1.0), name="x")
    positive.cost(lambda x: f(x), name="loss")
    with pytest.raises(scg.GraphError, match="the pathwise gradient of 'x' ends here"):
        positive.surrogate(theta=torch.tensor(0.3, requires_grad=True))


@pytest.mark.parametrize("f", [lambda b: (b - 0.5) ** 2, lambda b: b * b * (3 - 2 * b)], ids=["square", "flat at 0 and 1"])
def test_a_cost_with_a_slope_between_the_values_is_none(f):
    graph = scg.Graph()
    graph.stochastic(REBAR(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(f, name="loss", parents=["b"])
    assert torch.isfinite(graph.surrogate(theta=torch.tensor([0.3] * 8, requires_grad=True)))
