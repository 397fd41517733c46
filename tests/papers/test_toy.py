"""The toy of one bit: its closed forms against the library's estimators at all of their noise, and independent learning."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.distributions import Bernoulli

import scg
from scg.estimators import ARM, DisARM, LeaveOneOut, MuProp, ScoreFunction, disarm, relaxation
from scg.papers.cli import paper
from scg.papers.toy import descent, exact
from scg.papers.toy.learned import EachREBAR, EachRELAX
from tests.estimators.integral import far
from tests.estimators.noise import bits, estimate, interval, recite

T = [0.45, 0.499, 0.8]
LOGITS = [-2.3, 0.0, 0.9]


class Given(Bernoulli):
    """Bernoulli whose draws `[n, outcomes]` are these."""

    def __init__(self, logits, draws):
        super().__init__(logits=logits)
        self.draws = draws

    def sample(self, sample_shape=()):
        return self.draws.reshape(*sample_shape, -1)


def tuples(theta, n):
    """All outcomes of n bits, `[n, 2ⁿ]`, with their probabilities."""
    draws = torch.tensor(list(itertools.product([0.0, 1.0], repeat=n))).T
    p = torch.sigmoid(theta)
    return draws, torch.where(draws == 1, p, 1 - p).prod(0)


def over_tuples(estimator, theta, t, n):
    draws, probability = tuples(theta, n)
    logits = theta.expand(2**n).clone().requires_grad_()
    return gradients(estimator.branch(Given(logits, draws)), logits, t), probability


def over_pairs(estimator, theta, t, monkeypatch):
    """ARM's u: it changes at p and at 1 − p."""
    ends = torch.tensor([0.0, *sorted([torch.sigmoid(theta).item(), torch.sigmoid(-theta).item()]), 1.0])
    u, probability = (torch.cat(x) for x in zip(*(interval(a, b) for a, b in itertools.pairwise(ends))))
    monkeypatch.setattr(disarm, "open_uniform", lambda shape, like: u.expand(shape))
    logits = theta.expand(len(u)).clone().requires_grad_()
    return gradients(estimator.branch(Bernoulli(logits=logits)), logits, t), probability


def over_bits(estimator, theta, t, monkeypatch):
    """REBAR's and RELAX's u."""
    u, probability = bits(torch.sigmoid(theta))
    recite(monkeypatch, u)
    logits = theta.expand(len(u)).clone().requires_grad_()
    return gradients(estimator.branch(Bernoulli(logits=logits)), logits, t), probability


def gradients(branches, logits, t):
    """The estimate of the gradient at each noise."""
    (g,) = torch.autograd.grad(estimate(branches, lambda b: exact.cost(b, t)).sum(), logits)
    return g


def held(g, probability, theta, t, variance, tolerance=1e-12):
    mean = (probability * g).sum()
    assert float(mean) == pytest.approx(float(exact.gradient(theta, t)), abs=tolerance)
    assert float((probability * (g - mean) ** 2).sum()) == pytest.approx(float(variance), abs=tolerance, rel=1e-9)


@pytest.mark.parametrize("t", T)
@pytest.mark.parametrize("theta", LOGITS)
@pytest.mark.parametrize(
    ("estimator", "n", "closed"),
    [
        (ScoreFunction(), 1, exact.score_function),
        (MuProp(), 1, exact.mu_prop),
        (LeaveOneOut(2), 2, exact.leave_one_out),
        (LeaveOneOut(3), 3, lambda theta, t: exact.leave_one_out(theta, t, 3)),
        (LeaveOneOut(5), 5, lambda theta, t: exact.leave_one_out(theta, t, 5)),
    ],
    ids=["score", "MuProp", "leave-one-out 2", "leave-one-out 3", "leave-one-out 5"],
)
def test_closed_forms_are_sums_over_all_outcomes(estimator, n, closed, theta, t):
    theta, t = torch.tensor(theta), torch.tensor(t)
    held(*over_tuples(estimator, theta, t, n), theta, t, closed(theta, t))


@pytest.mark.parametrize("t", T)
@pytest.mark.parametrize("theta", LOGITS)
@pytest.mark.parametrize(("estimator", "closed"), [(ARM(), exact.arm), (DisARM(), exact.disarm)], ids=["ARM", "DisARM"])
def test_closed_forms_of_pairs_are_integrals_over_u(estimator, closed, theta, t, monkeypatch):
    theta, t = torch.tensor(theta), torch.tensor(t)
    held(*over_pairs(estimator, theta, t, monkeypatch), theta, t, closed(theta, t))


