"""Who multiplies, and what is rounded: float32 stays float32, bfloat16 is asked for by name and leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from scg.agents.execution import matmul_precision as module
from scg.agents.execution.compilation import compile_function
from scg.agents.execution.matmul_precision import matmul, matmul_precision, rounds_factors
from scg.agents.networks.linear import linear


@pytest.mark.parametrize("rounds", [False, True])
def test_float32_products_go_to_onednn_only_where_it_rounds_nothing(rounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = setting.fp32_precision
    monkeypatch.setattr(module, "rounds_to_bfloat16", lambda: rounds)
    for bf16 in (False, True):
        with matmul_precision(bf16):
            assert setting.fp32_precision == (before if rounds else "bf16")
            assert rounds_factors() == bf16
        assert setting.fp32_precision == before
        assert not rounds_factors()


def factors() -> tuple[Tensor, Tensor, Tensor]:
    g = Generator().manual_seed(0)
    x, y = torch.randn(256, 256, generator=g), torch.randn(256, 256, generator=g)
    return x, y, x.double() @ y.double()


def test_products_without_bf16_are_those_of_float32() -> None:
    x, y, exact = factors()
    rough = x.bfloat16().double() @ y.bfloat16().double()
    assert float((rough - exact).abs().max()) > 2e-2  # what the bound below would catch
    with matmul_precision(False):
        assert float((matmul(x, y) - exact).abs().max()) < 2e-4
    assert float((matmul(x, y) - exact).abs().max()) < 2e-4


def test_bf16_rounds_factors_and_result_and_sums_in_float32() -> None:
    x, y, _ = factors()
    with matmul_precision(True):
        found = matmul(x, y)
        assert matmul(x.double(), y.double()).dtype == torch.float64
        assert torch.equal(matmul(x.double(), y.double()), x.double() @ y.double())
    sums = x.bfloat16().double() @ y.bfloat16().double()
    assert float(((found - sums).abs() / sums.abs().clamp_min(1.0)).max()) <= 2**-8  # half a unit in the last place, and ties
    assert torch.equal(found, found.bfloat16().float())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_bf16_reaches_the_layers_and_their_gradients(compiled: bool) -> None:
    """Of wide layers; a sum written out is float32."""
    x, weight, _ = factors()
    bias = torch.zeros(256)
    weight.requires_grad_()

    def gradient(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        out = linear(x, weight, bias)
        return out.detach(), torch.autograd.grad(out.square().sum(), weight)[0]

    with matmul_precision(True):
        out, slope = (compile_function(gradient) if compiled else gradient)(x, weight, bias)
    rough = (x.bfloat16() @ weight.detach().bfloat16()).float()
    assert torch.equal(out, rough)
    expected = (x.bfloat16().T @ (2 * rough).bfloat16()).float()
    torch.testing.assert_close(slope, expected, rtol=2**-6, atol=1.0)
    exact = 2 * x.double().T @ (x.double() @ weight.detach().double())
    assert float((slope - exact).abs().max()) > 1.0  # rounded, or the line above would say little
