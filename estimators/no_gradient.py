"""No gradient: a sample through which no parameter is trained.

For samples that reach costs only through `detach(…)`: the next action in a Bellman target, a recorded behaviour.
A graph in which a cost depends on such a sample with a gradient is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributions import Distribution

from scg.distributions import sample
from scg.estimator import Branches, Estimator


@dataclass(frozen=True)
class NoGradient(Estimator):
    """One sample of weight 1."""

    weighs = False

    def branch(self, distribution: Distribution) -> Branches:
        return Branches(sample(distribution))