def test_the_closed_forms_are_ordered_as_dong_et_al_prove():
    """DisARM ≤ ARM, of which it is a conditional mean, and DisARM ≤ leave-one-out with two samples; not one of them alike."""
    theta, t = torch.linspace(-4, 4, 17), torch.tensor(0.45)
    assert (exact.disarm(theta, t) < exact.arm(theta, t)).all()
    assert (exact.disarm(theta, t) < exact.leave_one_out(theta, t)).all()


def test_a_baseline_moves_the_score_functions_variance_to_zero_at_its_best():
    theta, t = torch.tensor(LOGITS), torch.tensor(0.45)
    best = exact.best_baseline(theta, t)
    assert exact.score_function(theta, t, best).abs().max() < 1e-30
    for level in (0.0, 0.1, best):
        ours = exact.controlled(theta, t, lambda z, level=level: torch.zeros_like(z) + level)
        assert torch.allclose(ours, exact.score_function(theta, t, level), rtol=1e-10, atol=1e-25)


REBARS = [EachREBAR(1, 0.5, 1.0), EachREBAR(1, 2.0, -0.7), EachREBAR(1, 0.7, 0.8, mean_field=True)]


@pytest.mark.parametrize("estimator", REBARS, ids=["plain", "plain, negative", "the paper's"])
@pytest.mark.parametrize("theta", LOGITS)
def test_quadrature_of_the_control_is_the_estimators_own_variance(estimator, theta, monkeypatch):
    theta, t = torch.tensor(theta), torch.tensor(0.45)
    held(*over_bits(estimator, theta, t, monkeypatch), theta, t, exact.controlled(theta, t, estimator.control(theta, t)), 1e-9)


def over_relax(theta, t, monkeypatch):
    """RELAX with a control that is not zero: itself, and its gradient at each u."""
    estimator = EachRELAX(1, seed=3)
    torch.nn.init.constant_(estimator.control.scale, 1.5)
    u, probability = bits(torch.sigmoid(theta))
    recite(monkeypatch, u.unsqueeze(-1))
    logits = theta.expand(len(u), 1).clone().requires_grad_()
    g = gradients(estimator.branch(Bernoulli(logits=logits)), logits, t)
    return estimator, g.squeeze(-1), probability


@pytest.mark.parametrize("theta", LOGITS)
def test_quadrature_of_a_learned_control_is_relaxs_own_variance(theta, monkeypatch):
    theta, t = torch.tensor([theta]), torch.tensor([0.45])
    estimator, g, probability = over_relax(theta, t, monkeypatch)
    held(g, probability, theta, t, exact.controlled(theta, t, estimator.level), 1e-9)


def test_relax_without_a_path_through_its_conditional_sample_is_seen_to_be_biased(monkeypatch):
    coupled = relaxation.Bits.coupled
    monkeypatch.setattr(relaxation.Bits, "coupled", lambda bits, z: coupled(bits, z).detach())
    theta, t = torch.tensor([0.9]), torch.tensor([0.45])
    _, g, probability = over_relax(theta, t, monkeypatch)
    assert abs(float((probability * g).sum() - exact.gradient(theta, t))) > 1e-3


