"""A name may hold any characters, and a terminal obeys none of them: nor rich's markup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

import scg
from scg.commands.draw import draw
from scg.credit import Credit
from scg.errors import visible
from scg.tables import Table

ESCAPE = "\x1b[2J\x1b]0;owned\x07\u202e\r\n"
MARKUP = "[red]x[/red] :smile: [/]"


class Words:
    def __repr__(self) -> str:
        return ESCAPE


@dataclass(frozen=True)
class Setting(scg.ScoreFunction):
    words: object = None


def made(text: str) -> scg.Graph:
    """A graph whose every name ends with `text`."""
    graph = scg.Graph()
    mean, sample = f"theta{text}", f"x{text}"
    graph.stochastic(
        Setting(words=Words()),
        lambda theta: Normal(theta, 1.0),
        name=sample,
        parents=[mean],
        baseline=lambda: torch.tensor(1.0),
    )
    graph.cost(lambda x: x**2, name=f"f{text}", parents=[sample])
    graph.cost(lambda x: x, name=f"g{text}", parents=[sample])
    return graph


def assert_harmless(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), repr(text)


def test_only_what_cannot_be_printed_is_escaped() -> None:
    assert visible("θ_1 [x]\\") == "θ_1 [x]\\"
    assert visible("\x1b[2J\n\u202e") == "\\x1b[2J\\n\\u202e"


def test_a_derivation_holds_no_escape() -> None:
    derivation = made(ESCAPE).derivation()
    texts = [derivation.unicode, derivation.latex, derivation._repr_markdown_(), derivation._repr_latex_(), str(derivation)]
    for text in [*texts, *map(str, derivation.equations), *map(str, derivation.terms)]:
        assert_harmless(text)
        assert "\x1b" not in text
    lines = len(made("y").derivation().unicode.splitlines())
    assert len(derivation.unicode.splitlines()) <= lines + 6  # equations are wrapped, names add no line
    assert "x\\x1b[2J" in derivation.unicode
    assert_harmless(repr(made(ESCAPE)))


def test_words_of_a_notebook_are_no_markup() -> None:
    graph = scg.Graph()
    graph.stochastic(scg.ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x**2, name="<b>")
    shown = graph.derivation()._repr_markdown_()
    assert "costs downstream: &lt;b&gt;" in shown


def test_an_unknown_parameter_is_named_without_escapes() -> None:
    with pytest.raises(scg.GraphError) as caught:
        made(ESCAPE).derivation(wrt=["nobody"])
    assert_harmless(str(caught.value))


@pytest.mark.parametrize("text", [ESCAPE, MARKUP])
def test_tables_hold_names_as_they_are_and_no_escape(text: str) -> None:
    graph, inputs = made(text), {f"theta{text}": torch.tensor(0.3, requires_grad=True)}
    comparison = scg.compare(graph, inputs, {f"x{text}": [Setting(words=text)]}, draws=20, learn=0)
    attributed = scg.attribute(graph, inputs, draws=20)
    for shown in (str(comparison), str(attributed)):
        assert_harmless(shown)
    assert f"Setting(words={text!r})" in str(comparison)
    assert f"x{visible(text)}" in str(attributed)
    assert f"f{visible(text)}" in str(attributed)


def test_a_report_holds_no_escape() -> None:
    for line in Table(("parameter",), [(ESCAPE,)], {0}).lines():
        assert_harmless(line)


def test_the_command_prints_no_escape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text("from tests.scg.test_visible import ESCAPE, made\ngraph = made(ESCAPE)\n")
    for option in ("--derivation", "--latex"):
        assert draw(["loud.py:graph", option]) == 0
        assert_harmless(capsys.readouterr().out)


def test_a_credit_goes_by_a_name_without_escapes() -> None:
    graph = scg.Graph()
    kind = type(f"Credit{ESCAPE}", (Credit,), {"__call__": lambda self, downstream: downstream})
    graph.stochastic(scg.ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", credit=kind())
    graph.cost(lambda x: x**2, name="f")
    assert_harmless(graph.derivation().unicode)
