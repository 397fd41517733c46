"""The surrogate's rules, each against the enumeration of every outcome, in float64, to rounding."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

import scg
from scg import detach, dist, prev
from scg.estimators import Enumeration, LeaveOneOut, Pathwise, ScoreFunction
from scg.estimators.credit import MonteCarlo
from tests.exact import assert_same, derivatives, expectation, mean_surrogate, outcomes

BIT = [0.0, 1.0]


def parameters(*shapes):
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def hermite(nodes=12):
    """Nodes and weights of E[f(ε)], ε ~ N(0, 1), exact for polynomials."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.tensor(x), torch.tensor(w / w.sum())


# -- the five graphs of Schulman et al. (2015) -------------------------------------------------------------


def five(number, estimator=None):
    """The table's graphs with Bernoulli samples: θ → [x] → (y) → [f], and so on."""
    estimator = estimator or ScoreFunction()
    graph = scg.Graph()
    if number == 1:
        graph.deterministic(lambda theta: torch.sin(theta) + theta, name="x")
        graph.stochastic(estimator, lambda x: Bernoulli(logits=x), name="y")
        graph.cost(lambda y: (y - 0.3) ** 2, name="f")
    elif number == 2:
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="x")
        graph.deterministic(lambda x: 3 * x + 1, name="y")
        graph.cost(lambda y: y**2, name="f")
    elif number == 3:
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="x")
        graph.stochastic(estimator, lambda x: Bernoulli(probs=0.2 + 0.5 * x), name="y")
        graph.cost(lambda y: (y - 0.3) ** 2, name="f")
    elif number == 4:
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="x")
        graph.deterministic(lambda theta: torch.sin(theta), name="y")
        graph.cost(lambda x, y: (x - 2 * y) ** 2, name="f")
    elif number == 5:
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta + 0.4), name="x1")
        graph.stochastic(estimator, lambda theta, x1: Bernoulli(logits=theta * (2 * x1 - 1)), name="x2")
        graph.cost(lambda x1: 2 * x1, name="f1")
        graph.cost(lambda x2: (x2 - 0.7) ** 2, name="f2")
    return graph


@pytest.mark.parametrize("number", range(1, 6))
def test_five_graphs_under_the_score_function(number):
    (theta,) = parameters(())
    graph = five(number)
    every = list(outcomes(dict.fromkeys(graph.structure.stochastic, BIT)))
    assert_same(mean_surrogate(graph, every, theta=theta), expectation(graph, every, theta=theta), [theta])


@pytest.mark.parametrize("number", range(1, 6))
def test_five_graphs_under_enumeration_are_exact_in_one_draw(number):
    (theta,) = parameters(())
    graph = five(number)
    every = list(outcomes(dict.fromkeys(graph.structure.stochastic, BIT)))
    assert_same(five(number, Enumeration()).surrogate(theta=theta), expectation(graph, every, theta=theta), [theta])


def test_only_the_costs_downstream_weigh_a_sample():
    """Graph 5, outcome by outcome: ∇log p(x₁)(f₁ + f₂) + ∇log p(x₂|x₁) f₂, not f₁ + f₂ twice."""
    (theta,) = parameters(())
    graph = five(5)
    for outcome in outcomes({"x1": BIT, "x2": BIT}):
        trace = graph.replay(outcome, theta=theta)
        lp1, lp2 = (trace.dist(n).log_prob(outcome[n]) for n in ("x1", "x2"))
        f1, f2 = trace["f1"], trace["f2"]
        by_hand = lp1 * (f1 + f2).detach() + lp2 * f2.detach()
        ours, theirs = (torch.autograd.grad(s, theta, retain_graph=True)[0] for s in (trace.surrogate(), by_hand))
        assert torch.allclose(ours, theirs, atol=1e-14)


# -- products over ancestors -------------------------------------------------------------------------------


def layered(first, second, third):
    """Two nested layers, a sibling, a cost that ignores a declared parent, a cost with θ in it directly."""
    graph = scg.Graph()
    graph.stochastic(first, lambda a: Categorical(logits=a), name="x")
    graph.stochastic(second, lambda x, c: Bernoulli(logits=(x - 1) * c), name="y")
    graph.stochastic(third, lambda a: Bernoulli(logits=a[0] - a[1]), name="z")
    graph.cost(lambda x, y, z, c: (x - 1) ** 2 * (y + 2) * c + z * x, name="f")
    graph.cost(lambda x, z: 3 * z, name="ignores_x")
    graph.cost(lambda c: c**3, name="direct")
    return graph


SUPPORTS = {"x": [0, 1, 2], "y": BIT, "z": BIT}


def test_nested_and_sibling_layers_to_second_order():
    a, c = parameters(3, ())
    every = list(outcomes(SUPPORTS))
    graph = layered(ScoreFunction(), ScoreFunction(), ScoreFunction())
    assert_same(mean_surrogate(graph, every, a=a, c=c), expectation(graph, every, a=a, c=c), [a, c])


def test_branches_of_branches_enumerate_the_joint():
    a, c = parameters(3, ())
    every = list(outcomes(SUPPORTS))
    reference = layered(ScoreFunction(), ScoreFunction(), ScoreFunction())
    exact = expectation(reference, every, a=a, c=c)
    assert_same(layered(Enumeration(), Enumeration(), Enumeration()).surrogate(a=a, c=c), exact, [a, c])


class Recited(LeaveOneOut):
    """Leave-one-out over prescribed samples, to enumerate every tuple of them."""

    def __init__(self, values, plain=False):
        object.__setattr__(self, "samples", len(values))
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "plain", plain)

    def branch(self, distribution):
        from scg.estimators.leave_one_out import leave_one_out

        values = torch.stack([v.expand(distribution.batch_shape) for v in self.values])
        log_prob = distribution.log_prob(values)
        if self.plain:
            return scg.Branches(values, self.samples, score=log_prob - log_prob.detach())
        return scg.Branches(values, self.samples, weights=leave_one_out(log_prob))


