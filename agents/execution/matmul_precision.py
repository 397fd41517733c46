"""Precision of matrix products in an update: float32 by oneDNN, or factors rounded to bfloat16.

    with matmul_precision(bf16=False):      x @ y in float32, by the faster of torch's two libraries
    with matmul_precision(bf16=True):       matmul(x, y) = round(round(x) @ round(y)), sums in float32

Torch calls oneDNN for float32 products only in the setting that also permits rounding factors to bfloat16. oneDNN rounds
where the processor has units for bfloat16 (AMX). On other processors it computes in float32, and on AMD's processors twice as
fast as the library that torch calls by default; `rounds_to_bfloat16` measures which case holds.

Products of bfloat16 numbers are faster on processors with instructions for them (AVX512-BF16, AMX), and slower on others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

_rounded = False


def rounds_factors() -> bool:
    """Whether `matmul` rounds here."""
    return _rounded


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y`; inside `matmul_precision(bf16=True)`, float32 factors and the product are rounded to bfloat16."""
    if _rounded and x.dtype == torch.float32:
        return (x.bfloat16() @ y.bfloat16()).to(x.dtype)
    return x @ y


@contextmanager
def matmul_precision(bf16: bool) -> Iterator[None]:
    """Inside, `matmul` multiplies as `bf16` says, and oneDNN computes float32 products."""
    global _rounded
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, rounding = matmul.fp32_precision, _rounded
    if not rounds_to_bfloat16():
        matmul.fp32_precision = "bf16"
    _rounded = bf16
    try:
        yield
    finally:
        matmul.fp32_precision, _rounded = before, rounding


@cache
def rounds_to_bfloat16() -> bool:
    """Whether oneDNN, when permitted, rounds float32 factors: the relative error of a product is then 2⁻⁹ in place of 2⁻²⁴."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    x = torch.linspace(1, 2, 256, dtype=torch.float64).expand(256, 256).contiguous()
    found = x.float() @ x.float()
    matmul.fp32_precision = before
    return bool(((found - x @ x).abs() > 1e-5 * (x @ x)).any())
