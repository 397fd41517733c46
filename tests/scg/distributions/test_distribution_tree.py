"""Whatever a distribution holds its tensors in, every check sees them: transforms, mixtures, closures, objects."""

import dataclasses
import functools
import math

import pytest
import torch
from torch import distributions as D
from torch import nn
from torch.distributions import transforms as T

import scg
from scg import GraphError, detach, dist
from scg.distributions import density_order, has_rsample, moving_support, parameters, remember, sampler_order
from scg.estimators import LeaveOneOut, Pathwise, ScoreFunction
from scg.tree import rebuilt, tensors

F64 = torch.float64


def leaf(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def zeros():
    return torch.zeros((), dtype=F64)


def shifted(base, *transforms):
    return D.TransformedDistribution(base, list(transforms))


class Lazy(D.Distribution):
    """A normal distribution that asks a function for its mean."""

    arg_constraints = {}  # noqa: RUF012
    support = D.constraints.real
    has_rsample = True

    def __init__(self, mean, shape=()):
        self.mean_of = mean
        super().__init__(torch.Size(shape), validate_args=False)

    def rsample(self, sample_shape=torch.Size()):
        mean = self.mean_of()
        return mean + torch.randn(self._extended_shape(sample_shape), dtype=mean.dtype)

    def sample(self, sample_shape=torch.Size()):
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value):
        return D.Normal(self.mean_of(), 1.0).log_prob(value)


class Box:
    def __init__(self, tensor):
        self.tensor = tensor

    def read(self, scale=1.0):
        return scale * self.tensor


HOLDERS = {
    "an attribute": lambda t: D.Normal(t, 1.0),
    "a base": lambda t: D.Independent(D.Normal(t.expand(3), 1.0), 1),
    "a transform": lambda t: shifted(D.Normal(zeros(), 1.0), T.AffineTransform(t, 1.0)),
    "a composed transform": lambda t: shifted(D.Normal(zeros(), 1.0), T.ComposeTransform([T.AffineTransform(t, 1.0)])),
    "an inverted transform": lambda t: shifted(D.Normal(zeros(), 1.0), T.AffineTransform(t, 1.0).inv),
    "a stack of transforms": lambda t: shifted(
        D.Normal(torch.zeros(2), 1.0), T.StackTransform([T.AffineTransform(t, 1.0)] * 2)
    ),
    "a component": lambda t: D.MixtureSameFamily(D.Categorical(logits=torch.zeros(2)), D.Normal(t.expand(2), 1.0)),
    "a closure": lambda t: Lazy(lambda: t),
    "a default": lambda t: Lazy(lambda own=t: own),
    "a partial": lambda t: Lazy(functools.partial(torch.mul, t, 1.0)),
    "a bound method": lambda t: Lazy(Box(t).read),
    "a closure over an object in a list": lambda t: (lambda boxes: Lazy(lambda: boxes[0].tensor))([Box(t)]),
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_a_tensor_is_found_and_detached_wherever_it_lies(make):
    theta = leaf(0.3)
    distribution = make(theta * 1.0)
    assert any(p.requires_grad for p in parameters(distribution))
    value = distribution.sample()
    cut = rebuilt(distribution, torch.Tensor.detach, "x")
    assert torch.equal(cut.log_prob(value), distribution.log_prob(value))
    assert not cut.log_prob(value).requires_grad
    assert distribution.log_prob(value).requires_grad, "the original is untouched"


@dataclasses.dataclass
class Record:
    mean: torch.Tensor
    steps: int = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    mean: torch.Tensor


@pytest.mark.parametrize(
    "make",
    [
        Record,
        Slotted,
        lambda t: {"mean": t},
        lambda t: [(t, 1)],
        lambda t: D.Normal(t, 1.0),
        lambda t: lambda: t,
        Box,
        lambda t: (lambda record: record)(Record(Slotted(t))),
    ],
    ids=["dataclass", "slots", "dict", "list", "distribution", "function", "object", "nested"],
)
def test_detach_of_any_value_has_no_gradient(make):
    """E (x + sg h), with dE/dθ = 1."""
    theta = leaf(0.3)
    graph = scg.Graph()
    graph.deterministic(lambda theta: make(2 * theta), name="h")
    graph.stochastic(Pathwise(), lambda theta: D.Normal(theta, 1.0), name="x")
    graph.cost(lambda x, h: x + tensors(h)[0], name="f", parents=["x", detach("h")])
    (slope,) = torch.autograd.grad(graph.surrogate(theta=theta), theta)
    assert slope == 1.0


@pytest.mark.parametrize("network", [nn.Linear(1, 1).double()])
def test_what_cannot_be_detached_is_refused(network):
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Lazy(lambda: network(theta), (1,)), name="x")
    graph.cost(lambda x, p: p.log_prob(x).sum(-1), name="f", parents=["x", detach(dist("x"))])
    with pytest.raises(GraphError, match="node 'x': its distribution, or its value, holds a Linear"):
        graph.surrogate(theta=leaf([0.3]))
    network.requires_grad_(False)
    assert torch.isfinite(graph.surrogate(theta=leaf([0.3])))


