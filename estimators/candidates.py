"""The catalogue as candidates for a node: what `scg.compare` and `scg.tune` choose from (entry point group `scg.candidates`)."""

from __future__ import annotations

from torch.distributions import Distribution

from scg.estimator import Estimator
from scg.estimators.catalogue import ENTRIES


def candidates(distribution: Distribution) -> list[Estimator]:
    """Every entry of the catalogue that takes the distribution, with the catalogue's settings; biased ones included.

    Not `NoGradient`, which estimates none, nor what acts on recorded log-probabilities only (`Clipped`, truncated ratios).
    """
    return [
        entry.estimator
        for entry in ENTRIES.values()
        if getattr(entry.estimator, "differentiates", True)
        and not entry.recorded
        and entry.estimator.refuses(distribution) is None
    ]
