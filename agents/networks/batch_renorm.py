"""Action values with batch renormalisation: normalised over the minibatch while they are fitted, by running moments elsewhere.

    fitted       x̂ = (x − μ_B) / σ_B · r + d       r = clip(σ_B / σ, 1/3, 3), d = clip((μ_B − μ) / σ, ±5), both constants
    elsewhere    x̂ = (x − μ) / σ                  what the above is where nothing is clipped
                 r = 1 and d = 0 in the first `renorm_from` updates, and always without: batch normalisation
    running      ⟨Σ (μ − μ_B)² / 2 + (σ² − σ²_B)² / 2⟩ trains μ and σ², by steps of 1 % of the gradient: a running average

The inputs are normalised, and what each hidden layer gives, so that critics of any number are [count, rows, features] throughout.
Running moments are parameters that an objective of their own trains: a node's function writes nothing, and a checkpoint,
a compiler and a second thread see them as they see every parameter.

Ioffe (2017), "Batch renormalization"; Ioffe & Szegedy (2015); in critics: Bhatt et al. (2024), "CrossQ".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

import scg
from scg.agents.networks.critics import CriticLayer
from scg.agents.networks.encoder import Encoder

EPS = 1e-3  # added to variances, as in the paper's code
R_MAX, D_MAX = 3.0, 5.0

Moments = tuple[Tensor, Tensor]


class RunningMoments(nn.Module):
    """μ and σ² `[1 or count, 1, n]` before each layer."""

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.means = nn.ParameterList(nn.Parameter(torch.zeros(count, 1, n)) for count, n in shapes)
        self.variances = nn.ParameterList(nn.Parameter(torch.ones(count, 1, n)) for count, n in shapes)

    def distance(self, batch: Sequence[Moments]) -> Tensor:
        """Half the squared distance to a minibatch's moments: a gradient step of size s goes s of the way."""
        pairs = zip([*self.means, *self.variances], [m for m, _ in batch] + [v for _, v in batch], strict=True)
        return torch.stack([(mine - theirs).square().sum() for mine, theirs in pairs]).sum() / 2


class _Body(nn.Module):
    """What is fitted: layers, and the scale and shift behind each normalisation."""

    def __init__(self, encoder: Encoder, dim: int, hidden: Sequence[int], count: int, generator: Generator | None) -> None:
        super().__init__()
        self.encoder = encoder
        sizes = [encoder.features + dim, *hidden, 1]
        self.layers = nn.ModuleList(CriticLayer(count, n, m, generator) for n, m in pairwise(sizes))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(count, 1, n)) for n in sizes[:-1])
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(count, 1, n)) for n in sizes[:-1])


class RenormalisedCritics(nn.Module):
    """`count` action values `[*batch, count]`. `body` is what a regression trains, `running` what the running averages train."""

    updates: Tensor
    renormalises: Tensor

    def __init__(
        self,
        encoder: Encoder,
        dim: int,
        hidden: Sequence[int],
        count: int = 2,
        generator: Generator | None = None,
        renorm_from: int | None = 0,
    ) -> None:
        """`renorm_from`: updates, as `updated` counts them, before r and d are more than 1 and 0; None keeps them there."""
        super().__init__()
        self.count, self.renorm_from = count, renorm_from
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("renormalises", torch.tensor(float(renorm_from == 0)))
        self.body = _Body(encoder, dim, hidden, count, generator)
        self.running = RunningMoments([(1, encoder.features + dim), *[(count, n) for n in hidden]])

    def updated(self, count: int) -> None:
        """So many further updates follow."""
        self.updates += count
        self.renormalises.fill_(float(self.renorm_from is not None and int(self.updates) > self.renorm_from))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """By the running moments: an element's value depends on itself alone."""
        x = scg.cat([self.body.encoder(obs), action], -1)
        return self._values(x, None)

    def fitted(self, *pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Moments, ...]]:
        """Values `[*batch, pairs, count]` of several batches of (obs, action), normalised over all of them together, and the
        moments by which they were."""
        found: list[Moments] = []
        x = torch.stack([torch.cat([self.body.encoder(obs), action], -1) for obs, action in pairs], -2)
        return self._values(x, found), tuple(found)

    def _values(self, x: Tensor, found: list[Moments] | None) -> Tensor:
        """The values, by the running moments, or by those of these rows, which are added to `found`."""
        batch, body = x.shape[:-1], self.body
        x = x.reshape(1, -1, x.shape[-1])  # [1 or count, rows, features]
        for i, layer in enumerate(body.layers):
            mean, variance = self.running.means[i].detach(), self.running.variances[i].detach()
            if found is None:
                x = (x - mean) * (variance + EPS).rsqrt()
            else:
                here = x.mean(-2, keepdim=True), x.var(-2, correction=0, keepdim=True)
                found.append((here[0].detach(), here[1].detach()))
                x = (x - here[0]) * (here[1] + EPS).rsqrt()
                if self.renorm_from is not None:
                    scale, on = (variance + EPS).rsqrt(), self.renormalises
                    r = ((found[-1][1] + EPS).sqrt() * scale).clamp(1 / R_MAX, R_MAX)
                    d = ((found[-1][0] - mean) * scale).clamp(-D_MAX, D_MAX)
                    x = x * (1 + on * (r - 1)) + on * d
            x = layer(x * body.scales[i] + body.shifts[i])
            if i < len(body.layers) - 1:
                x = relu(x)
        return x.squeeze(-1).T.reshape(*batch, self.count)
