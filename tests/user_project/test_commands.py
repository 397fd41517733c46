"""A user's repository, driven by commands from another working directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import scg
from scg import agents, targets
from scg.agents.commands import cli, overestimation
from scg.agents.training import loop
from scg.agents.training.run_directory import RunDirectory, RunError, read_table
from scg.commands.cli import main
from scg.targets import TargetError
from tests.agents.training.test_loop import assert_same, last_state

HERE = Path(__file__).parent
SHORT = ["--env", "Corridor-v0", "--steps", "128", "--envs", "4", "--evaluations", "2", "--eval-episodes", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another working directory, the user's environment registered, float32; what a test imports is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    __import__("corridor")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    torch.set_default_dtype(torch.float32)
    before = list(sys.path)
    yield
    sys.path[:] = before


def mine(name: str) -> str:
    return f"{HERE / 'agents_of_mine.py'}:{name}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A trained run of the user's simplest agent."""
    assert cli.train([mine("simple"), *SHORT, "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["simple", "Smooth", "smooth"])
def test_an_agent_of_ones_own_trains_in_a_directory_named_after_it(name: str, tmp_path: Path) -> None:
    assert cli.train([os.path.relpath(mine(name)), *SHORT]) == 0
    path = tmp_path / "runs" / f"{name}-Corridor-v0-seed0"
    assert json.loads((path / "config.json").read_text())["agent"] == mine(name)
    assert {"graph.png", "curve.png", "metrics.csv"} <= {file.name for file in path.iterdir()}


def test_arguments_with_defaults_and_fields_are_flags(tmp_path: Path) -> None:
    assert cli.train([mine("simple"), *SHORT, "--lr", "0.5", "--horizon", "8", "--out", "a"]) == 0
    assert json.loads(Path("a/config.json").read_text())["config"] == {"lr": 0.5, "horizon": 8}
    assert cli.train([mine("Smooth"), *SHORT, "--weight", "2", "--minibatch", "16", "--out", "b"]) == 0
    config = RunDirectory.open(Path("b"), trusted=True).agent
    assert (config.weight, config.minibatch, config.hidden) == (2.0, 16, (8,))  # type: ignore[attr-defined]


def test_every_command_works_on_such_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.evaluate([str(run), "--episodes", "2", "--trust"]) == 0
    assert cli.evaluate([str(run), "--episodes", "2", "--best", "--trust"]) == 0
    assert cli.train(["--resume", str(run), "--steps", "192", "--trust"]) == 0
    assert cli.plot([str(run), "--out", "curve.png"]) == 0
    assert overestimation.overestimation([str(run), "--trust"]) == 2
    assert "simple has no action values" in capsys.readouterr().err
    assert main(["draw", mine("simple"), "--out", "graph.dot", "--derivation"]) == 0
    assert "∂J/∂θ_action = E[ Σ_t" in capsys.readouterr().out
    assert "cost_to_go" in Path("graph.dot").read_text()
    assert main(["draw", mine("Smooth"), "--out", "smooth.dot"]) == 0
    assert "evenness" in Path("smooth.dot").read_text()


def test_the_critics_of_an_agent_of_ones_own_are_measured(tmp_path: Path) -> None:
    """A subclass of an off-policy agent, whose family's presets it has."""
    words = ["--env", "Pendulum-v1", *SHORT[2:], "--warmup", "32", "--report", "64", "--out", "run"]
    assert cli.train([mine("Narrow"), *words]) == 0
    assert json.loads(Path("run/config.json").read_text())["config"]["lr"] == 1e-3
    assert overestimation.overestimation(["run", "--trust", "--envs", "2", "--states", "start"]) == 0


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    for name in ("simple", "smooth"):
        whole, parts = tmp_path / f"{name}-whole", tmp_path / f"{name}-parts"
        words = [mine(name), "--env", "CartPole-v1", *SHORT[2:], "--checkpoints", "4", "--keep-checkpoints", "0"]
        assert cli.train([*words, "--out", str(whole)]) == 0
        assert cli.train([*words, "--out", str(parts)]) == 0
        for file in sorted((parts / "checkpoints").glob("step-*.pt"))[2:]:
            file.unlink()  # as if it had been killed after the second
        assert cli.train(["--resume", str(parts), "--trust"]) == 0
        ours, theirs = (RunDirectory.open(path, trusted=True) for path in (whole, parts))
        assert_same(last_state(ours), last_state(theirs))


def test_several_seeds_are_one_curve_with_the_agents_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train([mine("simple"), *SHORT, "--seeds", "2", "--out", "both"]) == 0
    assert Path("both/simple-Corridor-v0.png").exists()
    from scg.agents.training.run_groups import grouped

    assert list(grouped([Path("both")])["Corridor-v0"]) == ["simple"]


def test_numbers_of_ones_own_are_columns(run: Path) -> None:
    for row in read_table(run / "metrics.csv"):
        assert row["half_gain"] == row["gain"] / 2
    for row in read_table(run / "evaluations.csv"):
        assert row["half_return"] == row["return"] / 2


@pytest.mark.parametrize(("name", "env"), [("sees", f"{HERE / 'corridor.py'}:Pictured"), ("remembers", "RepeatPrevious-v0")])
def test_agents_with_networks_of_ones_own_train_resume_evaluate_and_load(name: str, env: str) -> None:
    words = ["--env", env, "--steps", "288", "--envs", "4", "--evaluations", "1", "--eval-episodes", "2"]
    assert cli.train([mine(name), *words, "--out", "run"]) == 0
    assert cli.train(["--resume", "run", "--steps", "432", "--trust"]) == 0
    assert cli.evaluate(["run", "--episodes", "2", "--trust"]) == 0
    policy = scg.load("run", trust=True)
    obs = policy.obs_space.sample()
    assert policy.action_space.contains(policy(obs))
    assert hasattr(policy.module, "memory") == (name == "remembers")


class Rude(agents.Callback):
    def after_update(self, now, metrics):  # type: ignore[no-untyped-def]
        return {"episodes": 1.0}


class Late(agents.Callback):
    """A number that comes later than the first row."""

    def after_update(self, now, metrics):  # type: ignore[no-untyped-def]
        return {"late": 7.0} if now.updates > 1 else None


def test_a_column_that_comes_late_is_empty_above_and_one_that_is_taken_is_refused(run: Path) -> None:
    opened = RunDirectory.open(run, trusted=True)
    opened.extend(192)
    loop.train(opened, resume=True, quiet=True, callbacks=[Late()])
    rows = read_table(run / "metrics.csv")
    assert [row["step"] for row in rows] == [64, 128, 192]
    assert [row["late"] for row in rows] == pytest.approx([float("nan"), float("nan"), 7.0], nan_ok=True)
    opened.extend(256)
    with pytest.raises(RunError, match="callback Rude.after_update: 'episodes' is a column already"):
        loop.train(opened, resume=True, quiet=True, callbacks=[Rude()])


def test_training_stops_at_a_return_and_goes_on_from_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SHORT, "--steps", "640", "--evaluations", "10", "--out", "run", "--stop-at-return", "1"]
    assert cli.train([mine("simple"), *words]) == 0
    assert "stopped at step 64: an evaluation's return is" in capsys.readouterr().out
    assert [row["step"] for row in read_table(Path("run/evaluations.csv"))] == [64]
    assert sorted(file.name for file in Path("run/checkpoints").glob("step*")) == [
        "step-000000000000.pt",
        "step-000000000064.pt",
    ]
    assert cli.train(["--resume", "run", "--trust", "--stop-at-return", "1000"]) == 0
    assert [row["step"] for row in read_table(Path("run/evaluations.csv"))] == [64 * i for i in range(1, 11)]


def test_two_files_with_agents_of_one_name_are_two_curves(run: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text((HERE / "agents_of_mine.py").read_text())
    assert cli.train(["other.py:simple", *SHORT, "--out", "other"]) == 0
    from scg.agents.training.run_groups import grouped

    assert set(grouped([run, Path("other")])["Corridor-v0"]) == {mine("simple"), f"{tmp_path / 'other.py'}:simple"}


# -- trust -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(run: Path, tmp_path: Path) -> Path:
    """A run whose agent is a file that leaves a trace where it runs."""
    file = tmp_path / "strange" / "agent.py"
    file.parent.mkdir()
    trace = tmp_path / "trace"
    file.write_text(f"import pathlib\npathlib.Path({str(trace)!r}).write_text('run')\nfrom agents_of_mine import simple\n")
    named(run, f"{file}:simple")
    return run


def named(run: Path, target: str) -> None:
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**content, "agent": target}))


