"""The oracle held against itself, without `scg`: three ways to a gradient, over all outcomes."""

import pytest
import torch

from tests.attack.attack import completed, consistent, tensors
from tests.attack.generate import generate
from tests.attack.oracle import Enumerated, TooMany, paths_by_element, widened

SEEDS = range(40)


@pytest.mark.parametrize("start", range(0, 100, 50))
def test_the_mean_of_the_surrogate_has_the_objectives_gradient(start):
    for seed in range(start, start + 50):
        program = completed(generate(seed))
        exact = paths_by_element(program)
        assert consistent(program, exact, widened(program, exact)) is None, seed


def test_the_objectives_gradient_is_the_limit_of_differences_of_its_value():
    compared = 0
    for seed in SEEDS:
        program = completed(generate(seed))
        if any(e.detached for n in program.nodes for e in n.edges) or any(n.credit for n in program.nodes):
            continue
        inputs = tensors(program)
        try:
            value = Enumerated(program, inputs).objective(program.mean)
        except TooMany:
            continue
        if program.given_log_prob or not value.requires_grad:
            continue
        wrt = [inputs[name] for name in program.learned]
        gradients = torch.autograd.grad(value, wrt, allow_unused=True, materialize_grads=True)
        for x, gradient in zip(wrt, gradients, strict=True):
            direction = torch.randn_like(x)
            ends = []
            for step in (1e-4, -1e-4):
                moved = {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
                name = next(k for k, v in inputs.items() if v is x)
                moved[name] += step * direction
                ends.append(Enumerated(program, moved).objective(program.mean))
            difference = (ends[0] - ends[1]) / 2e-4
            assert torch.allclose((gradient * direction).sum(), difference, rtol=1e-6, atol=1e-6), seed
        compared += 1
    assert compared >= 15


def test_a_seed_is_a_program():
    assert generate(7) == generate(7)
    assert generate(7) != generate(8)
