"""Bounds of several samples: what they bound, and VIMCO against the enumeration of every tuple of samples."""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg import dist
from scg.estimators import Enumeration, ScoreFunction
from scg.estimators.credit import VIMCO
from scg.estimators.multi_sample import negative_bound, negative_jackknife
from tests.exact import assert_same, derivatives, expectation, mean_surrogate, outcomes

BIT = [0.0, 1.0]
MEANS = ["geometric", "arithmetic"]


def bits(samples, credit=None, above=None, extra=0.0, bound=negative_bound):
    """One latent bit for each of K samples, a likelihood with a parameter, perhaps a bit above and a second cost."""
    graph = scg.Graph()
    if above is not None:
        graph.stochastic(above, lambda theta, x: Bernoulli(logits=theta[..., 1] + 0 * x), name="u")
    parents = ["theta", "x", *(["u"] if above is not None else [])]

    def posterior(theta, x, u=0.0):
        return Bernoulli(logits=theta[..., 0] * x + u)

    graph.stochastic(ScoreFunction(), posterior, name="z", parents=parents, plate=samples, credit=credit)

    def log_weight(z, q, x, w):
        return Bernoulli(probs=0.4).log_prob(z) + Normal(w * z, 1.0).log_prob(x) - q.log_prob(z)

    graph.deterministic(log_weight, name="log_weights", parents=["z", dist("z"), "x", "w"])
    graph.cost(lambda log_weights: bound(log_weights), name="bound")
    if extra:
        graph.cost(lambda z, w: extra * (w - z).square().prod(-2), name="other")
    return graph


def inputs():
    return {
        "theta": torch.tensor([0.4, -0.6], requires_grad=True),
        "w": torch.tensor(0.8, requires_grad=True),
        "x": torch.tensor([0.7]),
    }


def both(graph, samples):
    given = inputs()
    every = list(outcomes({"z": BIT}, {"z": (samples, 1)}))
    return mean_surrogate(graph, every, **given), expectation(graph, every, **given), [given["theta"], given["w"]]


@pytest.mark.parametrize("extra", [0.0, 0.7], ids=["the bound alone", "another cost below"])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_vimco_has_the_exact_gradient(samples, mean, extra):
    assert_same(*both(bits(samples, VIMCO(mean=mean), extra=extra), samples), order=1)


@pytest.mark.parametrize("mean", MEANS)
def test_vimco_credits_every_layer_of_the_plate(mean):
    """z₂ below z₁, two samples of the pair: each pair is weighed as one."""
    given = inputs()
    graph = scg.Graph()
    credit = VIMCO(mean=mean)
    graph.stochastic(ScoreFunction(), lambda theta, x: Bernoulli(logits=theta[0] * x), name="z1", plate=2, credit=credit)
    graph.stochastic(ScoreFunction(), lambda z1, theta: Bernoulli(logits=theta[1] * (z1 - 0.3)), name="z2", credit=credit)

    def log_weight(z1, z2, q1, q2, x, w):
        p = Bernoulli(probs=0.4).log_prob(z1) + Bernoulli(logits=z1 - 0.5).log_prob(z2) + Normal(w * z2, 1.0).log_prob(x)
        return p - q1.log_prob(z1) - q2.log_prob(z2)

    graph.deterministic(log_weight, name="log_weights", parents=["z1", "z2", dist("z1"), dist("z2"), "x", "w"])
    graph.cost(lambda log_weights: negative_bound(log_weights), name="bound")
    every = list(outcomes({"z1": BIT, "z2": BIT}, {"z1": (2, 1), "z2": (2, 1)}))
    wrt = [given["theta"], given["w"]]
    assert_same(mean_surrogate(graph, every, **given), expectation(graph, every, **given), wrt, order=1)


def test_vimco_of_the_jackknife_has_the_exact_gradient():
    assert_same(*both(bits(3, VIMCO(), bound=negative_jackknife), 3), order=1)


@pytest.mark.parametrize("mean", MEANS)
def test_a_bound_that_keeps_the_own_weight_is_caught(mean):
    class Own(VIMCO):
        """The biased twin: a little of the sample's own weight stays in what is subtracted."""

        def bound_without(self, log_weights, dim):
            return super().bound_without(log_weights, dim) + 0.1 * log_weights

    with pytest.raises(AssertionError, match="gradient"):
        assert_same(*both(bits(3, Own(mean=mean)), 3), order=1)


@pytest.mark.parametrize("mean", MEANS)
def test_vimco_is_quieter_than_the_bound_as_everyones_credit(mean):
    """The total variance over every tuple, exactly: less than a third of the score function's for three samples."""

    def variance(credit):
        given = inputs()
        graph, total = bits(3, credit), 0.0
        plain = bits(3)
        every = list(outcomes({"z": BIT}, {"z": (3, 1)}))
        mean_gradient = derivatives(expectation(plain, every, **given), [given["theta"]], order=1)[1]
        for outcome in every:
            trace = graph.replay(outcome, **given)
            p = trace.dist("z").log_prob(outcome["z"]).sum().exp().detach()
            (gradient,) = torch.autograd.grad(trace.surrogate(), given["theta"])
            total += float(p * (gradient - mean_gradient).square().sum())
        return total

    assert variance(VIMCO(mean=mean)) < variance(None) / 3


