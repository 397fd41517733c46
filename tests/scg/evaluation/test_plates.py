"""Plates: several samples that a cost joins non-linearly, each rule against the enumeration of every tuple."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

import scg
from scg import dist
from scg.estimators import Enumeration, LeaveOneOut, Pathwise, ScoreFunction
from tests.exact import assert_same, expectation, mean_surrogate, outcomes

BIT = [0.0, 1.0]


def bound(samples, estimator=None, baseline=None, credit=None, above=None, deep=False):
    """An importance-weighted bound (Burda et al. 2016): −log 1/K Σ_k p(x, z_k)/q(z_k), one latent bit or two."""
    estimator = estimator or ScoreFunction()
    graph = scg.Graph()
    if above is not None:
        graph.stochastic(above, lambda theta, x: Bernoulli(logits=theta[1] + 0 * x), name="u")
    names = ["theta", "x"] + (["u"] if above is not None else [])
    graph.stochastic(
        estimator,
        lambda theta, x, u=0.0: Bernoulli(logits=theta[0] * x + u),
        name="z",
        parents=names,
        plate=samples,
        baseline=baseline,
        credit=credit,
    )
    last = "z"
    if deep:
        graph.stochastic(estimator, lambda z, theta: Bernoulli(logits=theta[1] * (z - 0.3)), name="z2")
        last = "z2"

    def log_weight(z, q, top, q2, x, w):
        prior = Bernoulli(probs=0.4).log_prob(z)
        likelihood = Normal(w * top, 1.0).log_prob(x)
        return prior + likelihood - q.log_prob(z) + (0.0 if q2 is q else -0.3 * q2.log_prob(top))

    graph.deterministic(log_weight, name="log_weight", parents=["z", dist("z"), last, dist(last), "x", "w"])
    graph.cost(lambda log_weight: math.log(samples) - log_weight.logsumexp(-2), name="negative_bound")
    return graph


def inputs():
    return {
        "theta": torch.tensor([0.4, -0.6], requires_grad=True),
        "w": torch.tensor(0.8, requires_grad=True),
        "x": torch.tensor([0.7]),
    }


@pytest.mark.parametrize("deep", [False, True], ids=["one layer", "two layers on the plate"])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_samples_of_a_plate_weigh_their_cost_together(samples, deep):
    given = inputs()
    graph = bound(samples, deep=deep)
    names = ["z", "z2"] if deep else ["z"]
    every = list(outcomes(dict.fromkeys(names, BIT), dict.fromkeys(names, (samples, 1))))
    assert_same(mean_surrogate(graph, every, **given), expectation(graph, every, **given), [given["theta"], given["w"]])


def test_a_baseline_meets_each_sample_of_a_plate():
    given = inputs()
    graph = bound(2, baseline=lambda x, theta: x + theta[0], deep=True)
    every = list(outcomes({"z": BIT, "z2": BIT}, {"z": (2, 1), "z2": (2, 1)}))
    assert_same(mean_surrogate(graph, every, **given), expectation(graph, every, **given), [given["theta"], given["w"]])


def test_a_plate_below_a_branching_node():
    """Enumeration above, a plate below: branches stand left of the plate, and stay there when the cost has reduced it."""
    given = inputs()
    plain = bound(2, above=ScoreFunction())
    every = list(outcomes({"u": BIT, "z": BIT}, {"u": (1,), "z": (2, 1)}))
    exact = expectation(plain, every, **given)
    branched = bound(2, above=Enumeration())
    total = torch.zeros(())
    for outcome in outcomes({"z": BIT}, {"z": (2, 1)}):
        recorded = {**outcome, "z.log_prob": torch.full((2, 1), math.log(0.5))}
        total = total + 0.25 * branched.replay(recorded, **given).surrogate()
    assert_same(total, exact, [given["theta"], given["w"]])
    assert branched.sample(**given)["z"].shape == (2, 2, 1)


def test_a_plate_below_a_sampled_batch():
    """Its distribution has no plate yet; a function that mixes the batch is still found."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, x: Bernoulli(logits=theta + 0 * x), name="u")
    graph.stochastic(ScoreFunction(), lambda theta, u: Bernoulli(logits=theta + u), name="z", plate=3)
    graph.cost(lambda z: z.logsumexp(-2), name="f")
    theta, x = torch.tensor(0.1, requires_grad=True), torch.randn(5)
    assert graph.surrogate(theta=theta, x=x).isfinite()

    wrong = scg.Graph()
    wrong.stochastic(ScoreFunction(), lambda theta, x: Bernoulli(logits=theta + 0 * x), name="u")
    wrong.stochastic(ScoreFunction(), lambda theta, u: Bernoulli(logits=theta + u - u.mean(-1, True)), name="z", plate=3)
    wrong.cost(lambda z: z.logsumexp(-2), name="f")
    with pytest.raises(scg.GraphError, match=r"node 'z': element \d .* mixes batch elements"):
        wrong.surrogate(theta=theta, x=x)


