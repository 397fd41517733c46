"""REBAR: exact over its own noise and its hard samples, to second order; the tempting wrong ones are not."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

import scg
from scg.estimators.rebar import REBAR, LearnedREBAR
from scg.estimators.relaxation import Bits, Categories, relaxation
from tests.estimators.integral import composition, far
from tests.estimators.noise import bits, estimate, races, recite


class UnconditionalREBAR(REBAR):
    """The relaxed sample in the place of the conditionally relaxed one."""

    def branch(self, distribution):
        hard, relaxed, _ = (branches := super().branch(distribution)).values.chunk(3)
        return scg.Branches(torch.cat([hard, relaxed, relaxed]), branches.n, branches.weights)


class OneSidedREBAR(REBAR):
    """η on the subtracted side only."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        w, eta, other = branches.weights.chunk(3)
        return scg.Branches(branches.values, branches.n, torch.cat([w, eta / self.eta, other]))


class FrozenREBAR(REBAR):
    """z̃ without its own dependence on θ."""

    def branch(self, distribution):
        hard, relaxed, conditional = (branches := super().branch(distribution)).values.chunk(3)
        return scg.Branches(torch.cat([hard, relaxed, conditional.detach()]), branches.n, branches.weights)


ESTIMATORS = [
    (REBAR(0.7, 0.8), True),
    (REBAR(0.4, -1.5), True),
    (LearnedREBAR(0.6, 1.3), True),
    (REBAR(0.7, 0.8, mean_field=True), True),
    (LearnedREBAR(0.6, 1.3, mean_field=True), True),
    (UnconditionalREBAR(0.7, 0.8), False),
    (OneSidedREBAR(0.7, 0.8), False),
    (FrozenREBAR(0.7, 0.8), False),
]


def smooth(x):
    return torch.cos(2 * x) + 0.3 * x**3


def of_simplex(x):
    return torch.sin(x[..., 0] + 2 * x[..., 1]) + (x * torch.tensor([0.3, -1.2, 2.0])).sum(-1) ** 2


