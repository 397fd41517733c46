"""An on-policy agent from a graph: what is filled in is what the pages write out, and what cannot be is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn

import scg
from scg import ScoreFunction, detach, prev
from scg.agents import Adam, Agent, StopAtReturn, agent, make_policy, on_policy, reads, value_critic
from scg.agents.common.callbacks import Now
from scg.agents.common.from_graph import Preparation, credited
from scg.agents.common.on_policy import advantages
from scg.agents.common.recorder import Recorder
from scg.agents.common.recurrence import cut, of_sequences
from scg.agents.environments import envs
from scg.agents.execution.options import OptionError
from scg.agents.execution.settings import Execution
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.networks.encoder import obs_normaliser
from scg.agents.networks.normalisers import RewardScale
from scg.agents.ppo import ppo
from scg.agents.training.evaluation import Evaluation
from scg.agents.updates import schedules
from scg.agents.updates.factory import Updates
from scg.agents.updates.minibatches import replayed
from scg.estimators.credit import GAE, MonteCarlo
from scg.targets import TargetError

OBS, ACTION = spaces.Box(-10.0, 10.0, (4,)), spaces.Discrete(2)


def generator() -> Generator:
    return Generator().manual_seed(0)


def nets() -> tuple[nn.Module, nn.Module]:
    draw = generator()
    return make_policy(OBS, ACTION, (8,), draw), value_critic(OBS, (8,), draw)


def plain(policy: nn.Module, credit: Any = None, **settings: Any) -> scg.Graph:
    """A graph of an action and its reward; `credit` "cost_to_go" is an observed node."""
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.stochastic(ScoreFunction(), policy, name="action", parents=["obs"], credit=credit, **settings)
        graph.observed("reward", parents=["obs", "action"])
        if credit == "cost_to_go":
            graph.observed("cost_to_go", parents=["reward"])
        graph.reward(lambda reward: reward, name="gain", trains=policy)
    return graph


def block_of(policy: nn.Module, steps: int = 40, batch: int = 2) -> Block:
    with envs.make("CartPole-v1", batch) as vector:
        return Rollout(vector, list(range(batch)), generator()).collect(policy, steps)


def flat(gradients: Any) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def test_rows_have_the_gradient_of_the_block(double: None) -> None:
    """Also where the action has no credit of its own: it is given one, at γ = 1 the costs downstream of it."""
    for credit in (None, "cost_to_go"):
        policy, value = nets()
        graph = plain(policy, credit)
        exact_graph, graph = graph, credited(graph, 1.0, 0.95)
        prepare = Preparation(graph, Recorder(policy, value, 40, Updates()), 0.9, standardise=False)
        given = prepare.recording(block_of(policy))
        rows = prepare.rows(given)
        whole = {name: x for name, x in given.items() if name.partition(".")[0] in graph.nodes}
        parameters = list(policy.parameters())
        found = flat(torch.autograd.grad(graph.replay(rows).surrogate(reduce="mean"), parameters))
        exact = flat(torch.autograd.grad(exact_graph.replay(whole).surrogate(reduce="mean"), parameters))
        assert exact.norm() > 0 and torch.allclose(found, exact)


def test_a_credit_is_filled_in_by_what_the_graph_observes() -> None:
    policy, value = nets()
    assert credited(plain(policy), 0.9, 0.8).nodes["action"].credit == MonteCarlo(0.9)
    graph = plain(policy)
    with graph.sequence():
        for name in ("terminated", "next_value"):
            graph.observed(name)
        graph.deterministic(value, name="value", parents=["obs"])
    assert credited(graph, 0.9, 0.8).nodes["action"].credit == GAE(discount=0.9, lam=0.8)
    assert graph.nodes["action"].credit is None
    with graph.sequence():
        graph.observed("cost_to_go")
    assert credited(graph, 0.9, 0.8).nodes["action"].credit == "cost_to_go"
    own = ppo(policy, value, GAE(0.5))
    assert credited(own, 0.9, 0.8) is own


def test_the_cost_to_go_is_the_blocks(double: None) -> None:
    policy, value = nets()
    block = block_of(policy)
    for critic in (value, None):
        prepare = Preparation(plain(policy, "cost_to_go"), Recorder(policy, critic, 40, Updates()), 0.9, True)
        nothing = lambda obs: torch.zeros(obs.shape[:-1])  # noqa: E731
        assert torch.allclose(prepare.recording(block)["cost_to_go"], block.cost_to_go(critic or nothing, 0.9))


def test_credits_and_targets_are_those_of_ppos_page(double: None) -> None:
    policy, value = nets()
    graph = ppo(policy, value, GAE(discount=0.9, lam=0.8))
    recorder = Recorder(policy, value, 40, Updates(), RewardScale(0.9))
    block = block_of(policy)
    given = Preparation(graph, recorder, 0.9, True).recording(block)
    found, page = (
        Preparation(graph, recorder, 0.9, True).rows(given),
        advantages(graph, value, {k: x for k, x in given.items() if k != "truncated"}),
    )
    for name in ("action.credit", "target", "obs", "action", "action.log_prob"):
        assert torch.allclose(found[name].to(torch.float64), page[name].to(torch.float64)), name


def test_a_target_is_the_credit_where_no_critic_is_subtracted(double: None) -> None:
    for settings, subtracted in (({"baseline": "value"}, True), ({}, False)):
        policy, value = nets()
        graph = plain(policy, "cost_to_go", **settings)
        with graph.sequence():
            graph.deterministic(value, name="value", parents=["obs"])
            graph.observed("target")
            graph.cost(lambda value, target: (value - target).square(), name="fit", parents=["value", detach("target")])
        prepare = Preparation(graph, Recorder(policy, value, 40, Updates()), 0.9, True)
        given = prepare.recording(block_of(policy))
        rows = prepare.rows(given)
        assert torch.allclose(rows["target"].flatten(), given["cost_to_go"].flatten()), subtracted


def updated(make: Callable[..., Agent], blocks: int = 2) -> tuple[Agent, list[dict[str, float]]]:
    policy, value = nets()
    made = make(policy, value)
    with envs.make("CartPole-v1", 2) as vector:
        rollout = Rollout(vector, [0, 1], generator())
        return made, [made.update(made.collect(rollout, 10_000), 0.25 * i) for i in range(blocks)]


def with_auxiliary(weight: float, **settings: Any) -> Callable[..., Agent]:
    def make(policy: nn.Module, value: nn.Module) -> Agent:
        graph = ppo(policy, value, GAE(discount=0.99, lam=0.95))
        if weight:
            with graph.sequence():

                @graph.cost(trains=policy)
                def auxiliary(obs: Tensor = detach("obs")) -> Tensor:
                    return weight * (policy(obs).probs[..., 0] - 0.9).square()

        actor, critic = Adam(policy.parameters(), rate=1e-2), Adam(value.parameters(), rate=1e-2)
        objectives = {"gain": actor, "regression": critic}
        return on_policy(
            graph, policy=policy, value=value, objectives=objectives, horizon=32, generator=generator(), **settings
        )

    return make


def test_an_auxiliary_cost_is_declared_in_the_graph_and_nowhere_else() -> None:
    """It trains what it says, and nothing else: the critic's first step has the same bits with and without it."""
    (without, _), (with_it, metrics) = updated(with_auxiliary(0.0), 1), updated(with_auxiliary(0.5), 1)
    assert metrics[0]["auxiliary"] > 0
    for part, same in (("policy", False), ("value", True)):
        a, b = (flat(x.state[part].parameters()) for x in (without, with_it))  # type: ignore[attr-defined]
        assert torch.equal(a, b) == same


