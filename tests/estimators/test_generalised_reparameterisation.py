"""G-REP and RSVI are the derivatives of the integral, by quadrature over samples whose own rule is prescribed."""

import itertools

import pytest
import torch
from torch.distributions import Beta, Gamma, Independent, LogNormal, Normal

import scg
from scg import Branches, detach
from scg.estimators import (
    GeneralisedReparameterisation,
    Pathwise,
    RejectionReparameterisation,
    ScoreFunction,
    rejection_reparameterisation,
)
from scg.estimators.generalised_reparameterisation import MAPS, standardised
from tests.estimators.integral import composition, far, mean
from tests.estimators.noise import interval

LINE = torch.linspace(-30, 7, 3001, dtype=torch.float64)
LOGITS = torch.linspace(-33, 33, 4001, dtype=torch.float64)


def f(x):
    return torch.sin(2 * x) + (1 + x).log()


def on(y, push):
    """Samples push(y), evenly spaced in y, and their dx: the trapezoid rule."""
    moving = y.clone().requires_grad_()
    (slope,) = torch.autograd.grad(push(moving).sum(), moving)
    return push(y), slope * (y[1] - y[0])


CASES = {
    "Gamma": (Gamma, (1.7, 0.8), LINE, torch.exp),
    "Gamma of a small concentration": (Gamma, (0.35, 1.2), LINE * 3, torch.exp),
    "Gamma of a large concentration": (Gamma, (40.0, 20.0), LINE / 3, torch.exp),
    "Beta": (Beta, (1.4, 2.3), LOGITS, torch.sigmoid),
    "Beta of a concentration below one": (Beta, (1.3, 0.9), LOGITS, torch.sigmoid),
    "LogNormal": (LogNormal, (0.3, 0.6), torch.linspace(-6, 6, 2001, dtype=torch.float64), torch.exp),
}


def prescribed(distribution, x):
    distribution.sample = lambda sample_shape=torch.Size(): x.expand((*sample_shape, *x.shape))
    return distribution


class WithoutCorrection(GeneralisedReparameterisation):
    """The biased twin: what the standardisation leaves of θ is not scored."""

    def branch(self, distribution):
        return Branches(super().branch(distribution).values)


@pytest.mark.parametrize("case", CASES)
def test_the_mean_is_the_integral_with_all_derivatives(case):
    """Value, gradient and Hessian; the twin without the correction is caught, but for LogNormal, where it is zero."""
    kind, at, y, push = CASES[case]
    params = [torch.tensor(v, requires_grad=True) for v in at]
    x, dx = on(y, push)

    def ours(estimator):
        p = kind(*params).log_prob(x).exp().detach() * dx
        return mean(estimator.branch(prescribed(kind(*[q.expand(len(x)) for q in params]), x)), f, p)

    def truth():
        return (kind(*params).log_prob(x).exp() * dx * f(x)).sum()

    assert far(ours(GeneralisedReparameterisation()), truth(), params, order=2) < 1e-8
    assert (far(ours(WithoutCorrection()), truth(), params) > 1e-4) == (kind is not LogNormal)


def test_several_joint_samples():
    """Independent components: the score is their sum, and a sample is itself to the bit."""
    a = torch.tensor([0.8, 2.5], requires_grad=True)
    joint = Independent(Gamma(a.expand(4, 2), 1.0), 1)
    branches = GeneralisedReparameterisation(samples=3).branch(joint)
    assert branches.values.shape == (3, 4, 2) and branches.score.shape == (3, 4) and (branches.score == 0).all()
    x = joint.sample((3,))
    again, log_prob = standardised(joint, x)
    assert torch.equal(again, x) and log_prob.shape == (3, 4)


@pytest.mark.parametrize("case", CASES)
def test_the_standardised_noise_has_mean_zero_and_variance_one(case):
    kind, at, y, push = CASES[case]
    distribution = kind(*[torch.tensor(v) for v in at])
    x, dx = on(y, push)
    p = distribution.log_prob(x).exp() * dx
    m, s = MAPS[kind].moments(distribution)
    noise = (MAPS[kind].pull(x) - m) / s
    assert torch.isclose((p * noise).sum(), torch.zeros(()), atol=1e-9)
    assert torch.isclose((p * noise**2).sum(), torch.ones(()), rtol=1e-9)


# -- RSVI ----------------------------------------------------------------------------------------------------------