@pytest.mark.parametrize("plain", [True, False], ids=["score function", "leave-one-out"])
@pytest.mark.parametrize("samples", [2, 3])
def test_several_samples_enumerated_over_all_tuples(samples, plain):
    """E over every n-tuple of samples of the surrogate is the objective, to second order."""
    a, c = parameters(3, ())
    reference = layered(ScoreFunction(), Enumeration(), Enumeration())
    exact = expectation(layered(ScoreFunction(), ScoreFunction(), ScoreFunction()), list(outcomes(SUPPORTS)), a=a, c=c)
    total = torch.zeros(())
    for values in outcomes({"x": [0, 1, 2]}, {"x": (samples,)}):
        graph = reference.with_estimators(x=Recited(tuple(values["x"]), plain))
        p = Categorical(logits=a).log_prob(values["x"]).sum().exp().detach()
        total = total + p * graph.surrogate(a=a, c=c)
    assert_same(total, exact, [a, c])


def test_mixed_pathwise_and_score_nodes_by_quadrature():
    """x pathwise, b score: Gauss–Hermite over the noise times enumeration of b; polynomial costs make it exact."""
    mu, sigma = torch.tensor(0.3, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu, sigma: Normal(mu, sigma), name="x")
    graph.stochastic(ScoreFunction(), lambda mu: Bernoulli(probs=0.3 + 0.1 * mu), name="b")
    graph.cost(lambda x, b, mu: (x - 1) ** 2 * (b + 1) + x**3 * mu, name="f")
    noise, weights = hermite()
    total, exact = torch.zeros(()), torch.zeros(())
    for e, w in zip(noise, weights, strict=True):
        for b in BIT:
            trace = graph.replay({"x": (mu + sigma * e).detach(), "b": torch.tensor(b)}, mu=mu, sigma=sigma)
            p = Bernoulli(probs=0.3 + 0.1 * mu).log_prob(torch.tensor(b)).exp()
            x = mu + sigma * e
            total = total + w * p.detach() * trace.surrogate()
            exact = exact + w * p * ((x - 1) ** 2 * (b + 1) + x**3 * mu)
    assert_same(total, exact, [mu, sigma])


def test_a_score_node_below_a_pathwise_node():
    """The design's example: b's logits move with x, so b's score carries a pathwise gradient to μ."""
    mu = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=x), name="b")
    graph.cost(lambda x, b: (x - 1) ** 2 * b, name="loss")
    noise, weights = hermite(40)
    total, exact = torch.zeros(()), torch.zeros(())
    for e, w in zip(noise, weights, strict=True):
        x = mu + e
        exact = exact + w * torch.sigmoid(x) * (x - 1) ** 2
        for b in BIT:
            trace = graph.replay({"x": x.detach(), "b": torch.tensor(b)}, mu=mu)
            p = Bernoulli(logits=x).log_prob(torch.tensor(b)).exp().detach()
            total = total + w * p * trace.surrogate()
    assert_same(total, exact, [mu])


def test_costs_that_ignore_a_branched_parent_are_not_divided_by_its_samples():
    theta = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(samples=4), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x, theta: theta**2, name="f")
    assert torch.allclose(graph.surrogate(theta=theta), theta**2)


def test_the_batch_is_averaged_and_a_global_sample_weighs_every_element():
    """One latent of batch rank 0 above a batch of costs: its one weight meets the mean cost."""
    theta, data = torch.tensor(0.2, requires_grad=True), torch.randn(5)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="w")
    graph.stochastic(ScoreFunction(), lambda w, data: Bernoulli(logits=w * data), name="y")
    graph.cost(lambda w, y, data: (y - data) ** 2 + w, name="f")
    every = list(outcomes({"w": BIT, "y": BIT}, {"y": (5,)}))
    assert_same(
        mean_surrogate(graph, every, theta=theta, data=data), expectation(graph, every, theta=theta, data=data), [theta]
    )
    exact = graph.with_estimators(w=Enumeration(), y=Enumeration()).surrogate(theta=theta, data=data)
    assert_same(exact, expectation(graph, every, theta=theta, data=data), [theta])


# -- detach and dist edges ---------------------------------------------------------------------------------


