"""Recurrent policies: the graph's gradient is a hand-written loss's, sequences are cut and continued, runs resume bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Generator
from torch.distributions import Categorical

import scg
from scg.agents.a2c import A2C
from scg.agents.commands import cli
from scg.agents.common.agent import OptionError
from scg.agents.common.on_policy import ActorCritic, advantages
from scg.agents.common.recurrence import cut, of_sequences
from scg.agents.dqn import DQN
from scg.agents.environments import envs
from scg.agents.environments.probes import RepeatPrevious
from scg.agents.experience.rollout import Rollout
from scg.agents.ppo import PPO, distance
from scg.agents.reinforce import Reinforce
from scg.agents.training.run_directory import RunDirectory
from scg.agents.trpo import TRPO
from scg.agents.updates.minibatches import columns, replayed

SETTINGS = PPO(
    horizon=12, sequence=4, network="gru", features=6, hidden=(5,), entropy_bonus=0.1, minibatch=8, normalise_obs=False
)


def begun(settings: PPO, seed: int = 0, env: str = "RepeatPrevious-v0", blocks: int = 1):
    """Networks, their graph, and blocks of experience with them."""
    vector = envs.make(env, 3)
    nets = ActorCritic(settings, vector.obs_space, vector.action_space, Generator().manual_seed(seed))
    rollout = Rollout(vector, [1, 2, 3], Generator().manual_seed(seed))
    return nets, [nets.collect(rollout, 10**6) for _ in range(blocks)]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("network", ["gru", "lstm", "residual+gru"])
def test_the_graphs_gradient_is_that_of_a_hand_written_recurrent_loss(network: str, double: None) -> None:
    settings = replace(SETTINGS, network=network)
    nets, blocks = begun(settings, blocks=3)  # an episode of 18 steps begins inside the second block
    block = blocks[1]
    assert block.first[1:].any() and block.memory_start is not None and block.memory_start.any()
    graph = settings.graph(nets)
    with torch.no_grad():  # away from the policy that acted, or no ratio would be clipped
        for parameter in nets.parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=Generator().manual_seed(1)))
    rows = advantages(graph, nets.value, nets.recording(block), sequence=settings.sequence)
    ours = torch.autograd.grad(replayed(of_sequences(graph), rows).surrogate(reduce="mean"), nets.parameters)

    memory, policy, value = nets.policy.memory, nets.policy, nets.value
    read = lambda state: state[..., : memory.features]  # noqa: E731
    state, losses = rows["memory_start"], []
    for t in range(settings.sequence):
        state = state * (~rows["first"][t]).unsqueeze(-1)
        x = memory.encoder(rows["obs"][t])
        if network == "lstm":
            state = torch.cat(
                memory.cell(x.unsqueeze(0), tuple(s.unsqueeze(0).contiguous() for s in state.chunk(2, -1)))[1], -1
            )[0]
        else:
            state = memory.cell(x.unsqueeze(0), state.unsqueeze(0))[1][0]
        pi = Categorical(logits=policy.logits(read(state)))
        ratio = (pi.log_prob(rows["action"][t]) - rows["action.log_prob"][t]).exp()
        advantage = rows["action.credit"][t]
        surrogate = torch.maximum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        error = value.mlp(read(state)).squeeze(-1) - rows["target"][t]
        losses.append(surrogate + 0.25 * error.square() - 0.1 * pi.entropy())
    theirs = torch.autograd.grad(torch.stack(losses).mean(), nets.parameters)
    for mine, by_hand in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, by_hand, rtol=1e-9, atol=1e-12)
    assert all(gradient.abs().max() > 1e-6 for gradient in ours)


def test_advantages_and_targets_are_those_of_a_loop_by_hand() -> None:
    nets, blocks = begun(replace(SETTINGS, scale_reward=False), blocks=3)
    block, memory, value = blocks[1], nets.policy.memory, nets.value
    rows = advantages(SETTINGS.graph(nets), value, nets.recording(block), standardise=False, sequence=4)
    with torch.no_grad():
        states = memory.along_time(block.obs, block.memory_start, block.first)
        after = value(memory(block.next_obs, states, torch.zeros_like(block.first)))
        now = value(states)
    advantage, following = torch.empty_like(now), torch.zeros(3)
    for t in reversed(range(12)):
        error = -block.reward[t] + 0.99 * after[t] * ~block.terminated[t] - now[t]
        ended = block.terminated[t] | block.truncated[t]
        advantage[t] = following = error + 0.99 * 0.95 * following * ~ended
    torch.testing.assert_close(rows["action.credit"], cut(advantage, 4))
    torch.testing.assert_close(rows["target"], cut(advantage + now, 4))


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_sequence_at_once_is_step_after_step(kind: str) -> None:
    nets, (block, *_) = begun(replace(SETTINGS, network=kind, horizon=40))
    memory = nets.policy.memory
    before = torch.randn(3, memory.size)
    at_once, state = memory.along_time(block.obs, before, block.first), before
    for t in range(len(block.obs)):
        state = memory(block.obs[t], state, block.first[t])
        torch.testing.assert_close(at_once[t], state, rtol=1e-4, atol=1e-5)


def test_acting_and_learning_see_the_same_memories() -> None:
    """At the parameters that acted, every ratio is 1, across blocks and episodes, and sequences start where others end."""
    nets, blocks = begun(SETTINGS, blocks=4)
    graph = SETTINGS.graph(nets)
    for block in blocks:
        rows = advantages(graph, nets.value, nets.recording(block), sequence=4)
        assert rows["obs"].shape == (4, 9) and rows["memory_start"].shape == (9, 6)
        assert columns(rows, 8) == (9, 2)
        now = distance(nets.policy, nets.policy, rows, 1e-4)
        assert now["clip_fraction"] == 0.0
    starts = [block.memory_start for block in blocks]
    assert not starts[0].any() and all(start.any() for start in starts[1:])


def test_what_was_seen_before_an_episode_began_changes_nothing_in_it() -> None:
    nets, _ = begun(SETTINGS)
    memory = nets.policy.memory
    obs, first = torch.randint(4, (6, 2)), torch.zeros(6, 2, dtype=torch.bool)
    first[3, 0] = True
    other = obs.clone()
    other[:3] = (obs[:3] + 1) % 4
    start = torch.zeros(2, memory.size)
    one, two = memory.along_time(obs, start, first), memory.along_time(other, start, first)
    assert torch.equal(one[3:, 0], two[3:, 0]) and not torch.allclose(one[3:, 1], two[3:, 1])


def test_cutting_keeps_the_order_of_time() -> None:
    x = torch.arange(24).reshape(12, 2)  # [time, batch]
    assert torch.equal(cut(x, 4)[:, 2], x[4:8, 0]) and torch.equal(cut(x, 4)[:, 5], x[8:12, 1])


@pytest.mark.parametrize("settings", [SETTINGS, A2C(horizon=4, sequence=4, network="lstm", features=6, report=12)])
def test_a_run_goes_on_from_its_state_in_the_same_bits(settings: PPO | A2C) -> None:
    def run() -> tuple:
        vector = envs.make("RepeatPrevious-v0", 3)
        agent = settings.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        return agent, Rollout(vector, [1, 2, 3], Generator().manual_seed(4))

    def advance(agent, rollout) -> None:
        agent.update(agent.collect(rollout, 10**6), 0.0)

    whole, rollout = run()
    for _ in range(2):
        advance(whole, rollout)
    saved = {"agent": whole.state_dict(), "rollout": rollout.state_dict()}
    saved = torch.load(_bytes(saved), weights_only=False)
    for _ in range(2):
        advance(whole, rollout)
    resumed, again = run()
    resumed.load_state_dict(saved["agent"])
    assert again.load_state_dict(saved["rollout"])
    for _ in range(2):
        advance(resumed, again)
    for mine, theirs in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def _bytes(state: dict) -> Path:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer  # type: ignore[return-value]


def test_a_penalty_measures_from_the_memory_before_the_update() -> None:
    settings = replace(SETTINGS, kl_penalty=1.0)
    vector = envs.make("RepeatPrevious-v0", 3)
    agent = settings.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
    rollout = Rollout(vector, [1, 2, 3], Generator().manual_seed(4))
    metrics = agent.update(agent.collect(rollout, 10**6), 0.0)
    assert 0 < metrics["kl"] < 0.1 and metrics["beta"] != 1.0


def test_agents_without_recurrent_updates_say_so() -> None:
    with envs.make("CartPole-v1", 1) as one:
        for settings in (TRPO(network="gru"), DQN(network="gru"), Reinforce(network="gru")):
            with pytest.raises(OptionError, match=r"network is 'gru'.*ppo and a2c do"):
                settings.build(one.obs_space, one.action_space, Generator())


def test_a_memory_solves_what_a_glance_cannot() -> None:
    gym.register(
        "RepeatShort-v0", f"{RepeatPrevious.__module__}:RepeatPrevious", kwargs={"symbols": 2, "delay": 1, "length": 9}
    )

    def score(network: str) -> float:
        with envs.make("RepeatShort-v0", 16) as vector:
            settings = PPO(lr=5e-3, horizon=18, sequence=9, minibatch=96, epochs=4, network=network, features=16, hidden=(16,))
            agent = settings.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
            rollout = Rollout(vector, list(range(16)), Generator().manual_seed(1))
            for _ in range(16):
                agent.update(agent.collect(rollout, 10**6), 0.0)
            block = rollout.episodes(agent.policy, each=4, deterministic=True, log_prob=False)
            return float(np.mean([episode.total for episode in block.episodes]))

    assert score("gru") >= 0.95
    assert score("mlp") < 0.7


def test_a_run_of_commands_resumes_to_the_same_bits_and_its_policy_remembers(tmp_path: Path) -> None:
    short = [
        "--env",
        "RepeatPrevious-v0",
        "--envs",
        "2",
        "--horizon",
        "12",
        "--sequence",
        "4",
        "--features",
        "6",
        "--network",
        "gru",
    ]
    short += ["--evaluations", "1", "--eval-episodes", "2", "--checkpoints", "2"]
    assert cli.train(["ppo", *short, "--steps", "96", "--out", str(tmp_path / "run")]) == 0
    run = RunDirectory.open(tmp_path / "run")
    newest, first = run.checkpoints.paths()[-1], run.checkpoints.paths()[0]
    whole = torch.load(newest, weights_only=False)["agent"]
    for path in run.checkpoints.paths():
        if path != first:
            path.unlink()
    assert cli.train(["--resume", str(tmp_path / "run")]) == 0
    again = torch.load(newest, weights_only=False)["agent"]
    assert all(torch.equal(value, again["policy"][name]) for name, value in whole["policy"].items())
    policy = scg.load(tmp_path / "run")
    memory, obs = policy.module.memory, [0, 1, 3, 2]
    for o in obs:
        policy(o)
    states = memory.along_time(torch.tensor(obs)[:, None], torch.zeros(1, 6), torch.zeros(4, 1, dtype=torch.bool))
    torch.testing.assert_close(policy._recall.now, states[-1].detach())
    policy.reset()
    policy(2)
    torch.testing.assert_close(policy._recall.now, memory(torch.tensor([2]), torch.zeros(1, 6), torch.tensor([True])).detach())
