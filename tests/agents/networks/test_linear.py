"""Eagerly and compiled, whatever the sizes, an affine map is x · weight + bias, and so is its derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from scg.agents.execution.compilation import compile_function
from scg.agents.networks.linear import FEW, linear

SIZES = {"wide": (9, 11), "few inputs": (FEW, 9), "few outputs": (9, FEW - 1), "one output": (9, 1)}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("lead", [(), (3,)], ids=["one layer", "side by side"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_affine(sizes: tuple[int, int], lead: tuple[int, ...], compiled: bool) -> None:
    n, m = sizes
    x, weight, target = normal(*lead, 7, n), normal(*lead, n, m), normal(*lead, 7, m)
    bias = normal(*lead, 1, m) if lead else normal(m)
    weight.requires_grad_(), bias.requires_grad_()

    def gradients(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        out = linear(x, weight, bias)
        return out.detach(), *torch.autograd.grad((out * target).sum(), (weight, bias))

    out, by_weight, by_bias = (compile_function(gradients) if compiled else gradients)(x, weight, bias)
    torch.testing.assert_close(out, x @ weight.detach() + bias.detach())
    torch.testing.assert_close(by_weight, x.mT @ target)
    torch.testing.assert_close(by_bias, target.sum(-2, keepdim=bool(lead)))
