"""Trust regions on a graph: the KL between a node's distributions at two parameter vectors, and steps of a given KL.

    KL(θ₀ ‖ θ) = mean KL(p(·; θ₀) ‖ p(·; θ))            F v = ∇_θ (∇_θ KL · v) at θ = θ₀          F d = g, by conjugate gradient

At θ₀ the KL and its gradient vanish and its Hessian is the Fisher matrix, so a Hessian-vector product costs two backward
passes and no matrix is formed. `damping` adds a multiple of the identity: with fewer rows than parameters F is singular.

Kakade (2001); Pearlmutter (1994); Hestenes & Stiefel (1952).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from scg.distributions import rebuilt
from scg.trace import Trace

LinearMap = Callable[[Tensor], Tensor]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def assign(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """Write a flat vector into the parameters, in place."""
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))


def distribution(trace: Trace, node: str) -> Distribution:
    """The distribution of a node in a vectorised trace."""
    found = trace.dist(node)
    if isinstance(found, list):
        raise ValueError(f"node {node!r}: the trace was stepped through; replay its recording, which is vectorised")
    return found


def detached(p: Distribution) -> Distribution:
    """The same distribution at detached parameters."""
    return rebuilt(p, Tensor.detach, "frozen")


def divergence(before: Distribution, now: Distribution) -> Tensor:
    """The mean KL over the batch."""
    return kl_divergence(before, now).mean()


def fisher_product(now: Distribution, parameters: Sequence[Tensor], damping: float = 0.0) -> LinearMap:
    """`v ↦ (F + damping · I) v`, F the mean Fisher matrix of `now` at the present parameters."""
    gradient = flat(torch.autograd.grad(divergence(detached(now), now), parameters, create_graph=True))

    def product(v: Tensor) -> Tensor:
        return flat(torch.autograd.grad(gradient @ v, parameters, retain_graph=True)) + damping * v

    return product


def conjugate_gradient(product: LinearMap, b: Tensor, iterations: int = 10, tolerance: float = 1e-10) -> Tensor:
    """`x` with `A x ≈ b` for a positive definite A, from x = 0; stops where |b − A x|² falls below `tolerance · |b|²`."""
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared = residual @ residual
    enough = tolerance * float(squared)
    for _ in range(iterations):
        if float(squared) <= enough:
            break
        image = product(direction)
        length = squared / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        before, squared = squared, residual @ residual
        direction = residual + (squared / before) * direction
    return x


def natural_step(product: LinearMap, gradient: Tensor, kl: float, iterations: int = 10) -> Tensor:
    """`d = √(2 kl / gᵀF⁻¹g) · F⁻¹g`: the steepest change for a quadratic KL of `kl`; to be subtracted from a cost's θ.

    No gradient, no step.
    """
    direction = conjugate_gradient(product, gradient, iterations)
    length = direction @ product(direction)
    return direction * (2 * kl / length).sqrt() if float(length) > 0 else torch.zeros_like(gradient)