def test_a_branching_node_on_a_plate():
    """Four replicates of a pair of samples; estimators that weigh branches one by one would not see pairs."""
    given = {**inputs(), "x": torch.randn(5)}
    for estimator in (LeaveOneOut(4), Enumeration()):
        with pytest.raises(scg.GraphError, match="node 'z': .* on a plate a branch is all its samples together"):
            bound(2, estimator).surrogate(**given)
    graph = bound(2, ScoreFunction(4))
    trace = graph.sample(**given)
    assert trace["z"].shape == (4, 2, 5)
    assert trace["negative_bound"].shape == (4, 5)
    assert torch.allclose(trace.surrogate().detach(), trace["negative_bound"].mean())


def test_per_sample_credit_on_a_plate():
    """VIMCO (Mnih & Rezende 2016): each sample's credit is the bound less the bound with its weight replaced by the
    geometric mean of the others', which does not depend on it. The mean gradient is the bound's."""

    class Vimco(scg.Credit):
        def __call__(self, downstream):
            log_w = downstream.value("log_weight")
            n = log_w.shape[-2]
            others = (log_w.sum(-2, keepdim=True) - log_w) / (n - 1)
            rows = []
            for k in range(n):
                replaced = log_w.clone()
                replaced[..., k, :] = others[..., k, :]
                rows.append(replaced.logsumexp(-2))
            return -(log_w.logsumexp(-2, keepdim=True) - torch.stack(rows, -2))

    given = inputs()
    graph = bound(3, credit=Vimco())
    every = list(outcomes({"z": BIT}, {"z": (3, 1)}))
    assert_same(
        mean_surrogate(graph, every, **given), expectation(graph, every, **given), [given["theta"], given["w"]], order=1
    )

    class Own(Vimco):
        """The biased twin: the sample's own weight stays in its baseline."""

        def __call__(self, downstream):
            log_w = downstream.value("log_weight")
            return super().__call__(downstream) + log_w * 0.5

    wrong = mean_surrogate(bound(3, credit=Own()), every, **given)
    with pytest.raises(AssertionError, match="gradient"):
        assert_same(wrong, expectation(graph, every, **given), [given["theta"], given["w"]], order=1)


def test_pathwise_samples_on_a_plate():
    mu = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu, x: Independent(Normal(mu + x, 1.0), 1), name="z", plate=6)
    graph.cost(lambda z, x: -(-(z - x).square().sum(-1)).logsumexp(-2), name="f")
    x = torch.randn(5, 3)
    trace = graph.sample(mu=mu, x=x)
    assert trace["z"].shape == (6, 5, 3)
    by_hand = -(-(trace["z"] - x).square().sum(-1)).logsumexp(0).mean()
    assert torch.allclose(trace.surrogate(), by_hand)


def test_a_plate_needs_the_batch_axes_of_its_costs():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, x: Normal(theta + x, 1.0), name="z", plate=3)
    graph.cost(lambda z: z, name="f")
    with pytest.raises(
        scg.GraphError, match=r"node 'z': its plate stands left of batch shape \[5\], while the costs have rank 2"
    ):
        graph.surrogate(theta=torch.tensor(0.1, requires_grad=True), x=torch.randn(5))


def test_plates_and_sequences_and_plates_of_two_sizes_are_refused():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="z", plate=3)
    with pytest.raises(scg.GraphError, match="plate= in a graph with a sequence"):
        graph.ancestors("z")
    graph = scg.Graph()
    for name, size in (("a", 2), ("b", 3)):
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name=name, plate=size)
    with pytest.raises(scg.GraphError, match=r"plates of different sizes \[2, 3\]"):
        graph.ancestors("a")
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="a", plate=0)
    with pytest.raises(scg.GraphError, match="plate=0; it is the number of samples"):
        graph.ancestors("a")