def test_vimco_below_a_sampled_node():
    given = inputs()
    graph = bits(2, VIMCO(), above=ScoreFunction())
    every = list(outcomes({"u": BIT, "z": BIT}, {"u": (1,), "z": (2, 1)}))
    wrt = [given["theta"], given["w"]]
    assert_same(mean_surrogate(graph, every, **given), expectation(graph, every, **given), wrt, order=1)


def test_vimco_below_a_branching_node():
    """Enumeration above the plate; 100,000 draws, each a batch element with its own parameters, to 5 standard errors (false
    alarm 2e-6), which are less than 4 % of the largest entry of the gradient."""
    given = inputs()
    every = list(outcomes({"u": BIT, "z": BIT}, {"u": (1,), "z": (2, 1)}))
    wrt = [given["theta"], given["w"]]
    exact = derivatives(expectation(bits(2, above=ScoreFunction()), every, **given), wrt, order=1)[1]
    graph, n = bits(2, VIMCO(), above=Enumeration()), 100_000

    def repeated(rows):
        shape = {"theta": (rows, 2), "w": (rows,), "x": (rows,)}
        return {k: v.detach().expand(shape[k]).clone().requires_grad_() for k, v in given.items()}

    graph.sample(**repeated(1))
    rows = repeated(n)
    trace = graph.sample(**rows)
    assert trace["z"].shape == (2, 2, n) and trace.credit("z").shape == (2, 2, n)
    theta, w = torch.autograd.grad(trace.surrogate() * n, [rows["theta"], rows["w"]])
    each = torch.cat([theta, w.unsqueeze(-1)], -1)
    error = each.std(0) / n**0.5
    assert ((each.mean(0) - exact).abs() < 5 * error).all()
    assert (5 * error < 0.04 * exact.abs().max()).all()


def test_both_means_agree_where_the_others_weights_do():
    log_weights = torch.tensor([[0.3], [-0.7], [-0.7]])
    found = [VIMCO(mean=mean).bound_without(log_weights, -2) for mean in MEANS]
    assert torch.allclose(found[0][0], found[1][0]) and not torch.allclose(found[0][1], found[1][1])


def test_a_weight_of_zero_leaves_the_credits_finite():
    log_weights = torch.tensor([[0.3], [-math.inf], [-0.7]])
    for mean in MEANS:
        assert torch.isfinite(VIMCO(mean=mean).bound_without(log_weights, -2)).all()


def test_the_bound_rises_towards_the_evidence_and_the_jackknife_is_nearer():
    """Exactly, by enumeration: log p(x) − E L_K falls with K; J_K errs least."""
    log_p = torch.logsumexp(
        torch.stack([Bernoulli(0.4).log_prob(z) + Normal(0.8 * z, 1.0).log_prob(torch.tensor(0.7)) for z in torch.tensor(BIT)]),
        0,
    )
    gaps = [float(log_p + both(bits(k), k)[1].detach()) for k in (1, 2, 3, 4)]
    assert all(a > b > 0 for a, b in itertools.pairwise(gaps))
    assert abs(float(log_p + both(bits(4, bound=negative_jackknife), 4)[1].detach())) < gaps[3] / 4


@pytest.mark.parametrize("dim", [0, 1, -2])
def test_the_jackknife_is_its_definition(dim):
    log_weights = torch.randn(4, 4, 3)
    k = log_weights.shape[dim]
    without = [
        -negative_bound(log_weights.index_select(dim, torch.tensor([i for i in range(k) if i != j])), dim) for j in range(k)
    ]
    by_hand = -k * negative_bound(log_weights, dim) - (k - 1) * torch.stack(without).mean(0)
    assert torch.allclose(-negative_jackknife(log_weights, dim), by_hand)


# -- refusals --------------------------------------------------------------------------------------------------


def test_vimco_needs_two_samples():
    with pytest.raises(
        scg.GraphError, match=r"node 'z': VIMCO.*log_weights has shape \(1, 1\), with no axis -2 of K ≥ 2 samples.*\n.*plate=K"
    ):
        bits(1, VIMCO()).surrogate(**inputs())
    bits(2, VIMCO()).surrogate(**inputs())


def test_vimco_needs_log_weights():
    with pytest.raises(scg.GraphError, match="node 'z': VIMCO.* reads 'log_w', which has no value here"):
        bits(2, VIMCO("log_w")).surrogate(**inputs())


def test_an_unknown_mean_is_refused():
    with pytest.raises(ValueError, match="mean='harmonic'.*'geometric' or 'arithmetic'"):
        VIMCO(mean="harmonic")


def test_the_jackknife_needs_two_samples():
    with pytest.raises(ValueError, match=r"negative_jackknife: log_weights has shape \(1, 3\)"):
        negative_jackknife(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"negative_jackknife: log_weights has shape \(5,\), with no axis -2"):
        negative_jackknife(torch.zeros(5))
    assert negative_jackknife(torch.zeros(2, 3)).shape == (3,)


def test_the_bound_needs_its_axis():
    with pytest.raises(ValueError, match=r"negative_bound: log_weights has shape \(5,\), with no axis -2 of K ≥ 1"):
        negative_bound(torch.zeros(5))
    assert negative_bound(torch.zeros(5), -1) == 0
