"""`conditional("a")`: p(a | parents), the parents' values constants, parameters live; the same object where it can be."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import scg
from scg import conditional, detach, dist, prev
from scg.estimators import Enumeration, Pathwise, ScoreFunction
from scg.testing import exact_gradient, finite_difference


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(1.7)), nn.Parameter(torch.tensor(-0.3))
        self.calls = 0

    def forward(self, state: Any) -> Bernoulli:
        self.calls += 1
        return Bernoulli(logits=self.weight * state + self.bias)


@pytest.fixture
def policy():
    torch.set_default_dtype(torch.float64)
    yield Policy()
    torch.set_default_dtype(torch.float32)


def step(policy: Policy, charge: str, upstream: Any, action: Any) -> scg.Graph:
    """theta → (s) → (a) → ⟨cost⟩, and an entropy at s. `charge`: how it reads the policy."""
    graph = scg.Graph()
    moving = isinstance(upstream, Pathwise)
    graph.stochastic(upstream, lambda theta: Normal(theta, 0.5) if moving else Bernoulli(theta.sigmoid()), name="s")
    graph.stochastic(action, policy, name="a", parents=["s"])
    graph.cost(lambda s, a: (s + 2 * a - 1) ** 2, name="cost")
    _charge(graph, policy, charge, "s")
    return graph


def walk(policy: Policy, charge: str, action: Any = None) -> scg.Graph:
    """s_t depends on a_{t−1}, a_t on s_t; costs at every step."""
    graph = scg.Graph()
    with graph.sequence():
        graph.deterministic(lambda a, x: x + 0.5 * a, name="s", parents=[prev("a", init="start"), "x"])
        graph.stochastic(action or ScoreFunction(), policy, name="a", parents=["s"])
        graph.cost(lambda s, a: (s - a) ** 2, name="cost", parents=["s", "a"])
        _charge(graph, policy, charge, "s")
    return graph


def _charge(graph: scg.Graph, policy: Policy, charge: str, state: str) -> None:
    if charge == "again":  # what `conditional` stands for, written out
        graph.cost(lambda state: 3 * policy(state).entropy(), name="charge", parents=[detach(state)])
    else:
        mark = {"conditional": conditional, "dist": dist, "none": lambda x: detach(dist(x))}[charge]
        graph.cost(lambda pi: 3 * pi.entropy(), name="charge", parents=[mark("a")])


def gradient(graph: scg.Graph, policy: Policy, inputs: dict[str, Any], seed: int = 0, **how: Any) -> list[torch.Tensor]:
    over = [*policy.parameters(), *(x for x in inputs.values() if x.requires_grad)]
    surrogate = graph.surrogate(generator=torch.Generator().manual_seed(seed), **inputs, **how)
    return [torch.zeros(()) if g is None else g for g in torch.autograd.grad(surrogate, over, allow_unused=True)]


def differ(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


THETA = {"theta": torch.tensor(0.4, dtype=torch.float64, requires_grad=True)}


@pytest.mark.parametrize(
    ("upstream", "action"),
    [
        (ScoreFunction(), ScoreFunction()),
        (Enumeration(), ScoreFunction()),
        (Enumeration(), Enumeration()),
        (Pathwise(), Enumeration()),
    ],
)
def test_it_is_the_policy_called_at_the_detached_parent(policy, upstream, action):
    for seed in range(5):
        mine = gradient(step(policy, "conditional", upstream, action), policy, THETA, seed)
        assert differ(mine, gradient(step(policy, "again", upstream, action), policy, THETA, seed)) < 1e-14


def exact(graph: scg.Graph, policy: Policy, inputs: dict[str, Any], steps: int | None = None) -> list[torch.Tensor]:
    named = [name for name, x in inputs.items() if x.requires_grad]
    found = exact_gradient(graph, inputs, wrt=[policy, *named], steps=steps)
    return list(found.values())


def test_the_mean_gradient_is_the_oracle_s_and_that_of_dist_is_another(policy):
    """All outcomes enumerated, so one surrogate's gradient is the mean. Oracles: enumeration, differences on random numbers."""
    graph, twin = (step(policy, charge, Enumeration(), Enumeration()) for charge in ("conditional", "dist"))
    mine, other = gradient(graph, policy, THETA), gradient(twin, policy, THETA)
    assert differ(mine, exact(graph, policy, THETA)) < 1e-9
    assert differ(mine, exact(step(policy, "again", Enumeration(), Enumeration()), policy, THETA)) < 1e-9
    assert differ(mine[:2], other[:2]) < 1e-12 and differ(mine[2:], other[2:]) > 0.01  # through s, the entropy moves theta
    sampled = finite_difference(graph, THETA, wrt=[policy, "theta"], sampled=True, target=0.05)
    for slope, (value, error) in zip(mine, zip(sampled.value.values(), sampled.se.values(), strict=True), strict=True):
        assert abs(float(slope - value)) < 5 * float(error) + 1e-3


