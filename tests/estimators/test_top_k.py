"""Top k and a sampled remainder: proved over every value that the remainder may take."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical, Poisson

import scg
from scg.estimators import LeaveOneOut, TopK, top_k
from tests.estimators.integral import composition, far, mean

LOGITS = [0.4, -0.8, 1.1, 0.2, -0.3]
F = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4])


class ForgetsTheRest(TopK):
    """The remainder's sample weighed as a sample of the whole: without 1 − p(C)."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        likely, rest = branches.weights[: self.k], branches.weights[self.k :]
        return scg.Branches(branches.values, branches.n, torch.cat([likely, rest / rest.detach() / self.samples]))


@pytest.mark.parametrize(("k", "samples"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("estimator", [TopK, ForgetsTheRest], ids=["ours", "biased twin"])
def test_the_mean_over_the_remainder_is_exact_to_second_order(monkeypatch, estimator, k, samples):
    theta = torch.tensor(LOGITS, requires_grad=True)
    p = torch.softmax(theta, 0)
    tail = p.detach().clone()
    tail[tail.topk(k).indices] = 0
    rest = torch.tensor([t for t in itertools.product(range(5), repeat=samples) if all(tail[v] > 0 for v in t)]).T
    probability = (tail / tail.sum())[rest].prod(0)
    monkeypatch.setattr(top_k, "remainder", lambda tail, samples: rest)
    branches = estimator(k, samples).branch(Categorical(logits=theta.expand(len(probability), 5)))
    error = far(mean(branches, lambda x: F[x], probability), (p * F).sum(), [theta], 2)
    assert (error < 1e-12) == (estimator is TopK)


def test_joint_bits_are_ranked_by_their_joint_probability():
    theta = torch.randn(40, 3)
    branches = TopK(3, samples=2).branch(Independent(Bernoulli(logits=theta), 1))
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    log_p = Independent(Bernoulli(logits=theta), 1).log_prob(bits.unsqueeze(1).expand(8, 40, 3))
    best = bits[log_p.topk(3, 0).indices]
    assert torch.equal(branches.values[:3], best)
    assert not (branches.values[3:].unsqueeze(0) == best.unsqueeze(1)).all(-1).any()


def test_the_remainder_is_drawn_with_its_conditional_probabilities():
    """200,000 draws, false alarm below 1e-5."""
    tail = torch.tensor([0.1, 0.0, 0.3, 0.2]).log()
    seen = torch.bincount(top_k.remainder(tail, 200_000), minlength=4) / 200_000
    assert (seen - torch.tensor([1 / 6, 0, 1 / 2, 1 / 3])).abs().max() < 5 * 0.5 / 200_000**0.5


def test_a_concentrated_distribution_leaves_hardly_any_noise():
    """p = 0.99 for one of 5: the variance of one draw is a twentieth of that of two plain samples."""
    variances = []
    for estimator in (TopK(1), LeaveOneOut(2)):
        theta = torch.tensor([6.0, 0.0, 0.3, -0.3, 0.5]).repeat(20_000, 1).requires_grad_()
        branches = estimator.branch(Categorical(logits=theta))
        (gradient,) = torch.autograd.grad((branches.weights * F[branches.values]).sum(), theta)
        variances.append(float(gradient.var(0).sum()))
    assert variances[0] < variances[1] / 20


def test_excluded_categories_leave_no_nan():
    theta = torch.tensor([0.3, -torch.inf, 1.0, -torch.inf], dtype=torch.float32).requires_grad_()
    for estimator in (TopK(1), TopK(2), TopK(3)):  # with two or three likely values, the remainder has no probability at all
        branches = estimator.branch(Categorical(logits=theta.expand(100, 4)))
        total = (branches.weights * branches.values).sum(0)
        (gradient,) = torch.autograd.grad(total.sum(), theta)
        assert (gradient[[1, 3]] == 0).all() and (gradient[[0, 2]] != 0).all() and torch.isfinite(total).all()


def categories(x, theta):
    return Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x, 0.3 * x], -1))


def bits(x, theta):
    return Independent(Bernoulli(logits=torch.stack([x + theta[0], theta[1] - x, theta[2] * x], -1)), 1)


@pytest.mark.parametrize("node", [categories, bits])
@pytest.mark.parametrize(
    ("estimator", "right"), [(TopK(1), True), (TopK(2, samples=3), True), (ForgetsTheRest(1), False)], ids=repr
)
def test_inside_a_graph(estimator, right, node):
    report = composition(estimator, node)
    assert report.verdict == ("unbiased" if right else "biased"), report


def test_one_hot_samples_keep_their_shape():
    branches = TopK(2).branch(OneHotCategorical(logits=torch.randn(4, 5)))
    assert branches.values.shape == (3, 4, 5) and torch.equal(branches.values.sum(-1), torch.ones(3, 4))


def test_supports_that_are_endless_too_large_or_too_small_are_refused():
    assert TopK().refuses(Poisson(1.0)).startswith("TopK needs a finite support, and Poisson has none to enumerate.")
    assert TopK(budget=8).refuses(Independent(Bernoulli(torch.rand(3)), 1)) is None
    assert TopK(budget=8).refuses(Independent(Bernoulli(torch.rand(4)), 1)) == (
        "TopK would look at 16 values, the budget is 8.\n"
        "Use UnorderedSet(samples=4), which looks at no more than it draws, or raise TopK(budget=…)."
    )
    assert TopK(2).refuses(Bernoulli(torch.rand(2))) == (
        "TopK(k=2) leaves nothing to sample of a support of 2 values.\nUse Enumeration(), which is exact."
    )
    with pytest.raises(ValueError, match=r"TopK\(k=0\): k is an integer, at least 1"):
        TopK(0)
    with pytest.raises(ValueError, match=r"TopK\(samples=0\): samples is an integer, at least 1"):
        TopK(1, 0)
