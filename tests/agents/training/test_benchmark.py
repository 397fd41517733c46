"""Suites: what is finished is skipped, what was killed goes on, and the table says what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scg.agents.commands.benchmark import benchmark
from scg.agents.training.benchmark import Found, Suite, report, runs_of
from scg.agents.training.run_config import RunError
from scg.agents.training.run_directory import RunDirectory

TEXT = """
agents = ["reinforce", "a2c"]
environments = ["CartPole-v1"]
seeds = 2
steps = 128
[run]
envs = 4
evaluations = 1
eval_episodes = 2
checkpoints = 1
[options.reinforce]
horizon = 16
hidden = [4]
[options.a2c]
horizon = 16
hidden = [4]
[scores]
CartPole-v1 = [10, 500]
"""


def written(folder: Path, text: str = TEXT) -> Path:
    (folder / "small.toml").write_text(text)
    return folder / "small.toml"


def test_a_suite_is_trained_once_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(written(tmp_path)), "--out", str(tmp_path / "out")]
    made = runs_of(Suite.read(tmp_path / "small.toml"), tmp_path / "out")
    assert [run.path.name for run in made] == [f"{a}-CartPole-v1-seed{s}" for a in ("reinforce", "a2c") for s in (0, 1)]
    assert made[0].agent.hidden == (4,) and made[2].run.envs == 4  # type: ignore[union-attr]
    assert benchmark(words) == 0
    assert "0 of 4 runs are finished" in capsys.readouterr().out
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "| reinforce | " in text and "## Probability of improvement" in text and "optimality gap" in text
    for name in ("curves.png", "profiles.png"):
        assert (tmp_path / "out" / name).stat().st_size > 5_000
    before = (made[0].path / "metrics.csv").stat().st_mtime_ns
    RunDirectory.open(made[1].path).begin_again()
    assert benchmark(words) == 0
    assert "3 of 4 runs are finished" in capsys.readouterr().out
    assert (made[0].path / "metrics.csv").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "RESULTS.md").read_text() == text  # the same returns, and minutes to a digit
    written(tmp_path, TEXT.replace("hidden = [4]", "hidden = [5]"))
    assert benchmark(words) == 2
    assert "it is not the suite's, whose options have changed" in capsys.readouterr().err


def test_the_table_has_the_numbers_of_the_runs() -> None:
    suite = Suite(("ppo", "a2c"), ("A", "B"), 4, 100, scores={"A": (0.0, 10.0), "B": (100.0, 200.0)})
    returns = {
        ("ppo", "A"): np.array([1.0, 2.0, 3.0, 10.0]),
        ("ppo", "B"): np.array([150.0, 150.0, 150.0, 150.0]),
        ("a2c", "A"): np.array([0.0, 0.0, 0.0, 0.0]),
        ("a2c", "B"): np.array([150.0, 150.0, 150.0, 150.0]),
    }
    found = Found(suite, returns, dict.fromkeys(returns, 1.5))
    assert found.scores("ppo")[:, 0].tolist() == [0.1, 0.2, 0.3, 1.0] and found.scores("ppo")[0, 1] == 0.5
    text = report(found, "scg benchmark x.toml")
    assert "| ppo | 2.5 (" in text  # the mean of 2 and 3
    assert "150.0 (150.0–150.0)" in text and "| 1.5 |" in text
    assert "| ppo |  | 0.75 (0.75–0.75) |" in text  # surely better on A, equal on B


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seeds = 2", "seed = 2", "no part is called 'seed'. Did you mean 'seeds'"),
        ("seeds = 2", "", "seeds is missing"),
        ("seeds = 2", "seeds = 0", "seeds is 0, expected a whole number of at least 1"),
        ("seeds = 2", "seeds = true", "seeds is True, expected a whole number"),
        ('["CartPole-v1"]', '"CartPole-v1"', "expected a list of different names"),
        ("[options.a2c]", "[options.a2d]", "options.a2d: it is none of reinforce, a2c. Did you mean 'a2c'"),
        ("horizon = 16\nhidden = [4]\n[scores]", "horizn = 16\n[scores]", "options.a2c.horizn: a2c has no such option"),
        ("envs = 4", 'envs = "four"', "run.envs is 'four', expected an integer"),
        ("evaluations = 1", "evaluations = 0", "evaluations is 0"),
        ("[10, 500]", "[500, 10]", "500 is not below 10"),
        ("[10, 500]", "10", "expected .return of score 0"),
        ("seeds = 2", "seeds = ", "it cannot be read"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert TEXT.count(old) >= 1
    with pytest.raises(RunError, match=says):
        Suite.read(written(tmp_path, TEXT.replace(old, new)))
