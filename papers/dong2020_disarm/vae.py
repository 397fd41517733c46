"""Discrete VAEs on synthetic images: what is trained, with which estimator, and how far its gradients scatter.

    linear       x → (b) → x̂           784–200, one affine map each way
    nonlinear    the same, two hidden layers of 200 with a leaky ReLU each way

The images are 28 × 28, binary, drawn from a fixed random sigmoid belief network whose causes are smooth blobs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from torch.nn.functional import softplus

from scg import Estimator, Graph

SIDE, BITS, BATCH = 28, 200, 50


def images(count: int, seed: int) -> Tensor:
    """`[count, 784]` of zeros and ones: each of 60 blobs is on with probability 0.08, and turns its pixels on."""
    fixed = torch.Generator().manual_seed(0)
    centres = torch.rand(60, 2, generator=fixed) * SIDE
    widths = 1.5 + 2 * torch.rand(60, 2, generator=fixed)
    at = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)) + 0.5
    blobs = torch.exp(-(((at - centres[:, None]) / widths[:, None]) ** 2).sum(-1) / 2)
    generator = torch.Generator().manual_seed(1000 + seed)
    causes = (torch.rand(count, 60, generator=generator) < 0.08).to(blobs.dtype)
    return torch.bernoulli(torch.sigmoid(10 * causes @ blobs - 4), generator=generator)


def log_bernoulli(logits: Tensor, value: Tensor) -> Tensor:
    return (value * logits - softplus(logits)).sum(-1)


class Model(nn.Module):
    """q(b | x), p(b) and p(x | b). `mean` centres the decoder's bias and the encoder's input, as is usual."""

    def __init__(self, nonlinear: bool, mean: Tensor, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = network(SIDE**2, BITS, nonlinear)
            self.decoder = network(BITS, SIDE**2, nonlinear)
        self.prior = nn.Parameter(torch.zeros(BITS))
        self.mean: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("background", torch.logit(mean.clamp(0.001, 0.999)))

    def logits(self, x: Tensor) -> Tensor:
        return self.encoder(x - self.mean)

    def negative_elbo(self, x: Tensor, logits: Tensor, b: Tensor) -> Tensor:
        log_joint = log_bernoulli(self.decoder(2 * b - 1) + self.background, x) + log_bernoulli(self.prior, b)
        return log_bernoulli(logits, b) - log_joint


def network(inputs: int, outputs: int, nonlinear: bool) -> nn.Module:
    if not nonlinear:
        return nn.Linear(inputs, outputs)
    hidden = 200
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LeakyReLU(0.3), nn.Linear(hidden, hidden), nn.LeakyReLU(0.3), nn.Linear(hidden, outputs)
    )  # fmt: skip


def vae(model: Model, estimator: Estimator) -> Graph:
    graph = Graph()
    graph.deterministic(model.logits, name="logits", parents=["x"])
    graph.stochastic(estimator, lambda logits: Independent(Bernoulli(logits=logits), 1), name="b")
    graph.cost(model.negative_elbo, name="negative_elbo", parents=["x", "logits", "b"])
    return graph


@dataclass(frozen=True)
class Curve:
    """Test ELBO along training, `[points]`, at `steps`; and the weights at those steps, if they were kept."""

    steps: list[int]
    elbo: list[float]
    weights: list[dict[str, Tensor]]


def train(
    model: Model, estimator: Estimator, data: Tensor, test: Tensor, steps: int, points: int, seed: int, keep: bool = False
) -> Curve:
    """Adam. The minibatches depend on `seed` alone, so estimators are compared on the same ones; so does the first noise."""
    graph = vae(model, estimator)
    order, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    curve = Curve([], [], [])
    for step in range(steps + 1):
        if step % (steps // points) == 0:
            curve.steps.append(step)
            curve.elbo.append(elbo(model, test))
            if keep:
                curve.weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        if step < steps:
            x = data[torch.randint(len(data), (BATCH,), generator=order)]
            optimiser.zero_grad()
            graph.surrogate(x=x, generator=noise).backward()
            optimiser.step()
    return curve


@torch.no_grad()
def elbo(model: Model, x: Tensor, samples: int = 4) -> float:
    """The single-sample bound, averaged over the data and over samples of a fixed seed."""
    generator = torch.Generator().manual_seed(99)
    logits = model.logits(x)
    u = torch.rand(samples, *logits.shape, generator=generator)
    return -model.negative_elbo(x, logits, (u < torch.sigmoid(logits)).to(logits.dtype)).mean().item()


@dataclass(frozen=True)
class Scatter:
    """The trace of a gradient's variance over the encoder's parameters, with its standard error."""

    variance: float
    error: float


def scatter(model: Model, estimator: Estimator, x: Tensor, draws: int, seed: int) -> Scatter:
    """½‖g − g'‖² of independent g, g' has the trace as its mean."""
    graph = vae(model, estimator)
    noise = torch.Generator().manual_seed(seed)
    encoder = list(model.encoder.parameters())

    def gradient() -> Tensor:
        surrogate = graph.surrogate(x=x, generator=noise)
        return torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, encoder)])

    halves = torch.stack([(gradient() - gradient()).square().sum(dtype=torch.float64) / 2 for _ in range(draws)])
    return Scatter(halves.mean().item(), halves.std().item() / draws**0.5)
