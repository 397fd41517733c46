"""The biased relaxations have the means that their docstrings state: integrated against relaxed densities, exactly."""

import pytest
import torch
from torch import distributions as D
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

import scg
from scg.estimators import Pathwise, ScoreFunction
from scg.estimators.gumbel_softmax import GumbelSoftmax
from scg.estimators.rao_gumbel import RaoGumbel
from scg.estimators.reinmax import ReinMax
from scg.estimators.straight_through import StraightThrough, StraightThroughGumbel
from tests.estimators.integral import far
from tests.estimators.noise import bits, estimate, interval, races, recite

BIASED = [GumbelSoftmax, StraightThrough, StraightThroughGumbel, RaoGumbel, ReinMax]
TAU = 0.7


def smooth(x):
    return torch.cos(2 * x) + 0.3 * x**3


def slope(x):
    return -2 * torch.sin(2 * x) + 0.9 * x**2


def of_simplex(x):
    return torch.sin(x[..., 0] + 2 * x[..., 1]) + (x * torch.tensor([0.3, -1.2, 2.0])[: x.shape[-1]]).sum(-1) ** 2


def gradient(f, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def mean_of(monkeypatch, estimator, theta, f=smooth):
    """(value, gradient) of one bit, over u."""
    u, probability = bits(torch.sigmoid(theta))
    recite(monkeypatch, u)
    mean = (probability * estimate(estimator.branch(Bernoulli(logits=theta.expand(len(u)))), f)).sum()
    return mean, torch.autograd.grad(mean, theta)[0]


@pytest.fixture
def theta():
    return torch.tensor(0.6, requires_grad=True)


def hard_value(theta, f=smooth):
    p = torch.sigmoid(theta)
    return p * f(torch.ones(())) + (1 - p) * f(torch.zeros(()))


# -- Gumbel-softmax ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tau", "right"), [(TAU, True), (0.9 * TAU, False)])
def test_gumbel_softmax_of_a_bit_differentiates_the_relaxed_objective(monkeypatch, theta, tau, right):
    """∫ f(y) p_τ(y; θ) dy, θ in the density and not in y; to second order."""
    y, dy = interval(0.0, 1.0)
    truth = (D.RelaxedBernoulli(torch.tensor(tau), logits=theta).log_prob(y).exp() * smooth(y) * dy).sum()
    u, probability = bits(torch.sigmoid(theta))
    recite(monkeypatch, u)
    branches = GumbelSoftmax(temperature=TAU, allow_bias=True).branch(Bernoulli(logits=theta.expand(len(u))))
    assert (far((probability * estimate(branches, smooth)).sum(), truth, [theta], 2) < 1e-8) == right
    assert abs(torch.autograd.grad(hard_value(theta) - truth, theta)[0]) > 0.01  # and that is not the hard one


def test_gumbel_softmax_of_categories_differentiates_the_relaxed_objective(monkeypatch):
    theta = torch.tensor([0.4, -0.3], requires_grad=True)
    y, dy = interval(0.0, 1.0)
    density = D.RelaxedOneHotCategorical(torch.tensor(TAU), logits=theta).log_prob(torch.stack([y, 1 - y], -1)).exp()
    truth = (density * of_simplex(torch.stack([y, 1 - y], -1)) * dy).sum()
    mean = torch.zeros(())
    for u, probability in races(torch.softmax(theta, 0), 0.2, 30):
        recite(monkeypatch, u)
        branches = GumbelSoftmax(temperature=TAU, allow_bias=True).branch(OneHotCategorical(logits=theta.expand(len(u), 2)))
        mean = mean + (probability * estimate(branches, of_simplex)).sum()
    assert far(mean, truth, [theta], 2) < 1e-8


# -- straight-through --------------------------------------------------------------------------------------


def test_straight_through_of_a_bit(monkeypatch, theta):
    value, found = mean_of(monkeypatch, StraightThrough(allow_bias=True), theta)
    p = torch.sigmoid(theta.detach())
    stated = (p * slope(torch.ones(())) + (1 - p) * slope(torch.zeros(()))) * p * (1 - p)
    truth = torch.autograd.grad(hard_value(theta), theta)[0]
    assert torch.allclose(value, hard_value(theta)) and torch.allclose(found, stated)
    assert abs(found - truth) > 0.01


def winners(monkeypatch, estimator, theta):
    """The branches of a category, each of its values once: category b wins where u_b is the largest."""
    count = len(theta)
    recite(monkeypatch, 0.1 + 0.8 * torch.eye(count))
    branches = estimator.branch(OneHotCategorical(logits=theta.expand(count, count)))
    assert torch.equal(branches.values.detach(), torch.eye(count))
    return branches


def test_straight_through_of_categories(monkeypatch):
    theta = torch.tensor([0.4, -0.3, 1.0], requires_grad=True)
    p = torch.softmax(theta, 0)
    mean = p.detach() @ estimate(winners(monkeypatch, StraightThrough(), theta), of_simplex)
    stated = torch.autograd.grad((p.detach() @ gradient(of_simplex, torch.eye(3))) @ p, theta)[0]
    assert torch.allclose(mean, p @ of_simplex(torch.eye(3)))
    assert torch.allclose(torch.autograd.grad(mean, theta)[0], stated)


def relaxed_path(theta, tau, f_slope=slope):
    """E[f′(H(y − ½)) y (1 − y)/τ] against the relaxed density of y."""
    total = torch.zeros(())
    for hard, (y, dy) in zip((0.0, 1.0), (interval(0.0, 0.5), interval(0.5, 1.0)), strict=True):
        density = D.RelaxedBernoulli(torch.tensor(tau), logits=theta.detach()).log_prob(y).exp()
        total = total + (density * f_slope(torch.tensor(hard)) * y * (1 - y) / tau * dy).sum()
    return total


@pytest.mark.parametrize(("tau", "right"), [(TAU, True), (0.9 * TAU, False)])
def test_straight_through_gumbel_of_a_bit(monkeypatch, theta, tau, right):
    value, found = mean_of(monkeypatch, StraightThroughGumbel(temperature=TAU, allow_bias=True), theta)
    assert torch.allclose(value, hard_value(theta))
    assert torch.allclose(found, relaxed_path(theta, tau), rtol=1e-9) == right
    assert abs(found - torch.autograd.grad(hard_value(theta), theta)[0]) > 0.01


def test_straight_through_gumbel_of_categories(monkeypatch):
    theta = torch.tensor([0.4, -0.3], requires_grad=True)
    mean = torch.zeros(())
    for u, probability in races(torch.softmax(theta, 0), 0.2, 30):
        recite(monkeypatch, u)
        branches = StraightThroughGumbel(temperature=TAU, allow_bias=True).branch(
            OneHotCategorical(logits=theta.expand(len(u), 2))
        )
        mean = mean + (probability * estimate(branches, of_simplex)).sum()
    slopes = gradient(of_simplex, torch.eye(2)) @ torch.tensor([1.0, -1.0])  # along the simplex, at e₀ and e₁
    difference = theta.detach()[0] - theta.detach()[1]
    stated = relaxed_path(difference, TAU, lambda b: slopes[0] if b == 1 else slopes[1])
    assert torch.allclose(torch.autograd.grad(mean, theta)[0], torch.stack([stated, -stated]), rtol=1e-8)


# -- Rao–Blackwellised -------------------------------------------------------------------------------------


class MovingCondition(RaoGumbel):
    """The tempting other one: differentiates how z | b moves with θ."""

    def path(self, relaxed, z, hard):
        return relaxed.relaxed(relaxed.anew(z, self.conditional), self.temperature).mean(0)


@pytest.mark.parametrize(("kind", "right"), [(RaoGumbel, True), (MovingCondition, False)])
def test_rao_gumbel_of_a_bit_has_the_mean_of_straight_through_gumbel(monkeypatch, theta, kind, right):
    p = torch.sigmoid(theta.detach())
    v, weight = interval(0.0, 1.0)
    mean = torch.zeros(())
    for u, probability in (((1 - p) / 2, 1 - p), (1 - p / 2, p)):
        recite(monkeypatch, u, v)
        branches = kind(temperature=TAU, conditional=1, allow_bias=True).branch(Bernoulli(logits=theta.expand(len(v))))
        mean = mean + probability * (weight * estimate(branches, smooth)).sum()
    assert torch.allclose(mean, hard_value(theta))
    assert torch.allclose(torch.autograd.grad(mean, theta)[0], relaxed_path(theta, TAU), rtol=1e-9) == right


def test_rao_gumbel_of_categories_has_the_mean_of_straight_through_gumbel(monkeypatch):
    theta = torch.tensor([0.4, -0.3, 1.0], requires_grad=True)
    p = torch.softmax(theta, 0)
    plain, rao = torch.zeros(()), torch.zeros(())
    for b, (u, probability) in enumerate(races(p)):

        def part(estimator, *noise):
            recite(monkeypatch, *noise)
            branches = estimator.branch(OneHotCategorical(logits=theta.expand(len(u), 3)))
            return (probability * estimate(branches, of_simplex)).sum()

        anew = torch.cartesian_prod(*[interval(0.0, 1.0, 0.7, 21.0)[0]] * 3)  # whose probabilities are the same
        plain = plain + part(StraightThroughGumbel(temperature=TAU), u)
        rao = rao + part(RaoGumbel(temperature=TAU, conditional=1), (0.1 + 0.8 * torch.eye(3))[b].expand(len(u), 3), anew)
    assert far(rao, plain, [theta]) < 1e-8


def test_more_conditional_draws_never_raise_the_variance():
    def variance(estimator):
        theta = torch.full((20000,), 0.6, requires_grad=True)
        value = estimate(estimator.branch(Bernoulli(logits=theta)), smooth).sum()
        return torch.autograd.grad(value, theta)[0].var()

    plain = variance(StraightThroughGumbel(temperature=0.3))
    assert variance(RaoGumbel(temperature=0.3, conditional=1)) < 1.1 * plain
    assert variance(RaoGumbel(temperature=0.3, conditional=20)) < 0.6 * plain


# -- ReinMax -----------------------------------------------------------------------------------------------


def test_reinmax_of_a_bit_is_the_trapezoid_rule(monkeypatch, theta):
    value, found = mean_of(monkeypatch, ReinMax(allow_bias=True), theta)
    p = torch.sigmoid(theta.detach())
    assert torch.allclose(value, hard_value(theta))
    assert torch.allclose(found, (slope(torch.zeros(())) + slope(torch.ones(()))) / 2 * p * (1 - p))
    assert abs(found - torch.autograd.grad(hard_value(theta), theta)[0]) > 0.01


@pytest.mark.parametrize(
    ("estimator", "right"), [(ReinMax(), True), (StraightThrough(), False), (ReinMax(temperature=1.3), False)]
)
def test_reinmax_is_exact_for_quadratic_costs_of_a_bit(monkeypatch, theta, estimator, right):
    def quadratic(x):
        return 1.7 * x**2 - 0.4 * x + 2

    _, found = mean_of(monkeypatch, estimator, theta, quadratic)
    assert torch.allclose(found, torch.autograd.grad(hard_value(theta, quadratic), theta)[0], rtol=1e-10) == right


@pytest.mark.parametrize(("estimator", "right"), [(ReinMax(), True), (StraightThrough(), False)])
def test_reinmax_is_exact_for_quadratic_costs_of_categories(monkeypatch, estimator, right):
    theta = torch.tensor([0.4, -0.3, 1.0], requires_grad=True)
    p = torch.softmax(theta, 0)
    a = torch.randn(3, 3)

    def quadratic(x):
        return ((x @ a) * x).sum(-1) + x[..., 0]

    mean = p.detach() @ estimate(winners(monkeypatch, estimator, theta), quadratic)
    truth = (p * quadratic(torch.eye(3))).sum()
    assert (far(mean, truth, [theta]) < 1e-12) == right


def test_reinmax_is_exact_for_costs_quadratic_in_each_of_two_bits(monkeypatch):
    theta = torch.tensor([0.5, -0.8], requires_grad=True)
    p = torch.sigmoid(theta)

    def cost(x):
        return (1 + x[..., 0] ** 2) * (x[..., 1] - 0.3) ** 2 + x[..., 0] * x[..., 1]

    every = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    probability = (every * p + (1 - every) * (1 - p)).prod(-1)
    recite(monkeypatch, torch.where(every == 1, 1 - p / 2, (1 - p) / 2).detach())
    branches = ReinMax().branch(Independent(Bernoulli(logits=theta.expand(4, 2)), 1))
    mean = (probability.detach() * estimate(branches, cost)).sum()
    assert far(mean, (probability * cost(every)).sum(), [theta]) < 1e-12


# -- in graphs ---------------------------------------------------------------------------------------------


def graph_of(estimator):
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 0.7), name="x")
    graph.stochastic(estimator, lambda x, theta: Bernoulli(logits=x + theta), name="z")
    graph.stochastic(ScoreFunction(), lambda z, x: Bernoulli(logits=0.8 * z - 1 + 0.3 * x), name="y")
    graph.cost(lambda x, z, y: (z - 0.7) ** 2 * (0.4 + y) + 0.5 * x * z, name="c")
    return graph


