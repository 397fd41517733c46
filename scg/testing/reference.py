"""Estimators that the harness trusts, kept apart from the ones it judges: to find out which node is to blame."""

from __future__ import annotations

from torch.distributions import Distribution

from scg.distributions.laws import kind
from scg.distributions.missed_terms import moving_support
from scg.estimator import Branches, Estimator, ScoreFunction
from scg.testing.quadrature import NoPoints, extent, finite, points, unbound

MOST = 64


class Enumerated(Estimator):
    """E[f] = Σ_v p(v) f(v) over a finite support."""

    def branch(self, distribution: Distribution) -> Branches:
        values, log_weight = points(distribution, (), 0)
        return Branches(values, values.shape[0], weights=log_weight.exp())

    def refuses(self, distribution: Distribution) -> str | None:
        return None if enumerable(distribution) else f"{kind(distribution)} has no small finite support"

    def __repr__(self) -> str:
        return "enumeration"


class Scored(ScoreFunction):
    def __repr__(self) -> str:
        return "score function"


class Moved(Estimator):
    """The distribution's own reparameterisation."""

    def branch(self, distribution: Distribution) -> Branches:
        return Branches(distribution.rsample())

    def refuses(self, distribution: Distribution) -> str | None:
        return None if distribution.has_rsample else f"{kind(distribution)} has no rsample"

    def __repr__(self) -> str:
        return "pathwise"


def enumerable(distribution: Distribution) -> bool:
    try:
        return finite(unbound(distribution)[0]) is not None and extent(distribution).count <= MOST
    except NoPoints:
        return False


def trusted(distribution: Distribution, branches: bool) -> list[Estimator]:
    """References for one node, the sharpest first: exact where its support is finite and it may branch."""
    found: list[Estimator] = []
    if branches and enumerable(distribution):
        found.append(Enumerated())
    elif moving_support(distribution) is None:
        found.append(Scored())
    if distribution.has_rsample:
        found.append(Moved())
    return found


__all__ = ["Enumerated", "Moved", "Scored", "enumerable", "trusted"]
