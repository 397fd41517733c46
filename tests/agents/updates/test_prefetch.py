"""Overlap: a second thread changes who computes, and which policy acts, as said; never what a step computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.distributions import Independent, Normal

import scg
from scg.agents.common.agent import Agent
from scg.agents.common.off_policy import Algorithm, OffPolicyStep
from scg.agents.ddpg import DDPG
from scg.agents.dqn import DQN
from scg.agents.environments import envs
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.execution.options import OptionError
from scg.agents.execution.presampled_noise import presample, recorded_requests, replayed, standard_normal
from scg.agents.execution.settings import Execution
from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.networks.actors import DeterministicPolicy, SquashedPolicy
from scg.agents.networks.critics import QCritics, Temperature, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.squashed_normal import SquashedNormal
from scg.agents.sac import SAC, sac
from scg.agents.soft_q import SoftQ
from scg.agents.td3 import TD3, td3
from scg.agents.training import loop
from scg.agents.training.loop import TrainingStopped
from scg.agents.training.run_directory import RunConfig, RunDirectory
from scg.agents.updates.off_policy_update import OffPolicyUpdate
from scg.agents.updates.prefetch import PolicySnapshot, PrefetchedBlock
from tests.agents.training.test_loop import assert_same

SMALL: dict[str, Any] = {"warmup": 40, "batch": 16, "replay": 200, "hidden": (8,)}
OVERLAP = Execution(overlap=True)
OBS = 3


def minibatch(seed: int, count: int = 16) -> dict[str, Tensor]:
    g = Generator().manual_seed(seed)
    return {
        "obs": torch.randn(count, OBS, generator=g),
        "action": torch.rand(count, 2, generator=g) * 2 - 1,
        "reward": torch.randn(count, generator=g),
        "next_obs": torch.randn(count, OBS, generator=g),
        "discount": torch.full((count,), 0.9),
    }


class Own(nn.Module):
    """A policy that draws by itself."""

    def __init__(self) -> None:
        super().__init__()
        with scg.randomness(Generator().manual_seed(0)):
            self.loc = nn.Linear(OBS, 2)

    def forward(self, obs: Tensor) -> Independent:
        return Independent(Normal(self.loc(obs), 0.3), 1)


def learner(
    name: str, thread: WorkerThread | None, compiled: bool = True, **execution: Any
) -> tuple[OffPolicyUpdate, list[nn.Module]]:
    generator, encoder = Generator().manual_seed(0), Encoder(spaces.Box(-1, 1, (OBS,)))
    critics = QCritics(encoder, 2, (8,), 2, generator)
    target_critics = target_copy(critics)
    if name.startswith("sac"):
        policy, temperature = (
            (Own() if name == "sac, own draws" else SquashedPolicy(encoder, 2, (8,), generator)),
            Temperature(),
        )
        graph = sac(policy, critics, target_critics, temperature, -2.0)
        trained = {"bellman": critics, "soft_policy": policy, "entropy_gap": temperature}
        modules: list[nn.Module] = [policy, critics, target_critics, temperature]
        targets, delay, watched = [(target_critics, critics)], 1, ("q", "log_prob")
    else:
        actor = DeterministicPolicy(encoder, 2, (8,), generator)
        target_actor = target_copy(actor)
        graph = td3(actor, critics, target_actor, target_critics)
        trained = {"bellman": critics, "gain": actor}
        modules = [actor, critics, target_actor, target_critics]
        targets, delay, watched = [(target_critics, critics), (target_actor, actor)], 2, ("q",)
    objectives = {cost: SAC().optimiser(module) for cost, module in trained.items()}
    algorithm = Algorithm(graph, trained, dict(targets), modules[0], modules[0], {}, watched, delay)
    step = OffPolicyStep(algorithm, objectives, 0.05)
    made = OffPolicyUpdate(step, Generator().manual_seed(1), Execution(compile=compiled, **execution), thread)
    made.examine(minibatch(0))
    return made, modules


# -- a step on two threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_a_step_on_two_threads_is_the_step_on_one(name: str, quick_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same noise, same metrics, same parameters, to rounding; and the second thread does have its share."""
    started, start = [], WorkerThread.start
    monkeypatch.setattr(WorkerThread, "start", lambda self, *a: (started.append(a), start(self, *a))[1])
    (one, modules), (two, others) = learner(name, None), learner(name, WorkerThread())
    begun = []
    for i in range(5):
        metrics, error = one(minibatch(i))
        two.begin = lambda: begun.append(True)
        theirs, their_error = two(minibatch(i))
        assert set(theirs[0]) == set(metrics[0])
        assert theirs[0] == pytest.approx(metrics[0], rel=1e-4, abs=1e-6)
        torch.testing.assert_close(their_error, error, rtol=1e-4, atol=1e-6)
    for a, b in zip(modules, others, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-6)
    assert len(begun) == 5
    assert len(started) == (5 if name == "sac" else 3)  # TD3's actor has every second step


