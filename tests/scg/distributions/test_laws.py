"""The law of a distribution: whose kind it is, and its probabilities where torch cuts their gradient."""

import pytest
import torch
from torch import distributions as D

from scg.distributions import is_exactly, log_mass, mass, quantile, rsample, sample, unseen

ONE = torch.ones(2)


class Policy(D.Normal):
    def __init__(self, features):
        super().__init__(features, 1.0)

    def describe(self):
        return "a constructor and a method"


class Exponentiated(D.Normal):
    def rsample(self, sample_shape=torch.Size()):
        return super().rsample(sample_shape).exp()


class Flipped(D.Bernoulli):
    def sample(self, sample_shape=torch.Size()):
        return 1 - super().sample(sample_shape)


class Mirrored(D.Beta):
    def sample(self, sample_shape=torch.Size()):  # torch's Beta defines none, and inherits one
        return 1 - super().sample(sample_shape)


class Shifted(D.Normal):
    loc = property(lambda self: self._loc + 1, lambda self, value: setattr(self, "_loc", value))


class WithMean(D.TransformedDistribution):
    mean = property(lambda self: torch.zeros(()))  # torch has none to override


class Reweighed(Policy):
    def log_prob(self, value):
        return super().log_prob(value) + 1


@pytest.mark.parametrize(
    ("distribution", "kind", "answer"),
    [
        (D.Normal(ONE, 1.0), D.Normal, True),
        (Policy(ONE), D.Normal, True),
        (Exponentiated(ONE, 1.0), D.Normal, False),
        (Flipped(ONE / 2), D.Bernoulli, False),
        (Mirrored(ONE, ONE), D.Beta, False),
        (Shifted(ONE, 1.0), D.Normal, False),
        (Reweighed(ONE), D.Normal, False),
        (D.OneHotCategoricalStraightThrough(ONE), D.OneHotCategorical, True),  # drawn alike, differentiated otherwise
        (WithMean(Policy(ONE), []), D.TransformedDistribution, True),
        (D.LogNormal(ONE, 1.0), D.Normal, False),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_overrides_nothing_of_its_law_is_its_kind(distribution, kind, answer):
    assert is_exactly(distribution, D.Poisson, kind) == answer


def test_an_instance_whose_sampler_was_replaced_is_no_longer_its_kind():
    normal = D.Normal(ONE, 1.0)
    normal.sample = lambda *shape: ONE  # type: ignore[method-assign]
    assert not is_exactly(normal, D.Normal)


# -- probabilities that torch clamps ---------------------------------------------------------------------------

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EDGES = [0.0, 1e-9, 0.003, 0.5, 0.997, 1.0]


def slope(y, *x):
    return torch.autograd.grad(y.sum(), x, retain_graph=True, allow_unused=True)[0]


@pytest.mark.parametrize("touched", [False, True], ids=["fresh", "logits were asked for"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", EDGES)
def test_the_probability_of_a_bit_has_slope_one_everywhere(p, dtype, touched):
    p = torch.tensor(p, dtype=dtype, requires_grad=True)
    bit, close = D.Bernoulli(probs=p), 8 * torch.finfo(dtype).eps
    if touched:
        _ = bit.logits
        close = close * 50  # inside the clamp torch's own formula is used, by way of logits
    for x, sign in ((0.0, -1.0), (1.0, 1.0)):
        x = torch.tensor(x, dtype=dtype)
        value = mass(bit, x)
        assert torch.allclose(value, p if sign > 0 else 1 - p, atol=0, rtol=close)
        assert abs(slope(value, p).item() - sign) <= close
        if value > 0:  # a value that can be drawn
            assert torch.allclose(slope(log_mass(bit, x), p), sign / value, rtol=close)


@pytest.mark.parametrize("touched", [False, True], ids=["fresh", "logits were asked for"])
@pytest.mark.parametrize("kind", [D.Categorical, D.OneHotCategorical])
def test_categories_of_probability_zero_have_a_slope(kind, touched):
    p = torch.tensor([0.0, 1e-9, 0.5, 0.5], dtype=torch.float32, requires_grad=True)
    categories = kind(probs=p)
    if touched:
        _ = categories.logits
    cost = torch.tensor([2.25, 0.4, 0.09, 4.0], dtype=torch.float32)
    slopes = slope(mass(categories, categories.enumerate_support()) * cost, p)
    assert torch.allclose(slopes, cost - (p * cost).sum(), atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.3, 1 - 2**-24, 1.0])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_a_binomial_mean_has_slope_n_up_to_the_edge(count, p):
    p = torch.tensor(p, dtype=torch.float32, requires_grad=True)
    counts = D.Binomial(count, probs=p)
    x = counts.enumerate_support()
    m = mass(counts, x)
    assert torch.allclose(m.sum(), torch.ones(()).float(), atol=1e-4)
    assert torch.allclose(slope(m * x, p), torch.tensor(float(count)).float(), rtol=1e-3)


def test_the_binomial_has_its_second_derivative_at_logit_zero():
    logit = torch.zeros((), requires_grad=True)
    (first,) = torch.autograd.grad(log_mass(D.Binomial(4, logits=logit), torch.tensor(1.0)), logit, create_graph=True)
    assert torch.allclose(first, torch.tensor(-1.0)) and torch.allclose(slope(first, logit), torch.tensor(-1.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: D.NegativeBinomial(2.0, probs=p[0]),
        lambda p: D.Multinomial(3, probs=p),
        lambda p: D.Independent(D.Bernoulli(probs=p), 1),
    ],
)
def test_log_probabilities_inside_are_torchs(make):
    p = torch.tensor([0.2, 0.3, 0.5], requires_grad=True)
    torch.manual_seed(0)
    x = make(p).sample()
    ours, theirs = log_mass(make(p), x), make(p).log_prob(x)
    assert torch.allclose(ours, theirs) and torch.allclose(slope(ours, p), slope(theirs, p))


@pytest.mark.parametrize(
    ("make", "leaf", "refused"),
    [
        (lambda p: D.Bernoulli(probs=p), [0.0, 0.5], True),
        (lambda p: D.Bernoulli(probs=p), [1.0, 0.5], True),
        (lambda p: D.Bernoulli(probs=p), [1e-30, 0.5], False),
        (lambda p: D.Independent(D.Categorical(probs=torch.stack([p, 1 - p], -1)), 1), [0.0, 0.5], True),
        (lambda p: D.Categorical(probs=p.softmax(-1)), [-1e9, 0.5], False),  # masked: it is 0 and stays 0
        (lambda p: D.Categorical(logits=p), [-torch.inf, 0.5], False),
        (lambda p: D.Categorical(probs=(p * torch.tensor([1.0, 0.0]))), [0.3, 0.5], False),
        (lambda p: D.Geometric(probs=p), [1.0, 0.5], True),
        (lambda p: D.Poisson(p), [0.0, 0.5], True),
        (lambda p: D.Poisson(p.exp()), [-1e9, 0.5], False),
        (lambda p: D.Normal(p, 1.0), [0.0, 0.5], False),
    ],
)
def test_a_value_of_probability_zero_whose_probability_moves_is_out_of_a_likelihood_ratios_sight(make, leaf, refused):
    message = unseen(make(torch.tensor(leaf, requires_grad=True)))
    assert (message is not None) == refused
    assert message is None or "never drawn" in message


# -- the continuous Bernoulli distribution ---------------------------------------------------------------------


def test_quantiles_of_the_continuous_bernoulli_are_smooth_through_one_half():
    u = torch.linspace(0.01, 0.99, 9)
    for at in (-40.0, -1.0, -0.0201, -0.0199, -1e-5, 1e-5, 0.0199, 0.0201, 1.0, 40.0):
        logit = torch.tensor(at, requires_grad=True)
        x = quantile(D.ContinuousBernoulli(logits=logit), u)
        assert torch.allclose(torch.expm1(logit * x) / torch.expm1(logit), u, atol=1e-10)  # its distribution function
        if abs(at) < 0.03:
            series = u * (1 - u) * (1 / 2 + at * (1 - 2 * u) / 3 + at**2 * (1 - 6 * u * (1 - u)) / 8)
            slopes = torch.stack([slope(x[i], logit) for i in range(9)])
            assert torch.allclose(slopes, series, atol=2e-6)


@pytest.mark.parametrize("inside", [False, True])
def test_a_pathwise_sample_at_one_half_moves(inside):
    p = torch.full((20000,), 0.5, requires_grad=True)
    distribution = D.ContinuousBernoulli(probs=p)
    x = rsample(D.TransformedDistribution(distribution, [D.AffineTransform(1.0, 2.0)]) if inside else distribution)
    mean = slope(x, p).mean()
    assert abs(mean / (2 if inside else 1) - 1 / 3) < 0.006  # the slope of the mean at 1/2; s.e. 0.001


def _made(kind, logits):
    return kind(logits=logits.clone().requires_grad_())


@pytest.mark.parametrize("kind", [D.Bernoulli, D.Categorical])
@pytest.mark.parametrize("independent", [0, 1])
@pytest.mark.parametrize("samples", [(), (3,)])
def test_what_is_drawn_and_weighed_without_torchs_detours_has_torchs_bits(kind, independent, samples):
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    ours, theirs = _made(kind, logits), _made(kind, logits)
    if independent:
        ours, theirs = D.Independent(ours, 1), D.Independent(theirs, 1)
    torch.manual_seed(2)
    x = sample(ours, torch.Size(samples))
    torch.manual_seed(2)
    assert torch.equal(x, theirs.sample(torch.Size(samples)))
    log_p = log_mass(ours, x)
    assert log_p is not None and torch.equal(log_p, theirs.log_prob(x))
    inner, other = (d.base_dist if independent else d for d in (ours, theirs))
    mine, right = torch.autograd.grad(log_p.sum(), inner.logits), torch.autograd.grad(theirs.log_prob(x).sum(), other.logits)
    assert torch.equal(mine[0], right[0])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (D.Categorical, torch.tensor([0, 3])),
        (D.Categorical, torch.tensor([-1, 0])),
        (D.Categorical, torch.tensor([0.5, 0.0])),
        (D.Bernoulli, torch.tensor([0.5, 0.0])),
    ],
)
def test_a_value_outside_the_support_is_refused_in_torchs_words(kind, value):
    logits = torch.zeros(2, 3) if kind is D.Categorical else torch.zeros(2)
    with pytest.raises(ValueError, match="within the support"):  # validation is asked for: a compiler switches its default off
        log_mass(kind(logits=logits, validate_args=True), value)
