"""The work that the estimators do: negative ELBOs of sigmoid belief networks of bits, 784–200, batch 64.

    linear       x → (b) → x̂                one affine map each way
    nonlinear    the same, two hidden layers of 200 with a leaky ReLU each way
    two layers   x → (b₁) → (b₂),  b₂ → b₁ → x̂       each map affine

Every side (the library, losses by hand, the peers) calls the same `logits` and `negative_elbo`, on weights and data
that one seed makes, so that a difference in time or variance is the estimator's. Only torch is imported here: a peer's
process has nothing else in common with ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus

PIXELS, BITS, BATCH = 784, 200, 64
WORKS = ("linear", "nonlinear", "two layers")


class Work(nn.Module):
    """Weights at their initial values, and one minibatch of binarised noise."""

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__()
        if name not in WORKS:
            raise ValueError(f"work {name!r}: known are {', '.join(WORKS)}")
        torch.manual_seed(seed)
        self.name = name
        hidden = 2 if name == "nonlinear" else 0
        self.encode = nn.ModuleList([network(PIXELS, BITS, hidden)])
        self.decode = nn.ModuleList([network(BITS, PIXELS, hidden)])
        if name == "two layers":
            self.encode.append(network(BITS, BITS, 0))
            self.decode.append(network(BITS, BITS, 0))
        self.prior = nn.Parameter(torch.zeros(BITS))
        self.data = torch.rand(BATCH, PIXELS).bernoulli()

    @property
    def layers(self) -> int:
        return len(self.encode)

    def negative_elbo(self, x: Any, logits: Sequence[Any], bits: Sequence[Any]) -> Any:
        """log q(b | x) − log p(b, x) from the logits of q and the samples, layer by layer from the data upwards."""
        cost = -log_bernoulli(self.prior, bits[-1])
        for below, b, decode in zip([x, *bits], bits, self.decode, strict=False):
            cost = cost - log_bernoulli(decode(b), below)
        for theta, b in zip(logits, bits, strict=True):
            cost = cost + log_bernoulli(theta, b)
        return cost


def network(inputs: int, outputs: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Linear(inputs, outputs)
    layers: list[nn.Module] = [nn.Linear(inputs, BITS), nn.LeakyReLU(0.3)]
    for _ in range(hidden - 1):
        layers += [nn.Linear(BITS, BITS), nn.LeakyReLU(0.3)]
    return nn.Sequential(*layers, nn.Linear(BITS, outputs))


def log_bernoulli(logits: Any, value: Any) -> Any:
    """Σ_d log Bernoulli(value_d; logits_d); at relaxed values between 0 and 1 its linear interpolation."""
    return (value * logits - softplus(logits)).sum(-1)


class Control(nn.Module):
    """RELAX's control variate: one hidden layer of 50, as wide as the peer's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(BITS, 50), nn.ReLU(), nn.Linear(50, 1))

    def forward(self, z: Any) -> Any:
        return self.net(z).squeeze(-1)


class Unavailable(Exception):
    """A side has no such estimator, or cannot run it on this work; the message says why."""
