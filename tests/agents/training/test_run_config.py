"""`config.json`: complete, typed, with a version, and rewritten by nothing that fails."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scg.agents import AGENTS, config_type
from scg.agents.commands import cli
from scg.agents.execution.settings import Execution
from scg.agents.reinforce import Reinforce
from scg.agents.training import loop
from scg.agents.training.presets import preset
from scg.agents.training.run_config import VERSION, Settings, read, written
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError, write_json

SHORT = RunConfig(steps=128, envs=4, evaluations=1, eval_episodes=2, checkpoints=1)
SMALL = Reinforce(horizon=16, hidden=(4,))

Content = dict[str, Any]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create("reinforce", SHORT, SMALL, tmp_path / "run")


def changed(run: RunDirectory, change: Callable[[Content], object]) -> Path:
    content = json.loads((run.path / "config.json").read_text())
    change(content)
    write_json(run.path / "config.json", content)
    return run.path


def test_every_field_is_written(run: RunDirectory) -> None:
    content = json.loads((run.path / "config.json").read_text())
    assert content["version"] == VERSION
    for section, kind in (("run", RunConfig), ("config", Reinforce), ("execution", Execution)):
        assert [*content[section]] == [field.name for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v5", "Pendulum-v1", "Tetris-v0"])
def test_the_settings_of_every_agent_are_read_as_they_were_written(env_id: str) -> None:
    for name in AGENTS:
        run, config, execution = preset(name, env_id, 1_000_000)
        settings = Settings(name, RunConfig(**run), config_type(name)(**config), Execution(**execution))
        content = json.loads(json.dumps(written(settings)))
        assert read(content, "here", pytest.fail) == settings


@pytest.mark.parametrize("section", ["run", "config", "execution"])
def test_any_missing_option_is_named(run: RunDirectory, section: str) -> None:
    whole = json.loads((run.path / "config.json").read_text())
    for key in whole[section]:
        write_json(run.path / "config.json", {**whole, section: {k: v for k, v in whole[section].items() if k != key}})
        with pytest.raises(RunError, match=rf"config\.json: {section}\.{key} is missing"):
            RunDirectory.open(run.path)
    changed(run, lambda content: content.pop(section))
    with pytest.raises(RunError, match=rf"config\.json: {section} is missing"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("run", "steps", True, "run.steps is true, expected an integer"),
        ("run", "steps", 5.5, "run.steps is 5.5, expected an integer"),
        ("run", "steps", "128", 'run.steps is "128", expected an integer'),
        ("run", "steps", None, "run.steps is null, expected an integer"),
        ("run", "steps", 0, "option steps is 0. Give at least 1."),
        ("run", "eval_actions", "modes", 'run.eval_actions is "modes", expected "mode" or "sample"'),
        ("run", "env", "a\x1b[2J", r'run.env is "a\u001b[2J", expected printable text'),
        ("config", "lr", True, "config.lr is true, expected a number"),
        ("config", "lr", "x" * 100, f'config.lr is "{"x" * 56}…, expected a number'),
        ("execution", "compile", 1, "execution.compile is 1, expected true or false"),
        ("config", "hidden", [8, 8.5], "config.hidden is [8, 8.5], expected a list, of each entry an integer"),
        ("config", "hidden", 8, "config.hidden is 8, expected a list"),
        ("execution", "threads", False, "execution.threads is false, expected an integer"),
        ("execution", "thread", 1, "Execution has no option 'thread'. Did you mean 'threads'?"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_is_expected(
    run: RunDirectory, section: str, key: str, value: Any, said: str
) -> None:
    changed(run, lambda content: content[section].update({key: value}))
    with pytest.raises(RunError) as caught:
        RunDirectory.open(run.path)
    assert str(caught.value).startswith(f"run {run.path}: config.json: {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], r"found \[\], expected an object"),
        ({"version": 4}, "version is 4, this scg reads versions up to 3. Update"),
        ({"version": True}, "version is true"),
        ({"version": 2, "agent": "reinforc", "run": {}, "config": {}, "execution": {}}, "no agent of this scg. Did you mean"),
        ({"version": 2, "agent": [], "run": {}, "config": {}, "execution": {}}, r"agent is \[\], which is no agent"),
        ({"version": 2, "agent": "ppo", "run": 3, "config": {}, "execution": {}}, "section 'run' is 3, expected an object"),
        ({"version": 2, "agent": "ppo", "runs": {}}, "no section is called 'runs'. Did you mean 'run'"),
        ({"agent": "ppo", "run": 3, "config": {}}, "section 'run' is 3, expected an object"),
        ({"run": {}, "config": {}}, "agent is missing"),
    ],
)
def test_a_file_of_another_form_is_one_message(
    run: RunDirectory, content: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(run.path / "config.json", content)
    with pytest.raises(RunError, match=said):
        RunDirectory.open(run.path)
    assert cli.evaluate([str(run.path)]) == 2
    assert capsys.readouterr().err.startswith("error: run")


def test_a_value_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    for settings in (dataclasses.replace(SHORT, steps=5.5), dataclasses.replace(SHORT, steps=True)):  # type: ignore[arg-type]
        with pytest.raises(RunError, match="run.steps is (5.5|true), expected an integer"):
            RunDirectory.create("reinforce", settings, SMALL, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def old(content: Content) -> None:
    """As a file was before versions: some options did not exist, `execution` was no section yet."""
    del content["version"], content["run"]["eval_steps"], content["config"]["lr"]
    content["config"]["compile"] = content["execution"]["compile"]
    content["run"]["threads"] = 2
    del content["execution"]


def test_a_file_without_a_version_is_migrated_and_what_is_assumed_is_said(run: RunDirectory) -> None:
    said: list[str] = []
    opened = RunDirectory.open(changed(run, old), said.append)
    assert opened.execution == Execution(threads=2)
    assert opened.run == SHORT
    assert opened.agent == SMALL
    assert any("run.eval_steps is missing from this file of an older scg; assumed: 10000" in text for text in said)
    assert any("config.lr is missing" in text for text in said)
    changed(run, lambda content: content["config"].update(horizn=3))
    with pytest.raises(RunError, match="Reinforce has no option 'horizn'. Did you mean 'horizon'"):
        RunDirectory.open(run.path)


def test_a_resumed_run_of_an_older_scg_has_a_complete_file(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run.path / "config.json").read_bytes()
    loop.train(run, quiet=True)
    changed(run, lambda content: (content.pop("version"), content["run"].pop("eval_steps")))
    assert cli.train(["--resume", str(run.path)]) == 0
    assert "run.eval_steps is missing" in capsys.readouterr().err
    assert (run.path / "config.json").read_bytes() == before


@pytest.mark.parametrize("how", ["nothing to resume from", "fewer than done", "no environment"])
def test_a_resumption_that_fails_has_rewritten_nothing(run: RunDirectory, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    loop.train(run, quiet=True)
    steps, said = "256", "no usable checkpoint"
    if how == "nothing to resume from":
        for path in run.checkpoints.paths():
            path.write_bytes(b"damaged")
    elif how == "fewer than done":
        steps, said = "64", "option steps is 64, but run"
    else:
        changed(run, lambda content: content["run"].update(env="Nowhere-v0"))
        said = "environment 'Nowhere-v0' is not registered"
    before = (run.path / "config.json").read_bytes()
    assert cli.train(["--resume", str(run.path), "--steps", steps]) == 2
    assert said in capsys.readouterr().err
    assert (run.path / "config.json").read_bytes() == before


def test_the_same_number_of_steps_may_be_asked_again(run: RunDirectory) -> None:
    loop.train(run, quiet=True)
    assert cli.train(["--resume", str(run.path), "--steps", "128"]) == 0


@pytest.mark.parametrize("content", [None, "{", "[]", '{"numpy": "\\u001b[2J"}'])
def test_versions_that_cannot_be_read_are_a_warning(run: RunDirectory, content: str | None) -> None:
    file = run.path / "versions.json"
    file.unlink() if content is None else file.write_text(content)
    said = " ".join(run.changed_versions())
    assert said.isprintable()
    assert "versions.json cannot be read" in said or "numpy" in said
