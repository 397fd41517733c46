"""What holds for every off-policy agent beyond SAC, TD3 and DDPG: objectives keep apart, runs resume, and it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from scg.agents import AGENTS, config_type
from scg.agents.commands import cli
from scg.agents.common.agent import Agent
from scg.agents.crossq import CrossQ
from scg.agents.double_q import DoubleQ
from scg.agents.dqn import DQN
from scg.agents.environments import envs
from scg.agents.execution.settings import Execution
from scg.agents.experience import acting
from scg.agents.experience.buffers import example_rows
from scg.agents.experience.exploration import uniform_policy
from scg.agents.experience.rollout import Rollout
from scg.agents.naf import NAF
from scg.agents.redq import REDQ
from scg.agents.sac_discrete import DiscreteSAC
from scg.agents.sac_v1 import SACv1
from scg.agents.soft_q import SoftQ
from scg.agents.svg import SVG
from scg.agents.tqc import TQC
from scg.agents.training import loop
from scg.agents.training.presets import preset
from scg.agents.training.run_directory import RunConfig, RunDirectory
from scg.agents.updates.off_policy_update import OffPolicyUpdate
from tests.agents.common.test_off_policy import LEARNING, Matching
from tests.agents.training.test_loop import Killed, assert_same, last_state

SMALL: dict[str, Any] = {"hidden": (8,), "batch": 8, "warmup": 40, "replay": 60, "report": 24, "horizon": 2}
FEW = {"particles": 3, "proposals": 4}
CONFIGS: dict[str, tuple[str, int, Any]] = {
    "dqn": ("CartPole-v1", 0, DQN(**SMALL, prioritised=True, n_step=3, target_every=5)),
    "dqn bins": ("MultiGoal-v0", 3, DQN(**SMALL, double=False)),
    "sac-discrete": ("CartPole-v1", 0, DiscreteSAC(**SMALL)),
    "sac-v1": ("Pendulum-v1", 0, SACv1(**SMALL)),
    "soft-q": ("MultiGoal-v0", 0, SoftQ(**SMALL, **FEW)),
    "svg": ("Pendulum-v1", 0, SVG(**SMALL, twin=True)),
    "naf": ("MultiGoal-v0", 0, NAF(**SMALL)),
    "double-q": ("Pendulum-v1", 0, DoubleQ(**SMALL)),
    "double-q ddqn": ("Pendulum-v1", 0, DoubleQ(**SMALL, remedy="ddqn-ac")),
    "crossq": ("Pendulum-v1", 0, CrossQ(**SMALL, critic_hidden=(4,), renorm_from=3)),
    "tqc": ("Pendulum-v1", 0, TQC(**SMALL, critics=2, quantiles=3, drop=1, prioritised=True)),
    "redq": ("Pendulum-v1", 0, REDQ(**SMALL, critics=3, updates=2)),
}


def built(name: str) -> tuple[Agent, dict[str, Tensor]]:
    env_id, bins, config = CONFIGS[name]
    with envs.make(env_id, 1, bins=bins) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        return agent, example_rows(
            vector.obs_space, uniform_policy(vector.action_space), Generator().manual_seed(1), config.prioritised, rows=5
        )


# -- objectives ------------------------------------------------------------------------------------------------

SOFT = {"bellman": {"critics"}, "soft_policy": {"policy"}, "entropy_gap": {"temperature"}}
TRAINED = {
    "dqn": {"bellman": {"critic"}},
    "dqn bins": {"bellman": {"critic"}},
    "sac-discrete": {"bellman": {"critics"}, "soft_policy": {"policy"}, "entropy_gap": {"temperature"}},
    "sac-v1": {"bellman": {"critics"}, "regression": {"value"}, "soft_gain": {"policy"}},
    "soft-q": {"bellman": {"critics"}, "stein": {"policy"}},
    "svg": {"bellman": {"critics"}, "gain": {"policy"}},
    "naf": {"bellman": {"critic"}},
    "double-q": {"bellman": {"critics"}, "gain": {"policy", "second_policy"}},
    "double-q ddqn": {"bellman": {"critics"}, "gain": {"policy"}},
    "crossq": {"moments": {"critics"}, **SOFT},
    "tqc": SOFT,
    "redq": SOFT,
}


@pytest.mark.parametrize(("name", "cost"), [(name, cost) for name, costs in TRAINED.items() for cost in costs])
def test_each_objective_leaves_a_gradient_in_what_it_trains_alone(name: str, cost: str) -> None:
    agent, rows = built(name)
    agent.graph.sample(**rows).surrogate(cost).backward()
    modules = {part: module for part, module in agent.state.items() if isinstance(module, nn.Module)}
    reached = {part for part, module in modules.items() if any(p.grad is not None for p in module.parameters())}
    assert reached == TRAINED[name][cost]
    for part in reached:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in modules[part].parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_all_objectives_together_give_each_its_own_gradient(name: str) -> None:
    """What the learner differentiates is their sum."""
    agent, rows = built(name)
    parameters = [p for part in agent.state.values() if isinstance(part, nn.Module) for p in part.parameters()]
    parameters = [p for p in parameters if p.requires_grad]
    separate = [torch.zeros_like(p) for p in parameters]

    def gradients(*costs: str) -> list[Tensor]:
        surrogate = agent.graph.sample(generator=Generator().manual_seed(2), **rows).surrogate(*costs)
        found = torch.autograd.grad(surrogate, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    for cost in TRAINED[name]:
        separate = [a + b for a, b in zip(separate, gradients(cost), strict=True)]
    for a, b in zip(separate, gradients(*TRAINED[name]), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_whole_update_can_be_compiled(quick_compiler: None) -> None:
    """In one piece, to the numbers of the eager one: with a backend that changes no kernel, so that it takes no time."""
    ends = []
    for whole in (False, True):
        agent, rows = built("soft-q")
        learner = agent.state["learner"]
        assert isinstance(learner, OffPolicyUpdate)
        learner.execution = Execution(compile=whole)
        for _ in range(2):
            learner(rows)
        ends.append([p for part in agent.state.values() if isinstance(part, nn.Module) for p in part.parameters()])
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


# -- runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    env_id, bins, config = CONFIGS[name]
    short = RunConfig(env=env_id, steps=112, envs=1, action_bins=bins, evaluations=1, eval_episodes=1, checkpoints=4)
    whole, killed = (RunDirectory.create(name.partition(" ")[0], short, config, tmp_path / w) for w in ("whole", "killed"))
    monkeypatch.setattr(loop, "draw", lambda *_: None)  # pictures take most of the time
    monkeypatch.setattr(loop.curves, "plot", lambda *_: None)
    loop.train(whole, quiet=True)
    update = loop._Training._update

    def die(self: Any) -> None:
        if self.counters.step >= 72:
            raise Killed
        update(self)

    monkeypatch.setattr(loop._Training, "_update", die)
    with pytest.raises(Killed):
        loop.train(killed, quiet=True)
    monkeypatch.setattr(loop._Training, "_update", update)
    loop.train(RunDirectory.open(killed.path), resume=True, quiet=True)
    assert_same(_state(whole), _state(killed))


def _state(run: RunDirectory) -> dict[str, Any]:
    """The last checkpoint, and the replay buffer that it restores."""
    state = last_state(run)
    with envs.make(run.run.env, 1, bins=run.run.action_bins) as vector:
        memory = loop.build(run, vector).memory
    assert memory is not None
    memory.load(run.path / "replay", state.pop("memory"))
    drawn = memory.sample(32, Generator().manual_seed(0)).rows
    return {**state, "memory": memory.rows(torch.arange(len(memory))), "drawn": drawn}


def test_from_the_command_line_continuous_actions_are_quantised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--env", "Pendulum-v1", "--steps", "48", "--warmup", "40", "--batch", "4", "--hidden", "4"]
    flags += ["--evaluations", "1", "--eval-episodes", "1"]
    assert cli.train(["dqn", *flags, "--action-bins", "3", "--out", str(tmp_path / "dqn")]) == 0
    assert cli.evaluate([str(tmp_path / "dqn"), "--episodes", "1", "--actions", "sample"]) == 0
    assert cli.train(["dqn", *flags, "--out", str(tmp_path / "no")]) == 2
    assert "Quantise it with --action-bins" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["crossq", "double-q", "dqn", "naf", "redq", "sac-discrete", "sac-v1", "soft-q", "svg", "tqc"])
def test_presets_are_options_that_exist(name: str) -> None:
    assert name in AGENTS
    for env_id in ("HalfCheetah-v5", "Pendulum-v1", "CartPole-v1", "MultiGoal-v0"):
        run, options, _ = preset(name, env_id, 1000)
        RunConfig(**run), config_type(name)(**options)
        assert run["envs"] == 1


# -- learning --------------------------------------------------------------------------------------------------

assert Matching  # registers Matching-v0: one step an episode, reward −(a − obs/2)²
ONCE = {**LEARNING, "batch": 32, "gamma": 0.5}  # nothing follows the one step: the discount only sizes NAF's unit


@pytest.mark.parametrize(
    ("config", "bins"),
    [
        (SVG(**ONCE, noise=0.1), 0),
        (SACv1(**ONCE, alpha=0.01), 0),
        (SoftQ(**ONCE, alpha=0.01), 0),
        (NAF(**ONCE), 0),
        (DoubleQ(**ONCE), 0),
        (DoubleQ(**ONCE, remedy="ddqn-ac"), 0),
        (DQN(**ONCE), 9),
        (DiscreteSAC(**ONCE, alpha=0.01, learn_alpha=False), 9),
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'remedy', '')}",
)
def test_it_learns(config: Any, bins: int) -> None:
    """250 updates on a problem whose best action is obs/2. Without learning, the mean square stays above 0.08."""
    with envs.make("Matching-v0", 1, bins=bins) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [0], Generator().manual_seed(0))
        for _ in range(250):
            agent.update(agent.collect(rollout, 10_000), 0.0)
    obs = np.linspace(-1, 1, 41, dtype=np.float32)[:, None]
    action = acting.mode(agent.policy)(obs)
    action = np.linspace(-1, 1, bins)[action][:, None] if bins else action
    assert np.mean((action - obs / 2) ** 2) < (0.02 if bins else 0.01)
