"""What the on-policy agents share: optimisers, compiled updates, presets, and runs that resume bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import scg
from scg import GraphError
from scg.agents import config_type
from scg.agents.a2c import A2C
from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.execution.compilation import compile_function
from scg.agents.execution.options import OptionError
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience.rollout import Rollout
from scg.agents.npg import NPG
from scg.agents.ppo import PPO, Beta
from scg.agents.training import loop
from scg.agents.training.presets import preset
from scg.agents.training.run_directory import RunConfig, RunDirectory
from scg.agents.trpo import TRPO
from scg.agents.trpo_dual import Dual, TRPODual
from scg.agents.updates import metrics, optimiser
from scg.agents.updates.metrics import NotFinite
from tests.agents.training.test_loop import Killed, assert_same, last_state

SMALL: dict[str, Any] = {"horizon": 16, "hidden": (8,)}
CONFIGS = {
    "a2c": A2C(**SMALL, report=1),
    "npg": NPG(**SMALL, value_epochs=2),
    "ppo": PPO(**SMALL, minibatch=24, epochs=2, kl_penalty=0.5, entropy_bonus=0.01, kl_stop=3.0),
    "trpo": TRPO(**SMALL, value_epochs=2),
    "trpo-dual": TRPODual(**SMALL, minibatch=24, epochs=2),
}


def updated(
    config: Any, env_id: str = "Pendulum-v1", blocks: int = 3, execution: Execution = EAGER
) -> tuple[Any, list[dict[str, float]]]:
    with envs.make(env_id, 2) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0), execution)
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        metrics = [agent.update(agent.collect(rollout, 10_000), 0.1 * i) for i in range(blocks)]
    return agent, metrics


@pytest.mark.parametrize("max_norm", [float("inf"), 0.5])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optimiser.Adam, lambda p: torch.optim.Adam(p, 0.01, eps=1e-5)),
        (optimiser.RMSprop, lambda p: torch.optim.RMSprop(p, 0.01, eps=1e-5)),
    ],
)
def test_the_optimisers_are_torchs(ours: Any, theirs: Any, max_norm: float, double: None) -> None:
    g = Generator().manual_seed(0)
    first = [torch.randn(3, 2, generator=g), torch.randn(4, generator=g)]
    second = [p.clone() for p in first]
    mine, reference = ours(first, max_norm), theirs(second)
    mine.rate.fill_(0.01)
    for _ in range(5):
        gradients = [torch.randn(p.shape, generator=g) for p in first]
        for p, gradient in zip(second, gradients, strict=True):
            p.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_(second, max_norm)
        assert torch.allclose(mine.step(gradients), norm)
        reference.step()
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (PPO(horizon=20, hidden=(8,), minibatch=16, epochs=2), 1),  # 40 rows: the last minibatch is smaller
        (A2C(horizon=20, hidden=(8,)), 3),  # its first block is always eager
    ],
)
def test_a_compiled_update_is_the_eager_one(quick_compiler: None, config: Any, blocks: int) -> None:
    """Parameters and statistics, normaliser included."""
    agents = [updated(config, blocks=blocks, execution=Execution(compile=whole))[0] for whole in (False, True)]
    one, other = ([v for part in ("policy", "value") for v in agent.state[part].state_dict().values()] for agent in agents)
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_stops_the_update() -> None:
    agent, _ = updated(CONFIGS["ppo"], blocks=1)
    with envs.make("Pendulum-v1", 2) as vector:
        block = agent.collect(Rollout(vector, [0, 1], Generator().manual_seed(0)), 100)
    block.reward[3] = float("nan")
    with pytest.raises((NotFinite, GraphError), match="nan|not finite"):
        agent.update(block, 0.0)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_agent_learns_from_its_blocks(name: str, env_id: str) -> None:
    agent, metrics = updated(CONFIGS[name], env_id)
    fresh, _ = updated(CONFIGS[name], env_id, blocks=0)
    for part in ("policy", "value"):
        moved = zip(agent.state[part].parameters(), fresh.state[part].parameters(), strict=True)
        assert all((a != b).any() for a, b in moved), part
    assert {"explained_variance", "grad_norm", "entropy"} <= set(metrics[0])
    assert ("kl" in metrics[0]) == (name != "a2c")
    assert int(agent.policy.encoder.normaliser.count) == 3 * 2 * 16  # every observation once


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Normalisers, reward scale, optimiser, minibatch order and β included; the last block is a short one."""
    options = RunConfig(env="Pendulum-v1", steps=330, envs=2, evaluations=1, eval_episodes=1, checkpoints=4)
    whole, killed = (RunDirectory.create(name, options, CONFIGS[name], tmp_path / path) for path in ("a", "b"))
    loop.train(whole, quiet=True)
    update = loop._Training._update
    for i, last in enumerate((3, 7)):

        def die(self: Any, last: int = last) -> None:
            if self.counters.updates == last:
                raise Killed
            update(self)

        monkeypatch.setattr(loop._Training, "_update", die)
        with pytest.raises(Killed):
            loop.train(RunDirectory.open(killed.path), resume=i > 0, quiet=True)
    monkeypatch.setattr(loop._Training, "_update", update)
    loop.train(RunDirectory.open(killed.path), resume=True, quiet=True)
    assert_same(last_state(whole), last_state(killed))