def test_code_that_a_run_names_is_run_only_if_it_is_trusted(
    stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, trace = tmp_path / "strange" / "agent.py", tmp_path / "trace"
    for command, words in ((cli.evaluate, []), (cli.train, ["--resume"]), (cli.video, []), (overestimation.overestimation, [])):
        assert command([*words, str(stranger)]) == 2
        assert capsys.readouterr().err == (
            f"error: run {stranger}: its agent '{file}:simple' runs the Python file {file}, whose code then runs. "
            "Say --trust if you trust that file.\n"
        )
    assert cli.plot([str(stranger), "--out", "curve.png"]) == 0
    with pytest.raises(RunError, match="Say --trust if you trust that file"):
        scg.load(stranger)
    assert not trace.exists()
    assert cli.evaluate([str(stranger), "--episodes", "1", "--trust"]) == 0
    assert trace.exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_file_in_the_run_folder_is_never_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], link: bool
) -> None:
    trace = tmp_path / "trace"
    inside = run / "agent.py"
    inside.write_text(f"open({str(trace)!r}, 'w')")
    place = inside
    if link:
        place = tmp_path / "link.py"
        place.symlink_to(inside)
    named(run, f"{place}:simple")
    assert cli.evaluate([str(run), "--trust"]) == 2
    assert "lies in the run folder, and nothing is imported from there" in capsys.readouterr().err
    assert not trace.exists()


