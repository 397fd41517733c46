"""The weights of leave-one-out, by their formula, at every size and rank at which they are computed another way."""

import pytest
import torch

from scg.estimators.leave_one_out import SMALL, _centring, leave_one_out


def by_formula(log_prob):
    """wᵢ = (1 + zᵢ − Σ_{j≠i} zⱼ/(n−1)) / n, sample by sample."""
    n = log_prob.shape[0]
    z = torch.exp(log_prob - log_prob.detach()) - 1
    return torch.stack([(1 + z[i] - sum(z[j] for j in range(n) if j != i) / (n - 1)) / n for i in range(n)])


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("n", [2, 4, SMALL, SMALL + 1])
def test_weights_and_two_derivatives_are_those_of_the_formula(n, batch):
    log_prob = torch.randn(n, *batch, dtype=torch.double, requires_grad=True)
    cost = torch.randn(n, *batch, dtype=torch.double)
    found, expected = leave_one_out(log_prob), by_formula(log_prob)
    torch.testing.assert_close(found, expected)
    slopes = []
    for weights in (found, expected):
        (first,) = torch.autograd.grad((weights * cost).sum(), log_prob, create_graph=True)
        (second,) = torch.autograd.grad((first * cost.sin()).sum(), log_prob)
        slopes += [first, second]
    torch.testing.assert_close(slopes[0], slopes[2])
    torch.testing.assert_close(slopes[1], slopes[3])
    assert slopes[0].abs().max() > 0.01


def test_a_first_call_in_inference_mode_leaves_nothing_that_later_calls_cannot_differentiate():
    _centring.cache_clear()
    with torch.inference_mode():
        leave_one_out(torch.zeros(4))
    log_prob = torch.zeros(4, requires_grad=True)
    (leave_one_out(log_prob) * torch.arange(4.0)).sum().backward()
    torch.testing.assert_close(log_prob.grad, (torch.arange(4.0) - 1.5) / 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    log_prob = torch.randn(4, 3).to(dtype).requires_grad_()
    torch.testing.assert_close(leave_one_out(log_prob), by_formula(log_prob), atol=1e-2, rtol=1e-2)