def test_a_pathwise_parent_is_held_in_oracles_by_quadrature_too(policy):
    graph, again = (step(policy, charge, Pathwise(), Enumeration()) for charge in ("conditional", "again"))
    truth = exact(graph, policy, THETA)
    assert differ(truth, exact(again, policy, THETA)) < 1e-6
    assert differ(truth, exact(step(policy, "dist", Pathwise(), Enumeration()), policy, THETA)) > 0.01
    assert scg.testing.check_unbiased(graph, THETA, wrt=[policy, "theta"])
    flawed = step(policy, "none", Pathwise(), Enumeration())  # leaves the entropy's gradient out
    assert differ(gradient(flawed, policy, THETA), gradient(graph, policy, THETA)) > 0.01


STEPS = {"start": torch.tensor(0.0, dtype=torch.float64), "x": torch.tensor(0.2, dtype=torch.float64, requires_grad=True)}


@pytest.mark.parametrize("live", [True, False], ids=["a state with a gradient", "a state without"])
def test_in_a_sequence_it_is_no_part_of_what_earlier_actions_answer_for(policy, live):
    inputs = {**STEPS, "x": STEPS["x"].detach().requires_grad_(live)}
    graph, again, other = (walk(policy, charge) for charge in ("conditional", "again", "dist"))
    answers = [g.structure.window("a", "charge", live=True) for g in (graph, again, other)]
    assert answers[:2] == [None, None] and answers[2] is not None
    truth = exact(graph, policy, inputs, steps=3)
    assert differ(truth, exact(again, policy, inputs, steps=3)) < 1e-9
    assert differ(truth, exact(other, policy, inputs, steps=3)) > 0.01
    for seed in range(3):
        mine = gradient(graph, policy, inputs, seed, steps=3)
        assert differ(mine, gradient(again, policy, inputs, seed, steps=3)) < 1e-14
    # every outcome replayed, weighed with its probability: the surrogate's mean, all steps at once
    total = [torch.zeros(()) for _ in truth]
    over = [*policy.parameters(), *([inputs["x"]] if live else [])]
    for outcome in itertools.product([0.0, 1.0], repeat=3):
        a = torch.tensor(outcome)
        trace = graph.replay({"a": a}, **inputs)
        logs = trace.dist("a").log_prob(a).sum().exp().detach()
        found = torch.autograd.grad(trace.surrogate(), over)
        total = [t + logs * g for t, g in zip(total, found, strict=True)]
    assert differ(total, truth) < 1e-9