@pytest.mark.parametrize(("estimator", "right"), ESTIMATORS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("theta", [-1.7, 0.4])
def test_one_bit_is_exact_to_second_order(monkeypatch, estimator, right, theta):
    theta = torch.tensor(theta, requires_grad=True)
    p = torch.sigmoid(theta)
    u, probability = bits(p)
    recite(monkeypatch, u)
    mean = (probability * estimate(estimator.branch(Bernoulli(logits=theta.expand(len(u)))), smooth)).sum()
    truth = p * smooth(torch.ones(())) + (1 - p) * smooth(torch.zeros(()))
    assert (far(mean, truth, [theta], 2) < 1e-9) == right


def test_the_mean_field_relaxation_tends_to_the_mean_as_it_gets_softer():
    """The concrete one forgets θ."""
    theta = torch.tensor([0.4, -1.3])
    for made, mean in ((Bits(theta), theta.sigmoid()), (Categories(theta.log_softmax(0)), theta.softmax(0))):
        z = made.draw(1)
        assert torch.allclose(made.relaxed(z, 1e6, mean_field=True)[0], mean, atol=1e-5)
        assert torch.allclose(made.relaxed(z, 1e6)[0], torch.full((2,), 0.5), atol=1e-5)
    sharp = Bits(theta).draw(1)
    assert torch.allclose(Bits(theta).relaxed(sharp, 1e-3, mean_field=True), (sharp > 0).to(sharp.dtype), atol=1e-6)


@pytest.mark.parametrize(("estimator", "right"), [ESTIMATORS[0], *ESTIMATORS[3:]], ids=lambda x: type(x).__name__)
def test_three_categories_are_exact_to_second_order(monkeypatch, estimator, right):
    theta = torch.tensor([0.4, -0.3, 1.0], requires_grad=True)
    p = torch.softmax(theta, 0)
    mean = torch.zeros(())
    for u, probability in races(p):
        recite(monkeypatch, u)
        branches = estimator.branch(OneHotCategorical(logits=theta.expand(len(u), 3)))
        mean = mean + (probability * estimate(branches, of_simplex)).sum()
    truth = (p * of_simplex(torch.eye(3))).sum()
    assert (far(mean, truth, [theta], 2) < 1e-6) == right


def test_bits_by_their_probability(monkeypatch):
    p = torch.tensor(0.3, requires_grad=True)
    u, probability = bits(p)
    recite(monkeypatch, u)
    mean = (probability * estimate(REBAR().branch(Bernoulli(probs=p.expand(len(u)))), smooth)).sum()
    assert far(mean, p * smooth(torch.ones(())) + (1 - p) * smooth(torch.zeros(())), [p], 2) < 1e-9


def test_a_constant_cost_has_zero_mean_gradient(monkeypatch):
    theta = torch.tensor(0.4, requires_grad=True)
    u, probability = bits(torch.sigmoid(theta))
    recite(monkeypatch, u)
    mean = (probability * estimate(REBAR(0.5, 0.3).branch(Bernoulli(logits=theta.expand(len(u)))), torch.ones_like)).sum()
    assert abs(mean - 1) < 1e-12 and abs(torch.autograd.grad(mean, theta)[0]) < 1e-12


@pytest.mark.parametrize(
    "distribution",
    [
        lambda: Bernoulli(logits=torch.linspace(-30, 30, 13)),
        lambda: OneHotCategorical(logits=torch.linspace(-20, 20, 12).view(4, 3)),
    ],
    ids=["bits", "categories"],
)
def test_noise_in_common_makes_the_conditional_relaxation_the_relaxation_in_value(distribution):
    relaxed, _ = relaxation(distribution())
    z = relaxed.draw(1000)
    assert torch.allclose(relaxed.coupled(z), z, rtol=1e-8, atol=1e-8)
    assert torch.equal(relaxed.hard(relaxed.anew(z, 4)), relaxed.hard(z).expand(4, *z.shape))


def test_conditional_noise_drawn_anew_has_the_law_of_z_again():
    """Kolmogorov–Smirnov at 20,000 pairs: false alarm 1e-4 each; a shift of 3 % of the distribution would be seen."""
    for relaxed in (Bits(torch.tensor([0.8, -1.5])), Categories(torch.log_softmax(torch.tensor([0.4, -0.3, 1.0]), 0))):
        z = relaxed.draw(20000)
        again = relaxed.anew(z, 1)[0]
        for one, other in zip(z.flatten(1).T, again.flatten(1).T, strict=True):
            both = torch.cat([one, other]).sort().values
            gap = torch.searchsorted(one.sort().values, both, right=True) - torch.searchsorted(
                other.sort().values, both, right=True
            )
            assert gap.abs().max() / 20000 < 2.3 * (2 / 20000) ** 0.5


def test_impossible_categories_and_certain_bits_give_no_nan():
    for make, at in (
        (lambda p: OneHotCategorical(logits=p), [0.0, -torch.inf, 1.0]),
        (lambda p: Bernoulli(logits=p), [-800.0, 800.0, 0.0]),
        (lambda p: Bernoulli(probs=p), [0.0, 1.0, 0.5]),
    ):
        parameter = torch.tensor(at, requires_grad=True)
        branches = REBAR().branch(make(parameter.expand(50, 3)))
        cost = branches.values.sum(-1) if branches.values.ndim > branches.weights.ndim else branches.values
        gradient = torch.autograd.grad((branches.weights * cost**2).sum(), parameter)[0]
        assert torch.isfinite(cost).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("estimator", "node", "right"),
    [
        (REBAR(), lambda x, theta: Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x], -1)), 1), True),
        (REBAR(0.7, 0.6, samples=2), lambda x, theta: Bernoulli(logits=x * theta[0] + theta[2]), True),
        (
            REBAR(),
            lambda x, theta: OneHotCategorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x], -1)),
            True,
        ),
        (UnconditionalREBAR(), lambda x, theta: Bernoulli(logits=x * theta[0] + theta[2]), False),
        (OneSidedREBAR(0.5, 0.7), lambda x, theta: Bernoulli(logits=x * theta[0] + theta[2]), False),
    ],
    ids=["joint bits", "a bit", "a category", "unconditional twin", "one-sided twin"],
)
def test_inside_a_graph(estimator, node, right):
    report = composition(estimator, node)
    assert report.verdict == ("unbiased" if right else "biased"), report