def rejection_on_grid(estimator, monkeypatch, alpha, rate):
    """z̃ ~ Gamma(α + 1) on the log line, the one uniform number on its own; both along the batch."""
    y = torch.linspace(-14, 5, 400)
    u, pu = interval(torch.zeros(()), torch.ones(()), step=0.25)
    z = y.exp()
    pz = (Gamma(alpha.detach() + 1, 1.0).log_prob(z).exp() * z * (y[1] - y[0])).detach()
    zz, uu = (g.flatten() for g in torch.meshgrid(z, u, indexing="ij"))
    monkeypatch.setattr(rejection_reparameterisation, "gamma", lambda a: zz)
    monkeypatch.setattr(rejection_reparameterisation, "open_uniform", lambda shape, like: uu.unsqueeze(-1))
    p = (pz.unsqueeze(1) * pu).flatten()
    return estimator.branch(Gamma(alpha.expand(len(zz)), rate.expand(len(zz)))), p


class AcceptedForNothing(RejectionReparameterisation):
    """The biased twin: proposals as if all of them were accepted."""

    def branch(self, distribution):
        return Branches(super().branch(distribution).values)


@pytest.mark.parametrize("at", [(0.4, 0.8), (1.7, 0.8)])
def test_the_rejection_samplers_mean_is_the_integral_with_all_derivatives(monkeypatch, at):
    params = [torch.tensor(v, requires_grad=True) for v in at]
    x, dx = on(LINE * 2, torch.exp)

    def truth():
        return (Gamma(*params).log_prob(x).exp() * dx * f(x)).sum()

    ours = mean(*_with(f, rejection_on_grid(RejectionReparameterisation(), monkeypatch, *params)))
    assert far(ours, truth(), params, order=2) < 1e-6
    twin = mean(*_with(f, rejection_on_grid(AcceptedForNothing(), monkeypatch, *params)))
    assert far(twin, truth(), params) > 1e-3


def _with(f, branches_and_p):
    branches, p = branches_and_p
    return branches, f, p


@pytest.mark.parametrize("boost", [1, 3])
def test_its_samples_have_the_gamma_law(boost):
    """E x and E x² of 200,000 samples, to 5 standard errors (false alarm 2e-6), at a concentration below and above 1."""
    a = torch.tensor([0.3, 2.5])
    x = RejectionReparameterisation(samples=200_000, boost=boost).branch(Gamma(a, 2.0)).values
    for power, exact in ((1, a / 2), (2, a * (a + 1) / 4)):
        se = (x**power).std(0) / x.shape[0] ** 0.5
        assert ((x**power).mean(0) - exact).abs().le(5 * se).all()


# -- against each other ----------------------------------------------------------------------------------------------


def variances(alpha, cost, count=200_000):
    """The variance of one draw's gradient for α, with the standard error of its estimate."""
    found = {}
    for name, estimator in {
        "implicit": Pathwise(),
        "rsvi, B = 4": RejectionReparameterisation(boost=4),
        "rsvi, B = 1": RejectionReparameterisation(boost=1),
        "g-rep": GeneralisedReparameterisation(),
        "score": ScoreFunction(),
    }.items():
        a = torch.full((count,), alpha, requires_grad=True)
        branches = estimator.branch(Gamma(a, 1.0))
        weight = 1 if branches.score is None else branches.score.exp()
        (g,) = torch.autograd.grad((weight * cost(branches.values)).sum(), a)
        square = (g - g.mean()) ** 2
        found[name] = (float(square.mean()), float(square.std() / count**0.5))
    return found


def test_the_variances_stand_in_the_papers_order():
    """At α = ½, f = e^{−x}: implicit < RSVI with B = 4 < B = 1 < G-REP < score function, neighbours 5 standard errors apart."""
    found = list(variances(0.5, lambda x: torch.exp(-x)).values())
    for (less, se), (more, other) in itertools.pairwise(found):
        assert less + 5 * se < more - 5 * other, found


def test_implicit_gradients_are_not_always_the_quietest():
    """At α = 1, f = cos: G-REP's values and score have a negative covariance there."""
    found = variances(1.0, torch.cos)
    (ours, se), (implicit, other) = found["g-rep"], found["implicit"]
    assert ours + 5 * se < implicit - 5 * other, found


@pytest.mark.parametrize(
    "estimator", [GeneralisedReparameterisation(), RejectionReparameterisation()], ids=lambda e: type(e).__name__
)
def test_composed_with_pathwise_above_and_a_score_below(estimator):
    report = composition(estimator, lambda x, theta: Gamma((0.4 * x + theta[2]).exp(), (0.3 * theta[0]).exp()))
    assert report, report


