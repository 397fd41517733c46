"""Checkpointed sequences: the same values and gradients in less memory, whatever the graph holds."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

import scg
from scg import ScoreFunction, dist, prev
from scg.estimators import Pathwise


def chain(policy: nn.Module, value: nn.Module | None = None, estimator: scg.Estimator | None = None) -> scg.Graph:
    graph = scg.Graph()
    with graph.sequence():

        @graph.stochastic(estimator or Pathwise())
        def action(state=prev("state", init="start")):
            return Independent(Normal(policy(state), 0.3), 1)

        @graph.stochastic(Pathwise())
        def state(action, before=prev("state", init="start")):
            return Independent(Normal(0.9 * before + action.tanh(), 0.1), 1)

        graph.cost(lambda state, action: (state**2 + 0.1 * action**2).sum(-1), name="loss", trains=policy)
        if value is not None:
            graph.cost(lambda state: (value(state) - 1.0).square().sum(-1), name="fit", parents=["state"], trains=value)
    return graph


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))


@pytest.mark.parametrize("every", [1, 3, 10, 50])
@pytest.mark.parametrize("kind", ["pathwise", "score function", "two objectives"])
def test_the_gradient_is_the_same_whatever_is_computed_twice(every: int, kind: str) -> None:
    torch.manual_seed(0)
    policy, value = network(), network() if kind == "two objectives" else None
    parameters = [p for module in (policy, value) if module is not None for p in module.parameters()]
    graph = chain(policy, value, ScoreFunction() if kind == "score function" else None)
    found = []
    for checkpoint in (None, every):
        generator = torch.Generator().manual_seed(3)
        trace = graph.sample(start=torch.zeros(4, 2), steps=10, generator=generator, checkpoint=checkpoint)
        loss = trace.surrogate()
        torch.rand(7)  # what happens to the stream in between is nobody's business
        found.append([loss.detach(), trace["state"].detach(), *torch.autograd.grad(loss, parameters)])
        assert generator.initial_seed() == 3
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-13)


def test_less_is_kept() -> None:
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(2, 256), nn.Tanh(), nn.Linear(256, 2))
    graph, kept = chain(policy), []
    graph.sample(start=torch.zeros(4, 2), steps=2)  # the examination
    for checkpoint in (None, 10):
        seen: dict[int, int] = {}

        def pack(x: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss = graph.sample(start=torch.zeros(4, 2), steps=50, checkpoint=checkpoint).surrogate()
        kept.append(sum(seen.values()))
        del loss
    assert kept[1] < kept[0] / 4


def test_what_makes_no_sense_is_refused() -> None:
    graph = chain(network())
    with pytest.raises(scg.GraphError, match="checkpoint=0: the number of steps"):
        graph.sample(start=torch.zeros(4, 2), steps=3, checkpoint=0)
    flat = scg.Graph()
    flat.cost(lambda x: x**2, name="loss")
    with pytest.raises(scg.GraphError, match="has no sequence"):
        flat.sample(x=torch.zeros(3), checkpoint=4)
    with pytest.raises(scg.GraphError, match="reserved"):
        flat.cost(lambda x: x, name="checkpoint", parents=["x"])


@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_torch_keeps_of_a_distribution_made_before_the_sequence_is_computed_twice_too(every: int) -> None:
    """Costs in the sequence ask a distribution for its mean, which torch makes of its logits once: so did the first pass alone."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Independent(Bernoulli(logits=theta), 1), name="b")
    with graph.sequence():
        graph.stochastic(
            Pathwise(),
            lambda theta, before: Normal(before + theta.sum(-1), 1.0),
            name="x",
            parents=["theta", prev("x", init="start")],
        )
        graph.cost(lambda x, b, law: (law.mean.sum(-1) - x) ** 2 + law.log_prob(b) * x, name="c", parents=["x", "b", dist("b")])
    theta = torch.tensor([[0.4, -0.3]] * 3, dtype=torch.float64, requires_grad=True)
    start, found = torch.zeros(3, dtype=torch.float64), []
    for checkpoint in (None, every):
        generator = torch.Generator().manual_seed(3)
        trace = graph.sample(theta=theta, start=start, steps=3, generator=generator, checkpoint=checkpoint)
        found.append(torch.autograd.grad(trace.surrogate(), theta)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-13, atol=1e-13)
    assert found[0].abs().min() > 1e-3
