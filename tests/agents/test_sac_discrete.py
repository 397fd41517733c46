"""Discrete SAC: its targets against the tabular soft value, and its actor's gradient against the exact one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.distributions import Categorical

import scg
from scg import Estimator, ScoreFunction
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.execution.options import OptionError
from scg.agents.networks.critics import Temperature, target_copy
from scg.agents.sac_discrete import DiscreteSAC, sac_discrete
from scg.estimators import Enumeration, LeaveOneOut
from tests.agents.networks.test_networks import BOX
from tests.agents.processes import ACTIONS, END, STATES, Linear, Process, categorical, gradient_of
from tests.agents.test_dqn import GAMMA, every_transition

ALPHA = 0.3


class Tables(nn.Module):
    """Two critics by (state, action)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.tables = nn.Parameter(torch.randn(STATES, ACTIONS, 2, generator=Generator().manual_seed(seed)))

    def forward(self, obs: Tensor) -> Tensor:
        return self.tables[obs.argmax(-1)]


def graph_of(policy: nn.Module, critics: Tables, actor: Estimator | None = None) -> scg.Graph:
    return sac_discrete(policy, critics, target_copy(critics), Temperature(ALPHA), 0.5, actor)  # type: ignore[arg-type]


def states() -> dict[str, Tensor]:
    nothing = torch.zeros(STATES)
    return {
        "obs": torch.eye(STATES), "action": nothing.long(), "reward": nothing, "discount": nothing, "next_obs": torch.eye(STATES),
    }  # fmt: skip


def exact(
    policy: nn.Module, critics: Tables, alpha: float = ALPHA, of: Callable[[Tensor], Tensor] = lambda q: q.amin(-1)
) -> Tensor:
    """Mean over states of Σ_a π(a|s) (α log π(a|s) − min Q(s, a)), written out."""
    pi = (torch.eye(STATES) @ policy.weight).softmax(-1)  # type: ignore[operator]
    return (pi * (alpha * pi.log() - of(critics.tables.detach()))).sum(-1).mean()