def test_a_dependency_hidden_in_a_transform_is_found():
    box = {}
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: D.Normal(theta, 1.0), name="x")
    graph.deterministic(lambda x: box.setdefault("x", []).append(x) or x, name="kept")
    graph.stochastic(
        ScoreFunction(), lambda theta: shifted(D.Normal(theta, 1.0), T.AffineTransform(box["x"][-1], 1.0)), name="y"
    )
    graph.cost(lambda y: y**2, name="f")
    with pytest.raises(GraphError, match="node 'y'.*reads\na sample|node 'y': run again"):
        graph.surrogate(theta=leaf(0.5))


# -- what moves ----------------------------------------------------------------------------------------------------


def uniform(t):
    return D.Uniform(torch.zeros_like(t), 1.0)


def mixture(component):
    return D.MixtureSameFamily(D.Categorical(logits=torch.zeros(2)), component)


MOVING = {
    "shifted exponential": lambda t: shifted(D.Exponential(torch.ones_like(t)), T.AffineTransform(t, 1.0)),
    "scaled uniform": lambda t: shifted(uniform(t), T.AffineTransform(0.0, t)),
    "scaled tanh": lambda t: shifted(D.Normal(zeros(), 1.0), T.TanhTransform(), T.AffineTransform(0.0, t)),
    "shifted log-normal": lambda t: shifted(D.LogNormal(zeros(), 1.0), T.AffineTransform(t, 1.0)),
    "folded, then shifted": lambda t: shifted(D.Normal(zeros(), 1.0), T.AbsTransform(), T.AffineTransform(t, 1.0)),
    "composed": lambda t: shifted(uniform(t), T.ComposeTransform([T.ExpTransform(), T.AffineTransform(t, 1.0)])),
    "shifted bits": lambda t: shifted(D.Bernoulli(torch.full_like(t, 0.3)), T.AffineTransform(t, 1.0)),
    "a mixture of uniforms": lambda t: mixture(D.Uniform(torch.zeros(2, dtype=F64), t.expand(2))),
    "Pareto": lambda t: D.Pareto(t, torch.ones_like(t)),
}
STILL = {
    "scaled exponential": lambda t: shifted(D.Exponential(torch.ones_like(t)), T.AffineTransform(0.0, t)),
    "shifted normal": lambda t: shifted(D.Normal(zeros(), 1.0), T.AffineTransform(t, 1.0)),
    "squashed": lambda t: shifted(D.Normal(t, 1.0), T.TanhTransform()),
    "squashed onto a fixed interval": lambda t: shifted(D.Normal(t, 1.0), T.SigmoidTransform(), T.AffineTransform(-1.0, 2.0)),
    "Weibull": lambda t: D.Weibull(t, 1.0 + t),
    "Gumbel": lambda t: D.Gumbel(t, 1.0),
    "Kumaraswamy": lambda t: D.Kumaraswamy(t, 1.0 + t),
    "power of a log-normal": lambda t: shifted(D.LogNormal(zeros(), 0.5), T.PowerTransform(t)),
    "softmax": lambda t: shifted(D.Independent(D.Normal(t.expand(3), 1.0), 1), T.StickBreakingTransform()),
    "a mixture of exponentials": lambda t: mixture(D.Exponential(t.expand(2))),
}


@pytest.mark.parametrize("make", MOVING.values(), ids=MOVING)
def test_a_support_that_moves_is_seen_through_transforms(make):
    assert moving_support(make(leaf(0.7) * 1.0)) is not None