def test_a_detached_edge_carries_neither_path_nor_score():
    theta = torch.tensor(0.2, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.deterministic(lambda theta: theta**2, name="d")

    @graph.cost
    def f(theta, x=detach("x"), d=detach("d")):
        return theta * (x + 1) * d

    for x in BIT:
        trace = graph.replay({"x": torch.tensor(x)}, theta=theta)
        (gradient,) = torch.autograd.grad(trace.surrogate(), theta, retain_graph=True)
        assert torch.allclose(gradient, (x + 1) * theta.detach() ** 2)


def test_a_detached_branched_sample_is_still_weighed():
    """Enumeration's weights are probabilities: without gradient they still make the value an expectation."""
    theta = torch.tensor(0.2, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Enumeration(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.cost(lambda theta, x: theta * (x + 1), name="f", parents=["theta", detach("x")])
    surrogate = graph.surrogate(theta=theta)
    p = torch.sigmoid(theta.detach())
    assert torch.allclose(surrogate, theta.detach() * (1 + p))
    assert torch.allclose(torch.autograd.grad(surrogate, theta)[0], 1 + p)


def test_a_dist_edge_passes_the_distribution_and_not_the_sample():
    """An entropy cost is no descendant of the sample: it is weighed by its ancestors only."""
    theta = torch.tensor(0.2, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.stochastic(ScoreFunction(), lambda x, theta: Bernoulli(logits=theta * (x - 0.5)), name="y")
    graph.cost(lambda q: -q.entropy(), name="entropy", parents=[dist("y")])
    assert graph.ancestors("entropy") == ("x",)
    every = list(outcomes({"x": BIT, "y": BIT}))
    assert_same(mean_surrogate(graph, every, theta=theta), expectation(graph, every, theta=theta), [theta])


def test_a_detached_distribution_has_no_gradient():
    theta = torch.tensor(0.2, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.cost(lambda theta, q: theta * q.entropy(), name="f", parents=["theta", detach(dist("x"))])
    (gradient,) = torch.autograd.grad(graph.surrogate(theta=theta), theta)
    assert torch.allclose(gradient, Bernoulli(logits=theta).entropy().detach())


# -- baselines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [2.5, "level", lambda c: c**2 + 1], ids=["constant", "node", "function"])
def test_a_baseline_changes_no_derivative(baseline):
    """Even one that depends on θ, even to second order."""
    a, c = parameters(3, ())
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda a: Categorical(logits=a), name="x")
    graph.deterministic(lambda x, c: 3 * x * c, name="level" if baseline == "level" else "unused")
    graph.stochastic(ScoreFunction(), lambda x, c: Bernoulli(logits=(x - 1) * c), name="y", baseline=baseline)
    graph.cost(lambda x, y, c: (x - 1) ** 2 * (y + 2) * c + y, name="f")
    every = list(outcomes({"x": [0, 1, 2], "y": BIT}))
    assert_same(mean_surrogate(graph, every, a=a, c=c), expectation(graph, every, a=a, c=c), [a, c])


def test_a_baseline_is_subtracted_from_the_cost_to_go():
    """Outcome by outcome: ∇log p(x) (f − b)."""
    theta = torch.tensor(0.2, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x", baseline=0.7)
    graph.cost(lambda x: (x - 0.45) ** 2, name="f")
    for x in BIT:
        value = torch.tensor(x)
        trace = graph.replay({"x": value}, theta=theta)
        score = torch.autograd.grad(Bernoulli(logits=theta).log_prob(value), theta)[0]
        (ours,) = torch.autograd.grad(trace.surrogate(), theta, retain_graph=True)
        assert torch.allclose(ours, score * ((x - 0.45) ** 2 - 0.7))
        assert torch.allclose(trace.surrogate(), trace.objective)


def test_a_baseline_on_enumerated_branches_changes_nothing():
    theta = torch.tensor(0.2, requires_grad=True)
    plain = five(1, Enumeration())
    graph = scg.Graph()
    graph.deterministic(lambda theta: torch.sin(theta) + theta, name="x")
    graph.stochastic(Enumeration(), lambda x: Bernoulli(logits=x), name="y", baseline="x")
    graph.cost(lambda y: (y - 0.3) ** 2, name="f")
    assert_same(graph.surrogate(theta=theta), plain.surrogate(theta=theta), [theta])


# -- sequences ---------------------------------------------------------------------------------------------


def process(estimator=None, baseline=None, lag_cost=False, **sequence):
    """A two-state process: s_t ~ p(·| s_{t-1}, a_{t-1}), a_t ~ π(·| s_t), a cost each step."""
    graph = scg.Graph()
    estimator = estimator or ScoreFunction()
    with graph.sequence(**sequence):
        if "first" in sequence:
            graph.observed("first")
        graph.stochastic(
            estimator,
            lambda s, a, w: Bernoulli(probs=0.2 + 0.3 * s + 0.4 * a * torch.sigmoid(w)),
            name="s",
            parents=[prev("s", init="s0"), prev("a", init="a0"), "w"],
        )
        graph.stochastic(estimator, lambda s, theta: Bernoulli(logits=theta[0] * s + theta[1]), name="a", baseline=baseline)
        graph.cost(lambda s, a, w: (s - 0.6) ** 2 + 0.5 * a * s + w * a, name="c")
        if lag_cost:
            graph.cost(lambda a: 0.3 * a, name="late", parents=[prev("a", init="a0")])
    return graph


START = {"s0": torch.tensor(1.0), "a0": torch.tensor(0.0)}


def test_a_recurrent_sequence_to_second_order():
    theta, w = parameters(2, ())
    graph = process(lag_cost=True)
    every = list(outcomes({"s": BIT, "a": BIT}, {"s": (3,), "a": (3,)}))
    inputs = {"theta": theta, "w": w, **START}
    assert_same(mean_surrogate(graph, every, **inputs), expectation(graph, every, **inputs), [theta, w])


def test_baselines_in_a_sequence_to_second_order():
    theta, w = parameters(2, ())
    graph = process(baseline=lambda s, w: 2 * s + w)
    every = list(outcomes({"s": BIT, "a": BIT}, {"s": (3,), "a": (3,)}))
    inputs = {"theta": theta, "w": w, **START}
    assert_same(mean_surrogate(graph, every, **inputs), expectation(graph, every, **inputs), [theta, w])


def test_reward_to_go_outcome_by_outcome():
    """Σ_t ∇log p_t · Σ_{t' ≥ t} c_{t'} for states and actions; a lagged cost counts from the next step."""
    theta, w = parameters(2, ())
    graph = process(lag_cost=True)
    for outcome in list(outcomes({"s": BIT, "a": BIT}, {"s": (3,), "a": (3,)}))[::7]:
        trace = graph.replay(outcome, theta=theta, w=w, **START)
        c, late = trace["c"], trace["late"]
        by_hand = (c + late).sum()
        for t in range(3):
            for name in ("s", "a"):
                distribution = trace.dist(name)
                lp = (
                    distribution.log_prob(trace[name])[t]
                    if not isinstance(distribution, list)
                    else distribution[t].log_prob(trace[name][t])
                )
                by_hand = by_hand + (lp - lp.detach()) * (c[t:].sum() + late[t + 1 :].sum()).detach()
        ours, theirs = (torch.autograd.grad(x, [theta, w], retain_graph=True) for x in (trace.surrogate(), by_hand))
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.allclose(mine, other, atol=1e-12)


def test_a_bandit_is_not_weighed_with_earlier_actions():
    """Nothing recurs: the window is [0, 0], and each action meets its own cost alone."""
    theta = torch.tensor(0.4, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="a")
        graph.cost(lambda a: (a - 0.3) ** 2, name="c")
        graph.cost(lambda a: 2 * a, name="late", parents=[prev("a", init="a0")])
    assert (graph.lags("a", "c").lo, graph.lags("a", "c").hi) == (0, 0)
    assert (graph.lags("a", "late").lo, graph.lags("a", "late").hi) == (1, 1)
    for outcome in outcomes({"a": BIT}, {"a": (4,)}):
        trace = graph.replay(outcome, theta=theta, a0=torch.tensor(0.0))
        lp = Bernoulli(logits=theta).log_prob(outcome["a"])
        follows = torch.cat([trace["late"][1:], torch.zeros(1)])
        (ours,) = torch.autograd.grad(trace.surrogate(), theta, retain_graph=True)
        (theirs,) = torch.autograd.grad((lp * (trace["c"] + follows)).sum(), theta)
        assert torch.allclose(ours, theirs, atol=1e-14)


def test_stepping_and_vectorised_replay_agree():
    """The same recorded values, computed step by step and all at once: the same surrogate, to rounding."""
    theta, w = parameters(2, ())
    graph = process(baseline=lambda s, w: 2 * s + w, lag_cost=True)
    sampled = graph.sample(steps=7, theta=theta, w=w, **START)
    replayed = graph.replay({"s": sampled["s"], "a": sampled["a"]}, theta=theta, w=w, **START)
    assert sampled.history is not None and replayed.history is None
    assert_same(replayed.surrogate(), sampled.surrogate(), [theta, w])


def test_episode_boundaries_cut_every_influence():
    """Two episodes in one block are two sequences: the same derivatives as each on its own."""
    theta, w = parameters(2, ())
    graph = process(baseline=lambda s, w: 2 * s + w, first="first", lag_cost=True)
    first = torch.tensor([True, False, True, False])
    every = list(outcomes({"s": BIT, "a": BIT}, {"s": (4,), "a": (4,)}))
    single = process(lag_cost=True)
    halves = list(outcomes({"s": BIT, "a": BIT}, {"s": (2,), "a": (2,)}))
    inputs = {"theta": theta, "w": w, **START}
    ours = mean_surrogate(graph, every, {"first": first}, **inputs)
    assert_same(ours, 2 * expectation(single, halves, **inputs), [theta, w])
    for outcome in every[::37]:
        trace = graph.replay({**outcome, "first": first}, **inputs)
        parts = [{k: v[i : i + 2] for k, v in outcome.items()} for i in (0, 2)]
        alone = sum(process(baseline=lambda s, w: 2 * s + w, lag_cost=True).replay(p, **inputs).surrogate() for p in parts)
        assert_same(trace.surrogate(), alone, [theta, w])


def test_episode_boundaries_per_batch_element_while_stepping():
    """Sampling with given flags restarts each element's recurrence where its own episode starts."""
    theta, w = parameters(2, ())
    graph = process(first="first")
    first = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    start = {"s0": torch.tensor([1.0, 0.0]), "a0": torch.zeros(2)}
    sampled = graph.sample(first=first, theta=theta, w=w, **start)
    replayed = graph.replay({"first": first, "s": sampled["s"], "a": sampled["a"]}, theta=theta, w=w, **start)
    assert_same(replayed.surrogate(), sampled.surrogate(), [theta, w])


def test_a_cost_after_the_sequence_reads_its_last_step():
    theta, w = parameters(2, ())

    def build():
        graph = process()
        graph.cost(lambda s, w: (s - 0.1) ** 2 * w, name="final", parents=["s", "w"])
        return graph

    graph = build()
    inputs = {"theta": theta, "w": w, **START}
    every = list(outcomes({"s": BIT, "a": BIT}, {"s": (3,), "a": (3,)}))
    assert_same(mean_surrogate(graph, every, **inputs), expectation(graph, every, **inputs), [theta, w])
    sampled = graph.sample(steps=5, **inputs)
    replayed = graph.replay({"s": sampled["s"], "a": sampled["a"]}, **inputs)
    assert_same(replayed.surrogate(), sampled.surrogate(), [theta, w])


def test_an_outer_sample_influences_every_step():
    theta = torch.tensor(0.4, requires_grad=True)

    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="z")
        with graph.sequence():
            graph.stochastic(ScoreFunction(), lambda z, theta: Bernoulli(logits=z - theta), name="a")
            graph.cost(lambda a, z: (a - 0.3) ** 2 * (z + 1), name="c")
        return graph

    graph = build(ScoreFunction())
    every = list(outcomes({"z": BIT, "a": BIT}, {"a": (3,)}))
    exact = expectation(graph, every, theta=theta)
    assert_same(mean_surrogate(graph, every, theta=theta), exact, [theta])
    total = torch.zeros(())
    enumerated = build(Enumeration())
    for outcome in outcomes({"a": BIT}, {"a": (3,)}):
        # under each z the recorded actions have another probability: weights π/μ with μ uniform make it one sum
        given = {**outcome, "a.log_prob": torch.full((3,), math.log(0.5))}
        total = total + 0.5**3 * enumerated.replay(given, theta=theta).surrogate()
    assert_same(total, exact, [theta])


@pytest.mark.parametrize("steps", [2, 3])
def test_an_outer_branch_that_enters_a_recurrence(steps):
    """z branches outside and reaches the state only from the second step on; as a baseline it meets every step."""
    theta = torch.tensor(0.4, requires_grad=True)

    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="z")
        with graph.sequence():
            graph.deterministic(lambda s, z: 0.5 * s + z, name="s", parents=[prev("s", init="s0"), "z"])
            graph.stochastic(
                ScoreFunction(),
                lambda s, theta: Bernoulli(logits=s - theta),
                name="a",
                parents=[prev("s", init="s0"), "theta"],
                baseline="z",
            )
            graph.cost(lambda a: (a - 0.3) ** 2, name="c")
        return graph

    every = list(outcomes({"z": BIT, "a": BIT}, {"a": (steps,)}))
    exact = expectation(build(ScoreFunction()), every, theta=theta, s0=torch.tensor(0.0))
    total = torch.zeros(())
    for outcome in outcomes({"a": BIT}, {"a": (steps,)}):
        given = {**outcome, "a.log_prob": torch.full((steps,), math.log(0.5))}
        total = total + 0.5**steps * build(Enumeration()).replay(given, theta=theta, s0=torch.tensor(0.0)).surrogate()
    assert_same(total, exact, [theta])


def test_a_timeless_node_is_the_same_at_every_step():
    """A node of the sequence that reads only inputs: as a cost it counts at each step, as a baseline it meets each."""
    theta = torch.tensor(0.4, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            ScoreFunction(),
            lambda a, theta: Bernoulli(logits=theta + a),
            name="a",
            parents=[prev("a", init="a0"), "theta"],
            baseline="b",
        )
        graph.deterministic(lambda theta: theta.sin(), name="b")
        graph.cost(lambda a: (a - 0.3) ** 2, name="c")
        graph.cost(lambda theta: theta**2, name="penalty")
    inputs = {"theta": theta, "a0": torch.tensor(0.0)}
    every = list(outcomes({"a": BIT}, {"a": (3,)}))
    assert_same(mean_surrogate(graph, every, **inputs), expectation(graph, every, **inputs) + 2 * theta**2, [theta])
    stepped = graph.sample(steps=3, **inputs)
    assert_same(graph.replay({"a": stepped["a"]}, **inputs).surrogate(), stepped.surrogate(), [theta])


def test_an_initial_value_of_lower_rank_grows_with_its_state():
    theta = torch.tensor(0.4, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            ScoreFunction(),
            lambda s, theta, x: Normal(theta * s + x, 1.0),
            name="s",
            parents=[prev("s", init="s0"), "theta", "x"],
        )
        graph.cost(lambda s: s**2, name="late", parents=[prev("s", init="s0")])
    x = torch.randn(5)
    trace = graph.sample(steps=3, theta=theta, x=x, s0=torch.tensor(0.7))
    assert trace["late"].shape == (3, 5)
    full = graph.replay({"s": trace["s"]}, theta=theta, x=x, s0=torch.full((5,), 0.7))
    assert_same(full.surrogate(), trace.surrogate(), [theta])


def test_branches_at_every_step_of_a_given_sequence():
    """Enumeration of actions at recorded observations, stepped and at once."""
    theta = torch.randn(2, requires_grad=True)
    obs = torch.randn(4, 3)
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs")
        graph.stochastic(Enumeration(), lambda obs, theta: Bernoulli(logits=theta[0] * obs + theta[1]), name="a")
        graph.cost(lambda obs, a: (a - obs) ** 2, name="c")
    p = torch.sigmoid(theta[0] * obs + theta[1])
    exact = (p * (1 - obs) ** 2 + (1 - p) * obs**2).sum(0).mean()
    assert_same(graph.sample(obs=obs, theta=theta).surrogate(), exact, [theta])


def test_a_mean_over_time_divides_by_the_steps():
    theta, w = parameters(2, ())
    trace = process().sample(steps=4, theta=theta, w=w, **START)
    assert torch.allclose(trace.surrogate(reduce="mean"), trace.surrogate() / 4)


# -- off-policy --------------------------------------------------------------------------------------------


def test_importance_weights_per_decision_to_second_order():
    """Actions and states recorded under μ: E_μ of the surrogate is the objective under π, with all derivatives."""
    theta, w = parameters(2, ())
    graph = process(lag_cost=True)
    behaviour = {"theta": torch.tensor([0.3, -0.8]), "w": torch.tensor(0.5)}
    inputs = {"theta": theta, "w": w, **START}
    every = list(outcomes({"s": BIT, "a": BIT}, {"s": (3,), "a": (3,)}))
    total = torch.zeros(())
    for outcome in every:
        recorded = graph.replay(outcome, **behaviour, **START)
        mu = {f"{n}.log_prob": recorded.log_prob(n) for n in ("s", "a")}
        p = sum(v.sum() for v in mu.values()).exp()
        total = total + p * graph.replay({**outcome, **mu}, **inputs).surrogate()
    assert_same(total, expectation(graph, every, **inputs), [theta, w])


def test_importance_weights_stop_at_episode_boundaries():
    theta, w = parameters(2, ())
    graph = process(first="first")
    first = torch.tensor([True, False, True, False])
    inputs = {"theta": theta, "w": w, **START}
    outcome = {"s": torch.tensor([1.0, 0.0, 1.0, 1.0]), "a": torch.tensor([0.0, 1.0, 1.0, 0.0])}
    mu = {f"{n}.log_prob": torch.rand(4).log() for n in ("s", "a")}
    whole = graph.replay({**outcome, **mu, "first": first}, **inputs).surrogate()
    parts = [{k: v[i : i + 2] for k, v in {**outcome, **mu}.items()} for i in (0, 2)]
    assert_same(whole, sum(process().replay(p, **inputs).surrogate() for p in parts), [theta, w])


def test_a_detached_importance_weight_still_weighs():
    """x reaches the cost only through a detached edge: its ratio corrects the value and carries no gradient."""
    theta = torch.tensor(0.2, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.cost(lambda theta, x: theta * (x + 1), name="f", parents=["theta", detach("x")])
    total = torch.zeros(())
    for x in BIT:
        total = (
            total + 0.5 * graph.replay({"x": torch.tensor(x), "x.log_prob": torch.tensor(0.5).log()}, theta=theta).surrogate()
        )
    p = torch.sigmoid(theta.detach())
    assert torch.allclose(total, theta * (1 + p))
    assert torch.allclose(torch.autograd.grad(total, theta)[0], 1 + p)


def test_pathwise_nodes_recorded_under_another_policy_are_weighed():
    """Noise inferred from μ's samples is not π's own: E_μ of the surrogate is the objective only with sg π/μ."""
    m, s = torch.tensor(0.3, requires_grad=True), torch.tensor(0.8, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda m, s: Normal(m, s), name="x")
    graph.cost(lambda x, m: (x - 1) ** 2 * m + x, name="f")
    behaviour = Normal(0.1, 1.1)
    noise, weights = hermite(60)
    total = torch.zeros(())
    for e, w in zip(noise, weights, strict=True):
        x = 0.1 + 1.1 * e
        total = total + w * graph.replay({"x": x, "x.log_prob": behaviour.log_prob(x)}, m=m, s=s).surrogate()
    assert_same(total, ((m - 1) ** 2 + s**2) * m + m, [m, s])


# -- credit ------------------------------------------------------------------------------------------------


def test_a_credit_replaces_what_is_downstream():
    """∇ = credit · ∇log p(x), and the direct part of the cost; the cost's own weight is gone."""
    theta = torch.tensor(0.2, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x", credit=lambda x: 5 * x + 1, baseline=0.5)
    graph.cost(lambda x, theta: (x - 0.45) ** 2 + theta, name="f")
    for x in BIT:
        value = torch.tensor(x)
        trace = graph.replay({"x": value}, theta=theta)
        score = torch.autograd.grad(Bernoulli(logits=theta).log_prob(value), theta)[0]
        (ours,) = torch.autograd.grad(trace.surrogate(), theta, retain_graph=True)
        assert torch.allclose(ours, score * (5 * x + 1 - 0.5) + 1)
        assert torch.allclose(trace.surrogate().detach(), trace.objective)
        assert torch.allclose(trace.credit("x"), torch.tensor(5 * x + 0.5))


def test_an_exact_q_critic_gives_the_exact_gradient():
    """Credit E[cost-to-go | s, a] in place of the sampled one: the same mean gradient."""
    theta, w = parameters(2, ())
    inputs = {"theta": theta, "w": w, **START}
    steps = 3
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("t")
        graph.stochastic(
            ScoreFunction(),
            lambda s, a, w: Bernoulli(probs=0.2 + 0.3 * s + 0.4 * a * torch.sigmoid(w.detach())),
            name="s",
            parents=[prev("s", init="s0"), prev("a", init="a0"), "w"],
        )
        graph.stochastic(
            ScoreFunction(),
            lambda s, theta: Bernoulli(logits=theta[0] * s + theta[1]),
            name="a",
            credit=lambda t, s, a: q_value(t, s, a),
        )
        graph.cost(lambda s, a: (s - 0.6) ** 2 + 0.5 * a * s, name="c")

    def q_value(t, s, a):
        table = torch.zeros(steps + 1, 2, 2)
        policy = torch.stack(
            [
                torch.sigmoid(-theta[1]),
                torch.sigmoid(theta[1]),
                torch.sigmoid(-theta[0] - theta[1]),
                torch.sigmoid(theta[0] + theta[1]),
            ]
        ).view(2, 2)
        for k in reversed(range(steps)):
            for i in range(2):
                for j in range(2):
                    up = 0.2 + 0.3 * i + 0.4 * j * torch.sigmoid(w)
                    v = (policy * table[k + 1]).sum(1)
                    table[k, i, j] = (i - 0.6) ** 2 + 0.5 * j * i + up * v[1] + (1 - up) * v[0]
        return table.detach()[t.long(), s.long(), a.long()]

    every = list(outcomes({"s": BIT, "a": BIT}, {"s": (steps,), "a": (steps,)}))
    given = {"t": torch.arange(steps)}
    ours = derivatives(mean_surrogate(graph, every, given, **inputs), [theta], order=1)
    exact = derivatives(expectation(graph, every, given, **inputs), [theta], order=1)
    for mine, truth in zip(ours, exact, strict=True):
        assert torch.allclose(mine, truth, rtol=1e-10)


def test_value_of_the_surrogate_is_the_objective():
    theta, w = parameters(2, ())
    trace = process(baseline=1.0, lag_cost=True).sample(steps=5, theta=theta, w=w, **START)
    assert torch.allclose(trace.surrogate().detach(), trace.objective)
    assert torch.allclose(trace.objective, (trace["c"] + trace["late"]).sum())
    assert math.isfinite(trace.objective.item())


def test_renaming_and_reordering_nodes_changes_nothing():
    a, c = parameters(3, ())
    graph = scg.Graph()
    graph.cost(lambda one, two, c: (one - 1) ** 2 * (two + 2) * c, name="f", parents=["one", "two", "c"])
    graph.stochastic(ScoreFunction(), lambda one, c: Bernoulli(logits=(one - 1) * c), name="two")
    graph.stochastic(ScoreFunction(), lambda a: Categorical(logits=a), name="one")
    other = scg.Graph()
    other.stochastic(ScoreFunction(), lambda a: Categorical(logits=a), name="x")
    other.stochastic(ScoreFunction(), lambda x, c: Bernoulli(logits=(x - 1) * c), name="y")
    other.cost(lambda x, y, c: (x - 1) ** 2 * (y + 2) * c, name="g")
    ours = graph.surrogate(generator=torch.Generator().manual_seed(3), a=a, c=c)
    theirs = other.surrogate(generator=torch.Generator().manual_seed(3), a=a, c=c)
    assert_same(ours, theirs, [a, c])


# -- credit beside branches and across the end of a sequence --------------------------------------------------


def test_a_credit_before_at_and_after_a_sequence_charges_each_cost_once():
    """With γ = 1 Monte Carlo credit is the graph's own cost-to-go: outside, inside, and for a terminal cost."""
    theta = torch.tensor(0.3, requires_grad=True)

    def build(credit):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="z", credit=credit)
        with graph.sequence():
            graph.stochastic(
                ScoreFunction(),
                lambda s, theta, z: Bernoulli(logits=s + theta - z),
                name="s",
                parents=[prev("s", init="s0"), "theta", "z"],
                credit=credit,
            )
            graph.cost(lambda s, z: s * (z + 1), name="c")
        graph.cost(lambda z: 10 * z, name="early")
        graph.cost(lambda s: 7 * s, name="final", parents=["s"])
        return graph

    for given in list(outcomes({"z": BIT, "s": BIT}, {"z": (2,), "s": (3, 2)}))[::29]:
        gradients = [
            torch.autograd.grad(build(credit).replay(given, theta=theta, s0=torch.zeros(2)).surrogate(), theta)[0]
            for credit in (None, MonteCarlo())
        ]
        assert torch.allclose(*gradients)


@pytest.mark.parametrize("what", ["credit", "baseline"])
@pytest.mark.parametrize("outside", [True, False], ids=["branches outside", "branches at each step"])
def test_credits_and_baselines_average_over_branches_that_their_node_does_not_come_after(outside, what):
    """z branches and is no ancestor of a: what multiplies a's score is the mean over z, with z's weights."""
    theta = torch.randn(2, requires_grad=True)

    def build(estimator, **extra):
        graph = scg.Graph()

        def declare():
            graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta[0]), name="z")

        if outside:
            declare()
        with graph.sequence():
            if not outside:
                declare()
            graph.observed("x")
            graph.stochastic(ScoreFunction(), lambda theta, x: Bernoulli(logits=x + theta[1]), name="a", **extra)
            graph.cost(lambda a, z, x: (a + x) * (z + 1) ** 2, name="c")
        return graph

    x = torch.tensor([0.5, -1.0, 2.0])
    p = torch.sigmoid(theta.detach()[0])
    for outcome in outcomes({"a": BIT}, {"a": (3,)}):
        given = {**outcome, "x": x}
        if what == "credit":
            with_credit = build(Enumeration(), credit=MonteCarlo()).replay(given, theta=theta).surrogate()
            plain = build(Enumeration()).replay(given, theta=theta).surrogate()
            mine, other = (torch.autograd.grad(s, theta)[0][1] for s in (with_credit, plain))
        else:
            trace = build(Enumeration(), baseline=lambda z: z + 2.0).replay(given, theta=theta)
            mine = torch.autograd.grad(trace.surrogate(), theta)[0][1]
            plain = build(Enumeration()).replay(given, theta=theta).surrogate()
            score = Bernoulli(logits=x + theta[1]).log_prob(outcome["a"]).sum()
            other = torch.autograd.grad(plain, theta)[0][1] - (p + 2.0) * torch.autograd.grad(score, theta)[0][1]
        assert torch.allclose(mine, other)


# -- live and detached lags --------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", [False, True], ids=["score", "importance weights"])
def test_detached_lags_between_live_ones_carry_no_gradient(importance):
    """x reaches c live at lags 0 and 2, and at lag 1 through detach only: three parts of one window."""
    theta = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
        graph.deterministic(lambda x: x, name="y", parents=[prev("x", init="zero")])
        graph.deterministic(lambda y: y, name="z", parents=[prev("y", init="zero")])
        graph.cost(lambda x, z, w: x + 3 * w + z, name="c", parents=["x", "z", detach(prev("x", init="zero"))])
    (influence,) = graph.structure.influences("c")
    assert [(p.lo, p.hi, live) for p, live in influence.parts] == [(0, 0, True), (1, 1, False), (2, 2, True)]
    total = torch.zeros(())
    for outcome in outcomes({"x": BIT}, {"x": (3,)}):
        given = {**outcome, "x.log_prob": torch.full((3,), math.log(0.5))} if importance else outcome
        p = torch.tensor(0.125) if importance else Bernoulli(logits=theta).log_prob(outcome["x"]).sum().exp().detach()
        total = total + p * graph.replay(given, theta=theta, zero=torch.tensor(0.0)).surrogate()
    p = torch.sigmoid(theta)
    assert torch.allclose(total, 3 * p + p + 6 * p)  # value: x three times, z once, w twice
    assert torch.allclose(torch.autograd.grad(total, theta)[0], torch.autograd.grad(4 * p, theta)[0])


def test_a_recurrence_whose_tail_is_detached():
    """Truncated credit: the state forgets its gradient after one step, so later costs do not train earlier samples."""
    theta = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
        graph.deterministic(lambda s, x: s + x, name="s", parents=[detach(prev("s", init="zero")), "x"])
        graph.cost(lambda s: s**2, name="c")
    (influence,) = graph.structure.influences("c")
    assert [(p.lo, p.hi, live) for p, live in influence.parts] == [(0, 0, True), (1, math.inf, False)]
    gradient = torch.zeros(())
    exact = torch.zeros(())
    for outcome in outcomes({"x": BIT}, {"x": (3,)}):
        p = Bernoulli(logits=theta).log_prob(outcome["x"]).sum().exp()
        surrogate = graph.replay(outcome, theta=theta, zero=torch.tensor(0.0)).surrogate()
        gradient = gradient + p.detach() * torch.autograd.grad(surrogate, theta)[0]
        before = outcome["x"].cumsum(0) - outcome["x"]
        for t in range(3):
            others = torch.cat([outcome["x"][:t], outcome["x"][t + 1 :]])
            rest = Bernoulli(logits=theta).log_prob(others).sum().exp().detach()
            own = Bernoulli(logits=theta).log_prob(outcome["x"][t]).exp()
            exact = exact + rest * own * (before[t] + outcome["x"][t]) ** 2
    assert torch.allclose(gradient, torch.autograd.grad(exact, theta)[0])


def test_live_and_detached_lags_that_alternate_for_ever_are_refused():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
        graph.deterministic(lambda b, x: b + x, name="a", parents=[prev("b", init="zero"), "x"])
        graph.deterministic(lambda a: a, name="b", parents=[prev("a", init="zero")])
        graph.cost(lambda a, b: a + b, name="c", parents=["a", detach("b")])
    with pytest.raises(
        scg.GraphError, match="node 'x': it reaches 'c' with a gradient at some lags and through detach.* only at others"
    ):
        graph.surrogate(steps=3, theta=torch.tensor(0.3, requires_grad=True), zero=torch.tensor(0.0))


@pytest.mark.parametrize("case", ["an initial value beside a detached edge", "an initial value of a truncated recurrence"])
def test_an_outer_sample_that_is_live_at_some_steps_only_is_refused(case):
    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Normal(theta, 1.0), name="z")
        with graph.sequence():
            if case == "an initial value beside a detached edge":
                graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
                graph.cost(lambda x, z: x * z, name="c", parents=[prev("x", init="z"), detach("z")])
            else:
                graph.deterministic(lambda s: 2 * s, name="s", parents=[detach(prev("s", init="start"))])
                graph.deterministic(lambda s, z: s + z, name="r", parents=["s", prev("r", init="z")])
                graph.cost(lambda r, z: r * z, name="c", parents=[prev("s", init="z"), detach(prev("r", init="z"))])
        return graph

    inputs = {"theta": torch.tensor(0.3, requires_grad=True), "start": torch.tensor(1.0)}
    if case == "an initial value beside a detached edge":
        inputs.pop("start")
    with pytest.raises(
        scg.GraphError, match="node 'z': the cost 'c' depends on it with a gradient, and beside that through detach"
    ):
        build(ScoreFunction()).surrogate(steps=3, **inputs)
    build(Pathwise()).surrogate(steps=3, **inputs)


def test_truncated_backpropagation_from_a_random_initial_state():
    """The pathwise gradient stops where the recurrence is detached."""
    theta = torch.tensor(0.3, requires_grad=True)

    def build(estimator):
        graph = scg.Graph()
        graph.stochastic(estimator, lambda theta: Normal(theta, 1.0), name="z")
        with graph.sequence():
            graph.deterministic(lambda s: 2 * s, name="s", parents=[prev("s", init="z")])
            graph.deterministic(lambda s: 3 * s, name="cut", parents=[detach(prev("s", init="z"))])
            graph.cost(lambda s, cut: s * 0 + cut, name="c")
        return graph

    trace = build(Pathwise()).sample(steps=3, theta=theta)
    assert torch.autograd.grad(trace.surrogate(), theta, retain_graph=True)[0] == 0


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_baselines_and_controls_take_their_share_of_a_mean_over_steps(reduce):
    """At one draw, against the loss written by hand: what is subtracted or added is divided by T as the costs are."""

    class Controlled(ScoreFunction):
        """A likelihood ratio with a control variate κ of gradient 5 per sample."""

        def branch(self, distribution):
            found = super().branch(distribution)
            kappa = 5.0 * (distribution.logits - distribution.logits.detach())
            return scg.Branches(found.values, score=found.score, control=kappa)

    steps, theta = 3, torch.tensor([0.3, -0.2], requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Controlled(), lambda theta: Bernoulli(logits=theta), name="z", baseline=0.7)
    with graph.sequence():
        graph.stochastic(Controlled(), lambda theta, z: Bernoulli(logits=2 * theta + z), name="x", baseline=0.4)
        graph.cost(lambda x, z: (x - 0.3) ** 2 * (1 + z), name="c")
    trace = graph.sample(theta=theta, steps=steps)
    (found,) = torch.autograd.grad(trace.surrogate(reduce=reduce), theta)

    z, x, cost = (trace[name].detach() for name in ("z", "x", "c"))
    log_z = Bernoulli(logits=theta).log_prob(z)
    log_x = Bernoulli(logits=2 * theta + z).log_prob(x)
    loss = (log_x * (cost - 0.4)).sum(0) + log_z * (cost.sum(0) - 0.7) + 5.0 * (steps * 2 * theta + theta)
    (expected,) = torch.autograd.grad(loss.mean() / (steps if reduce == "mean" else 1), theta)
    assert torch.allclose(found, expected, atol=1e-12)
