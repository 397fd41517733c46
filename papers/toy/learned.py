"""REBAR and RELAX with parameters of their own for each toy of a batch, so that toys learn independently.

Tucker et al. (2017, “Rethinking the relaxation”) relax z not as σ(z/τ) but so that τ → ∞ leaves the mean-field value p,

    x(z, θ) = σ(z/τ + θ τ/(1+τ)),      E_b E[f(x(z̃, θ)) | b] = E[f(x(z, θ))]      for every θ

so that the three branches of REBAR, with it for σ(z/τ), are as unbiased as before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scg.estimators import RELAX, LearnedREBAR
from scg.papers.toy.exact import Control, mean_field, relaxed_cost


class EachREBAR(LearnedREBAR):
    """LearnedREBAR of one bit, τ and η one for each toy; its relaxation is σ(z/τ), or the paper's with `mean_field`."""

    def __init__(self, toys: int, temperature: float = 0.5, eta: float = 1.0, mean_field: bool = False) -> None:
        super().__init__(temperature, eta, mean_field=mean_field)
        self.log_temperature = nn.Parameter(torch.full((toys,), math.log(temperature), dtype=torch.float64))
        self.eta = nn.Parameter(torch.full((toys,), float(eta), dtype=torch.float64))

    def control(self, theta: Tensor, t: Tensor) -> Control:
        """η f(x) as a function of z."""
        tau = self.log_temperature.detach().exp()
        return relaxed_cost(t, tau, self.eta.detach(), mean_field(theta, tau) if self.mean_field else 0.0)

    def extra_repr(self) -> str:
        return f"toys={len(self.eta)}, mean_field={self.mean_field}"


class EachControl(nn.Module):
    """c(z) = s · network(tanh z/2), one for each toy: ten tanh units, and a scale that starts at 0."""

    def __init__(self, toys: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()

        def uniform(*shape: int, size: float) -> nn.Parameter:
            drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(size * (2 * drawn - 1))

        self.slope, self.shift = uniform(toys, hidden, size=1.0), uniform(toys, hidden, size=1.0)
        self.out, self.level = uniform(toys, hidden, size=hidden**-0.5), uniform(toys, size=hidden**-0.5)
        self.scale = nn.Parameter(torch.zeros(toys, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        """`[…, toys, 1]` to `[…, toys]`."""
        h = torch.tanh(torch.tanh(z / 2) * self.slope + self.shift)
        return self.scale * ((h * self.out).sum(-1) + self.level)


class EachRELAX(RELAX):
    """RELAX with one such control for each toy."""

    control: EachControl

    def __init__(self, toys: int, hidden: int = 10, seed: int = 0) -> None:
        super().__init__(EachControl(toys, hidden, torch.Generator().manual_seed(seed)))

    def level(self, z: Tensor) -> Tensor:
        """c as a function of z `[points, toys]`."""
        return self.control(z.unsqueeze(-1))
