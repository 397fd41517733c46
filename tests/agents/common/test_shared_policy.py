"""Entropy and KL at a state read the distribution that the action was drawn from: one run of the network, the same gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator
from torch.distributions import kl_divergence

import scg
from scg.agents.a2c import A2C
from scg.agents.common.on_policy import ActorCritic, advantages
from scg.agents.common.recurrence import of_sequences
from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.recurrent import seen
from scg.agents.ppo import PPO
from scg.agents.updates.minibatches import replayed

COMMON: dict[str, Any] = {"horizon": 8, "hidden": (6,), "features": 5, "entropy_bonus": 0.3}
CASES = [
    ("CartPole-v1", PPO(**COMMON)),
    ("CartPole-v1", PPO(**COMMON, kl_penalty=0.7)),
    ("CartPole-v1", A2C(**COMMON)),
    ("Pendulum-v1", PPO(**COMMON, policy="state-gaussian")),
    ("Pendulum-v1", A2C(**COMMON, policy="beta")),
    ("HiddenDoors-v0", PPO(**COMMON, normalise_obs=False)),
    ("MovingTarget-v0", PPO(**COMMON, network="cnn", normalise_obs=False)),
    ("RepeatPrevious-v0", PPO(**COMMON, network="gru", sequence=4, normalise_obs=False, kl_penalty=0.7)),
    ("RepeatPrevious-v0", A2C(**COMMON, network="lstm", sequence=4, normalise_obs=False)),
]


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def prepared(env: str, settings: Any) -> tuple[Any, scg.Graph, dict[str, torch.Tensor]]:
    """Networks away from those that acted, their graph with a policy before the update, and rows of a block."""
    vector = envs.make(env, 3)
    nets = ActorCritic(settings, vector.obs_space, vector.action_space, Generator().manual_seed(0))
    block = nets.collect(Rollout(vector, [1, 2, 3], Generator().manual_seed(0)), 10**6)
    before = ActorCritic(settings, vector.obs_space, vector.action_space, Generator().manual_seed(0)).policy.double()
    for module in (nets.policy, nets.value):
        module.double()
    penalty = (before.requires_grad_(False), torch.tensor(0.7)) if getattr(settings, "kl_penalty", 0.0) else None
    graph = settings.graph(nets, penalty) if penalty else settings.graph(nets)
    given = {k: x.double() if x.is_floating_point() else x for k, x in nets.recording(block).items()}
    if "action.log_prob" not in given:
        given["action.log_prob"] = nets.policy(seen(nets.policy, given)).log_prob(given["action"]).detach()
    with torch.no_grad():
        for parameter in nets.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=Generator().manual_seed(1)))
    if "remembered" in graph.nodes:
        given["remembered"] = seen(before, given)
    return nets, graph, advantages(graph, nets.value, given, sequence=4)


def run_again(graph: scg.Graph, policy: Any, settings: Any, nets: Any) -> scg.Graph:
    """The same graph, whose charges run the policy a second time."""
    other = graph.with_estimators()
    read = "memory" if "memory" in graph.nodes else "obs"
    state = replace(graph.nodes["entropy"].parents[0], source=read, dist=False, conditional=False, detached=read == "obs")
    other.nodes["entropy"] = replace(
        graph.nodes["entropy"], fn=lambda s: settings.entropy_bonus * policy(s).entropy(), parents=(state,)
    )
    if "nearness" in graph.nodes:
        node = graph.nodes["nearness"]
        before = next(c.cell_contents for c in node.fn.__closure__ if isinstance(c.cell_contents, torch.nn.Module))
        other.nodes["nearness"] = replace(
            node,
            fn=lambda was, s: 0.7 * kl_divergence(before(was), policy(s)),
            parents=(node.parents[0], replace(state, param="1")),
        )
    return other


@pytest.mark.parametrize(("env", "settings"), CASES, ids=lambda x: x if isinstance(x, str) else type(x).__name__)
def test_the_gradient_is_that_of_a_policy_run_again(env: str, settings: Any) -> None:
    nets, graph, rows = prepared(env, settings)
    found = []
    runs: list[int] = []
    hook = nets.policy.register_forward_hook(lambda *_: runs.append(1))
    for form in (graph, run_again(graph, nets.policy, settings, nets)):
        learned = of_sequences(form)
        replayed(learned, rows).surrogate(reduce="mean")  # examined
        runs.clear()
        with scg.examination(again=False):
            surrogate = replayed(learned, rows).surrogate(reduce="mean")
        found.append((len(runs), torch.autograd.grad(surrogate, nets.parameters), surrogate))
    hook.remove()
    (once, mine, value), (again, theirs, other) = found
    assert once == 1 and again == (3 if getattr(settings, "kl_penalty", 0.0) else 2)
    torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-14)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    nets.policy.zero_grad()
    alone = torch.autograd.grad(
        replayed(of_sequences(graph), rows).surrogate("entropy", reduce="mean"), nets.policy.parameters()
    )
    assert max(float(g.abs().max()) for g in alone) > 1e-6


def test_the_entropy_is_no_part_of_the_return() -> None:
    _, graph, _ = prepared(*CASES[0])
    assert graph.structure.window("action", "entropy", live=True) is None
    assert graph.structure.window("action", "gain", live=True) is not None
    _, recurrent, _ = prepared(*CASES[-1])
    assert recurrent.structure.window("action", "entropy", live=True) is None


def test_the_credit_of_an_action_leaves_entropies_out() -> None:
    """Its biased twin reads `dist("action")` beside a live observation, and charges earlier actions for later entropies."""
    env, settings = CASES[0]
    nets, graph, _ = prepared(env, settings)
    vector = envs.make(env, 3)
    block = nets.collect(Rollout(vector, [1, 2, 3], Generator().manual_seed(5)), 10**6)
    given = {k: x.double() if x.is_floating_point() else x for k, x in nets.recording(block).items()}
    given["next_value"] = nets.value(given["next_obs"]).detach()
    twin = graph.with_estimators()
    node = graph.nodes["entropy"]
    twin.nodes["entropy"] = replace(node, parents=(replace(node.parents[0], detached=False, conditional=False),))
    without = replace(settings, entropy_bonus=0.0).graph(nets)
    credits = [replayed(g, given).credit("action") for g in (graph, without, twin)]
    torch.testing.assert_close(credits[0], credits[1], rtol=1e-12, atol=1e-14)
    assert float((credits[2] - credits[1]).abs().max()) > 0.01