@pytest.mark.parametrize("make", STILL.values(), ids=STILL)
def test_a_support_that_stays_is_not_refused(make):
    assert moving_support(make(leaf(0.7) * 1.0)) is None


def test_a_moving_kink_is_seen_through_transforms_and_mixtures():
    t = leaf(0.7)
    moving = [
        shifted(D.Laplace(zeros(), 1.0), T.AffineTransform(t, 1.0)),
        mixture(D.Laplace(t.expand(2), 1.0)),
        D.Independent(shifted(D.Laplace(t.expand(2), 1.0), T.ExpTransform()), 1),
        shifted(D.Laplace(1.0 + zeros(), 1.0), T.AffineTransform(0.0, t)),
    ]
    still = [
        shifted(D.Laplace(zeros(), 1.0), T.AffineTransform(0.0, t)),  # at 0 whatever the scale
        mixture(D.Laplace(torch.zeros(2, dtype=F64), t)),
        shifted(D.Normal(t, 1.0), T.AffineTransform(t, 1.0)),
    ]
    assert [density_order(d) for d in moving] == [1] * 4
    assert [density_order(d) for d in still] == [math.inf] * 3


def test_the_order_of_a_sampler_is_that_of_all_its_parts():
    t = leaf(0.7)
    assert sampler_order(shifted(D.Normal(t, 1.0), T.AffineTransform(t, 1.0), T.ExpTransform().inv)) == math.inf
    assert sampler_order(shifted(D.Normal(t, 1.0), T.AbsTransform())) == 1
    assert sampler_order(shifted(D.Normal(t, 1.0), T.ComposeTransform([T.ExpTransform(), T.AbsTransform()]))) == 1
    assert sampler_order(shifted(D.Gamma(t, 1.0), T.AffineTransform(0.0, 2.0))) == 1
    assert sampler_order(D.LogNormal(t, 1.0)) == math.inf

    class Own(D.Normal):
        def rsample(self, sample_shape=torch.Size()):
            return super().rsample(sample_shape).abs()

    assert sampler_order(Own(t, 1.0)) == 1


# -- flags and caches ----------------------------------------------------------------------------------------------


def test_flags_of_torch_that_say_too_much_or_too_little():
    assert not has_rsample(D.OneHotCategoricalStraightThrough(torch.ones(3)))
    assert not has_rsample(D.Independent(D.OneHotCategoricalStraightThrough(torch.ones(2, 3)), 1))
    assert has_rsample(D.relaxed_bernoulli.LogitRelaxedBernoulli(torch.tensor(0.5), logits=torch.zeros(2)))
    assert has_rsample(shifted(D.Normal(0.0, 1.0), T.ExpTransform()))
    assert not has_rsample(shifted(D.Poisson(torch.ones(2)), T.AffineTransform(0.0, 2.0)))


@pytest.mark.parametrize("estimator", [ScoreFunction(), LeaveOneOut(2)])
def test_a_caching_transform_does_not_hide_its_parameter(estimator):
    """x = z^a, z log-normal: the score of a at x, with and without the cache, is the same to the bit."""
    slopes = []
    for size in (0, 1):
        a = leaf(1.3)
        graph = scg.Graph()
        graph.stochastic(
            estimator,
            lambda a, size=size: shifted(D.LogNormal(torch.zeros(50, dtype=F64), 0.5), T.PowerTransform(a, cache_size=size)),
            name="x",
            parents=["a"],
        )
        graph.cost(lambda x, p: x.log() ** 2 + 0.1 * p.log_prob(x), name="f", parents=["x", dist("x")])
        torch.manual_seed(0)
        slopes.append(torch.autograd.grad(graph.surrogate(a=a), a)[0])
    torch.testing.assert_close(*slopes)
    assert slopes[0] != 0


def test_a_log_density_taken_without_gradient_is_not_given_out_with_one():
    theta = leaf(0.3)
    distribution = D.Normal(theta, 1.0)
    remember(distribution)
    x = distribution.sample()
    with torch.no_grad():
        assert not distribution.log_prob(x).requires_grad
    live = distribution.log_prob(x)
    assert live.requires_grad
    assert distribution.log_prob(x) is live
    with torch.no_grad():
        assert not distribution.log_prob(x).requires_grad
