"""The layer of every network: eagerly one of torch's kernels, compiled what a compiler fuses best. The formula is the same.

    linear(x [*batch, n], weight [n, m], bias [m]) = x · weight + bias                           [*batch, m]
    linear(x [count, rows, n], weight [count, n, m], bias [count, 1, m])                         `count` layers side by side

Compiled, the bias is added where the next function is applied, in one pass over the product: a kernel that adds it itself
first copies it to every row. And a sum over a handful of numbers is a few instructions, where a call of a matrix product,
whatever its size, takes ten microseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scg.agents.execution.matmul_precision import matmul, rounds_factors

FEW = 8  # inputs or outputs that are not worth a matrix product


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x · weight + bias`, its products as `scg.agents.execution.matmul_precision` has them; sums written out are never rounded to bfloat16."""
    n, m = weight.shape[-2:]
    compiled = torch.compiler.is_compiling()
    if weight.ndim == 2 and not (compiled or rounds_factors()):
        return F.linear(x, weight.T, bias)
    if m == 1 or (compiled and m <= FEW):
        return (x.unsqueeze(-2) * weight.mT.unsqueeze(-3)).sum(-1) + bias
    if compiled and n <= FEW:
        return (x.unsqueeze(-1) * weight.unsqueeze(-3)).sum(-2) + bias
    if compiled or rounds_factors():
        return matmul(x, weight) - (-bias)  # a sum would be recognised, and made the one kernel again
    return torch.baddbmm(bias, x, weight)


def weights_and_biases(layers: nn.ModuleList) -> list[tuple[Tensor, Tensor]]:
    """`(weight [n, m], bias [m])` of each `nn.Linear`."""
    return [(layer.weight.T, layer.bias) for layer in layers]  # type: ignore[operator,misc]
