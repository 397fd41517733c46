"""Sampling without replacement: k different values, each worth its probability of being seen.

Give every value v of a finite support an exponential clock of rate p(v); the k that ring first, in order, are a
sample without replacement S (log p + Gumbel noise, top k). Weights w(v), v ∈ S, that make Σ_{v ∈ S} w(v) f(v) unbiased:

    unordered set       w(v) = p(v) R(S, v),   R(S, v) = p^{D∖v}(S∖v) / p(S):  the chance that v came first, given the set
    sum and sample      w(v) = p(v) for the first k − 1,  and 1 − Σ p for the last, whose law is p outside them
    priority            w(v) = p(v) / P(v rings before τ),   τ when the (k+1)-th rings

With p(v) live and its factor held fixed, E Σ_S w(v) f(v) = Σ_D p(v) f(v) for every θ near by: unbiased to any order. The
unordered set has a baseline built in: given that v came first, the rest of S still estimates E[f],

    ∇ = Σ_{v ∈ S} ∇p(v) R(S, v) (f(v) − B(v)),   B(v) = p(v) f(v) + Σ_{u ∈ S∖v} p(u) R^{D∖v}(S, u) f(u)

Joint samples of D independent components are drawn component by component: only the k prefixes that ring first are
kept, so 2^200 values are no obstacle: memory is linear in D and in the K values of a component. Huijben et al. (2022) survey the clocks; Kool, van Hoof & Welling (2019),
"Stochastic beams and where to find them"; (2020), "Estimating gradients for discrete random variables by sampling without
replacement" (the unordered set); Duffield, Lund & Thorup (2007) and Vieira (2017) (priority); Liu et al. (2019) (sum and sample).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, OneHotCategorical
from torch.nn.functional import one_hot

from scg.distributions import is_exactly, kind, log_density, log_odds, unseen
from scg.estimator import Branches, Estimator, at_least
from scg.estimators.factorised import support_size, unbound
from scg.estimators.inverse_cdf import exponential, tensor_of, wide_dtype

MOST = 10  # the unordered set sums over the 2^k subsets of its sample


@dataclass(frozen=True)
class Subset:
    """k different values in the order in which they rang, and what was left.

    values `[k, *batch, *event]`, the logs of their times `[k, *batch]`; `left`: log of the probability outside them, `[*batch]`.
    Times and probabilities are float64 and in logs: with logits far apart either may lie beyond what a number holds.
    """

    values: Tensor
    log_times: Tensor
    left: Tensor


@dataclass(frozen=True)
class UnorderedSet(Estimator):
    """Kool et al.'s estimator: k samples without replacement, their order integrated out. `baseline` as above."""

    samples: int = 4
    baseline: bool = True

    def __post_init__(self) -> None:
        at_least("UnorderedSet", self.samples, 2)
        if self.samples > MOST:
            raise ValueError(f"UnorderedSet(samples={self.samples}): it sums over 2^k subsets, so at most {MOST} samples")

    def branch(self, distribution: Distribution) -> Branches:
        drawn = subset(distribution, self.samples)
        log_p = _finite(log_density(distribution, drawn.values))
        first, second = (x.to(log_p.dtype) for x in leave_out(log_p.detach().to(drawn.left.dtype), drawn.left))
        weights = (log_p - log_p.detach()).exp() * first
        if self.baseline:
            weights = weights - (torch.expm1(log_p - log_p.detach()) * first).unsqueeze(1).mul(second).sum(0)
        return Branches(drawn.values, self.samples, weights)

    def refuses(self, distribution: Distribution) -> str | None:
        return _too_few("UnorderedSet", distribution, self.samples)


