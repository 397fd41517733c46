"""One branch of many: exactly the estimate of all of them on average, and the way below a `prev`."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, Poisson

import scg
from scg import GraphError, prev
from scg.estimator import Branches
from scg.estimators import DisARM, DoubleControl, LeaveOneOut, MeasureValued, MuProp, Perturbation, Pruned, ScoreFunction
from scg.testing import check_unbiased


@pytest.mark.parametrize("share", [0.05, 0.6, 1.0])
@pytest.mark.parametrize(
    ("inner", "make"),
    [
        (MeasureValued(), lambda theta: Bernoulli(logits=theta)),
        (MeasureValued(), lambda theta: Independent(Normal(theta, 0.7), 1)),
        (MuProp(samples=2), lambda theta: Bernoulli(logits=theta)),
        (LeaveOneOut(3), lambda theta: Poisson(theta.exp())),
        (ScoreFunction(samples=2), lambda theta: Bernoulli(logits=theta)),
    ],
    ids=["one bit", "two normals", "MuProp", "leave-one-out", "plain samples"],
)
def test_over_all_choices_it_is_the_estimate_of_all_branches(inner, make, share, monkeypatch):
    """Σᵢ q_i · (the estimate with branch i), value and first two derivatives, element by element."""
    theta = torch.tensor([0.3, -0.8], requires_grad=True)

    def estimate(branches: Branches) -> Tensor:
        costs = (branches.values - 0.4) ** 2
        costs = costs.sum(-1) if inner == MeasureValued() and make(theta).event_shape else costs
        n = branches.n
        weights = branches.weights if branches.score is None else branches.score.exp() / (n or 1)
        return (weights * costs).sum(0) if n else weights * costs

    def derivatives(value: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(value.sum(), theta, create_graph=True)
        second = torch.autograd.grad(first.sum(), theta, allow_unused=True)[0] if first.requires_grad else None
        return torch.cat([value.detach().reshape(-1), first.detach(), torch.zeros(2) if second is None else second])

    torch.manual_seed(3)
    whole = inner.branch(make(theta))
    expected = derivatives(estimate(whole))
    shares: list[Tensor] = []
    total = torch.zeros_like(expected)
    for i in range(whole.n):
        monkeypatch.setattr(torch, "multinomial", lambda q, k, i=i: shares.append(q) or torch.full((len(q), 1), i))
        torch.manual_seed(3)
        pruned = Pruned(inner, share).branch(make(theta))
        assert pruned.n is None
        q = (shares[-1] / shares[-1].sum(-1, keepdim=True))[:, i]
        assert bool((q > 0).all())
        total = total + derivatives(q.reshape(make(theta).batch_shape) * estimate(pruned))
    assert torch.allclose(total, expected, atol=1e-12)


def chain(estimator: scg.Estimator, make) -> scg.Graph:
    """Three steps, each sample moving the state that the next one reads."""
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            estimator, lambda theta, h: make(theta + 0.6 * h), name="x", parents=["theta", prev("h", init="start")]
        )
        graph.deterministic(lambda x, h: torch.tanh(0.7 * h + x - 0.4), name="h", parents=["x", prev("h", init="start")])
        graph.cost(lambda h: (h - 0.3) ** 2, name="c")
    return graph


def verdict(graph: scg.Graph) -> str:
    """A bias of a tenth of the gradient (or of 5 % of one draw's spread) is found; a right one is called biased at 1e-4."""
    inputs = {"theta": torch.tensor(0.3, requires_grad=True), "start": torch.tensor(0.1)}
    return check_unbiased(graph, inputs, steps=3, detectable=0.1, floor=0.05, false_alarm=1e-4).verdict


BITS = [MeasureValued(), Perturbation(), Perturbation(side="both"), MuProp(), DoubleControl(), DisARM()]


@pytest.mark.parametrize("inner", BITS, ids=repr)
def test_branching_estimators_are_unbiased_below_a_prev(inner):
    bit = lambda logit: Bernoulli(logits=logit)  # noqa: E731
    with pytest.raises(GraphError, match=r"feeds a prev\(…\).*\n?.*Use Pruned\("):
        chain(inner, bit).sample(theta=torch.tensor(0.3, requires_grad=True), start=torch.tensor(0.1), steps=3)
    assert verdict(chain(Pruned(inner, share=0.3), bit)) == "unbiased"


@pytest.mark.parametrize(
    ("inner", "make"),
    [(MeasureValued(), lambda mu: Normal(mu, 0.8)), (Perturbation(), lambda log_rate: Poisson(log_rate.exp()))],
    ids=["normal", "poisson"],
)
def test_and_so_are_other_distributions(inner, make):
    assert verdict(chain(Pruned(inner, share=0.3), make)) == "unbiased"


class TooLight(Pruned):
    """The wrong twin: the branch that is kept weighs a tenth too little."""

    def _one(self, branches, distribution):
        found = super()._one(branches, distribution)
        return Branches(found.values, None, found.weights * 0.9)


def test_a_weight_that_is_a_tenth_too_small_is_caught():
    assert verdict(chain(TooLight(MeasureValued(), share=0.3), lambda logit: Bernoulli(logits=logit))) == "biased"


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_is_a_probability(share):
    with pytest.raises(ValueError, match="share of draws"):
        Pruned(MeasureValued(), share)