def test_on_recorded_states_the_policy_runs_once_and_the_distribution_is_the_sample_s(policy):
    seen = []
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("s", parents=[prev("a")])
        graph.stochastic(ScoreFunction(), policy, name="a", parents=["s"])
        graph.cost(lambda s, a: (s - a) ** 2, name="cost", parents=["s", "a"], trains=policy)
        graph.cost(lambda pi: seen.append(pi) or pi.entropy(), name="charge", parents=[conditional("a")], trains=policy)
    given = {"s": torch.tensor([0.1, 0.5, -0.2]), "a": torch.tensor([1.0, 0.0, 1.0])}
    graph.replay(given).surrogate()  # examined
    policy.calls = 0
    trace = graph.replay(given)
    assert policy.calls == 1 and seen[-1] is trace.dist("a")
    sampled = walk(policy, "conditional")
    for live, calls in ((False, 3), (True, 6)):  # step by step; a state with a gradient is one that has to be detached
        inputs = {**STEPS, "x": STEPS["x"].detach().requires_grad_(live)}
        for _ in range(3):  # the first two are examined
            policy.calls = 0
            sampled.surrogate(**inputs, steps=3)
        assert policy.calls == calls


class Trunk(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(3, 1)

    def forward(self, s: Any) -> Any:
        return self.head(torch.tanh(self.trunk(s))).squeeze(-1)


def test_each_objective_reads_its_own_view_of_the_distribution(policy):
    """A trunk that two objectives share, and a charge that trains the head of the policy alone."""
    torch.manual_seed(0)
    trunk = nn.Linear(2, 3)
    actor, critic = Trunk(trunk), Trunk(trunk)

    def graph_of(charge: str, trains: Any) -> scg.Graph:
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda s: Bernoulli(logits=actor(s)), name="a", parents=["s"])
        graph.cost(lambda s, a: a * s.sum(-1), name="cost", parents=["s", "a"], trains=actor)
        graph.cost(lambda s: (critic(s) - 1) ** 2, name="error", parents=["s"], trains=critic)
        if charge == "again":
            graph.cost(lambda s: Bernoulli(logits=actor(s)).entropy(), name="charge", parents=[detach("s")], trains=trains)
        else:
            graph.cost(lambda pi: pi.entropy(), name="charge", parents=[conditional("a")], trains=trains)
        return graph

    for trains in (actor, actor.head):
        found = []
        for charge in ("conditional", "again"):
            graph = graph_of(charge, trains)
            s = torch.randn(7, 2, generator=torch.Generator().manual_seed(3)).requires_grad_(False)
            trace = graph.sample(s=s, generator=torch.Generator().manual_seed(4))
            every = [*actor.parameters(), *critic.head.parameters()]
            grads = torch.autograd.grad(trace.surrogate("charge"), every, allow_unused=True, retain_graph=True)
            whole = torch.autograd.grad(trace.surrogate(), every, allow_unused=True)
            found.append([torch.zeros(()) if g is None else g for g in (*grads, *whole)])
        assert differ(*found) < 1e-14
        assert (found[0][0].abs().sum() > 0) == (trains is actor)


def test_detach_of_it_has_no_gradient_and_what_it_cannot_be_is_refused(policy):
    assert detach(conditional("a")) == detach(dist("a"))
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), policy, name="a", parents=["state"])
        with pytest.raises(scg.GraphError, match=r"dist\(prev\('a'\)\)"):
            graph.cost(lambda pi: pi.entropy(), name="c", parents=[conditional(prev("a", init="start"))])
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), policy, name="a", parents=["state"])
    graph.cost(lambda pi: pi.entropy(), name="late", parents=[conditional("a")])
    with pytest.raises(scg.GraphError, match=r"'late': conditional\('a'\) from outside the sequence"):
        graph.sample(state=torch.zeros(()), steps=2)
    graph = scg.Graph()
    graph.cost(lambda pi: pi.entropy(), name="c", parents=[conditional("x")])
    with pytest.raises(scg.GraphError, match="needs a stochastic node"):
        graph.sample(x=torch.zeros(()))


def test_the_derivation_writes_the_constant(policy):
    text = str(step(policy, "conditional", ScoreFunction(), ScoreFunction()).derivation())
    assert "charge = charge(p(a | sg(s); θ_a))" in text, text
    assert "dashed" in step(policy, "conditional", ScoreFunction(), ScoreFunction()).to_dot()
