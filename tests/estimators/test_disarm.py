"""ARM and DisARM: proved over the pieces into which σ(θ) and σ(−θ) cut their uniform noise; variances in closed form."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, ContinuousBernoulli, Independent

import scg
from scg.estimators import ARM, DisARM, LeaveOneOut, ScoreFunction, disarm
from tests.estimators.integral import composition, far, grid, mean


@dataclass(frozen=True)
class WithoutTheFactor(DisARM):
    """DisARM with its σ(|θ|) forgotten."""

    def coefficient(self, u, b, b_tilde, theta):
        return (b - b_tilde) / 2


def pieces(theta: Tensor, order: int = 2) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre points in each interval between 0, σ(θ), σ(−θ) and 1: exact for what is a polynomial in u there."""
    p = float(torch.sigmoid(theta.detach()))
    edges = torch.tensor([0.0, *sorted((p, 1 - p)), 1.0])
    x, w = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(order))
    points = (edges[:-1, None] + edges[1:, None]) / 2 + edges.diff()[:, None] / 2 * x
    return points.flatten(), (edges.diff()[:, None] / 2 * w).flatten()


def recited(monkeypatch, theta, pairs=1):
    """The estimator's noise, enumerated: `[pairs, Q, D]` and its probabilities."""
    axes, probability = grid(*[pieces(t, order=1 + (pairs == 1)) for t in theta] * pairs)
    noise = torch.stack(axes, -1).view(-1, pairs, len(theta)).movedim(1, 0)
    monkeypatch.setattr(disarm, "open_uniform", lambda shape, like: noise)
    return probability


def cost(b):
    return (b.sum(-1) - 1.3) ** 2 * (1 + b[..., 0]) + torch.cos(3 * b[..., -1])


def truth(theta):
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(theta))))
    return (Independent(Bernoulli(logits=theta), 1).log_prob(bits).exp() * cost(bits)).sum()


@pytest.mark.parametrize("logits", [[0.4], [-1.7], [0.4, -1.7], [3.0, -0.2, 0.0]], ids=["likely", "unlikely", "two", "three"])
@pytest.mark.parametrize(
    ("estimator", "right"), [(ARM(), True), (DisARM(), True), (WithoutTheFactor(), False)], ids=["ARM", "DisARM", "biased twin"]
)
def test_the_mean_over_the_noise_is_exact(monkeypatch, estimator, right, logits):
    theta = torch.tensor(logits, requires_grad=True)
    probability = recited(monkeypatch, theta)
    branches = estimator.branch(Independent(Bernoulli(logits=theta.expand(len(probability), -1)), 1))
    assert (far(mean(branches, cost, probability), truth(theta), [theta]) < 1e-12) == right


@pytest.mark.parametrize("estimator", [ARM(pairs=2), DisARM(pairs=2)])
def test_several_pairs_are_averaged(monkeypatch, estimator):
    theta = torch.tensor([0.4, -1.7], requires_grad=True)
    probability = recited(monkeypatch, theta, pairs=2)
    branches = estimator.branch(Independent(Bernoulli(logits=theta.expand(len(probability), -1)), 1))
    assert branches.n == 4
    assert far(mean(branches, cost, probability), truth(theta), [theta]) < 1e-12


def test_disarm_is_arm_averaged_over_the_noise_that_its_bits_do_not_show():
    theta = torch.tensor(0.8)
    edges = torch.tensor([0.0, float(torch.sigmoid(-theta)), float(torch.sigmoid(theta)), 1.0])
    for lo, hi in itertools.pairwise(edges):
        u = torch.linspace(lo, hi, 101)[1:-1]
        b, b_tilde = (1 - u < torch.sigmoid(theta)).double(), (u < torch.sigmoid(theta)).double()
        arm, ours = ARM().coefficient(u, b, b_tilde, theta), DisARM().coefficient(u, b, b_tilde, theta)
        assert b.unique().numel() == 1 and b_tilde.unique().numel() == 1
        if b[0] != b_tilde[0]:  # else both differences of costs are zero
            assert torch.allclose(arm.mean(), ours.mean())


# -- the toy E[(b − t)²] -----------------------------------------------------------------------------------------


def closed_form(theta: float, t: float) -> tuple[float, dict[str, float]]:
    """The gradient with respect to the logit, and each estimator's variance."""
    p = 1 / (1 + np.exp(-theta))
    f0, f1, r = t**2, (1 - t) ** 2, min(p, 1 - p)
    gradient = p * (1 - p) * (f1 - f0)
    second = {
        "score function": p * (f1 * (1 - p)) ** 2 + (1 - p) * (f0 * p) ** 2,
        "leave-one-out": (f1 - f0) ** 2 * p * (1 - p) / 2,
        "ARM": (f1 - f0) ** 2 * 2 * (0.5**3 - (0.5 - r) ** 3) / 3,
        "DisARM": (f1 - f0) ** 2 * r * (1 - r) ** 2 / 2,
    }
    return gradient, {k: v - gradient**2 for k, v in second.items()}


ESTIMATORS = {"score function": ScoreFunction(), "leave-one-out": LeaveOneOut(2), "ARM": ARM(), "DisARM": DisARM()}


