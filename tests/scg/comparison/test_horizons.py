"""Variance and error against the horizon, on a chain whose variances are known."""

import math

import pytest
import torch
from torch.distributions import Normal

import scg
from scg import prev
from scg.comparison import compare_horizons
from scg.comparison.horizons import error, size_of_bias
from scg.estimators import Pathwise, ScoreFunction
from scg.estimators.compare_cli import compare

GROWTH = 2.0


def chain() -> scg.Graph:
    """s_t = 2 s_{t−1} + a_t, a ~ N(θ, 1), the last state's square the cost: pathwise has derivative 2 s_T (2^T − 1)."""
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="action", parents=["theta"])
        graph.deterministic(lambda action, before=prev("state", init="start"): GROWTH * before + action, name="state")
    graph.cost(lambda state: state.tanh(), name="loss", parents=["state"])
    return graph


def inputs(batch: int = 16) -> dict:
    return {"theta": torch.full((batch,), 0.1, requires_grad=True), "start": torch.zeros(batch)}


def test_a_growing_chain_is_said_to_be_noisier_by_its_path_from_some_horizon_on():
    found = compare_horizons(
        chain(), inputs(), {"action": [ScoreFunction(), Pathwise()]}, [4, 1], draws=40, seed=1, reference="draws"
    )
    assert list(found.comparisons) == [1, 4]
    assert found.crossings() == {("Pathwise", "ScoreFunction"): 4}
    printed = str(found)
    assert "from 4 steps on the variance of Pathwise is larger than that of ScoreFunction" in printed
    one = found.row("Pathwise", 1)
    assert one is not None and error(one) == pytest.approx(math.sqrt(one.variance.value + size_of_bias(one) ** 2))


MODEL = """
import torch, scg
from torch.distributions import Normal
from scg import ScoreFunction, prev
graph = scg.Graph()
with graph.sequence():
    graph.observed("push")
    graph.stochastic(ScoreFunction(), lambda theta, push: Normal(theta + push, 1.0), name="action")
    graph.deterministic(lambda action, before=prev("state", init="start"): before + action, name="state")
    graph.cost(lambda state: state**2, name="loss", parents=["state"])
inputs = {"theta": torch.full((1,), 0.1, requires_grad=True), "start": torch.zeros(1), "push": torch.zeros(5, 1)}
flat = scg.Graph()
flat.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", parents=["theta"])
flat.cost(lambda x: x**2, name="loss", parents=["x"])
"""


def test_the_command_writes_table_figure_and_numbers(tmp_path, capsys):
    (tmp_path / "model.py").write_text(MODEL)
    target, out = f"{tmp_path}/model.py:graph", [tmp_path / "h.csv", tmp_path / "h.png"]
    argv = [target, "--horizon", "1,2", "--estimators", "ScoreFunction,Pathwise", "--draws", "16"]
    assert compare([*argv, "--csv", str(out[0]), "--plot", str(out[1])]) == 0
    printed = capsys.readouterr().out
    assert "horizon" in printed and all(path.exists() for path in out)
    assert len(out[0].read_text().splitlines()) == 5
    for wrong, message in (
        ([*argv, "--steps", "3"], "drop --steps"),
        ([target, "--horizon", "0,2", "--draws", "16"], "at least 1 each"),
        ([target, "--horizon", "7", "--draws", "16"], "'push' has 5 steps only"),
        ([f"{tmp_path}/model.py:flat", "--horizon", "7"], "this graph has none"),
    ):
        assert compare(wrong) != 0
        assert message in capsys.readouterr().err