def test_a_heavy_auxiliary_cost_is_minimised() -> None:
    _, metrics = updated(with_auxiliary(1e4, epochs=20), 6)
    assert metrics[-1]["auxiliary"] < 0.2 * metrics[0]["auxiliary"]


@pytest.mark.parametrize("minibatch", [0, 24])
def test_an_accumulated_gradient_is_the_whole_one(double: None, minibatch: int) -> None:
    agents = [updated(with_auxiliary(0.5, minibatch=minibatch, pieces=pieces))[0] for pieces in (1, 3)]
    a, b = (flat([*x.state["policy"].parameters(), *x.state["value"].parameters()]) for x in agents)  # type: ignore[attr-defined]
    assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_a_compiled_update_is_the_eager_one(quick_compiler: None) -> None:
    agents = [
        updated(with_auxiliary(0.5, minibatch=32, updates=Updates(Execution(compile=compiled))))[0]
        for compiled in (False, True)
    ]
    a, b = (flat([*x.state["policy"].parameters(), *x.state["value"].parameters()]) for x in agents)  # type: ignore[attr-defined]
    assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_rate_follows_its_schedule() -> None:
    made, _ = updated(with_auxiliary(0.0, schedule=schedules.linear(0.5)), 3)
    assert float(made.state["gain_optimiser"].rate) == pytest.approx(1e-2 * 0.75)  # type: ignore[attr-defined]
    assert [schedules.linear(0.2)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])
    assert [schedules.cosine(0.2)(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])
    warm = schedules.warmup(0.2, schedules.linear())
    assert [warm(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0])
    assert schedules.constant(0.7) == 1.0 and schedules.warmup(1.0)(1.0) == 1.0


