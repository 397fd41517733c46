"""A subclass of a torch distribution is taken for it only where it overrides nothing that defines its law."""

import pytest
import torch
from torch import distributions as D

from scg.distributions import is_exactly

ONE = torch.ones(2)


class Policy(D.Normal):
    def __init__(self, features):
        super().__init__(features, 1.0)

    def describe(self):
        return "a constructor and a method"


class Exponentiated(D.Normal):
    def rsample(self, sample_shape=torch.Size()):
        return super().rsample(sample_shape).exp()


class Flipped(D.Bernoulli):
    def sample(self, sample_shape=torch.Size()):
        return 1 - super().sample(sample_shape)


class Mirrored(D.Beta):
    def sample(self, sample_shape=torch.Size()):  # torch's Beta defines none, and inherits one
        return 1 - super().sample(sample_shape)


class Shifted(D.Normal):
    loc = property(lambda self: self._loc + 1, lambda self, value: setattr(self, "_loc", value))


class WithMean(D.TransformedDistribution):
    mean = property(lambda self: torch.zeros(()))  # torch has none to override


class Reweighed(Policy):
    def log_prob(self, value):
        return super().log_prob(value) + 1


@pytest.mark.parametrize(
    ("distribution", "kind", "answer"),
    [
        (D.Normal(ONE, 1.0), D.Normal, True),
        (Policy(ONE), D.Normal, True),
        (Exponentiated(ONE, 1.0), D.Normal, False),
        (Flipped(ONE / 2), D.Bernoulli, False),
        (Mirrored(ONE, ONE), D.Beta, False),
        (Shifted(ONE, 1.0), D.Normal, False),
        (Reweighed(ONE), D.Normal, False),
        (D.OneHotCategoricalStraightThrough(ONE), D.OneHotCategorical, True),  # drawn alike, differentiated otherwise
        (WithMean(Policy(ONE), []), D.TransformedDistribution, True),
        (D.LogNormal(ONE, 1.0), D.Normal, False),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_overrides_nothing_of_its_law_is_its_kind(distribution, kind, answer):
    assert is_exactly(distribution, D.Poisson, kind) == answer


def test_an_instance_whose_sampler_was_replaced_is_no_longer_its_kind():
    normal = D.Normal(ONE, 1.0)
    normal.sample = lambda *shape: ONE  # type: ignore[method-assign]
    assert not is_exactly(normal, D.Normal)
