"""The catalogue where numbers are hard: forward mode, rare and masked values in every dtype, thousands of classes."""

import resource

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from scg.errors import GraphError
from scg.estimators.catalogue import ENTRIES, accepted
from scg.testing.trial_distributions import KINDS, statistic
from tests.estimators.noise import estimate

UNFINISHED = {"NoGradient", "TruncatedRatio", "SelfNormalised", "Clipped", "NVIL"}  # no gradient, or ScoreFunction until given
SAMPLED = [name for name in ENTRIES if name not in UNFINISHED]
THETA = torch.tensor([0.3, -0.4, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("name", SAMPLED)
def test_forward_and_reverse_mode_agree_draw_by_draw(name):
    """`torch.no_grad`, inside samplers, lets forward-mode tangents through: they would be added to the score's."""
    estimator = ENTRIES[name].estimator
    for kind in accepted(estimator):
        example = KINDS[kind](THETA)

        def total(theta, kind=kind, example=example):
            torch.manual_seed(1)
            return estimate(estimator.branch(KINDS[kind](theta)), lambda x: statistic(x, example)).sum()

        theta, direction = THETA.expand(8, 3).clone().requires_grad_(), torch.randn(8, 3)
        (reverse,) = torch.autograd.grad(total(theta), theta)
        try:
            _, forward = torch.func.jvp(total, (theta.detach(),), (direction,))
        except (GraphError, NotImplementedError):  # torch has no such derivative, and says so
            continue
        assert torch.allclose(forward, (reverse * direction).sum(), atol=1e-9), kind


BITS = [n for n in SAMPLED if ENTRIES[n].estimator.refuses(Bernoulli(logits=THETA)) is None and ENTRIES[n].estimator.unbiased]
N = 100_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", BITS)
def test_a_rare_bit_happens_and_is_weighed_in_every_dtype(name, dtype):
    """E f = f(0) + p, p = 0.003: value and gradient within 30 % (0.0009 is 5 standard errors of a plain sample)."""
    torch.manual_seed(0)
    logits = torch.full((N,), -5.8).to(dtype).requires_grad_()
    branches = ENTRIES[name].estimator.branch(Bernoulli(logits=logits))
    total = estimate(branches, lambda b: b.float())
    p = torch.sigmoid(logits[0].detach().double())
    assert abs(total.detach().double().mean() / p - 1) < 0.3
    (gradient,) = torch.autograd.grad(total.sum(), logits)
    assert abs(gradient.double().mean() / (p * (1 - p)) - 1) < 0.3


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("make", [lambda p: Bernoulli(probs=p[0]), lambda p: Categorical(probs=p)], ids=["bit", "category"])
def test_a_probability_of_zero_that_moves_is_right_or_refused(name, make):
    estimator = ENTRIES[name].estimator
    if name in UNFINISHED or not estimator.unbiased or estimator.refuses(make(torch.tensor([0.0, 0.4, 0.6]))) is not None:
        return
    p = torch.tensor([0.0, 0.4, 0.6], requires_grad=True)
    refusal = estimator.refuses(make(p))
    if refusal is not None:
        assert "never drawn" in refusal
        return
    f = torch.tensor([0.3, -1.2, 2.0])
    bit = isinstance(make(p), Bernoulli)
    rows = p.expand(2000, 3)
    total = estimate(estimator.branch(make(rows.T if bit else rows)), lambda x: f[x.long()]).mean()
    (gradient,) = torch.autograd.grad(total, p)
    truth = torch.tensor([f[1] - f[0], 0.0, 0.0]) if bit else f - (p.detach() * f).sum()
    assert torch.allclose(gradient, truth, atol=0.3)  # 5 standard errors of the measure-valued one; the others are exact


CLASSES = 2000
CLASSED = [
    n
    for n in SAMPLED
    if "Categorical" in accepted(ENTRIES[n].estimator) or "OneHotCategorical" in accepted(ENTRIES[n].estimator)
]


@pytest.mark.parametrize("name", CLASSED)
def test_thousands_of_classes_take_linear_memory_or_are_refused_by_a_budget(name):
    """K = 2000, a batch of 16: values quadratic in K for each batch element would take 0.26 GB."""
    estimator = ENTRIES[name].estimator
    logits = torch.randn(16, CLASSES, dtype=torch.float32, requires_grad=True)
    kind = Categorical if estimator.refuses(Categorical(logits=THETA)) is None else OneHotCategorical
    refusal = estimator.refuses(kind(logits=logits))
    if refusal is not None:
        assert "the budget is" in refusal and "raise" in refusal
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = estimate(estimator.branch(kind(logits=logits)), lambda x: x.float() if kind is Categorical else x[..., 0]).sum()
    torch.autograd.grad(total, logits)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