def test_a_module_of_the_run_folder_does_not_stand_in_for_a_trusted_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the command is given in the run folder itself."""
    trace = tmp_path / "trace"
    named(run, "agents_by_module:simple")
    (run / "agents_by_module.py").write_text(f"open({str(trace)!r}, 'w')")
    (tmp_path / "agents_by_module.py").write_text("from agents_of_mine import simple")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.chdir(run)
    assert cli.evaluate([".", "--episodes", "1"]) == 2
    assert cli.evaluate([".", "--episodes", "1", "--trust"]) == 0
    assert not trace.exists()
    del sys.modules["agents_by_module"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (
            "/nowhere/agent.py:simple",
            "there is no file /nowhere/agent.py. Put it back, or write its new path into config.json.",
        ),
        ("agent.py:simple", "the path of its file must be absolute"),
        ("nowhere_at_all:simple", "there is no module 'nowhere_at_all' outside of the run folder"),
        ("a b:simple", "'a b' is no module's name. It has the form module:Name."),
        (mine("gone"), "has no 'gone'"),
        (mine("number"), "is 3, and no agent"),
    ],
)
def test_an_agent_that_is_not_there_any_more_is_one_message(
    run: Path, capsys: pytest.CaptureFixture[str], target: str, says: str
) -> None:
    named(run, target)
    for command in (cli.evaluate, cli.video):
        assert command([str(run), "--trust"]) == 2
        said = capsys.readouterr().err
        assert says in said and f"run {run}" in said


# -- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py:simple", "there is no file nowhere.py"),
        (
            mine("simpel"),
            "has no 'simpel'. Did you mean 'simple'? Agents there: DDPG, PPO, simple, Smooth, smooth, sees, remembers, Narrow",
        ),
        (mine("number"), "is 3, and no agent. An agent is a dataclass derived from scg.agents.AgentConfig"),
        (mine("plain"), "is a function without @scg.agents.agent, and no agent"),
        (mine("OnPolicy"), "has no 'OnPolicy'"),
        ("x.py:", "names no agent: say path/to/model.py:agent"),
    ],
)
def test_a_target_that_is_no_agent_is_one_message(target: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train([target, *SHORT]) == 2
    assert says in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_file_is_run_once_and_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "random.py"  # the name of one of Python's modules
    file.write_text("class A: pass")
    first = targets.found(f"{file}:A")
    assert targets.found("random.py:A") is first
    assert hasattr(sys.modules["random"], "Random")
    file.write_text("class A: pass  # another")
    assert targets.found(f"{file}:A") is not first


def test_a_module_of_the_current_folder_is_written_down_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "lone_module.py").write_text("from agents_of_mine import simple")
    assert cli.train(["lone_module:simple", *SHORT, "--out", "run"]) == 0
    assert RunDirectory.open(Path("run")).name == f"{tmp_path / 'lone_module.py'}:simple"
    del sys.modules["lone_module"]


def test_a_registered_agent_has_a_name_here_and_a_target_in_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_registered", {})
    agents.register("smooth-ppo", agents.config_type(mine("Smooth")))
    agents.register("simplest", mine("simple"))
    assert {"smooth-ppo", "simplest", "ppo"} <= set(agents.names())
    for name, title in (("smooth-ppo", "Smooth"), ("simplest", "simple")):
        assert cli.train([name, *SHORT, "--out", name]) == 0
        assert RunDirectory.open(Path(name)).name == mine(title)
    with pytest.raises(TargetError, match="'ppo' is one of scg's own agents"):
        agents.register("ppo", mine("simple"))
    with pytest.raises(TargetError, match="no name"):
        agents.register("a:b", mine("simple"))
    with pytest.raises(TargetError, match="is 3, and no agent"):
        agents.register("three", 3)


def test_an_installed_package_offers_agents_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trust is asked for: the name leads to what the user installed, whatever the run says."""
    about = tmp_path / "site" / "their_agents-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-agents\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[scg.agents]\ntheirs = agents_of_mine:simple\n")
    monkeypatch.syspath_prepend(about.parent)
    assert "theirs" in agents.names()
    assert cli.train(["theirs", *SHORT, "--out", "run"]) == 0
    assert RunDirectory.open(Path("run")).name == "theirs"
    assert cli.evaluate(["run", "--episodes", "1"]) == 0
    assert main(["draw", "theirs", "--out", "theirs.dot"]) == 0