def exact_gradient(policy: nn.Module, value: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(value, list(policy.parameters()))
    return gradient.flatten()


def actor_and_critics(seed: int = 0) -> tuple[Linear, Tables]:
    return Linear(STATES, ACTIONS, categorical, seed), Tables(seed)


@pytest.mark.parametrize("seed", range(3))
def test_by_enumeration_the_actors_gradient_is_exact(seed: int, double: None) -> None:
    policy, critics = actor_and_critics(seed)
    graph_of(policy, critics).sample(**states()).surrogate("soft_policy").backward()
    assert torch.allclose(gradient_of(policy), exact_gradient(policy, exact(policy, critics)), atol=1e-12)


@pytest.mark.parametrize(
    "twin",
    [
        lambda policy, critics: exact(policy, critics, alpha=0.0),
        lambda policy, critics: exact(policy, critics, of=lambda q: q[..., 0]),
        lambda policy, critics: exact(policy, critics, of=lambda q: q.mean(-1)),
    ],
    ids=["without the entropy", "of the first critic", "of the critics' mean"],
)
def test_another_objective_would_be_noticed(twin: Callable[[nn.Module, Tables], Tensor], double: None) -> None:
    policy, critics = actor_and_critics()
    difference = exact_gradient(policy, twin(policy, critics)) - exact_gradient(policy, exact(policy, critics))
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize(("actor", "draws"), [(ScoreFunction(), 1), (LeaveOneOut(samples=2), 2)])
def test_the_estimator_is_one_argument_and_the_mean_gradient_stays(
    actor: Estimator, draws: int, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Summed over every way that the samples can come out, in every state."""
    policy, critics = actor_and_critics()
    graph = graph_of(policy, critics, actor)
    graph.sample(**states()).surrogate("soft_policy")  # examined on ordinary draws
    pi = policy(torch.eye(STATES)).probs.detach()  # type: ignore[union-attr]
    total = torch.zeros(STATES * ACTIONS)
    for outcome in torch.cartesian_prod(*[torch.arange(ACTIONS)] * (draws * STATES)):
        value = outcome.reshape(draws, STATES)
        chance = torch.stack([pi[s, value[k, s]] for k in range(draws) for s in range(STATES)]).prod()
        monkeypatch.setattr(
            Categorical, "sample", lambda self, shape=(), value=value: value.reshape(*shape, *self.batch_shape).clone()
        )
        policy.zero_grad()
        with scg.examination(again=False):  # sample() is not itself here
            graph.sample(**states()).surrogate("soft_policy").backward()
        total += chance * gradient_of(policy)
    assert torch.allclose(total, exact_gradient(policy, exact(policy, critics)), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_the_tabular_soft_values_and_the_regression_stands_still_there(seed: int, double: None) -> None:
    """Q of π with its entropy, by a linear solve; the second critic lies above, so the smaller one is the true one."""
    process = Process.random(seed)
    policy = Linear(STATES, ACTIONS, categorical, seed)
    pi = (torch.eye(STATES) @ policy.weight).softmax(-1).detach()
    alive = (torch.arange(STATES) != END).to(pi.dtype)
    ahead = (process.transition * alive).reshape(STATES * ACTIONS, STATES)  # P(s'|s, a), nothing after the end
    chosen = ahead @ torch.block_diag(*pi[:, None])  # to (s', a')
    entropy = -(pi * pi.log()).sum(-1)
    right = process.reward.flatten() + GAMMA * ALPHA * ahead @ entropy
    q = torch.linalg.solve(torch.eye(STATES * ACTIONS) - GAMMA * chosen, right).reshape(STATES, ACTIONS)
    critics = Tables(0)
    with torch.no_grad():
        critics.tables.copy_(torch.stack([q, q + 0.5], -1))
    given, probability = every_transition(process)
    graph = graph_of(policy, critics)
    trace = graph.sample(**given)
    mean = (probability * trace["target"]).reshape(STATES, ACTIONS, STATES).sum(-1)
    assert torch.allclose(mean, q)
    graph.sample(**given, importance=probability).surrogate("bellman").backward()
    assert critics.tables.grad is not None
    assert critics.tables.grad[..., 0].abs().max() < 1e-12
    assert torch.allclose(critics.tables.grad[..., 1], torch.full((STATES, ACTIONS), 0.5 / len(probability)))


def test_the_temperature_falls_where_the_entropy_is_above_its_target(double: None) -> None:
    """∂/∂log α of −log α · E[log π + H̄] = H(π) − H̄, exactly."""
    policy, critics = actor_and_critics()
    temperature = Temperature(ALPHA)
    graph = sac_discrete(policy, critics, target_copy(critics), temperature, 0.5)  # type: ignore[arg-type]
    trace = graph.sample(**states())
    trace.surrogate("entropy_gap").backward()
    surplus = policy(torch.eye(STATES)).entropy().mean().detach() - 0.5  # type: ignore[union-attr]
    assert temperature.log.grad is not None
    assert float(temperature.log.grad) == pytest.approx(float(surplus))
    assert torch.allclose(trace["entropy"], policy(torch.eye(STATES)).entropy())  # type: ignore[union-attr]


def test_enumeration_asks_the_critics_once_for_all_actions(double: None) -> None:
    policy, critics = actor_and_critics()
    trace = graph_of(policy, critics, Enumeration()).sample(**states())
    assert trace["soft_policy"].shape == (ACTIONS, STATES)


def test_one_discrete_action_is_needed() -> None:
    for space, says in (
        (spaces.MultiDiscrete([3, 3]), "this agent has one discrete action. Use dqn"),
        (spaces.Box(-1.0, 1.0, (2,)), "needs discrete actions. Quantise it with --action-bins"),
    ):
        with pytest.raises(EnvironmentFault, match=says):
            DiscreteSAC().build(BOX, space, Generator().manual_seed(0))
    with pytest.raises(OptionError, match="option target_entropy_share is 1.5"):
        DiscreteSAC(target_entropy_share=1.5)