def test_a_normaliser_inside_the_policy_absorbs_every_observation_once() -> None:
    normaliser = obs_normaliser(OBS)
    assert normaliser is not None
    policy = make_policy(OBS, ACTION, (8,), generator(), normaliser)
    adam = Adam(policy.parameters(), rate=1e-3)
    made = on_policy(plain(policy, "cost_to_go"), policy=policy, objectives={"gain": adam}, horizon=32)
    with envs.make("CartPole-v1", 2) as vector:
        rollout = Rollout(vector, [0, 1], generator())
        for _ in range(3):
            made.update(made.collect(rollout, 10_000), 0.0)
    assert int(normaliser.count) == 3 * 64


def refused(says: str, graph: scg.Graph, policy: nn.Module, **settings: Any) -> None:
    given = {"objectives": {"gain": Adam(policy.parameters())}, **settings}
    with pytest.raises(OptionError, match=says):
        on_policy(graph, policy=policy, **given)


def test_what_cannot_be_filled_in_is_refused_by_name() -> None:
    policy, value = nets()
    refused("has no stochastic node 'action'", scg.Graph(), policy)
    headless = scg.Graph()
    with headless.sequence():
        headless.observed("obs")
        headless.stochastic(ScoreFunction(), policy, name="action", parents=["obs"])
    refused('Open the sequence with `graph.sequence\\(first="first"\\)`', headless, policy)
    strange = plain(policy)
    with strange.sequence():
        strange.observed("pixels")
    refused("the graph observes 'pixels', which a block does not have. It has first, terminated", strange, policy)
    refused("observes 'next_value', which needs a critic", ppo(policy, value, GAE(0.9)), policy)
    refused("minibatches are drawn in a random order. Give generator=", plain(policy), policy, minibatch=8)
    refused(
        "objective 'gian' is no cost of the graph, which has gain",
        plain(policy),
        policy,
        objectives={"gian": Adam(policy.parameters())},
    )
    extra = plain(policy)
    with extra.sequence():
        extra.cost(lambda obs: value(obs), name="other", parents=["obs"], trains=value)
    refused("no optimiser holds what cost 'other' trains", extra, policy)
    both = {"gain": Adam(policy.parameters()), "other": Adam(value.parameters())}
    refused("the optimiser of 'other' trains parameters that no checkpoint would hold", extra, policy, objectives=both)
    assert "other" in on_policy(extra, policy=policy, objectives=both, state={"other": value}).state
    unclear = plain(policy, "cost_to_go", baseline=1.0)
    with unclear.sequence():
        unclear.observed("target")
    prepare = Preparation(unclear, Recorder(policy, value, 40, Updates()), 0.9, True)
    with pytest.raises(OptionError, match="the action's baseline is 1.0"):
        prepare.rows(prepare.recording(block_of(policy)))


# -- from a function -------------------------------------------------------------------------------------------------


def test_a_function_becomes_a_config_whose_options_are_its_defaults() -> None:
    @agent
    def mine(obs_space, action_space, generator, lr: float = 0.5, hidden: tuple[int, ...] = (4,)):  # type: ignore[no-untyped-def]
        """Said of it."""
        policy = make_policy(obs_space, action_space, hidden, generator)
        return on_policy(plain(policy), policy=policy, objectives={"gain": Adam(policy.parameters(), rate=lr)})

    config = mine(lr=0.25)
    assert (config.lr, config.hidden, mine.__doc__, mine.__name__) == (0.25, (4,), "Said of it.", "mine")
    assert isinstance(config.build(OBS, ACTION, generator()), Agent)
    assert "gain" in mine.__graph__().nodes
    with pytest.raises(OptionError, match="option hidden is 0"):
        mine(hidden=(0,)).build(OBS, ACTION, generator())
    with pytest.raises(OptionError, match="option --compile: the updates of mine cannot be executed so"):
        mine().build(OBS, ACTION, generator(), Execution(compile=True))


def test_a_function_that_makes_no_agent_says_so() -> None:
    with pytest.raises(TargetError, match="agent odd: argument 'lr' has no default, and is none of obs_space"):

        @agent
        def odd(obs_space: gym.Space, lr: float) -> None: ...

    @agent
    def empty(obs_space: gym.Space) -> None: ...

    with pytest.raises(TargetError, match=r"agent empty: it returned NoneType, not an Agent. End it with `return on_policy"):
        empty().build(OBS, ACTION, generator())


def test_a_run_is_stopped_at_a_return_and_not_below() -> None:
    for level, stopped in ((2.0, True), (2.01, False)):
        now = Now(None, None)  # type: ignore[arg-type]
        StopAtReturn(level).after_evaluation(now, Evaluation([1.0, 3.0], [1, 1]))
        assert bool(now.reasons) == stopped


