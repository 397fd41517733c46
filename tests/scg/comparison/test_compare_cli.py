"""`scg compare`: the table, files, and exit codes that a script can rely on."""

import pytest

import scg
from scg.commands.cli import commands
from scg.estimators import LeaveOneOut, ScoreFunction
from scg.estimators.compare_cli import compare, parsed

MODEL = """
import torch, scg
from torch.distributions import Bernoulli, Normal
from scg import Pathwise, ScoreFunction

torch.set_default_dtype(torch.float64)

graph = scg.Graph()
graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
graph.stochastic("auto", lambda x: Bernoulli(logits=x), name="b")
graph.cost(lambda x, b: (x - 1) ** 2 * b, name="loss")
inputs = {"mu": torch.tensor(0.3, requires_grad=True)}

plain = graph.with_estimators(b=ScoreFunction())
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def test_every_estimator_of_the_catalogue_that_fits_is_tried(model, capsys):
    assert compare([f"{model}:graph", "--draws", "16", "--learn", "1"]) == 0  # the node declared "auto"
    printed = capsys.readouterr().out
    for name in ("ScoreFunction", "LeaveOneOut", "ARM", "DisARM", "Enumeration", "REBAR", "RELAX", "GumbelSoftmax"):
        assert f"\n{name}" in printed, name
    assert "bias against: exact" in printed


def test_named_estimators_files_and_attribution(model, capsys, tmp_path):
    out = [tmp_path / "b.csv", tmp_path / "b.png"]
    argv = [
        f"{model}:graph",
        "--node",
        "b",
        "--estimators",
        "ScoreFunction,LeaveOneOut(samples=8),StraightThrough",
        "--draws",
        "32",
    ]
    assert compare([*argv, "--csv", str(out[0]), "--plot", str(out[1]), "--attribute", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "LeaveOneOut(samples=8)" in printed and "biased by design" in printed and "seed 3" in printed
    assert all(str(path) in printed and path.exists() for path in out)
    assert "\nwith " in printed and "variance of the gradient by node and cost" in printed


def test_inputs_and_several_nodes(model, capsys):
    argv = [f"{model}:graph", "--node", "x", "--node", "b", "--estimators", "ScoreFunction,Pathwise", "--draws", "16"]
    assert compare([*argv, "--set", "mu=0.5", "--wrt", "mu", "--budget", "5"]) == 0
    printed = capsys.readouterr().out
    assert "x=Pathwise, b=ScoreFunction" in printed and "refused: x=Pathwise, b=Pathwise" in printed


def test_estimators_are_parsed_with_their_settings():
    assert parsed("ScoreFunction, LeaveOneOut(samples=8),LeaveOneOut(3)") == [ScoreFunction(), LeaveOneOut(8), LeaveOneOut(3)]
    assert parsed("GumbelSoftmax(temperature=0.3)")[0].allow_bias


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["model"], "names no graph"),
        (["{model}:grap"], "Did you mean 'graph'"),
        (["{model}:plain"], "say which node: --node x or --node b"),
        (["{model}:graph", "--node", "bb"], "--node bb: no stochastic node of this graph. Did you mean 'b'? It has x, b"),
        (["{model}:graph", "--node", "loss"], "--node loss: no stochastic node"),
        (["{model}:graph", "--estimators", "ScoreFunctoin"], "Did you mean 'ScoreFunction'?"),
        (["{model}:graph", "--estimators", "LeaveOneOut(samples=1)"], "LeaveOneOut(samples=1)"),
        (["{model}:graph", "--estimators", "LeaveOneOut(n=2)"], "unexpected keyword argument 'n'"),
        (["{model}:graph", "--estimators", "LeaveOneOut("], "names by commas"),
        (["{model}:graph", "--estimators", "3"], "'3' is no estimator's name"),
        (["{model}:graph", "--plot", "b.jpg"], "ends in .png, .pdf, .svg"),
        (["{model}:graph", "--set", "nu=1"], "has no input 'nu'"),
    ],
)
def test_what_makes_no_sense_exits_with_two(model, capsys, argv, message):
    assert compare([a.replace("{model}", model) for a in argv]) == 2
    assert message in capsys.readouterr().err


def test_where_nothing_can_be_used_it_exits_with_one(model, capsys):
    assert compare([f"{model}:graph", "--node", "b", "--estimators", "Pathwise"]) == 1
    assert "Pathwise needs a reparameterised distribution" in capsys.readouterr().err
    assert compare(["--bogus"]) == 2 and compare(["--help"]) == 0


def test_an_interrupted_run_prints_and_saves_and_exits_as_interrupted(model, capsys, tmp_path, monkeypatch):
    whole = scg.compare

    def stopped(*args, progress, **kwargs):
        def stop(done, total):
            progress(done, total)
            if done == 20:
                raise KeyboardInterrupt

        return whole(*args, progress=stop, **kwargs)

    monkeypatch.setattr(scg, "compare", stopped, raising=False)
    path = tmp_path / "b.csv"
    assert compare([f"{model}:graph", "--estimators", "ScoreFunction,ARM", "--csv", str(path), "--attribute"]) == 130
    printed = capsys.readouterr().out
    assert "20 paired draws" in printed and "interrupted" in printed and path.exists()


def test_the_command_and_the_candidates_are_installed():
    from importlib.metadata import entry_points

    assert commands()["compare"].value == "scg.estimators.compare_cli:compare"
    assert [p.value for p in entry_points(group="scg.candidates")] == ["scg.estimators.candidates:candidates"]


OWN = """
from dataclasses import dataclass
from scg import Estimator, ScoreFunction

@dataclass(frozen=True)
class Mine(Estimator):
    samples: int = 2
    def branch(self, distribution):
        return ScoreFunction(samples=self.samples).branch(distribution)

number = 3
"""


def test_an_estimator_of_ones_own_stands_beside_ours(model, tmp_path, capsys):
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    assert [e.samples for e in parsed(f"{own}:Mine,{own}:Mine(samples=4),LeaveOneOut(samples=8)")] == [2, 4, 8]
    assert (
        compare([f"{model}:plain", "--node", "b", "--estimators", f"ScoreFunction,{own}:Mine(samples=4)", "--draws", "16"]) == 0
    )
    assert "\nMine" in capsys.readouterr().out
    for text, message in (
        (f"{own}:number", "not an estimator"),
        (f"{own}:Min", "Did you mean 'Mine'?"),
        (f"{own}:Mine(n=1)", "unexpected keyword"),
    ):
        assert compare([f"{model}:plain", "--node", "b", "--estimators", text]) == 2
        assert message in capsys.readouterr().err