def toy(estimator, t=0.499):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b - t) ** 2, name="f")
    return graph


def variance(graph, t):
    """Of one draw at θ = 0, over 50,000 draws whose mean is held against ¼ (1 − 2t): false alarm 7e-6."""
    theta = torch.zeros(50000, requires_grad=True)
    surrogate = graph.surrogate(generator=torch.Generator().manual_seed(1), theta=theta)
    gradient = torch.autograd.grad(surrogate * 50000, theta)[0]
    assert abs(gradient.mean() - (1 - 2 * t) / 4) < 4.5 * gradient.std() / 50000**0.5
    return gradient.var()


@pytest.mark.parametrize(("t", "temperature", "eta", "less"), [(0.499, 0.3, 2.0, 0.25), (-0.5, 0.5, 0.1, 0.12)])
def test_learning_temperature_and_strength_lowers_the_variance(t, temperature, eta, less):
    """At t = 0.499 the relaxed cost is a trough that says nothing of f(1) − f(0): the best η is 0, and it is found."""
    estimator, theta = LearnedREBAR(temperature, eta), torch.zeros(256, requires_grad=True)
    graph = toy(estimator, t)
    before = variance(graph, t)
    optimiser = torch.optim.Adam(estimator.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (graph.sample(theta=theta).variance(theta) * 256**2).backward()
        optimiser.step()
    assert variance(graph, t) < less * before


def test_no_surrogate_trains_the_temperature_or_the_strength_and_no_variance_the_parameters():
    estimator, theta = LearnedREBAR(), torch.zeros(16, requires_grad=True)
    trace = toy(estimator).sample(theta=theta)
    trace.surrogate().backward()
    assert theta.grad is not None and all(p.grad is None for p in estimator.parameters())
    theta.grad = None
    trace.variance(theta).backward()
    assert theta.grad is None and all(p.grad is not None for p in estimator.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [lambda: REBAR(samples=2), lambda: LearnedREBAR(samples=2)], ids=["fixed", "learned"])
def test_shapes_dtypes_and_generators(dtype, make):
    theta = torch.randn(4, 3, 2, dtype=dtype, requires_grad=True)
    for distribution, shape in (
        (Independent(Bernoulli(logits=theta), 1), (6, 4, 3, 2)),
        (Independent(OneHotCategorical(logits=theta), 1), (6, 4, 3, 2)),
        (Bernoulli(logits=theta), (6, 4, 3, 2)),
    ):
        branches = make().branch(distribution)
        assert branches.values.shape == shape and branches.weights.shape == (6, *distribution.batch_shape)
        assert branches.values.dtype == branches.weights.dtype == dtype
    graph = toy(make())
    theta = torch.zeros(7, dtype=dtype, requires_grad=True)
    first, again = (graph.surrogate(generator=torch.Generator().manual_seed(3), theta=theta) for _ in range(2))
    assert torch.equal(*(torch.autograd.grad(s, theta)[0] for s in (first, again))) and first.dtype == dtype


def test_what_cannot_be_relaxed_is_refused():
    assert REBAR().refuses(Independent(OneHotCategorical(torch.ones(2, 3)), 1)) is None
    assert REBAR().refuses(Categorical(torch.ones(3))) == (
        "REBAR relaxes a sample into a point between the values, and between the indices of a Categorical there is none.\n"
        "Use OneHotCategorical, whose relaxed samples are points of the simplex."
    )
    assert "REBAR is for Bernoulli, OneHotCategorical" in REBAR().refuses(Normal(0.0, 1.0))
    for temperature in (0, -1.0, float("inf"), float("nan"), True, "1"):
        with pytest.raises(ValueError, match=r"REBAR\(temperature=.*\): the temperature is a positive number"):
            REBAR(temperature)
    with pytest.raises(ValueError, match="the control variate's strength is a finite number"):
        LearnedREBAR(eta=float("nan"))
    with pytest.raises(ValueError, match=r"samples=0"):
        REBAR(samples=0)
