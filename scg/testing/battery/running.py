"""Laws of running: random numbers, and the compiler.

seed       the same generator gives the same bits, another one others; the global streams are left as they were
compiled   torch.compile of the surrogate, in one piece, gives the gradient that it gives uncompiled
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from scg.testing.battery.report import Broken, NotApplicable
from scg.testing.battery.subject import Subject, estimate

BATCH = 50


def seed(subject: Subject) -> str:
    """`generator=` decides every random number, and nothing else is touched."""
    graph = subject.graph("alone") if subject.differentiates else None
    theta = torch.tensor(subject.thetas[0], dtype=torch.float64).repeat(BATCH, 1).requires_grad_()
    if graph is not None:
        graph.surrogate(theta=theta)  # whatever is learned at a first sample
        before = _streams()
        graph.surrogate(theta=theta, generator=torch.Generator().manual_seed(1))
        streams = {
            whose: bool(state == after) for (whose, state), after in zip(before.items(), _streams().values(), strict=True)
        }
        for whose, kept in streams.items():
            if not kept:
                raise Broken(
                    f"generator= was passed, and {whose} global stream was drawn from. Draw from torch's default generator"
                )
    first, end = _run(subject, theta, 1)
    again, _ = _run(subject, theta, 1)
    if not torch.equal(first, again):
        raise Broken("the same seed gives other bits: it draws from a stream that torch's default generator does not decide")
    other, other_end = _run(subject, theta, 2)
    if torch.equal(end, other_end):
        raise Broken("it seeds torch's generator itself, and so draws the same whatever it was")
    varied = bool(((first - first[:, :1]).abs() > 1e-12).any())
    if varied and torch.equal(first, other):
        raise Broken("another seed gives the same bits: it draws from a stream of its own")
    return "exact"


def _streams() -> dict[str, object]:
    """The global streams, to be compared."""
    return {
        "torch's": torch.get_rng_state().tolist(),
        "numpy's": repr(np.random.get_state(legacy=False)),  # noqa: NPY002
        "Python's": random.getstate(),
    }


def _run(subject: Subject, theta: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Estimates and gradients `[4, batch]` of one draw, and the generator's state after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        found = estimate(subject.estimator.branch(subject.make(theta)), subject.f)
        after = torch.get_rng_state()
    if not found.requires_grad:
        gradient = torch.zeros_like(theta)
    else:
        (gradient,) = torch.autograd.grad(found.sum(), theta, allow_unused=True, materialize_grads=True)
    return torch.cat([found.detach().unsqueeze(0), gradient.T]), after


def compiled(subject: Subject) -> str:
    """`torch.compile(graph.surrogate, fullgraph=True)`: the same random numbers, the same value and gradient."""
    if not subject.differentiates:
        raise NotApplicable("it gives no gradient")
    graph = subject.graph("alone")
    theta = torch.tensor(subject.thetas[0], dtype=torch.float64).repeat(4, 1).requires_grad_()
    graph.surrogate(theta=theta)
    torch._dynamo.reset()
    whole = torch.compile(lambda theta: graph.surrogate(theta=theta), backend="aot_eager", fullgraph=True)
    results = []
    for run in (whole, lambda theta: graph.surrogate(theta=theta)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(subject.seed)
            value = run(theta)
        results.append(torch.cat([value.detach().reshape(1), torch.autograd.grad(value, theta)[0].flatten()]))
    gap = float((results[0] - results[1]).abs().max())
    if not gap <= 1e-10 * float(results[1].abs().max().clamp_min(1.0)):
        raise Broken(f"compiled, on the same random numbers, it differs by {gap:.2g}")
    return "exact"
