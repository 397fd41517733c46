"""`scg draw`: what it draws, what it prints, what it complains about."""

from __future__ import annotations

import pytest

from scg.commands.draw import draw, load

MODEL = """
from dataclasses import dataclass
from torch.distributions import Normal
from helper import one
import scg

@dataclass
class Config:
    scale: "float" = one

graph = scg.Graph()
graph.stochastic(scg.ScoreFunction(), lambda theta: Normal(theta, Config().scale), name="x")
graph.cost(lambda x: x**2, name="f")

def make():
    return graph

def make_with(width):
    return graph

def make_nothing():
    return 3

number = 3
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("one = 1.0")
    (tmp_path / "drawn_model.py").write_text(MODEL)
    (tmp_path / "broken_model.py").write_text("1 / 0")
    return tmp_path


@pytest.mark.parametrize("suffix", ["png", "svg", "dot", "mmd"])
def test_it_draws_into_the_file_named(model, capsys, suffix):
    assert draw(["drawn_model.py:graph", "--out", f"picture.{suffix}"]) == 0
    assert (model / f"picture.{suffix}").stat().st_size > 100
    assert capsys.readouterr().out.strip() == f"picture.{suffix}"


def test_without_a_file_it_draws_a_png_named_after_the_graph(model):
    assert draw(["drawn_model.py:make"]) == 0
    assert (model / "make.png").read_bytes().startswith(b"\x89PNG")


def test_it_prints_the_derivation_and_then_draws_only_if_asked(model, capsys):
    assert draw(["drawn_model.py:graph", "--derivation"]) == 0
    assert "∂J/∂θ = E[ ∂/∂θ log p(x; θ) f(x) ]" in capsys.readouterr().out
    assert not list(model.glob("*.png"))
    assert draw(["drawn_model.py:graph", "--latex", "--out", "g.png"]) == 0
    assert r"\frac{\partial J}{\partial \theta}" in capsys.readouterr().out
    assert (model / "g.png").exists()


def test_a_module_is_found_by_its_dotted_name(model, monkeypatch):
    monkeypatch.syspath_prepend(str(model))
    assert load("drawn_model:graph").nodes.keys() == {"x", "f"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["drawn_model.py"], "names no graph: say path/to/model.py:graph"),
        (["missing_model.py:graph"], "there is no file missing_model.py"),
        (["drawn_model.py:grap"], "has no 'grap'. Did you mean 'graph'? Graphs there: graph"),
        (["drawn_model.py:number"], "is of type int, not a Graph"),
        (["drawn_model.py:make_with"], "cannot be called without arguments (missing a required argument: 'width')"),
        (["drawn_model.py:make_nothing"], "returned int, not a Graph"),
        (["broken_model.py:graph"], "failed when it was imported: ZeroDivisionError: division by zero"),
        (["no_such_package.module:graph"], "neither a file nor a module"),
        (["drawn_model.py:graph", "--out", "graph.gif"], "'.gif' is no format to draw in; use one of png, svg, pdf, dot, mmd"),
        (["drawn_model.py:graph", "--derivation", "--wrt", "thet"], "Did you mean 'theta'?"),
        (["drawn_model.py:graph", "--out", "no_folder/graph.png"], "No such file or directory"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(model, capsys, arguments, complaint):
    assert draw(arguments) == 2
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err


def test_unknown_options_exit_with_2_and_help_with_0(capsys):
    assert draw(["--nope"]) == 2
    assert draw(["--help"]) == 0
    assert "scg draw" in capsys.readouterr().out