@pytest.mark.parametrize("kind", BIASED)
def test_they_are_refused_without_opting_in_and_found_biased_after(kind):
    with pytest.raises(scg.GraphError, match="is biased. If that is what you want, opt in with allow_bias=True"):
        graph_of(kind())
    inputs = {"mu": torch.tensor(0.4, requires_grad=True), "theta": torch.tensor(0.3, requires_grad=True)}
    graph = graph_of(kind(allow_bias=True))
    report = scg.testing.check_unbiased(graph, inputs, detectable=0.1, max_draws=2**22, localise=False)
    assert report.verdict == "biased", report


@pytest.mark.parametrize("kind", [k for k in BIASED if k is not GumbelSoftmax])
def test_a_path_that_is_cut_downstream_is_an_error(kind):
    graph = scg.Graph()
    graph.stochastic(kind(allow_bias=True), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b > 0.5).to(b.dtype), name="f")
    with pytest.raises(scg.GraphError, match="the pathwise gradient of 'b' ends here"):
        graph.surrogate(theta=torch.tensor(0.1, requires_grad=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", BIASED)
def test_shapes_dtypes_and_generators(kind, dtype):
    theta = torch.randn(4, 3, 2, dtype=dtype, requires_grad=True)
    for distribution in (Independent(Bernoulli(logits=theta), 1), Independent(OneHotCategorical(logits=theta), 1)):
        for samples, shape in ((1, (4, 3, 2)), (5, (5, 4, 3, 2))):
            branches = kind(samples, allow_bias=True).branch(distribution)
            assert branches.values.shape == shape and branches.values.dtype == dtype
            value = branches.values.detach()
            assert ((value > 0) & (value < 1)).any() == (kind is GumbelSoftmax)
    graph = scg.Graph()
    graph.stochastic(kind(samples=3, allow_bias=True), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b - 0.3) ** 2, name="f")
    theta = torch.zeros(7, dtype=dtype, requires_grad=True)
    first, again = (graph.surrogate(generator=torch.Generator().manual_seed(3), theta=theta) for _ in range(2))
    assert torch.equal(*(torch.autograd.grad(s, theta)[0] for s in (first, again)))


@pytest.mark.parametrize("kind", BIASED)
def test_what_cannot_be_relaxed_is_refused(kind):
    name = kind.__name__
    assert f"{name} relaxes a sample" in kind().refuses(Categorical(torch.ones(3)))
    assert f"{name} is for Bernoulli, OneHotCategorical" in kind().refuses(Normal(0.0, 1.0))
    assert kind().order(Bernoulli(0.3)) == (float("inf") if kind is GumbelSoftmax else 1)
    with pytest.raises(ValueError, match=rf"{name}\(samples=0\)"):
        kind(samples=0)
    if kind is not StraightThrough:
        with pytest.raises(ValueError, match=rf"{name}\(temperature=0\): the temperature is a positive number"):
            kind(temperature=0)


@pytest.mark.parametrize("kind", BIASED)
def test_a_recorded_sample_has_no_noise_to_infer(kind):
    with pytest.raises(scg.GraphError, match="node 'z': .* the noise behind a Bernoulli sample cannot be inferred"):
        graph_of(kind(allow_bias=True)).replay({"z": torch.tensor(1.0)}, mu=torch.zeros(()), theta=torch.zeros(()))


@pytest.mark.parametrize("kind", [k for k in BIASED if k is not GumbelSoftmax])
def test_hard_ones_are_first_order_and_say_so(kind):
    theta = torch.tensor([0.4, -0.3, 1.0], requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(kind(allow_bias=True), lambda theta: OneHotCategorical(logits=theta), name="x")
    graph.cost(of_simplex, name="f", parents=["x"])
    (first,) = torch.autograd.grad(graph.surrogate(theta=theta), theta, create_graph=True)
    with pytest.raises(scg.GraphError, match="node 'x': a second derivative was asked"):
        torch.autograd.grad(first.sum(), theta)


def test_conditional_draws_are_at_least_one():
    with pytest.raises(ValueError, match=r"RaoGumbel\(conditional=0\)"):
        RaoGumbel(conditional=0)


@pytest.mark.parametrize("kind", BIASED)
def test_certain_bits_and_impossible_categories_give_no_nan(kind):
    bits = torch.tensor([-800.0, 800.0, 0.0], requires_grad=True)
    categories = torch.tensor([0.0, -torch.inf, 1.0], requires_grad=True)
    for theta, distribution in (
        (bits, Bernoulli(logits=bits.expand(50, 3))),
        (categories, OneHotCategorical(logits=categories.expand(50, 3))),
    ):
        value = (
            kind(temperature=0.5).branch(distribution).values
            if kind is not StraightThrough
            else kind().branch(distribution).values
        )
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad((value * torch.randn(3)).sum(), theta)[0]).all()