def gradients(estimator: scg.Estimator, theta: float, t: float, draws: int) -> Tensor:
    """Independent draws of the gradient: each batch element has a logit of its own."""
    logits = torch.full((draws,), theta, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(estimator, lambda logits: Bernoulli(logits=logits), name="b")
    graph.cost(lambda b: (b - t) ** 2, name="f")
    return torch.autograd.grad(graph.surrogate(logits=logits) * draws, logits)[0]


@pytest.mark.parametrize(("theta", "t"), [(0.0, 0.499), (-1.2, 0.45), (2.0, 0.1)])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_toys_gradient_and_variance_are_their_closed_forms(name, theta, t):
    """400,000 draws against the closed form. Mean: false alarm 7e-6, a bias of 2 % of one draw's deviation would be found with
    certainty. Variance: as its own standard error from the fourth moment, the same false alarm."""
    g = gradients(ESTIMATORS[name], theta, t, 400_000)
    gradient, variances = closed_form(theta, t)
    squares = (g - gradient) ** 2
    assert abs(g.mean() - gradient) <= 4.5 * g.std() / len(g) ** 0.5 + 1e-15
    assert abs(squares.mean() - variances[name]) <= 4.5 * squares.std() / len(g) ** 0.5 + 1e-15


@pytest.mark.parametrize(("theta", "t"), [(0.0, 0.499), (-1.2, 0.45), (2.0, 0.1)])
@pytest.mark.parametrize("name", ["ARM", "DisARM"])
def test_the_toys_variance_by_integration_over_the_noise(monkeypatch, name, theta, t):
    u, probability = pieces(torch.tensor(theta))
    monkeypatch.setattr(disarm, "open_uniform", lambda shape, like: u.unsqueeze(0))
    logits = torch.full((len(u),), theta, requires_grad=True)
    branches = ESTIMATORS[name].branch(Bernoulli(logits=logits))
    assert branches.weights is not None
    g = torch.autograd.grad((branches.weights * (branches.values - t) ** 2).sum(), logits)[0]
    gradient, variances = closed_form(theta, t)
    assert np.isclose(float((probability * g).sum()), gradient, rtol=1e-12)
    assert np.isclose(float((probability * g**2).sum()) - gradient**2, variances[name], rtol=1e-9, atol=1e-15)


def test_each_estimator_of_the_toy_improves_on_the_one_before():
    _, variances = closed_form(-1.2, 0.45)
    ordered = [variances[k] for k in ("score function", "ARM", "DisARM")]
    assert ordered == sorted(ordered, reverse=True)


def test_two_hundred_bits_are_no_further_from_the_truth_than_chance():
    """A linear cost of 200 bits, 20,000 draws: z of the projection on the true gradient. False alarm 7e-6; the twin is 30 off."""
    theta, c = torch.randn(200), torch.randn(200)
    p = torch.sigmoid(theta)
    exact = p * (1 - p) * c

    def z(estimator):
        logits = theta.repeat(20_000, 1).requires_grad_()
        branches = estimator.branch(Independent(Bernoulli(logits=logits), 1))
        gradient = torch.autograd.grad((branches.weights * (branches.values @ c)).sum(), logits)[0]
        projected = (gradient - exact) @ exact / exact.norm()
        return float(projected.mean() / projected.std() * len(projected) ** 0.5)

    assert abs(z(DisARM())) < 4.5
    assert abs(z(ARM())) < 4.5
    assert abs(z(WithoutTheFactor())) > 30


# -- in a graph ----------------------------------------------------------------------------------------------------


def bits(x, theta):
    return Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x, theta[2] * x], -1)), 1)


@pytest.mark.parametrize(
    ("estimator", "right"),
    [(ARM(2), True), (DisARM(), True), (DisARM(pairs=3), True), (WithoutTheFactor(), False)],
    ids=["ARM", "DisARM", "three pairs", "biased twin"],
)
def test_inside_a_graph(estimator, right):
    report = composition(estimator, bits)
    assert report.verdict == ("unbiased" if right else "biased"), report


@pytest.mark.parametrize("estimator", [ARM, DisARM])
def test_what_is_no_bit_is_refused(estimator):
    assert estimator().refuses(Independent(Bernoulli(torch.rand(2, 3)), 2)) is None
    for other in (Categorical(torch.ones(3)), ContinuousBernoulli(torch.tensor(0.3))):
        assert estimator().refuses(other) == (
            f"{estimator.__name__} is for Bernoulli (also inside Independent), and this is {type(other).__name__}.\n"
            "Use CategoricalDisARM() for categories, LeaveOneOut(samples=2) for the rest."
        )
    for pairs in (0, 1.5):
        with pytest.raises(ValueError, match=rf"{estimator.__name__}\(pairs={pairs}\): pairs is an integer, at least 1"):
            estimator(pairs=pairs)


def test_extreme_logits_stay_finite():
    for dtype in (torch.float32, torch.float64):
        theta = torch.tensor([-200.0, -30.0, 30.0, 200.0], dtype=dtype, requires_grad=True)
        branches = DisARM(2).branch(Independent(Bernoulli(logits=theta), 1))
        (gradient,) = torch.autograd.grad((branches.weights * branches.values.sum(-1)).sum(), theta)
        assert torch.isfinite(gradient).all() and gradient.dtype == dtype
