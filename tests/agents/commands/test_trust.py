"""A run folder from a stranger: nothing is imported because it says so, and never from the folder itself."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gymnasium as gym
import pytest

import scg
from scg.agents.commands import cli, multigoal, overestimation, trust
from scg.agents.reinforce import Reinforce
from scg.agents.training import loop
from scg.agents.training.run_directory import RunConfig, RunDirectory

SHORT = RunConfig(steps=128, envs=4, evaluations=1, eval_episodes=2, checkpoints=1)

MODULE = """
import gymnasium, pathlib
pathlib.Path({trace!r}).write_text("imported")
gymnasium.register("Strange-v0", entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv", max_episode_steps=9)
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file that a stranger's module writes."""
    return tmp_path / "trace"


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.partition(".")[0] in ("strange_env", "inside", "strangers")]:
        del sys.modules[name]
    gym.registry.pop("Strange-v0", None)


@pytest.fixture
def run(tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A trained run whose folder names a module, which lies where Python finds it."""
    trained = RunDirectory.create("reinforce", SHORT, Reinforce(horizon=16, hidden=(4,)), tmp_path / "runs" / "run")
    loop.train(trained, quiet=True)
    named(trained, "strange_env:Strange-v0")
    put(tmp_path / "modules" / "strange_env.py", trace)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return trained


def named(run: RunDirectory, env_id: str) -> None:
    file = run.path / "config.json"
    file.write_text(file.read_text().replace(f'"env": "{RunDirectory.open(run.path).run.env}"', f'"env": "{env_id}"'))
    assert RunDirectory.open(run.path).run.env == env_id


def put(file: Path, trace: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MODULE.format(trace=str(trace)))


COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "eval": (cli.evaluate, []),
    "video": (cli.video, ["--steps", "1", "--out", "film.gif"]),
    "resume": (cli.train, ["--resume"]),
    "overestimation": (overestimation.overestimation, []),
    "multigoal": (multigoal.multigoal, []),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_terminal_a_module_is_refused_by_name(
    name: str, run: RunDirectory, trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, words = COMMANDS[name]
    assert command([*words, str(run.path)]) == 2
    assert not trace.exists()
    assert capsys.readouterr().err == (
        f"error: run {run.path}: its environment 'strange_env:Strange-v0' imports the Python module 'strange_env' "
        f"({tmp_path / 'modules' / 'strange_env.py'}), whose code then runs. Say --trust if you trust that module.\n"
    )


@pytest.mark.parametrize("name", ["eval", "resume"])
def test_trust_allows_it(name: str, run: RunDirectory, trace: Path) -> None:
    command, words = COMMANDS[name]
    assert command([*words, str(run.path), "--trust"]) == 0
    assert trace.exists()


@pytest.mark.parametrize("name", ["overestimation", "multigoal", "video"])
def test_trust_is_an_option_of_every_command(
    name: str, run: RunDirectory, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command, words = COMMANDS[name]
    assert command([str(run.path), *words, "--trust"]) in (0, 2)  # the agent has no Q, the machine no pygame
    assert trace.exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("YES\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_a_terminal_is_asked(run: RunDirectory, trace: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    said = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", said)
    assert cli.evaluate([str(run.path), "--episodes", "1"]) == code
    assert "imports the Python module 'strange_env'" in said.getvalue()
    assert "Import it? [y/N]" in said.getvalue()
    assert trace.exists() == (code == 0)


def test_an_environment_without_a_module_is_no_question(run: RunDirectory) -> None:
    named(run, "CartPole-v1")
    assert cli.evaluate([str(run.path), "--episodes", "1"]) == 0


@pytest.mark.parametrize("here", [".", "checkpoints"])
def test_nothing_is_imported_from_the_run_folder_also_where_one_stands_in_it(
    run: RunDirectory, trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: str
) -> None:
    named(run, "inside:Strange-v0")
    put(run.path / here / "inside.py", trace)
    monkeypatch.chdir(run.path / here)
    for entry in ("", os.getcwd()):
        sys.path.insert(0, entry)
        assert cli.evaluate([os.path.relpath(run.path), "--trust"]) == 2
        assert "there is no module 'inside' outside of the run folder" in capsys.readouterr().err
    assert os.environ["PYTHONSAFEPATH"]  # for worker processes
    assert not trace.exists()


@pytest.mark.parametrize("env_id", ["run.inside:Strange-v0", "runs.run.inside:Strange-v0"])
def test_a_module_that_lies_in_the_run_folder_is_refused_even_if_trusted(
    run: RunDirectory, trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], env_id: str
) -> None:
    """By a folder above it, whose subfolders are packages without a file."""
    named(run, env_id)
    put(run.path / "inside.py", trace)
    monkeypatch.syspath_prepend(run.path.parent if env_id.startswith("run.") else run.path.parent.parent)
    assert cli.evaluate([str(run.path), "--trust"]) == 2
    assert "lies in the run folder" in capsys.readouterr().err
    assert not trace.exists()


def test_a_link_to_the_run_folder_is_the_run_folder(
    run: RunDirectory, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(run, "inside:Strange-v0")
    put(run.path / "inside.py", trace)
    (tmp_path / "link").symlink_to(run.path)
    for entry, given in ((tmp_path / "link", run.path), (run.path, tmp_path / "link")):
        monkeypatch.syspath_prepend(entry)
        assert cli.evaluate([str(given), "--trust"]) == 2
    assert not trace.exists()


@pytest.mark.parametrize("env_id", [":Strange-v0", ".inside:Strange-v0", "a:b:Strange-v0", "strange_env.:Strange-v0"])
def test_what_is_no_name_of_a_module_is_refused(
    run: RunDirectory, trace: Path, capsys: pytest.CaptureFixture[str], env_id: str
) -> None:
    named(run, env_id)
    assert cli.evaluate([str(run.path), "--trust"]) == 2
    assert "is no module's name" in capsys.readouterr().err
    assert not trace.exists()


def test_a_module_that_is_nowhere_is_said(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    for env_id in ("strangers_nowhere:Strange-v0", "strange_env.deeper:Strange-v0"):
        named(run, env_id)
        assert cli.evaluate([str(run.path), "--trust"]) == 2
        said = capsys.readouterr().err
        assert "there is no module 'strangers_nowhere'" in said or "'strange_env.deeper' cannot be found" in said


def test_plotting_imports_nothing_from_the_run_folder(run: RunDirectory, trace: Path, tmp_path: Path) -> None:
    """`python -m scg` has the current folder on its path; matplotlib is imported late."""
    put(run.path / "matplotlib.py", trace)
    root = Path(scg.__file__).parents[1]
    process = subprocess.run(
        [sys.executable, "-m", "scg", "plot", ".", "--out", str(tmp_path / "curve.png")],
        cwd=run.path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert not trace.exists()


def test_an_interpreter_that_lives_in_the_folder_keeps_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    sys.path[:] = [str(tmp_path), str(tmp_path / "venv" / "lib"), str(tmp_path / "other"), "/elsewhere"]
    trust.keep_out(tmp_path)
    assert sys.path == [str(tmp_path / "venv" / "lib"), "/elsewhere"]
