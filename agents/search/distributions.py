"""Search distributions: Gaussians over a policy's parameters, in float64.

    diagonal    theta = mean + scale ⊙ ξ               full    theta = mean + L ξ,  L lower triangular

    weighted maximum likelihood, pₑ = wₑ / Σ w:         mean⁺ = Σₑ pₑ thetaₑ
                                                        covariance⁺ = Σₑ pₑ (thetaₑ − mean⁺)(thetaₑ − mean⁺)ᵀ

the maximum of `Σₑ wₑ log p(thetaₑ)`: cross-entropy's step with elite indicators for w (Rubinstein & Kroese 2004), reward-weighted
regression's and PI²'s with `exp(λ U)` (Peters & Schaal 2007; Theodorou et al. 2010).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal


class DiagonalGaussian(nn.Module):
    """`N(mean, diag(scale²))`. With `learn_scale=False` the scale is no parameter of any gradient."""

    def __init__(self, mean: Tensor, scale: float | Tensor, learn_scale: bool = True) -> None:
        super().__init__()
        mean = mean.detach().double().clone()
        self.mean = nn.Parameter(mean)
        start = torch.as_tensor(scale, dtype=torch.float64).expand_as(mean)
        self.log_scale = nn.Parameter(start.log(), requires_grad=learn_scale)

    @property
    def scale(self) -> Tensor:
        return self.log_scale.detach().exp()

    def forward(self) -> Distribution:
        return Independent(Normal(self.mean, self.log_scale.exp(), validate_args=False), 1, validate_args=False)

    def members(self, noise: Tensor) -> Tensor:
        """`theta [n, d]` for unit noise `[n, d]`, without gradient."""
        return self.mean.detach() + self.scale * noise

    @torch.no_grad()
    def fit_mean(self, theta: Tensor, weight: Tensor) -> None:
        """Weighted maximum likelihood of the mean alone."""
        self.mean.copy_((weight / weight.sum()) @ theta)

    @torch.no_grad()
    def fit(self, theta: Tensor, weight: Tensor, extra: float = 0.0) -> None:
        """Weighted maximum likelihood of mean and variance; `extra` is added to the variance (noisy cross-entropy)."""
        p = weight / weight.sum()
        self.mean.copy_(p @ theta)
        self.log_scale.copy_((p @ (theta - self.mean).square() + extra).log() / 2)


class FullGaussian(nn.Module):
    """`N(mean, L Lᵀ)`."""

    def __init__(self, mean: Tensor, scale: float) -> None:
        super().__init__()
        mean = mean.detach().double().clone()
        self.mean = nn.Parameter(mean)
        self.factor = nn.Parameter(scale * torch.eye(len(mean), dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each parameter."""
        return self.factor.detach().square().sum(-1).sqrt()

    def forward(self) -> Distribution:
        return MultivariateNormal(self.mean, scale_tril=self.factor.tril(), validate_args=False)

    def members(self, noise: Tensor) -> Tensor:
        return self.mean.detach() + noise @ self.factor.detach().T

    @torch.no_grad()
    def fit_mean(self, theta: Tensor, weight: Tensor) -> None:
        self.mean.copy_((weight / weight.sum()) @ theta)

    @torch.no_grad()
    def fit(self, theta: Tensor, weight: Tensor, extra: float = 0.0) -> None:
        """ValueError if the weighted members do not span the space and `extra` is 0."""
        p = weight / weight.sum()
        self.mean.copy_(p @ theta)
        centred = theta - self.mean
        covariance = (centred.T * p) @ centred + extra * torch.eye(len(self.mean), dtype=torch.float64)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        # Of each parameter's variance what those before it leave unexplained; where nothing is left, what is found is rounding.
        left = factor.diagonal().square() / covariance.diagonal()
        if failed or not bool((left > 8 * len(left) * torch.finfo(left.dtype).eps).all()):
            held, dim = int((weight > 0).sum()), len(self.mean)
            raise ValueError(
                f"a full covariance of {dim} parameters from {held} members with weight is singular. Give more of them (at "
                f"least {dim + 1}), extra noise, or a diagonal covariance."
            )
        self.factor.copy_(factor)
