"""Importance weights for recordings of another policy μ, and biased variants with less variance.

    ρ = π(x; θ) / μ(x),      E_μ[ρ f(x)] = E_π[f(x)]              a replay with `given["x.log_prob"]` = log μ(x)

    weight of a cost          estimator                            bias
    Π over its ancestors      any with a weight (ScoreFunction)    none: per decision, each cost has the ratios of its ancestors
    Π over all steps          the same; the costs of an episode    none: full trajectory, more variance
                              summed into one after the sequence
    min(ρ, c) for each        TruncatedRatio(limit=c)              towards μ; decreases in c, 0 for c ≥ max ρ
    ρ / mean of the batch's   SelfNormalised()                     O(1/N)

Ratios are differentiated, so the derivatives are those of the estimated mean. The documented means:

    TruncatedRatio    Σ_x min(π, c μ) f;   its derivative with gradient="objective": nothing from where ρ > c;
                      with gradient="score" Σ_x min(π, c μ) f ∇log π, the truncated ratio held constant
    SelfNormalised    E[Σᵢ ρᵢ fᵢ / Σᵢ ρᵢ] over batches of N;   value less truth: −E_μ[ρ² (f − E_π f)]/N + O(1/N²)

A self-normalised mean lies between the smallest and the largest cost, shifts with a constant that is added to the costs, and
needs μ up to a constant factor only. In a sequence both act on the ratio of each step before the product over steps;
`credit.SelfNormalisedRatios` normalises the product itself.
Precup, Sutton & Singh (2000); Ionides (2008); Owen (2013), chapter 9.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor
from torch.distributions import Distribution

from scg.estimator import Branches, ScoreFunction


@dataclass(frozen=True)
class TruncatedRatio(ScoreFunction):
    """The score function; at recorded values its ratio is cut off at `limit`."""

    unbiased = False
    limit: float = 1.0
    gradient: Literal["objective", "score"] = "objective"
    allow_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.limit > 0:
            raise ValueError(f"TruncatedRatio(limit={self.limit!r}): a truncation level is positive")
        if self.gradient not in ("objective", "score"):
            raise ValueError(f"TruncatedRatio(gradient={self.gradient!r}): it is 'objective' or 'score'")

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        branches = super().given(distribution, value, log_prob)
        ratio = branches.weights
        if ratio is None:
            return branches
        if self.gradient == "objective":
            return replace(branches, weights=ratio.clamp(max=self.limit))
        return replace(branches, weights=ratio * (self.limit / ratio.detach()).clamp(max=1.0))


@dataclass(frozen=True)
class SelfNormalised(ScoreFunction):
    """The score function; at recorded values its ratio is divided by the mean ratio along the batch's axis `dim`."""

    unbiased = False
    dim: int = -1
    allow_bias: bool = False

    def given(self, distribution: Distribution, value: Tensor, log_prob: Tensor | None = None) -> Branches:
        branches = super().given(distribution, value, log_prob)
        if log_prob is None or branches.weights is None:
            return branches
        log_ratio = distribution.log_prob(value) - log_prob.detach()
        count = log_ratio.shape[self.dim] if -log_ratio.ndim <= self.dim < log_ratio.ndim else 0
        if count < 2:
            raise ValueError(
                f"SelfNormalised(dim={self.dim}) divides ratios by their mean over the batch, and these have shape "
                f"{tuple(log_ratio.shape)}: of one, nothing is left but 1.\nReplay several at once, or use TruncatedRatio."
            )
        # As a softmax: where μ is known up to a factor, neither that factor nor an overflow is left.
        return replace(branches, weights=count * log_ratio.softmax(self.dim))