# -- memories ----------------------------------------------------------------------------------------------------------


def recurrent(credit: Any = None, critic: bool = False) -> tuple[scg.Graph, nn.Module, nn.Module | None]:
    draw = generator()
    policy = make_policy(OBS, ACTION, (5,), draw, network="gru", features=6)
    value = value_critic(OBS, (5,), draw, memory=policy.memory) if critic else None  # type: ignore[arg-type]
    if critic:
        return ppo(policy, value, GAE(discount=0.9, lam=0.8)), policy, value  # type: ignore[arg-type]
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.stochastic(ScoreFunction(), policy, name="action", parents=[reads(graph, policy)], credit=credit)
        graph.observed("reward", parents=["obs", "action"])
        graph.reward(lambda reward: reward, name="gain", trains=policy)
    return graph, policy, value


def recurrent_block(policy: nn.Module, steps: int) -> Block:
    with envs.make("CartPole-v1", 2) as vector:
        rollout = Rollout(vector, [1, 2], generator())
        rollout.collect(policy, 5)
        return rollout.collect(policy, steps)


def test_sequences_have_the_gradient_of_a_loss_written_step_by_step(double: None) -> None:
    """−Σ log π(action_t | memory_t) · standardised credit_t, cut where the memory is."""
    graph, policy, _ = recurrent()
    block = recurrent_block(policy, 40)
    assert block.first[1:].any() and block.memory_start is not None and block.memory_start.any()
    recorder = Recorder(policy, None, 40, Updates())
    prepare = Preparation(credited(graph, 0.9, 0.8), recorder, 0.9, True, sequence=8)
    rows = prepare.rows(prepare.recording(block))
    assert rows["action"].shape == (8, 10)
    parameters = list(policy.parameters())
    ours = torch.autograd.grad(replayed(of_sequences(prepare.graph), rows).surrogate("gain", reduce="mean"), parameters)
    cost = block.cost_to_go(lambda obs: torch.zeros(len(obs)), 0.9)
    credit = cut((cost - cost.mean()) / (cost.std() + 1e-8), 8)
    state, loss = rows["memory_start"], torch.zeros(())
    for t in range(8):
        state = policy.memory(rows["obs"][t], state, rows["first"][t])  # type: ignore[operator]
        loss = loss + (policy(state).log_prob(rows["action"][t]) * credit[t]).sum() / 80
    for mine, theirs in zip(ours, torch.autograd.grad(loss, parameters), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)
    forgetful = {**rows, "memory_start": torch.zeros_like(rows["memory_start"])}  # the twin
    other = torch.autograd.grad(replayed(of_sequences(prepare.graph), forgetful).surrogate("gain", reduce="mean"), parameters)
    assert not torch.allclose(other[0], ours[0], rtol=1e-3)


def test_credits_and_targets_of_sequences_are_those_of_ppos_page(double: None) -> None:
    graph, policy, value = recurrent(critic=True)
    block = recurrent_block(policy, 32)
    recorder = Recorder(policy, value, 32, Updates())
    prepare = Preparation(graph, recorder, 0.9, True, sequence=8)
    given = prepare.recording(block)
    wanted = advantages(graph, value, recorder.with_empty_target(recorder.raw(block)), sequence=8)  # type: ignore[arg-type]
    found = prepare.rows(given)
    for name in ("action.credit", "target", "memory_start", "obs", "next_value"):
        assert torch.allclose(found[name], wanted[name], atol=1e-12), name


def test_a_recurrent_graph_trains_and_one_without_its_memory_is_refused() -> None:
    graph, policy, value = recurrent(critic=True)
    adam = Adam([*dict.fromkeys([*policy.parameters(), *value.parameters()])], rate=1e-2)  # type: ignore[union-attr]
    options = {"policy": policy, "value": value, "horizon": 32, "sequence": 8, "generator": generator()}
    made = on_policy(
        graph, objectives={"gain": adam, "regression": adam}, epochs=2, minibatch=16, updates=Updates(Execution(compile=True)), **options
    )  # fmt: skip
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    with envs.make("CartPole-v1", 2) as vector:
        rollout = Rollout(vector, [1, 2], generator())
        for _ in range(2):
            metrics = made.update(made.collect(rollout, 10**6), 0.0)
    assert metrics["grad_norm"] > 0 and "explained_variance" in metrics
    assert all(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    bare = plain(policy)
    with pytest.raises(OptionError, match="the policy has a memory, and the graph no node that computes it"):
        on_policy(bare, objectives={"gain": Adam(policy.parameters(), rate=1e-3)}, **options)  # type: ignore[arg-type]
