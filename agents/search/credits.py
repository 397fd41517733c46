"""Credits of search: the weight of each member, `[n]`, from the returns `U [n]`, in reward units (the larger, the better).

    centred ranks    (rank − (n − 1)/2) / (n − 1) ∈ [−½, ½]; ties share their mean rank          Salimans et al. (2017)
    elite            1/k for the k best                                                          Rubinstein (1999)
    exponential      exp(λ (U − max U) / spread)                                                 Peters & Schaal (2007)
    proportional     U                                                                           Kober & Peters (2009)
    directions       U / std U of the b pairs whose better member is best                        Mania et al. (2018)
    returns          U − mean U                                                                  REINFORCE's baseline

NaN is the return of a failed member. Rank-based credits rank it last; the others give it weight 0, and in mirrored pairs its
partner too, since a return without its mirror image would bias the gradient.
"""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor

from scg.agents.updates.metrics import NotFinite


class AllFailed(NotFinite):
    """All members of a generation have failed."""


def alive(utility: Tensor) -> Tensor:
    """Which members have a return. AllFailed if none has."""
    found = torch.isfinite(utility)
    if not found.any():
        raise AllFailed(f"all {len(utility)} members of the generation failed.")
    return found


def ranks(utility: Tensor) -> Tensor:
    """0 for the worst, n − 1 for the best; ties share their mean rank, failures are below all."""
    alive(utility)
    order = torch.where(torch.isfinite(utility), utility, -torch.inf)
    return torch.from_numpy(rankdata(order.numpy(), "average") - 1.0)


def centred_ranks(utility: Tensor) -> Tensor:
    count = len(utility)
    return (ranks(utility) - (count - 1) / 2) / max(count - 1, 1)


def best_first(utility: Tensor) -> Tensor:
    """Members from the best to the worst; among equals the earlier first, failures last."""
    alive(utility)
    order = torch.where(torch.isfinite(utility), utility, -torch.inf)
    return torch.argsort(order, descending=True, stable=True)


def elite(utility: Tensor, count: int) -> Tensor:
    """1/k for the k best, where k is `count` or the number that has not failed."""
    best = best_first(utility)[: min(count, int(alive(utility).sum()))]
    weight = torch.zeros(len(utility), dtype=torch.float64)
    weight[best] = 1.0 / len(best)
    return weight


def exponential(utility: Tensor, sharpness: float, spread: str = "range") -> Tensor:
    """`exp(sharpness (U − max U) / spread)`, the spread the returns' "range" or "std"; 1 for all where all are equal."""
    found = alive(utility)
    kept = utility[found].double()
    size = kept.max() - kept.min() if spread == "range" else kept.std(correction=0)
    weight = torch.zeros(len(utility), dtype=torch.float64)
    weight[found] = torch.exp(sharpness * (kept - kept.max()) / size) if size > 0 else 1.0
    return weight


def above_worst(utility: Tensor) -> Tensor:
    """`U − min U`; 1 for all where all are equal."""
    found = alive(utility)
    kept = utility[found].double()
    weight = torch.zeros(len(utility), dtype=torch.float64)
    weight[found] = kept - kept.min() if kept.max() > kept.min() else 1.0
    return weight


def pairs(utility: Tensor) -> Tensor:
    """Which members can be used in mirrored pairs (0, 1), (2, 3), …: both or none of each."""
    both = torch.isfinite(utility).view(-1, 2).all(-1)
    if not both.any():
        raise AllFailed(f"of {len(utility)} members in mirrored pairs, every pair has one that failed.")
    return both.repeat_interleave(2)


def mirrored(utility: Tensor) -> Tensor:
    """`U − mean U` where both members of a pair have a return, else 0; scaled so that the mean over all members is one
    over those used. (The constant cancels within each pair, and costs no precision.)"""
    used = pairs(utility)
    kept = torch.where(used, utility, 0.0)
    centred = torch.where(used, utility - kept.sum() / used.sum(), 0.0)
    return centred * (len(utility) / used.sum())


def directions(utility: Tensor, best: int) -> Tensor:
    """Augmented random search: `U / std(U)` of the `best` pairs by their better member, so scaled that the mean over all
    members is `1/2b Σ_used`; 0 elsewhere, and everywhere if the returns used are equal."""
    usable = pairs(utility).view(-1, 2)[:, 0]
    better = utility.view(-1, 2).amax(-1)
    order = torch.argsort(torch.where(usable, better, -torch.inf), descending=True, stable=True)
    chosen = order[: min(best, int(usable.sum()))]
    used = torch.zeros(len(usable), dtype=torch.bool)
    used[chosen] = True
    used = used.repeat_interleave(2)
    kept = utility[used].double()
    spread = kept.std(correction=0)
    weight = torch.zeros(len(utility), dtype=torch.float64)
    if spread > 0:
        weight[used] = (kept - kept.mean()) / spread * (len(utility) / len(kept))
    return weight


def effective(weight: Tensor) -> float:
    """The effective sample size of the weights, `(Σ w)² / Σ w²`."""
    return float(weight.sum() ** 2 / weight.square().sum())
