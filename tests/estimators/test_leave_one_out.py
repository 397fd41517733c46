"""The weights of leave-one-out, by their formula, at every size and rank at which they are computed another way."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scg.estimators.leave_one_out import SMALL, _centring, _multiplies, leave_one_out


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


def slopes(costs, log_prob):
    return torch.autograd.grad((leave_one_out(log_prob) * costs).sum(), log_prob)[0]


def test_a_level_that_all_samples_share_cancels_whatever_the_precision_of_products():
    """Costs 1000 + εᵢ: rounded to bfloat16 before the mean is subtracted, they would all be 1000."""
    noise = torch.tensor([0.5, -0.25, 1.0, -1.25], dtype=torch.float32)
    log_prob = torch.zeros(4, dtype=torch.float32, requires_grad=True)
    expected = noise / 3
    torch.testing.assert_close(slopes(1000 + noise, log_prob), expected, atol=1e-4, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert leave_one_out(log_prob).dtype == torch.float32
        torch.testing.assert_close(slopes(1000 + noise, log_prob), expected, atol=1e-4, rtol=0)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not _multiplies(log_prob) and _multiplies(log_prob.double())
        torch.testing.assert_close(slopes(1000 + noise, log_prob), expected, atol=1e-4, rtol=0)
    finally:
        torch.set_float32_matmul_precision(before)
    assert _multiplies(log_prob) and not _multiplies(log_prob.half())


def test_constants_that_are_kept_outlive_neither_a_transform_nor_a_fake_mode():
    x, costs = torch.randn(3, 2, dtype=torch.double), torch.randn(3, 2, dtype=torch.double)

    def f(log_prob):
        return (leave_one_out(log_prob) ** 2 * costs).sum()

    expected = torch.autograd.functional.hessian(f, x)
    _centring.cache_clear()
    for _ in range(2):
        torch.testing.assert_close(torch.func.hessian(f)(x), expected)
    with FakeTensorMode():
        leave_one_out(torch.randn(3, 2, dtype=torch.double))
    torch.testing.assert_close(torch.autograd.functional.hessian(f, x), expected)
    torch.testing.assert_close(torch.vmap(leave_one_out, in_dims=1, out_dims=1)(x), leave_one_out(x))