@pytest.mark.parametrize(
    ("name", "compiled", "together"),
    [("sac", False, 1), ("sac", True, 2), ("sac, own draws", True, 1)],
    ids=["eager", "steps together", "a graph that draws by itself"],
)
def test_other_steps_stay_on_one_thread(name: str, compiled: bool, together: int, quick_compiler: None) -> None:
    made, _ = learner(name, WorkerThread(), compiled)
    assert made.thread is not None
    made.thread.start = None  # type: ignore[assignment, method-assign]  # a call would fail
    metrics, _ = made({name: torch.cat([x] * together) for name, x in minibatch(0).items()}, together)
    assert len(metrics) == together


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["sac", "td3", "sac, own draws"])
def test_given_noise_is_what_the_generator_would_have_drawn(
    name: str, compiled: bool, together: int, quick_compiler: None
) -> None:
    """As on a GPU, whose own generator no checkpoint has."""
    (drawn, modules), (gave, others) = (learner(name, None, compiled) for _ in range(2))
    gave.presamples = True
    for i in range(4):
        rows = [minibatch(together * i + j) for j in range(together)]
        joined = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
        assert gave(joined, together)[0] == drawn(joined, together)[0]
    for a, b in zip(modules, others, strict=True):
        assert_same(a.state_dict(), b.state_dict())
    assert torch.equal(gave.generator.get_state(), drawn.generator.get_state())


