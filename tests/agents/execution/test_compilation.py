"""Compiled functions: gradients inside, arguments of several shapes, and no setting of the compiler left behind."""

import torch
from torch import Tensor

from scg.agents.execution.compilation import compile_function


def test_a_compiled_function_takes_gradients_at_every_shape_and_leaves_the_setting_as_it_was(quick_compiler: None) -> None:
    weight = torch.full((1,), 2.0, requires_grad=True)

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad((weight * x).square().sum(), [weight])[0]

    compiled = compile_function(slope)
    for rows in (3, 5, 3):
        x = torch.arange(1.0, rows + 1)
        assert torch.allclose(compiled(x), slope(x))
        assert not torch._dynamo.config.trace_autograd_ops  # type: ignore[attr-defined]
