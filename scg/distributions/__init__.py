"""What estimators and evaluations must know of a distribution that torch does not say.

    laws.py                whose law it has: torch's, or its own           probabilities.py    of discrete values, without torch's clamp
    densities.py           log p of a sample                              samples.py          samples, and the noise behind a value
    derivative_order.py    how often a sampler may be differentiated      missed_terms.py     what a likelihood ratio does not contain

Estimators import the names from here; files of the core import them from where they are defined.
"""

from scg.distributions.densities import forget, log_density, remember, unclamped_log_prob, unused
from scg.distributions.derivative_order import barrier, last_slope, moves, sampler_order
from scg.distributions.laws import inmost, is_exactly, kind, own_law, parameters, torch_kind
from scg.distributions.missed_terms import density_order, moving_support, unseen
from scg.distributions.probabilities import log_mass, log_odds, mass, note_parameter, safe_log
from scg.distributions.samples import has_rsample, quantile, reparameterise, rsample, sample
from scg.tree import rebuilt

__all__ = [
    "barrier", "density_order", "forget", "has_rsample", "inmost", "is_exactly", "kind", "last_slope", "log_density",
    "log_mass", "log_odds", "mass", "moves", "moving_support", "note_parameter", "own_law", "parameters", "quantile", "rebuilt",
    "remember", "reparameterise", "rsample", "safe_log", "sample", "sampler_order", "torch_kind", "unclamped_log_prob", "unseen", "unused",
]  # fmt: skip