def test_cuda_graphs_keep_what_a_step_changes_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it can be seen without a GPU: the compiler is asked for them, and told all that stays."""
    asked_for, told = [], set()
    monkeypatch.setattr(torch, "compile", lambda f, **kwargs: (asked_for.append(kwargs["options"]), f)[1])
    monkeypatch.setattr(torch._dynamo, "mark_static_address", lambda tensor: told.add(tensor.data_ptr()))
    made, modules = learner("td3", None)
    made.execution = Execution("cuda", compile=True, cuda_graphs=True)
    made(minibatch(0))
    assert [options["triton.cudagraphs"] for options in asked_for] == [True]
    addresses = {p.data_ptr() for module in modules for p in module.parameters()}
    addresses |= {
        t.data_ptr() for adam in made.step.optimisers.values() for t in adam.state_dict().values() if isinstance(t, Tensor)
    }
    assert addresses <= told
    made.execution = Execution(compile=True)
    made(minibatch(1))
    assert "triton.cudagraphs" not in asked_for[-1]
    with pytest.raises(OptionError, match="--cuda-graphs needs --compile and --device cuda"):
        Execution(cuda_graphs=True, compile=True)


def test_draws_that_nobody_can_give_are_noticed() -> None:
    pi = Normal(torch.zeros(3), 1.0)
    assert recorded_requests(lambda: SquashedNormal(torch.zeros(4, 2), torch.zeros(4, 2)).sample()) == [((4, 2), torch.float32)]
    assert recorded_requests(lambda: pi.sample()) is None
    assert recorded_requests(lambda: (standard_normal((5,), torch.zeros(())), pi.sample())) is None
    assert recorded_requests(lambda: None) == []


def test_asking_moves_no_generator_and_given_noise_is_taken_in_order() -> None:
    state = torch.get_rng_state()
    kinds = recorded_requests(
        lambda: [standard_normal((2, 3), torch.zeros(())), standard_normal((4,), torch.zeros((), dtype=torch.float64))]
    )
    assert kinds == [((2, 3), torch.float32), ((4,), torch.float64)]
    assert torch.equal(torch.get_rng_state(), state)
    noise = presample(kinds, Generator().manual_seed(3))
    with replayed(noise):
        assert standard_normal((2, 3), torch.zeros(())) is noise[0]
        assert standard_normal((4,), torch.zeros(())) is noise[1]
    with scg.randomness(Generator().manual_seed(3)):
        assert torch.equal(standard_normal((2, 3), torch.zeros(())), noise[0])  # what one thread would have drawn


# -- collecting meanwhile ----------------------------------------------------------------------------------------


def build(config: Any, env_id: str = "Pendulum-v1") -> tuple[Agent, Rollout, envs.Environments]:
    vector = envs.make(env_id, 1)
    agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0), OVERLAP)
    return agent, Rollout(vector, [0], Generator().manual_seed(0)), vector


def test_a_block_is_collected_before_the_updates_that_run_beside_it_and_learned_after() -> None:
    agent, rollout, vector = build(DDPG(**SMALL, horizon=5, updates=3, noise=0.0))
    with vector:
        agent.update(agent.collect(rollout, 1000), 0.0)
        assert agent.memory is not None
        for i in range(4):
            policy = copy.deepcopy(agent.policy)
            upcoming = agent.collect(rollout, 1000)
            assert isinstance(upcoming, PrefetchedBlock)
            assert (upcoming.steps, agent.memory.count) == (5, 40 + 5 * i)
            agent.update(upcoming, 0.0)
            assert agent.memory.count == 45 + 5 * i
            block = upcoming.block()
            with torch.no_grad():
                torch.testing.assert_close(block.action, policy(block.obs), rtol=1e-5, atol=1e-6)
                assert not torch.allclose(block.action, agent.policy(block.obs), rtol=1e-5, atol=1e-6)


def test_updates_do_not_know_the_block_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, rollout, vector = build(SAC(**SMALL, horizon=2, updates=2))
    with vector:
        agent.update(agent.collect(rollout, 1000), 0.0)
        assert agent.memory is not None
        sizes, rows = [], agent.memory.rows
        monkeypatch.setattr(agent.memory, "rows", lambda index: (sizes.append(len(agent.memory)), rows(index))[1])  # type: ignore[arg-type]
        for _ in range(3):
            agent.update(agent.collect(rollout, 1000), 0.0)
    assert sizes == [40, 42, 44]


def test_a_copy_that_acts_shares_what_is_not_a_weight() -> None:
    agent, rollout, vector = build(DDPG(**SMALL, process="ou"))
    with vector:
        noise = agent.state["noise"]
        for _ in range(3):
            before = noise.state_dict()["last"]
            agent.update(agent.collect(rollout, 1000), 0.0)
        assert not torch.equal(noise.state_dict()["last"], before)
    module = nn.Linear(2, 2)
    ahead = PolicySnapshot(module, {})
    with torch.no_grad():
        module.weight.add_(1.0)
    assert not torch.equal(ahead.policy.weight, module.weight)
    ahead.remember()
    assert torch.equal(ahead.policy.weight, module.weight)


def test_a_pause_changes_no_bit() -> None:
    blocks = []
    for pause in (0.0, 1e-6):
        with envs.make("CartPole-v1", 2) as vector:
            agent = DQN(**SMALL).build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
            rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
            blocks.append(rollout.collect(agent.policy, 60, log_prob=False, pause=pause))
    assert_same(blocks[0].given(), blocks[1].given())


def test_a_fault_of_the_environment_on_the_second_thread_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(
        "sac", RunConfig(env="Pendulum-v1", steps=100, envs=1, eval_episodes=2), SAC(**SMALL), tmp_path / "run", OVERLAP
    )
    collect, blocks = Rollout.collect, iter(range(1000))

    def broken(self: Rollout, *args: Any, **kwargs: Any) -> Block:
        if next(blocks) == 9:
            raise EnvironmentFault("environment 0, step 0 of the block: reward has nan.")
        return collect(self, *args, **kwargs)

    monkeypatch.setattr(Rollout, "collect", broken)
    with pytest.raises(TrainingStopped, match=r"reward has nan(.|\n)*Last good checkpoint: .*step-"):
        loop.train(run, quiet=True)


def test_an_update_that_fails_waits_for_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, rollout, vector = build(SAC(**SMALL, horizon=20))
    call = OffPolicyUpdate.__call__

    def fails(self: OffPolicyUpdate, *args: Any) -> Any:
        call(self, *args)
        raise RuntimeError("after the second thread has begun")

    with vector:
        agent.update(agent.collect(rollout, 1000), 0.0)
        monkeypatch.setattr(OffPolicyUpdate, "__call__", fails)
        upcoming = agent.collect(rollout, 1000)
        with pytest.raises(RuntimeError, match="after the second thread has begun"):
            agent.update(upcoming, 0.0)
        assert isinstance(upcoming, PrefetchedBlock)
        assert upcoming._future is not None
        assert upcoming._future.done()


@pytest.mark.parametrize(
    "config", [SAC(**SMALL), TD3(**SMALL, prioritised=True), SoftQ(**SMALL), DQN(**SMALL, horizon=8, updates=4)]
)
def test_same_seed_same_bits(config: Any) -> None:
    found = []
    for _ in range(2):
        agent, rollout, vector = build(config, "CartPole-v1" if isinstance(config, DQN) else "Pendulum-v1")
        with vector:
            metrics = [agent.update(agent.collect(rollout, 1000), 0.1) for _ in range(8)]
        found.append({"state": agent.state_dict(), "metrics": metrics})
    assert_same(*found)