def test_the_penalty_follows_the_kl() -> None:
    beta = Beta(1.0, target=0.01)
    assert [beta.adapt(kl) for kl in (0.016, 0.015, 0.0067, 0.0066)] == [2.0, 2.0, 2.0, 1.0]
    agent, metrics = updated(PPO(**SMALL, minibatch=32, epochs=1, kl_penalty=1.0, lr=1e-5), blocks=2)
    assert [row["beta"] for row in metrics] == [0.5, 0.25]  # tiny steps: far below the target
    other, _ = updated(PPO(**SMALL, minibatch=32, epochs=1, kl_penalty=1.0, lr=1e-5), blocks=0)
    other.load_state_dict(copy.deepcopy(agent.state_dict()))
    assert other.state["beta"].state_dict() == agent.state["beta"].state_dict()


def test_the_multiplier_ascends_the_dual() -> None:
    """λ moves by α times the violation, and never below zero."""
    multiplier = Dual(1.0, target=0.01, rate=50.0)
    assert [multiplier.adapt(kl) for kl in (0.03, 0.01, 0.0)] == pytest.approx([2.0, 2.0, 1.5])
    assert multiplier.adapt(9.0) == pytest.approx(6.5)  # a violation counts ten δ at most
    assert multiplier.adapt(-10.0) == 0.0
    _, metrics = updated(TRPODual(**SMALL, minibatch=32, epochs=1, lr=1e-6), blocks=2)
    assert [row["beta"] for row in metrics] == pytest.approx([0.5, 0.0], abs=0.02)  # hardly a step: slack
    _, metrics = updated(TRPODual(**SMALL, minibatch=8, epochs=10, lr=3e-2), blocks=2)
    assert metrics[0]["beta"] > 1.5  # long steps: violated
    with pytest.raises(OptionError, match="kl_penalty is 0"):
        TRPODual(kl_penalty=0.0)


@pytest.mark.parametrize("kind", [optimiser.Adam, optimiser.RMSprop])
@pytest.mark.parametrize("ratio", [0.2, 2.0])
def test_the_signal_to_noise_ratio_is_the_gradients(kind: type, ratio: float) -> None:
    """Constant mean, known variance, in so many dimensions that the estimate's own error is about 3 %."""
    g = Generator().manual_seed(0)
    mean = torch.randn(20_000, generator=g, dtype=torch.float64)
    optimiser = kind([torch.zeros_like(mean, requires_grad=True)])
    assert optimiser.signal_to_noise() == 0.0
    for _ in range(7):
        noise = torch.randn(mean.shape, generator=g, dtype=torch.float64) * (mean.square().mean() / ratio).sqrt()
        optimiser.step([mean + noise])
    assert optimiser.signal_to_noise() == pytest.approx(ratio, rel=0.1)
    saved = copy.deepcopy(optimiser.state_dict())
    other = kind([torch.zeros_like(mean, requires_grad=True)])
    other.load_state_dict(saved)
    assert other.signal_to_noise() == optimiser.signal_to_noise()


def test_the_signal_to_noise_ratio_of_parts_is_that_of_their_gradients() -> None:
    """A linear loss in the parameter: each part's gradient is the mean of its rows."""
    w = torch.nn.Parameter(torch.zeros(3))
    graph = scg.Graph()
    graph.observed("x")
    graph.deterministic(lambda x: x @ w, name="loss_of", parents=["x"])
    graph.cost(lambda loss_of: loss_of, name="loss", trains=torch.nn.ParameterList([w]))
    x = torch.randn(1, 8, 3, generator=Generator().manual_seed(0)) + 1.0
    parts = x[0].view(4, 2, 3).mean(1)
    variance = parts.var(0, correction=1).sum()
    signal = parts.mean(0).square().sum() - variance / 4
    found = metrics.parts_signal_to_noise(graph, {"x": x}, [w], "loss")
    assert found == pytest.approx(float(signal / variance), rel=1e-4)
    assert metrics.parts_signal_to_noise(graph, {"x": x[:, :3]}, [w], "loss") == 0.0


