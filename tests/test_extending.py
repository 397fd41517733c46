"""ARCHITECTURE.md's "To add …" is all that is needed: each thing is added by files outside the packages."""

import json
import pathlib

import pytest
import torch
from torch.distributions import Bernoulli

import scg
from scg import agents, papers
from scg.agents.commands import cli
from scg.papers.cli import paper
from scg.testing import Claim, assert_credit, assert_estimator, check_credit, check_estimator, check_unbiased
from tests.extensions.credit import HalfWay, Shifted
from tests.extensions.estimator import Others, Shared

ROOT = pathlib.Path(__file__).parents[1]
HERE = ROOT / "tests" / "extensions"


@pytest.fixture(autouse=True)
def single_precision(double_precision_and_a_seed):
    torch.set_default_dtype(torch.float32)


def table():
    """What can be added -> what the table says."""
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## To add …")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ") and "…" not in line.split("|")[1]]
    return {what.strip(): touch.strip() for what, touch in rows}


def test_each_thing_that_is_added_here_has_its_row():
    assert {"an estimator", "a credit", "an agent", "an environment", "a paper"} <= set(table())
    for what, named in {
        "an estimator": ["branch(distribution)", "assert_estimator"],
        "a credit": ["__call__(downstream)", "critics", "assert_credit"],
        "an agent": ["agents/__init__.py"],
        "an environment": ["gymnasium.register", "module:Name-v0"],
        "a paper": ["run.py", "README"],
    }.items():
        assert all(word in table()[what] for word in named), what


# -- an estimator ----------------------------------------------------------------------------------------------------


def test_an_estimator_is_one_class_that_the_battery_accepts():
    kinds, laws = ["Bernoulli", "Categorical"], ["shapes", "elements", "first order", "second order", "constant"]
    assert_estimator(Others(), kinds, laws=laws)
    assert "first order" in check_estimator(Shared(), kinds, laws=laws).broken


def test_an_estimator_serves_in_a_graph_and_in_a_check():
    graph = scg.Graph()
    graph.stochastic(Others(4), lambda theta: Bernoulli(logits=theta), name="x")
    graph.cost(lambda x, theta: (x - 0.3) ** 2 * theta.exp(), name="c")
    inputs = {"theta": torch.tensor(0.4, requires_grad=True)}
    assert check_unbiased(graph, inputs).verdict == "unbiased"


# -- a credit --------------------------------------------------------------------------------------------------------


def test_a_credit_is_one_class_that_the_battery_accepts():
    claim = Claim(0.95, "exact", recorded="visited")
    assert_credit(HalfWay(), claim)
    assert "first order" in check_credit(Shifted(), claim).broken


# -- an environment and an agent -------------------------------------------------------------------------------------

RUN = "--steps 256 --envs 2 --evaluations 1 --eval-episodes 2 --checkpoints 2 --seed 0"
OURS = "tests.extensions.environment:Corridor-v0"


def test_an_environment_is_registered_and_named(tmp_path):
    assert cli.train(["reinforce", "--env", OURS, "--horizon", "16", *RUN.split(), "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["env"] == OURS


def test_an_agent_is_a_page_and_a_line(tmp_path, monkeypatch):
    """Flags, run directory, picture, evaluation, resuming: from the config class alone."""
    monkeypatch.setitem(agents.AGENTS, "mine", "tests.extensions.agent:Mine")  # the line
    words = ["mine", "--env", "CartPole-v1", *RUN.split(), "--lr", "0.02", "--out", str(tmp_path / "run")]
    assert cli.train(words) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["agent"] == "mine" and config["config"] == {"horizon": 16, "gamma": 0.9, "lr": 0.02}
    assert (tmp_path / "run" / "graph.png").exists()
    assert cli.evaluate([str(tmp_path / "run"), "--episodes", "2"]) == 0
    assert cli.train(["--resume", str(tmp_path / "run"), "--steps", "512"]) == 0


def test_the_agent_learns_in_the_environment(tmp_path, monkeypatch):
    """Both from outside. Shortest paths average 3 steps; a random policy takes about 17."""
    monkeypatch.setitem(agents.AGENTS, "mine", "tests.extensions.agent:Mine")
    out = tmp_path / "run"
    words = ["mine", "--env", OURS, "--steps", "6000", "--envs", "4", "--evaluations", "1", "--eval-episodes", "30"]
    assert cli.train([*words, "--checkpoints", "1", "--seed", "0", "--out", str(out)]) == 0
    rows = (out / "evaluations.csv").read_text().splitlines()
    final = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    assert float(final["return"]) > -4


# -- a paper ---------------------------------------------------------------------------------------------------------


def test_a_paper_is_a_folder(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "nobody2026_halves"
    folder.mkdir()
    for name in ("run.py", "README.md", "__init__.py"):
        (folder / name).write_text((HERE / folder.name / name).read_text())
    monkeypatch.setattr(papers, "HERE", tmp_path)  # the folder that papers are in
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path)])
    assert papers.names() == [folder.name]
    assert paper([folder.name, "--draws", "4000", "--out", str(folder)]) == 0
    assert "| Table 1: heads | 0.5 |" in (folder / "README.md").read_text()
    assert "a fair coin shows heads half of the time; `scg paper nobody2026_halves` | 1 reproduced |" in papers.as_markdown()
    capsys.readouterr()
    assert paper([]) == 0
    assert "Nobody (2026): a fair coin" in capsys.readouterr().out
