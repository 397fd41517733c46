"""Scrambled nets: each point alone is uniform; proved over every digital shift of a net of four bits."""

import pytest
import torch
from torch import distributions as D
from torch.distributions import Bernoulli, Categorical, Gamma, Independent, Normal
from torch.quasirandom import SobolEngine

import scg
from scg.estimators import Pathwise, QuasiRandom, QuasiRandomPathwise, quasi_random
from tests.estimators.integral import composition, far, mean

BITS = 4


def every_shift(monkeypatch):
    """Nets of 4 bits, shifted by every pair of numbers of 4 bits: along the batch, each with probability 1/256."""
    shifts = torch.cartesian_prod(torch.arange(2**BITS), torch.arange(2**BITS))
    monkeypatch.setattr(quasi_random, "BITS", BITS)
    monkeypatch.setattr(quasi_random, "digital_shift", lambda shape, like: shifts)
    monkeypatch.setattr(quasi_random, "open_uniform", lambda shape, like: torch.full(shape, 0.5))
    return torch.full((len(shifts),), 1 / len(shifts))


@pytest.mark.parametrize("shifted", [True, False], ids=["ours", "biased twin"])
def test_the_mean_over_every_shift_is_exact_to_second_order(monkeypatch, shifted):
    """Two categoricals with probabilities in sixteenths. The twin is the same net without its shift."""
    probability = every_shift(monkeypatch)
    if not shifted:
        monkeypatch.setattr(quasi_random, "digital_shift", lambda shape, like: torch.zeros(shape, dtype=torch.long))
    probs = torch.tensor([[3.0, 5.0, 8.0], [9.0, 6.0, 1.0]]).div(16).requires_grad_()
    f = torch.randn(3, 3)
    branches = QuasiRandom(4).branch(Independent(Categorical(probs=probs.expand(256, 2, 3)), 1))
    ours = mean(branches, lambda x: f[x[..., 0], x[..., 1]], probability)
    p = probs / probs.sum(-1, keepdim=True)
    assert (far(ours, (p[0, :, None] * p[1] * f).sum(), [probs], 2) < 1e-12) == shifted


@pytest.mark.parametrize("n", [2, 8, 32])
def test_every_projection_of_a_net_has_one_point_in_each_of_n_intervals(n):
    """Whatever the shift: a digital shift permutes dyadic intervals."""
    u = quasi_random.net(n, torch.Size((7,)), torch.Size((3,)), torch.zeros(()))
    assert torch.equal((u * n).long().sort(0).values, torch.arange(n).view(n, 1, 1).expand(n, 7, 3))


def test_batch_elements_are_independent():
    """Correlation of two elements' first points over 4,000 nets, false alarm 7e-6; one net for all would give 1."""
    u = torch.stack([quasi_random.net(4, torch.Size((2,)), torch.Size(), torch.zeros(()))[0] for _ in range(4000)])
    assert abs(torch.corrcoef(u.T)[0, 1]) < 4.5 / 4000**0.5


def test_a_smooth_pathwise_gradient_is_ten_times_less_noisy():
    """64 points against 64 samples, ∂_μ E[sin(x₁ + x₂)]: the standard error of the ratio of variances is 5 %."""
    mu = torch.zeros(2, requires_grad=True)
    variances = []
    for estimator in (QuasiRandomPathwise(64), Pathwise(64)):
        branches = estimator.branch(Independent(Normal(mu.expand(1500, 2), 0.5), 1))
        gradient = branches.values.sum(-1).cos().mean(0)
        variances.append(gradient.var().detach())
    assert variances[0] < variances[1] / 10


def test_the_seed_comes_from_torchs_generator_and_leaves_its_stream_alone():
    graph = scg.Graph()
    graph.stochastic(QuasiRandom(8), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x**2, name="f")
    theta = torch.randn(3)
    draws = [graph.surrogate(theta=theta, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_surrogate_with_nets_compiles_in_one_piece_and_draws_new_nets():
    graph = scg.Graph()
    graph.stochastic(QuasiRandomPathwise(8), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x**2, name="f")
    theta = torch.randn(3, requires_grad=True)
    graph.surrogate(theta=theta)
    compiled = torch.compile(lambda theta: graph.surrogate(theta=theta), backend="aot_eager", fullgraph=True)
    torch.manual_seed(1)
    first, second = compiled(theta), compiled(theta)
    assert first != second
    torch.manual_seed(1)
    eager = graph.surrogate(theta=theta)
    assert torch.allclose(first, eager)
    assert torch.allclose(torch.autograd.grad(first, theta)[0], torch.autograd.grad(eager, theta)[0])


@pytest.mark.parametrize(
    ("estimator", "node"),
    [
        (QuasiRandom(4), lambda x, theta: Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x], -1))),
        (QuasiRandom(3), lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1)),
        (
            QuasiRandomPathwise(4),
            lambda x, theta: Independent(Normal(torch.stack([x * theta[0], theta[1] + x], -1), theta[2].exp()), 1),
        ),
    ],
    ids=["category", "bits", "pathwise"],
)
def test_inside_a_graph(estimator, node):
    report = composition(estimator, node)
    assert report, report


def test_the_check_would_catch_a_net_that_is_not_randomised(monkeypatch):
    monkeypatch.setattr(quasi_random, "digital_shift", lambda shape, like: torch.zeros(shape, dtype=torch.long))
    monkeypatch.setattr(quasi_random, "sobol", lambda n, d, like: (SobolEngine(d).draw(n) * 2**30).long())
    node = lambda x, theta: Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x], -1))  # noqa: E731
    assert composition(QuasiRandom(4), node).verdict == "biased"


def test_what_has_no_inverse_or_too_many_dimensions_is_refused():
    assert QuasiRandom(8).refuses(Gamma(1.0, 1.0)) == (
        "QuasiRandom needs a distribution with an inverse cdf, and Gamma has none here.\nUse ScoreFunction(samples=8)."
    )
    limit = SobolEngine.MAXDIM
    assert QuasiRandom().refuses(Independent(Normal(torch.zeros(limit), 1.0), 1)) is None
    assert f"a Sobol net in {limit + 1} dimensions" in QuasiRandom().refuses(
        Independent(Normal(torch.zeros(limit + 1), 1.0), 1)
    )
    assert "has_rsample=False" in QuasiRandomPathwise().refuses(Bernoulli(0.3))
    assert "a likelihood ratio misses" in QuasiRandom().refuses(D.Uniform(0.0, torch.tensor(1.0, requires_grad=True)))
    for estimator in (QuasiRandom, QuasiRandomPathwise):
        with pytest.raises(ValueError, match="samples is an integer, at least 2"):
            estimator(samples=1)
