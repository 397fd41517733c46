"""The estimators that the core's contracts were tried on, each against an exact sum."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

import scg
from scg.estimators import Clipped, Enumeration, LeaveOneOut, ScoreFunction
from scg.estimators.enumeration import support
from scg.estimators.leave_one_out import leave_one_out
from tests.exact import assert_same


def test_leave_one_out_weights_are_their_definition():
    """wᵢ = (1 + zᵢ − Σ_{j≠i} zⱼ/(n−1)) / n, in value and gradient."""
    lp = torch.randn(4, 3, requires_grad=True)
    z = torch.exp(lp - lp.detach()) - 1
    others = torch.stack([sum(z[j] for j in range(4) if j != i) / 3 for i in range(4)])
    by_definition = (1 + z - others) / 4
    probe = torch.randn(4, 3)
    ours, theirs = (
        torch.autograd.grad((w * probe).sum(), lp, retain_graph=True)[0] for w in (leave_one_out(lp), by_definition)
    )
    assert torch.allclose(leave_one_out(lp), by_definition)
    assert torch.allclose(ours, theirs)


def test_leave_one_out_needs_two_samples():
    with pytest.raises(ValueError, match=r"LeaveOneOut\(samples=1\): samples is an integer, at least 2"):
        LeaveOneOut(samples=1)


@pytest.mark.parametrize(
    "distribution",
    [
        lambda: Bernoulli(logits=torch.randn(3)),
        lambda: Independent(Bernoulli(logits=torch.randn(2, 3)), 1),
        lambda: Independent(Categorical(logits=torch.randn(2, 2, 3)), 2),
        lambda: OneHotCategorical(logits=torch.randn(2, 4)),
        lambda: Independent(OneHotCategorical(logits=torch.randn(2, 3)), 1),
    ],
    ids=["batch of bits", "joint bits", "joint categoricals", "one-hot", "joint one-hots"],
)
def test_the_enumerated_support_carries_all_the_probability_once(distribution):
    d = distribution()
    values = support(d)
    assert values.shape[1:] == d.batch_shape + d.event_shape
    assert torch.allclose(d.log_prob(values).exp().sum(0), torch.ones(d.batch_shape))
    flat = {tuple(v.flatten().tolist()) for v in values}
    assert len(flat) == len(values)


def test_enumeration_of_a_joint_sample_is_its_expectation():
    theta = torch.randn(2, 3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Enumeration(), lambda theta: Independent(Bernoulli(logits=theta), 1), name="b")
    graph.cost(lambda b: (b.sum(-1) - 1.3) ** 2 * (1 + b[..., 0]), name="f")
    exact = torch.zeros(2)
    for bits in itertools.product([0.0, 1.0], repeat=3):
        b = torch.tensor(bits)
        p = Independent(Bernoulli(logits=theta), 1).log_prob(b.expand(2, 3)).exp()
        exact = exact + p * (b.sum() - 1.3) ** 2 * (1 + b[0])
    assert_same(graph.surrogate(theta=theta), exact.mean(), [theta])


def test_the_clipped_weight_is_pessimistic_in_cost_units():
    weight, credit = torch.tensor([0.5, 0.5, 1.5, 1.5]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert torch.allclose(Clipped(0.2).combine(weight, credit), torch.tensor([0.8, -0.5, 1.5, -1.2]))
    with pytest.raises(ValueError, match="ε must be positive"):
        Clipped(0.0)


@pytest.mark.parametrize("estimator", [ScoreFunction(), ScoreFunction(samples=3), LeaveOneOut(3)])
def test_a_constant_cost_has_zero_mean_gradient(estimator):
    """Enumerating every tuple of samples is done in the core's tests; here the mean over many draws of a batch."""
    theta = torch.zeros(20000, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta + 0.4), name="b")
    graph.cost(lambda b: torch.full_like(b, 2.0), name="f")
    gradient = torch.autograd.grad(graph.surrogate(theta=theta) * 20000, theta)[0]
    error = gradient.std() / 20000**0.5
    assert abs(gradient.mean()) <= 4.5 * error  # false alarm 7e-6; would see a bias of 0.04 (9 s.e. of the plain estimator)
    if isinstance(estimator, LeaveOneOut):
        assert torch.allclose(gradient, torch.zeros(20000))  # leave-one-out: exactly zero, draw by draw


def test_an_unweighted_scalar_cost_beside_branches_stays_itself():
    theta = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(samples=3), lambda theta: Normal(theta, 1.0), name="w")
    graph.cost(lambda w, x: (w * x) ** 2, name="data")
    graph.cost(lambda w, theta: theta**2, name="penalty")
    trace = graph.sample(theta=theta, x=torch.randn(5))
    assert torch.allclose(trace.surrogate("penalty").detach(), torch.tensor(0.09))