@dataclass(frozen=True)
class SumAndSample(Estimator):
    """k − 1 samples without replacement counted with their probabilities, and one more that stands for the rest."""

    samples: int = 4

    def __post_init__(self) -> None:
        at_least("SumAndSample", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        drawn = subset(distribution, self.samples)
        log_p = _finite(log_density(distribution, drawn.values))
        rest = torch.logaddexp(drawn.left, log_p[-1].detach().to(drawn.left.dtype)).to(log_p.dtype)
        factor = torch.cat([log_p[:-1], (log_p[-1] - log_p[-1].detach() + rest).unsqueeze(0)])
        return Branches(drawn.values, self.samples, factor.exp())

    def refuses(self, distribution: Distribution) -> str | None:
        return _too_few("SumAndSample", distribution, self.samples)


@dataclass(frozen=True)
class PrioritySampling(Estimator):
    """k samples without replacement, each divided by its chance of ringing before the (k+1)-th did.

    k ≥ 2: one alone is worth 1/τ where τ is small, whose variance is infinite.
    """

    samples: int = 4

    def __post_init__(self) -> None:
        at_least("PrioritySampling", self.samples, 2)

    def branch(self, distribution: Distribution) -> Branches:
        k = self.samples
        drawn = subset(distribution, k + 1)
        log_p = _finite(log_density(distribution, drawn.values[:k]))
        log_tau = drawn.log_times[k]
        fixed = log_p.detach().to(log_tau.dtype)
        log_rate = fixed + log_tau  # of pτ
        rung = torch.where(log_rate < -30, log_rate, (-torch.expm1(-log_rate.exp())).log())  # log (1 − exp(−pτ))
        worth = (fixed - rung).exp().to(log_p.dtype)
        return Branches(drawn.values[:k], k, (log_p - log_p.detach()).exp() * worth)

    def refuses(self, distribution: Distribution) -> str | None:
        return _too_few("PrioritySampling", distribution, self.samples + 1)


# -- the clocks ------------------------------------------------------------------------------------------------


def subset(distribution: Distribution, k: int) -> Subset:
    """The k values whose clocks ring first. A prefix rings when the first of its continuations does."""
    base, bound = unbound(distribution)
    with torch.no_grad():
        log_p = log_probabilities(base).detach()  # [m, *batch, *bound]
    batch, event = base.batch_shape[: len(base.batch_shape) - bound], base.batch_shape[len(base.batch_shape) - bound :]
    log_p = log_p.reshape(log_p.shape[0], *batch, event.numel())
    index, log_times, left = beam(log_p, k)  # [k, *batch, D]
    if isinstance(base, OneHotCategorical):
        chosen = one_hot(index, log_p.shape[0]).to(tensor_of(base).dtype)
    else:
        values = base.enumerate_support(expand=False)  # [m, 1…]
        chosen = values.reshape(values.shape[0], *base.event_shape)[index]
    return Subset(chosen.reshape(k, *batch, *event, *base.event_shape), log_times, left)


def log_probabilities(base: Distribution) -> Tensor:
    """log p of every value of one component, `[m, *batch]`, in float64."""
    if is_exactly(base, Categorical, OneHotCategorical):
        theta = log_odds(base)
        return theta.to(wide_dtype(theta)).log_softmax(-1).movedim(-1, 0)
    log_p = log_density(base, base.enumerate_support())
    return log_p.to(wide_dtype(log_p))


def beam(log_p: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first k of all joint values of D components, `log_p [m, *batch, D]`: index `[k, *batch, D]`, log times, log p left.

    Clocks have no memory: given when the first child of a prefix rings, the others ring as if started then.
    """
    m, batch = log_p.shape[0], log_p.shape[1:-1]
    log_times = exponential((1, *batch), log_p).log()
    mass = torch.zeros_like(log_times)
    pruned: list[Tensor] = []
    parents: list[Tensor] = []
    values: list[Tensor] = []
    for d in range(log_p.shape[-1]):
        mass = mass.unsqueeze(1) + log_p[..., d]  # [width, m, *batch]
        log_ring = exponential(mass.shape, log_p).log() - mass  # logs: probabilities of long prefixes underflow
        log_first = log_ring.amin(1, keepdim=True)
        behind = torch.where(log_ring > log_first, log_ring - log_first, math.inf)  # also where all of them never ring
        log_later = torch.where(log_ring > log_first, log_ring + torch.log(-torch.expm1(-behind)), -math.inf)
        log_times = torch.logaddexp(log_times.unsqueeze(1), log_later)
        mass = mass.flatten(0, 1)
        log_times, order = log_times.flatten(0, 1).sort(0)
        mass = mass.gather(0, order)
        pruned.append(mass[k:])
        log_times, mass, order = log_times[:k], mass[:k], order[:k]
        parents.append(order // m)
        values.append(order % m)
    left = torch.cat([torch.full_like(mass[:1], -math.inf), *pruned]).logsumexp(0)
    return traced_back(parents, values), log_times, left


def traced_back(parents: list[Tensor], values: list[Tensor]) -> Tensor:
    """The prefixes that survived, `[k, *batch, D]`, from each one's parent and last value: copying them D times is O(D²)."""
    at = torch.arange(len(parents[-1]), device=parents[-1].device)
    at = at.view(-1, *[1] * (parents[-1].ndim - 1)).expand_as(parents[-1])
    index = []
    for parent, value in zip(reversed(parents), reversed(values), strict=True):
        index.append(value.gather(0, at))
        at = parent.gather(0, at)
    return torch.stack(index[::-1], -1)


# -- the probabilities of sets ---------------------------------------------------------------------------------


def leave_out(log_p: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """`p(v) R(S, v) [k, *batch]`, and B's coefficients `[k (of v), k (of u), *batch]`.

    With A(C) the sum, over the orders in which S∖C may follow C, of Π 1/(probability not yet drawn):
    A(S) = 1,  A(C) = Σ_{v ∈ S∖C} A(C ∪ v) / p(D∖C),  and the ratios are A({v})/A(∅) and A({u, v})/A({v}).
    Every term is positive and p(D∖C) is added up from what it consists of, so nothing cancels.
    """
    k = log_p.shape[0]
    level = torch.zeros_like(log_p[:1])
    kept: list[Tensor] = []
    for members, grown in _levels(k):
        rest = torch.cat([log_p[members], left.expand(members.shape[0], 1, *left.shape)], 1).logsumexp(1)
        level = level[grown].logsumexp(1) - rest
        kept.append(level)
    none, one, two = kept[-1], kept[-2], kept[-3] if k > 2 else torch.zeros_like(log_p[:1])
    second = log_p.exp().unsqueeze(1).repeat(1, k, *[1] * left.ndim)  # u = v: p(v)
    pair = {frozenset(c): i for i, c in enumerate(combinations(range(k), 2))}
    for v in range(k):
        for u in range(k):
            if u != v:
                second[v, u] = (two[pair[frozenset((u, v))]] - one[v]).exp()
    return (one - none).exp(), second


@lru_cache
def _levels(k: int) -> list[tuple[Tensor, Tensor]]:
    """For |C| = k−1 … 0 and every C of that size: the members of S∖C, and the places of the C ∪ v one level up."""
    levels = []
    above = {frozenset(range(k)): 0}
    for size in range(k - 1, -1, -1):
        here = [frozenset(c) for c in combinations(range(k), size)]
        missing = [sorted(set(range(k)) - c) for c in here]
        grown = [[above[c | {v}] for v in m] for c, m in zip(here, missing, strict=True)]
        levels.append((torch.tensor(missing), torch.tensor(grown)))
        above = {c: i for i, c in enumerate(here)}
    return levels


def _finite(log_p: Tensor) -> Tensor:
    """Values of probability 0 are drawn where there is nothing else: they get e^-50 of the least of the others."""
    none = log_p.detach() == -math.inf
    least = torch.where(none, math.inf, log_p.detach()).amin(0)
    return torch.where(none, least - 50, log_p)


def _too_few(estimator: str, distribution: Distribution, needed: int) -> str | None:
    size = support_size(distribution)
    if size is None:
        return (
            f"{estimator} needs a finite support, and {kind(distribution)} has none to enumerate.\nUse LeaveOneOut(samples=4)."
        )
    if size < needed:
        return (
            f"{estimator} needs a support of {needed} different values, and this {kind(distribution)} has {size}.\n"
            "Use Enumeration(), which is exact, or fewer samples."
        )
    return unseen(distribution)