@pytest.mark.parametrize(
    "both", [GeneralisedReparameterisation(), RejectionReparameterisation()], ids=lambda e: type(e).__name__
)
def test_a_detached_cost_sees_neither_values_nor_score(both):
    """One cost reads the sample, one the detached sample: the second adds nothing to the gradient."""
    a, found = torch.tensor(1.7, requires_grad=True), []
    for second in (False, True):
        graph = graph_of(both)
        if second:
            graph.cost(lambda x: 5 * x, name="other", parents=[detach("x")])
        value = graph.surrogate(a=a, generator=torch.Generator().manual_seed(1))
        found.append(torch.autograd.grad(value, a)[0])
    assert torch.equal(*found)


def test_the_correction_takes_a_baseline():
    """It is subtracted from what multiplies the score; the mean stays, by quadrature over prescribed samples."""
    a = torch.tensor(1.7, requires_grad=True)
    x, dx = on(LINE * 2, torch.exp)
    p = Gamma(a.detach(), 1.3).log_prob(x).exp() * dx
    truth = torch.autograd.grad((Gamma(a, 1.3).log_prob(x).exp() * dx * f(x)).sum(), a)[0]
    spread = []
    for baseline in (None, 0.9):
        each = a.detach().expand(len(x)).clone().requires_grad_()
        graph = scg.Graph()
        graph.stochastic(GeneralisedReparameterisation(), lambda a: Gamma(a, 1.3), name="x", baseline=baseline)
        graph.cost(lambda x: f(x), name="c")
        (g,) = torch.autograd.grad(graph.replay({"x": x}, a=each).surrogate() * len(x), each)
        assert torch.isclose((p * g).sum(), truth, rtol=1e-9)
        spread.append(float((p * (g - truth) ** 2).sum()))
    assert spread[1] < 0.95 * spread[0]


# -- replay, refusals --------------------------------------------------------------------------------------------------


def graph_of(estimator):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda a: Gamma(a, 1.3), name="x")
    graph.cost(lambda x: f(x), name="c")
    return graph


def test_recorded_values_are_pushed_through_again():
    """At a recorded sample the same value and gradient; under another policy's probability, its ratio times both."""
    a = torch.tensor(1.7, requires_grad=True)
    graph = graph_of(GeneralisedReparameterisation())
    sampled = graph.sample(a=a)
    x, log_prob = sampled["x"].detach(), sampled.log_prob("x")
    ours = [
        torch.autograd.grad(s, a)[0]
        for s in (
            sampled.surrogate(),
            graph.replay({"x": x}, a=a).surrogate(),
            graph.replay({"x": x, "x.log_prob": log_prob}, a=a).surrogate(),
            graph.replay({"x": x, "x.log_prob": log_prob + 1.0}, a=a).surrogate() * torch.e,
        )
    ]
    assert all(torch.allclose(g, ours[0]) for g in ours)


def test_off_policy_the_mean_is_exact():
    """Recorded under Gamma(1.1, 0.9), by quadrature."""
    a = torch.tensor(1.7, requires_grad=True)
    behaviour = Gamma(1.1, 0.9)
    x, dx = on(LINE * 2, torch.exp)
    p = behaviour.log_prob(x).exp() * dx
    branches = GeneralisedReparameterisation().given(Gamma(a.expand(len(x)), 1.3), x, behaviour.log_prob(x))
    ours = (p * branches.weights * f(branches.values)).sum()
    assert far(ours, (p * (Gamma(a, 1.3).log_prob(x) - behaviour.log_prob(x)).exp() * f(x)).sum(), [a], order=2) < 1e-8


def test_a_recorded_value_has_no_proposal():
    with pytest.raises(scg.GraphError, match="node 'x': a value was given at .* cannot tell the proposal"):
        graph_of(RejectionReparameterisation()).replay({"x": torch.tensor(1.0)}, a=torch.tensor(1.7, requires_grad=True))


def test_other_distributions_are_refused():
    normal = Normal(torch.tensor(0.1, requires_grad=True), 1.0)
    assert "for Gamma, Beta, LogNormal (also inside Independent)" in GeneralisedReparameterisation().refuses(normal)
    assert "for Gamma (also inside Independent), and this is Normal.\nUse " in RejectionReparameterisation().refuses(normal)
    assert GeneralisedReparameterisation().refuses(Beta(1.0, 2.0)) is None


@pytest.mark.parametrize("boost", [0, 1.5])
def test_boost_is_a_positive_integer(boost):
    with pytest.raises(ValueError, match=f"boost={boost}.*: an integer, at least 1"):
        RejectionReparameterisation(boost=boost)
