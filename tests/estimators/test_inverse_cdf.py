"""Uniform numbers pushed through F⁻¹ have the law they should, and the open interval is open."""

from functools import partial

import pytest
import torch
from torch import distributions as D

from scg.estimators.inverse_cdf import from_uniform, has_inverse, noise_shape, open_uniform

F = partial(torch.tensor, dtype=torch.float64)
U = (torch.arange(64, dtype=torch.float64) + 0.5) / 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_uniform_numbers_are_wide_lie_inside_and_mirror_exactly(dtype):
    u = open_uniform((100000,), torch.zeros((), dtype=dtype))
    assert u.dtype == torch.float64 and u.min() > 0 and u.max() < 1
    assert torch.equal(1 - (1 - u), u)
    assert abs(u.mean() - 0.5) < 4.5 * (1 / 12 / 100000) ** 0.5  # false alarm 7e-6


@pytest.mark.parametrize(
    ("distribution", "value", "probability"),
    [
        (D.Bernoulli(probs=torch.tensor(0.375)), 1.0, 0.375),
        (D.Categorical(probs=torch.tensor([0.125, 0.25, 0.625])), 1, 0.25),
        (D.Categorical(probs=torch.tensor([0.125, 0.25, 0.625])), 2, 0.625),
        (D.Geometric(probs=torch.tensor(0.5)), 0.0, 0.5),
        (D.Geometric(probs=torch.tensor(0.5)), 3.0, 0.0625),
    ],
)
def test_a_discrete_value_takes_its_probability_of_the_unit_interval(distribution, value, probability):
    assert (from_uniform(distribution, U) == value).to(torch.float64).mean() == probability


def test_one_hot_samples_are_the_categorical_ones():
    logits = torch.randn(2, 4)
    u = open_uniform((5, 2), logits)
    index, one_hot = (from_uniform(d, u) for d in (D.Categorical(logits=logits), D.OneHotCategorical(logits=logits)))
    assert torch.equal(one_hot.argmax(-1), index) and one_hot.shape == (5, 2, 4)


@pytest.mark.parametrize(
    "distribution",
    [
        D.Normal(F(0.3), F(1.4)),
        D.LogNormal(F(0.1), F(0.5)),
        D.Gumbel(F(0.2), F(0.7)),
        D.HalfNormal(F(0.8)),
        D.Weibull(F(1.2), F(1.7)),
        D.Exponential(F(0.6)),
        D.Laplace(F(0.2), F(0.4)),
        D.TransformedDistribution(D.Normal(F(0.0), F(1.0)), [D.AffineTransform(1.0, -2.0)]),
    ],
    ids=lambda d: type(d).__name__,
)
def test_a_continuous_sample_has_its_quantile(distribution):
    """F(F⁻¹(u)) is u, or 1 − u where a transform decreases: both uniform."""
    q = distribution.cdf(from_uniform(distribution, U))
    assert torch.allclose(q.sort().values, U, atol=1e-9)


def test_a_joint_sample_takes_one_number_for_each_variable():
    base = D.Normal(torch.zeros(2, 3), 1.0)
    assert noise_shape(base) == torch.Size() and noise_shape(D.Independent(base, 1)) == (3,)
    covariance = torch.tensor([[2.0, 0.6], [0.6, 1.0]])
    joint = D.MultivariateNormal(torch.tensor([0.5, -1.0]), covariance)
    u = open_uniform((200000, 2), covariance)
    x = from_uniform(joint, u)
    assert noise_shape(joint) == (2,)
    # standard error of an entry of the covariance: at most √(2·2²/N) = 0.0063; false alarm below 1e-5
    assert torch.allclose(x.T.cov(), covariance, atol=4.5 * 0.0063)


def test_rounding_never_reaches_a_last_category_of_probability_zero():
    """In float32 the probabilities of these 36 categories add up to less than the largest number below 1."""
    logits = torch.cat([torch.linspace(-2, 2, 36, dtype=torch.float32), torch.full((3,), -torch.inf, dtype=torch.float32)])
    categories = D.Categorical(logits=logits)
    largest = torch.tensor(1 - torch.finfo(torch.float32).eps / 2, dtype=torch.float32)
    assert categories.probs.cumsum(0)[-1] < largest
    assert from_uniform(categories, largest) == 35


def test_distributions_without_one_are_told():
    assert (
        not has_inverse(D.Gamma(1.0, 1.0)) and not has_inverse(D.Poisson(1.0)) and not has_inverse(D.Dirichlet(torch.ones(3)))
    )
    assert has_inverse(D.Independent(D.Exponential(torch.ones(2)), 1))
