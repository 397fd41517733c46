"""Losses in plain PyTorch: the right ones pass, planted bugs are found and named, and what cannot be checked says so."""

import pytest
import torch
from torch.distributions import Bernoulli

import scg
from benchmarks.hand_losses import cases
from scg import ScoreFunction
from scg.testing import LossError, assert_gradient, check_gradient

theta = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
graph = scg.Graph()
graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
graph.cost(lambda b: (b - 0.3) ** 2, name="loss")
OBJECTIVE = (graph, {"theta": theta})
FAST = {"detectable": 0.15, "causes": 20.0}


def right():
    dist = Bernoulli(logits=theta.expand(256, 2))
    b = dist.sample()
    return (dist.log_prob(b) * (b - 0.3) ** 2).mean()


def halved():
    return 0.5 * right()


def value():
    p = theta.sigmoid()
    return (p * 0.49 + (1 - p) * 0.09).mean()


def sampled_value():
    """Common random numbers: the same uniforms at every shift."""
    b = (torch.rand(4096, 2) < theta.sigmoid()).to(theta.dtype)
    return ((b - 0.3) ** 2).mean(-1)


class Environment:
    def objective(self, pi):
        return -(pi * 0.49 + (1 - pi) * 0.09).mean()


@pytest.mark.parametrize("objective", [OBJECTIVE, value, (Environment(), lambda: theta.sigmoid())])
def test_a_right_loss_passes_against_a_graph_a_value_and_an_environment(objective):
    report = assert_gradient(right, objective, detectable=0.15)
    assert "unbiased" in str(report)
    assert torch.allclose(sum(report.table.exact.values()), 0.4 * theta.sigmoid() * (1 - theta.sigmoid()) / 2, rtol=1e-6)


def test_a_sampled_value_is_differenced_on_common_random_numbers():
    report = check_gradient(right, sampled_value, theta, detectable=0.3, floor=0.3)
    assert report, report
    assert "sampled" in report.table.rows[0].oracle
    assert check_gradient(halved, sampled_value, theta, detectable=0.3, causes=0).verdict == "biased"


def test_a_scaled_loss_is_biased_in_scale_and_not_in_direction():
    report = check_gradient(halved, OBJECTIVE, **FAST)
    assert report.verdict == "biased"
    assert report.scale.holds(0.5)
    assert not report.scale.holds(1.0)
    assert not report.direction.orthogonal.above(0.05)
    assert "too short" in str(report)
    with pytest.raises(AssertionError, match="biased"):
        assert_gradient(halved, OBJECTIVE, causes=0)


def test_a_wrong_direction_is_said_apart_from_scale():
    def tilted():
        return right() + 0.05 * (theta[0] - theta[1])

    report = check_gradient(tilted, OBJECTIVE, causes=0)
    assert report.verdict == "biased"
    assert report.direction.orthogonal.above(0.3)
    assert report.direction.cosine < 0.95


def test_too_few_calls_are_undecided_and_say_what_would_do():
    report = check_gradient(right, OBJECTIVE, detectable=0.001, max_calls=600)
    assert report.verdict == "undecided"
    assert "calls would tell" in str(report)


def test_seconds_bound_the_calls():
    report = check_gradient(right, OBJECTIVE, detectable=1e-4, seconds=0.2)
    assert report.verdict == "undecided"
    assert report.calls < 5000


def test_parameters_come_as_arguments_by_name_too():
    def loss(theta):
        dist = Bernoulli(logits=theta.expand(256, 2))
        b = dist.sample()
        return (dist.log_prob(b) * (b - 0.3) ** 2).mean()

    assert check_gradient(loss, OBJECTIVE, detectable=0.15)


def test_nothing_is_left_changed():
    before = torch.get_rng_state().clone(), Bernoulli.sample
    check_gradient(halved, OBJECTIVE, **FAST)
    assert torch.equal(before[0], torch.get_rng_state())
    assert Bernoulli.sample is before[1]
    assert theta.grad is None


other = torch.zeros(3, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda: None, "returned None: return the scalar"),
        (lambda: 3.0, "returned a float"),
        (lambda: theta * 2, r"returned a tensor of shape \(2,\): return one number"),
        (lambda: (theta * 1j).sum(), "returned a complex number"),
        (lambda: theta.detach().sum(), "has no gradient: every way"),
        (lambda: other.sum(), r"does not depend on theta: .* reaches a tensor of shape \(3,\)"),
        (lambda: (theta - 5).log().sum(), "returned nan"),
        (lambda: (theta - theta).sqrt().sum(), "the gradient for theta is nan or infinite"),
        (lambda rows: theta.sum(), "takes 'rows', and nothing has that name"),
    ],
)
def test_what_cannot_be_checked_is_one_clear_error(loss, message):
    with pytest.raises(LossError, match=message):
        check_gradient(loss, OBJECTIVE)


def test_a_later_nan_is_a_verdict():
    def sometimes():
        return right() * (torch.nan if torch.rand(()) < 0.05 else 1.0)

    assert check_gradient(sometimes, OBJECTIVE, seed=1).verdict == "not finite"


def test_what_is_no_objective_is_said():
    with pytest.raises(TypeError, match="a loss says nothing of its true gradient"):
        check_gradient(right)
    with pytest.raises(TypeError, match=r"objective: \(graph, inputs\)"):
        check_gradient(right, 3)
    with pytest.raises(LossError, match="returned one random number"):
        check_gradient(right, lambda: theta.sum() + torch.rand(()))


CASES = cases()


@pytest.mark.parametrize("i", [0, 2, 4, 5, 6, 7, 8, 11], ids=lambda i: f"{CASES[i].name}: {CASES[i].bug}")
def test_a_planted_bug_is_found_and_its_cause_named(i):
    case = CASES[i]
    report = check_gradient(case.wrong, case.objective, case.wrt, given=case.given, detectable=0.15, causes=30.0)
    assert report.verdict == "biased"
    assert report.causes[0].cause == case.cause, report


@pytest.mark.parametrize("i", [0, 2, 4, 5, 6, 7, 11], ids=lambda i: CASES[i].name)
def test_a_right_twin_passes(i):
    case = CASES[i]
    assert_gradient(case.right, case.objective, case.wrt, given=case.given, detectable=0.15)
