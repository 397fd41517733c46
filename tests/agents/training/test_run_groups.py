"""Which runs are one curve, and what a curve is called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from scg.agents.commands import cli
from scg.agents.reinforce import Reinforce
from scg.agents.training import curves
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError, Table
from scg.agents.training.run_groups import grouped


def made(path: Path, seed: int = 0, run: dict[str, Any] | None = None, **agent: Any) -> Path:
    """A run that was not trained, with two evaluations."""
    RunDirectory.create("reinforce", replace(RunConfig(seed=seed), **(run or {})), Reinforce(**agent), path)
    (path / "evaluations.csv").write_text("step,return\n10,1.0\n20,2.0\n")
    return path


def names(paths: list[Path]) -> dict[str, list[str]]:
    (panel,) = grouped(paths).values()
    return {label: [run.path.name for run in runs] for label, runs in panel.items()}


def test_runs_that_differ_in_their_seed_alone_are_one_curve(tmp_path: Path) -> None:
    looked_at = {"evaluations": 3, "eval_episodes": 5, "checkpoints": 4, "keep_checkpoints": 0}
    paths = [made(tmp_path / "a", 0), made(tmp_path / "b", 1), made(tmp_path / "c", 2, looked_at)]
    assert names(paths) == {"reinforce": ["a", "b", "c"]}


def test_other_hyperparameters_are_other_curves_and_named_by_what_differs(tmp_path: Path) -> None:
    paths = [made(tmp_path / "a", 0, lr=0.1, hidden=(8, 8)), made(tmp_path / "b", 0, lr=0.2), made(tmp_path / "c", 1, lr=0.2)]
    assert names(paths) == {"reinforce, hidden=8×8, lr=0.1": ["a"], "reinforce, hidden=64×64, lr=0.2": ["b", "c"]}
    longer = [made(tmp_path / "d", 0, {"steps": 500}), made(tmp_path / "e", 1, {"steps": 900})]
    assert names(longer) == {"reinforce, steps=500": ["d"], "reinforce, steps=900": ["e"]}


def test_environments_are_panels(tmp_path: Path) -> None:
    paths = [made(tmp_path / "a"), made(tmp_path / "b", 0, {"env": "Acrobot-v1"})]
    assert [*grouped(paths)] == ["Acrobot-v1", "CartPole-v1"]


def test_a_seed_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    one, copy = made(tmp_path / "one", 3), made(tmp_path / "copy", 3)
    with pytest.raises(RunError, match=r"copy: has the configuration and seed of .*one, so it is no further sample"):
        grouped([one, copy])
    with pytest.raises(RunError, match="one: given twice"):
        grouped([one, tmp_path / "." / "one"])


def test_a_folder_stands_for_the_runs_below_it(tmp_path: Path) -> None:
    made(tmp_path / "runs" / "x" / "a", 0), made(tmp_path / "runs" / "b", 1)
    assert names([tmp_path / "runs"]) == {"reinforce": ["b", "a"]}
    with pytest.raises(RunError, match="given twice"):
        grouped([tmp_path / "runs", tmp_path / "runs" / "b"])


def test_what_holds_no_run_is_said(tmp_path: Path) -> None:
    for paths, said in (
        ([], "no runs given"),
        ([tmp_path], "no config.json there or below"),
        ([tmp_path / "no"], "no such dir"),
    ):
        with pytest.raises(RunError, match=said):
            grouped(paths)


def test_the_command_plots_a_folder_and_leaves_the_backend_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "runs" / "a", 0), made(tmp_path / "runs" / "b", 1)
    before = matplotlib.rcParams._get("backend")  # type: ignore[attr-defined]
    assert cli.plot([str(tmp_path / "runs"), "--out", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").stat().st_size > 2000
    assert matplotlib.rcParams._get("backend") == before  # type: ignore[attr-defined]
    made(tmp_path / "runs" / "c", 1)
    assert cli.plot([str(tmp_path / "runs"), "--out", str(tmp_path / "d.png")]) == 2
    assert "c: has the configuration and seed of" in capsys.readouterr().err
    assert cli.plot([]) == 2
    assert "no runs given" in capsys.readouterr().err


def test_labels_name_the_curves_of_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = made(tmp_path / "s" / "a", 0, lr=0.1), made(tmp_path / "s" / "b", 1, lr=0.1), made(tmp_path / "c", 0, lr=0.2)
    assert {label: len(runs) for label, runs in grouped([a.parent, c], ["slow", "fast"])["CartPole-v1"].items()} == {
        "slow": 2,
        "fast": 1,
    }
    figure = curves.plot([a, b, c], tmp_path / "c.png", labels=["slow", "slow", "fast"])
    assert [text.get_text().partition(" (")[0] for text in figure.axes[0].get_legend().get_texts()] == ["slow", "fast"]
    for words, said in (
        ([a, c, "--label", "x"], "option label: 1 for 2 paths"),
        ([a, b, "--label", "x", "y"], "'x' and 'y' are runs of one configuration (reinforce)"),
        ([a.parent, c, "--label", "x", "x"], "'x' has runs of several configurations"),
        ([a, "--label", "$x"], "option label"),
    ):
        assert cli.plot([*map(str, words), "--out", str(tmp_path / "d.png")]) == 2
        assert said in capsys.readouterr().err
    assert cli.plot([str(a.parent), str(c), "--label", "slow", "fast", "--out", str(tmp_path / "d.png")]) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"step,return\n10,1.0\n20,many\n", "no table of numbers (could not convert string to float: 'many')"),
        (b"step,return\n10,1.0,3\n", "no table of numbers (zip() argument 2 is longer than argument 1)"),
        (b"step,return\n\xff\xfe,1.0\n", "no table of numbers ('utf-8' codec can't decode"),
        (b"10,1.0\n20,2.0\n", "no column 'step'"),
        (b"step,return\n20,1.0\n10,2.0\n", "the column 'step' does not rise"),
        (b"step,return\nnan,1.0\n", "the column 'step' does not rise"),
        (b"step,return\n", "no evaluation yet"),
        (b"", "no evaluation yet"),
    ],
)
def test_a_damaged_table_of_evaluations_is_one_message(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path / "run")
    (run / "evaluations.csv").write_bytes(content)
    assert cli.plot([str(run), "--out", str(tmp_path / "c.png")]) == 2
    shown = capsys.readouterr().err
    assert said in shown and str(run) in shown and len(shown.splitlines()) == 1
    assert not (tmp_path / "c.png").exists()


def test_a_damaged_table_does_not_go_on(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,return\nten,1.0\n")
    with pytest.raises(RunError, match=r"metrics\.csv: this is no table of numbers"):
        Table(tmp_path / "metrics.csv", upto=10)
