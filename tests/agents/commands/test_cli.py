"""`scg train`, `scg eval`, `scg plot`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium as gym
import pytest

from scg.agents.commands import cli
from scg.agents.commands.shared import reported
from scg.agents.reinforce import Reinforce
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("runs") / f"seed{seed}" for seed in range(2)]
    for seed, path in enumerate(paths):
        words = f"reinforce --env CartPole-v1 --steps 640 --seed {seed} --envs 4 --horizon 32 --hidden 8 8 --lr 0.01"
        assert cli.train([*words.split(), "--eval-episodes", "2", "--out", str(path)]) == 0
    return paths


def test_every_field_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["reinforce", "--help"]) == 0
    shown = capsys.readouterr().out
    for field in (*dataclasses.fields(RunConfig), *dataclasses.fields(Reinforce)):
        assert f"--{field.name.replace('_', '-')}" in shown, field.name


def test_flags_reach_the_run(trained: list[Path]) -> None:
    run = RunDirectory.open(trained[1])
    assert run.run.seed == 1
    assert run.run.envs == 4
    assert run.run.steps == 640
    assert run.agent == Reinforce(horizon=32, hidden=(8, 8), lr=0.01, scale_reward=False)  # as the preset of CartPole has it


def test_a_run_is_evaluated(trained: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.evaluate([str(trained[0]), "--episodes", "4"]) == 0
    shown = capsys.readouterr().out
    assert "actions: mode, 4 fresh episodes of CartPole-v1" in shown
    assert "return " in shown
    assert cli.evaluate([str(trained[0]), "--episodes", "4", "--actions", "sample", "--best"]) == 0
    assert "best.pt, actions: sample" in capsys.readouterr().out


def test_runs_are_plotted(trained: list[Path], tmp_path: Path) -> None:
    for name in ("curve.png", "curve.pdf"):
        assert cli.plot([*map(str, trained), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 2000


def test_a_run_is_resumed_with_more_steps(trained: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--resume", str(trained[1]), "--steps", "768"]) == 0
    assert "resumed from" in capsys.readouterr().out
    assert RunDirectory.open(trained[1]).run.steps == 768
    assert cli.train(["--steps", "896", "--resume", str(trained[1])]) == 0
    assert RunDirectory.open(trained[1]).run.steps == 896


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "usage: scg train AGENT"),
        (["reinfroce"], "agent 'reinfroce' is unknown. Did you mean 'reinforce'?"),
        (
            ["reinforce", "--env", "CartPol-v1"],
            "environment 'CartPol-v1' is not registered with gymnasium. Nearest: CartPole-v1",
        ),
        (["reinforce", "--gama", "0.9"], "--gamma"),
        (["reinforce", "--eval-episodes", "0"], "option eval_episodes is 0. Give at least 1."),
        (["--resume", "/nonexistent/run"], "no such directory"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing_behind(
    argv: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.train(argv) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scg.agents.training.loop.train", interrupt)
    assert cli.train(["reinforce", "--out", str(tmp_path / "run")]) == 130
    assert f"scg train --resume {tmp_path / 'run'}" in capsys.readouterr().err


class Odd(gym.Env):
    """Spaces that no agent takes."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (1,)), gym.spaces.Sequence(gym.spaces.Discrete(2))


gym.register("Odd-v0", entry_point=Odd)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sac --env CartPole-v1", "action space Discrete(2): this agent needs continuous actions"),
        ("dqn --env Pendulum-v1", "needs discrete actions"),
        ("ppo --env Odd-v0", "is not one array"),
        ("reinforce --env Odd-v0", "is not one array"),
    ],
)
def test_an_environment_that_the_agent_refuses_leaves_nothing_behind(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.train([*words.split(), "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_error_is_told_without_terminal_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    @reported
    def fails(argv: list[str]) -> int:
        raise RunError("one\x1b[2J\ntwo")

    assert fails([]) == 2
    assert capsys.readouterr().err == "error: one\\x1b[2J\ntwo\n"