def test_early_stopping_skips_epochs_and_the_penalty_holds_the_policy_back() -> None:
    eager = {**SMALL, "minibatch": 8, "epochs": 8, "lr": 0.02, "clip": 0.0}
    _, free = updated(PPO(**eager), blocks=1)
    _, stopped = updated(PPO(**eager, kl_stop=1.5), blocks=1)
    _, held = updated(PPO(**eager, kl_penalty=100.0), blocks=1)
    assert free[0]["epochs"] == 8
    assert stopped[0]["epochs"] < 8
    assert held[0]["kl"] < free[0]["kl"] / 3


def test_presets_are_the_defaults_of_the_flags() -> None:
    options = cli.options_of("ppo", ["--env", "CartPole-v1", "--steps", "1000"])()
    assert options.agent.horizon == 32
    assert not options.execution.compile
    long = cli.options_of("ppo", ["--env", "HalfCheetah-v5", "--steps=200000"])()
    assert (long.agent, long.execution) == (PPO(), Execution(compile=True))
    assert cli.options_of("a2c", ["--env", "HalfCheetah-v5"])().run.envs == 16
    assert cli.options_of("ppo", ["--steps", "x"])().agent.horizon == 32
    assert preset("ppo", "Unknown-v0", 1000) == ({}, {}, {})
    for name in CONFIGS:
        run, config, _ = preset(name, "CartPole-v1", 1000)
        RunConfig(**run), config_type(name)(**config)  # every preset names options that exist


def test_several_seeds_are_several_runs_and_one_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "a2c --steps 320 --envs 4 --hidden 8 --horizon 16 --eval-episodes 1 --seeds 2 --seed 5"
    assert cli.train([*words.split(), "--out", str(tmp_path)]) == 0
    runs = [RunDirectory.open(tmp_path / f"seed{seed}") for seed in (5, 6)]
    assert [run.run.seed for run in runs] == [5, 6]
    assert (tmp_path / "a2c-CartPole-v1.png").exists()
    assert cli.train(["a2c", "--seeds", "0", "--out", str(tmp_path / "none")]) == 2
    assert "option seeds is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("ppo --minibatch 0", "option minibatch is 0. Give a number at least 1."),
        ("ppo --lr -1", "option lr is -1.0. Give a number at least 0."),
        ("a2c --gamma 1.01", "option gamma is 1.01. Give a number between 0 and 1."),
        ("trpo --value-epochs 0", "option value_epochs is 0. Give a number at least 1."),
    ],
)
def test_an_option_that_makes_no_sense_is_one_message(
    argv: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.train([*argv.split(), "--out", str(tmp_path / "run")]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert PPO(gamma=1.0, lam=0.0, clip=0.0, minibatch=1).gamma == 1.0  # the bounds themselves are allowed


def test_recomputed_advantages_follow_the_critic() -> None:
    once, again = (updated(PPO(**SMALL, minibatch=8, epochs=4, recompute=flag), blocks=1)[0] for flag in (False, True))
    assert any((a != b).any() for a, b in zip(once.policy.parameters(), again.policy.parameters(), strict=True))


def test_a_compiled_step_looks_at_the_shapes_and_types_of_its_arguments_and_at_nothing_else(quick_compiler: None):
    """Other shapes are compiled anew; what else the step refers to is read once."""
    weight, setting = torch.full((3,), 2.0), {"factor": 1.0}

    def step(rows, index):
        return setting["factor"] * (rows["x"][index] * weight).sum()

    whole = compile_function(step)
    ones, index = torch.ones(4, 3), torch.arange(2)
    assert float(whole({"x": ones}, index)) == 12.0
    assert float(whole({"x": ones}, torch.arange(3))) == 18.0
    assert whole({"x": ones.double()}, index).dtype is torch.float64
    assert float(whole({"x": ones, "y": ones}, index)) == 12.0
    weight.fill_(3.0)
    setting["factor"] = 7.0
    assert float(whole({"x": ones}, index)) == 18.0
