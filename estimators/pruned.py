"""Pruning: one branch of an estimator is drawn and reweighted, so that branches do not multiply along a sequence.

    I ~ q,      w_I / q_I · f(x_I)      has the mean  Σᵢ q_i · wᵢ/q_i · f(xᵢ) = Σᵢ wᵢ f(xᵢ),  and so have its derivatives

Where a node reaches a `prev`, T steps with n branches each would need nᵀ evaluations. A pruned estimator needs one
evaluation per node for any n, O(T) along T steps, so a simulator with discrete events follows one history. It costs
variance.

    q_i = (1 − share) |wᵢ| / Σⱼ |wⱼ|  +  share / n

so the primal sample of measure-valued derivatives and perturbations (weight 1, the others 0 in value) is kept in a
fraction 1 − `share` of the draws, with weight about 1/(1 − share); the others follow an alternative with weight 0. Along T
steps choose a share of about 1/T, or the products of these weights vary as much as the costs. Each element of the
batch draws its own I. Unbiased to the inner estimator's order, also flat. Arya et al. (2022), "Automatic
differentiation of programs with discrete randomness"; Pflug (1989) for the single phantom.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from scg.estimator import Branches, Estimator
from scg.estimators.measure_valued import MeasureValued
from scg.estimators.wrapping import Wrapping


class Pruned(Wrapping):
    """An estimator that branches (MeasureValued, Perturbation, MuProp, DoubleControl, your own), one branch kept at random."""

    def __init__(self, estimator: Estimator | None = None, share: float = 0.1) -> None:
        super().__init__(MeasureValued() if estimator is None else estimator)
        if not 0 < share <= 1:
            raise ValueError(f"Pruned(share={share!r}): the share of draws that follow an alternative is in (0, 1]")
        self.share = share

    def branch(self, distribution: Distribution) -> Branches:
        return self._one(self.estimator.branch(distribution), distribution)

    def branch_below(self, distribution: Distribution, axes: int) -> Branches:
        return self._one(self.estimator.branch_below(distribution, axes), distribution)

    def _one(self, branches: Branches, distribution: Distribution) -> Branches:
        n = branches.n
        if n is None:
            return branches
        batch = distribution.batch_shape
        value = branches.values.detach()
        if branches.weights is None:
            q = torch.full((n, *batch), 1.0 / n, dtype=_real(value), device=value.device)
        else:
            size = branches.weights.detach().abs()
            q = (1 - self.share) * size / size.sum(0) + self.share / n
        chosen = torch.multinomial(q.movedim(0, -1).reshape(-1, n), 1).reshape(1, *batch)
        weight = score = None
        if branches.weights is not None:
            weight = branches.weights.gather(0, chosen).squeeze(0) / q.gather(0, chosen).squeeze(0)
        elif branches.score is not None:
            score = branches.score.gather(0, chosen).squeeze(0)
        index = chosen.reshape(1, *batch, *[1] * len(distribution.event_shape)).expand(1, *branches.values.shape[1:])
        return Branches(branches.values.gather(0, index).squeeze(0), None, weight, score, branches.control)

    def __repr__(self) -> str:
        return f"Pruned({self.estimator!r}, share={self.share:g})"


def _real(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()