def test_the_whole_way_in_fresh_processes(tmp_path: Path) -> None:
    """The environment by `module:Id`, the agent by a relative path, evaluated from another folder."""
    root = Path(scg.__file__).parents[1]
    (tmp_path / "other").mkdir()

    def command(*words: str, where: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "scg", *words], cwd=where, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(HERE)])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    words = ["--env", "corridor:Corridor-v0", *SHORT[2:], "--out", str(tmp_path / "run")]
    command("train", "agents_of_mine.py:simple", *words, where=HERE)
    assert "fresh episodes of corridor:Corridor-v0" in command(
        "eval", "../run", "--episodes", "2", "--trust", where=tmp_path / "other"
    )


# -- policies --------------------------------------------------------------------------------------------------------


def test_a_loaded_policy_acts_in_the_environments_units(tmp_path: Path, run: Path) -> None:
    policy = scg.load(run, trust=True)
    env = gym.make("Corridor-v0")
    obs, _ = env.reset(seed=0)
    action = policy(obs)
    assert type(action) is int and env.action_space.contains(action)
    many = policy(np.stack([obs, obs, obs]))
    assert many.tolist() == [action] * 3 and many.dtype == env.action_space.dtype
    drawn = scg.load(run, trust=True, seed=0)(np.stack([obs] * 200), sample=True)
    assert set(drawn.tolist()) == {0, 1}
    assert scg.load(run, trust=True, seed=0)(np.stack([obs] * 200), sample=True).tolist() == drawn.tolist()
    with pytest.raises(ValueError, match=r"obs has shape \(3,\), and the observations of Corridor-v0 have \(2,\)"):
        policy(np.zeros(3))
    with pytest.raises(ValueError, match="obs is a dictionary of x; Corridor-v0 gives an array"):
        policy({"x": obs})


@pytest.mark.parametrize(
    "words", [["ppo", "--hidden", "8"], ["ppo", "--action-bins", "5"], ["ddpg", "--warmup", "32", "--hidden", "8"]]
)
def test_a_loaded_policy_acts_inside_a_box_as_its_evaluation_does(words: list[str]) -> None:
    """On bounds of ±2, with its normaliser: the returns are those of the run's own evaluation."""
    from scg.agents.environments import envs
    from scg.agents.training.evaluation import evaluate

    assert cli.train([*words, "--env", "Pendulum-v1", *SHORT[2:], "--out", "run"]) == 0
    policy, env = scg.load("run"), gym.make("Pendulum-v1")
    opened = policy.run.run
    wanted = evaluate(policy.module, "Pendulum-v1", 2, 0, 1, "mode", opened.action_bins).returns
    for seed, total in zip(envs.seeds(0, "evaluation", 2, 1), wanted, strict=True):
        obs, _ = env.reset(seed=seed)
        found, over = 0.0, False
        while not over:
            action = policy(obs)
            assert env.action_space.contains(action)
            obs, reward, _, over, _ = env.step(action)
            found += float(reward)
        assert found == pytest.approx(total, rel=1e-5)
    batch = policy(np.stack([obs, -obs]), sample=words[0] == "ppo")
    assert batch.shape == (2, 1) and batch.dtype == np.float32 and (np.abs(batch) <= 2).all()


def test_a_loaded_policy_takes_the_dictionaries_of_a_goal_environment() -> None:
    assert cli.train(["sac", "--env", "PointReach-v0", *SHORT[2:], "--warmup", "32", "--hidden", "8", "--out", "run"]) == 0
    policy, env = scg.load("run"), gym.make("PointReach-v0")
    obs, _ = env.reset(seed=0)
    action = policy(obs)
    assert env.action_space.contains(action)
    assert np.allclose(policy({part: np.stack([value] * 3) for part, value in obs.items()}), action)