class FrozenShift(EachREBAR):
    """The conditional relaxation without the derivative of what both are shifted by."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        hard, x, conditional = branches.values.chunk(3)
        tau, theta = self.log_temperature.exp(), distribution.logits
        slope = conditional * (1 - conditional) * tau / (1 + tau)
        return scg.Branches(torch.cat([hard, x, conditional - slope.detach() * (theta - theta.detach())]), 3, branches.weights)


@pytest.mark.parametrize(("estimator", "right"), [(EachREBAR, True), (FrozenShift, False)], ids=["the paper's", "frozen shift"])
def test_the_papers_relaxation_is_unbiased_and_one_shifted_on_one_side_is_not(estimator, right, monkeypatch):
    estimator = estimator(1, 0.7, 0.8, mean_field=True)
    theta = torch.tensor(-0.8, requires_grad=True)
    u, probability = bits(torch.sigmoid(theta))
    recite(monkeypatch, u)
    branches = estimator.branch(Bernoulli(logits=theta.expand(len(u))))
    mean = (probability * estimate(branches, lambda b: exact.cost(b, torch.tensor(0.45)))).sum()
    assert (far(mean, exact.loss(theta, torch.tensor(0.45)), [theta], 2 if right else 1) < 1e-9) == right


def test_the_best_strength_is_the_bottom_of_its_parabola():
    theta, t, tau = torch.tensor(-1.0), torch.tensor(0.45), 2.0
    for shift in (0.0, exact.mean_field(theta, tau)):
        eta, share = exact.best_strength(theta, t, tau, shift)
        plain = exact.score_function(theta, t)
        at, beside = (exact.controlled(theta, t, exact.relaxed_cost(t, tau, e, shift)) / plain for e in (eta, 1.1 * eta))
        assert float(at) == pytest.approx(float(share), rel=1e-10)
        assert beside > at


def test_at_high_temperature_the_papers_relaxation_is_a_mean_field_baseline():
    theta, t = torch.tensor(LOGITS), torch.tensor(0.45)
    control = exact.relaxed_cost(t, 1e7, 1.0, exact.mean_field(theta, 1e7))
    wanted = exact.score_function(theta, t, exact.cost(torch.sigmoid(theta), t))
    assert torch.allclose(exact.controlled(theta, t, control), wanted, rtol=1e-4)


@pytest.mark.parametrize("tau", [0.2, 0.5, 1.0])
def test_concrete_stops_where_its_relaxed_cost_is_least(tau):
    def relaxed(theta):
        u = exact.noise(torch.tensor(theta))
        return float((u.probability * exact.cost(torch.sigmoid(u.z / tau), torch.tensor(0.45))).sum())

    theta, step = exact.concrete_optimum(0.45, tau), 1e-3
    assert relaxed(theta) < min(relaxed(theta - step), relaxed(theta + step))
    slope = float(exact.concrete_gradient(torch.tensor(-0.3), torch.tensor(0.45), tau))
    assert slope == pytest.approx((relaxed(-0.3 + 1e-5) - relaxed(-0.3 - 1e-5)) / 2e-5, abs=1e-8)


def descended(contender, t, u, monkeypatch):
    """A descent whose noise is the same u, one for each toy, at every step."""
    monkeypatch.setattr(relaxation, "open_uniform", lambda shape, like: torch.tensor(u).expand(shape))
    return descent.descend(contender, torch.tensor(t), 30, 10, seed=0)


@pytest.mark.parametrize("contender", [descent.REBAR, descent.REBAR_PLAIN], ids=lambda c: c.name)
def test_a_toy_in_a_batch_descends_as_it_would_alone(contender, monkeypatch):
    together = descended(contender, [0.45, 0.499], [0.31, 0.82], monkeypatch)
    alone = descended(contender, [0.45], [0.31], monkeypatch)
    assert torch.allclose(together.theta[:, :1], alone.theta, rtol=1e-9, atol=1e-12)
    assert torch.allclose(together.variance[:, :1], alone.variance, rtol=1e-6)


@pytest.mark.parametrize("contender", [descent.REBAR, descent.REBAR_PLAIN, descent.RELAX], ids=lambda c: c.name)
def test_what_one_toy_learns_does_not_reach_another(contender, monkeypatch):
    one = descended(contender, [0.45, 0.499], [0.31, 0.82], monkeypatch)
    other = descended(contender, [0.45, 0.1], [0.31, 0.05], monkeypatch)
    assert torch.equal(other.theta[:, 0], one.theta[:, 0])
    assert torch.equal(other.variance[:, 0], one.variance[:, 0])
    assert not torch.equal(other.theta[:, 1], one.theta[:, 1])


def test_a_moving_average_has_not_seen_the_sample_that_it_is_subtracted_from():
    """The first step is the plain score function's; a level that had seen it would leave no gradient at all."""
    t = torch.full((50,), 0.45)
    plain, averaged = (descent.descend(c, t, 1, 1, seed=0) for c in (descent.SCORE, descent.AVERAGE))
    assert torch.equal(plain.theta[1], averaged.theta[1])
    assert (plain.theta[1] != 0).all()


@pytest.mark.parametrize("name", ["tucker2017_rebar", "grathwohl2018_relax"])
def test_one_seed_or_hardly_a_step_is_refused(name, capsys):
    assert paper([name, "--seeds", "1"]) == 2
    assert "a standard error needs at least 2" in capsys.readouterr().err
    assert paper([name, "--steps", "99"]) == 2
    assert "nothing is learned in fewer than 100" in capsys.readouterr().err
    assert descent.Settings(steps=100, seeds=2)
