"""Every report is the same table as text and as HTML."""

from __future__ import annotations

import re
from html import unescape

import torch
from torch.distributions import Normal

import scg
from scg.credit import Credit
from scg.estimators.credit import GAE
from scg.tables import Table, Tabular
from scg.testing import check_credit, check_gradient, check_unbiased

THETA = {"theta": torch.tensor(0.5, dtype=torch.float64, requires_grad=True)}


class Small(Tabular):
    def shown(self):
        return ["a < b", Table(("name", "size"), [("<x>\x1b", "1"), ("y", "10")], {0})]


def graph() -> scg.Graph:
    made = scg.Graph()
    made.stochastic(scg.ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    made.cost(lambda x: x**2, name="f")
    return made


def cells(html: str) -> list[str]:
    return [unescape(found) for found in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", html)]


def test_text_is_aligned_and_html_has_the_same_cells_without_markup() -> None:
    assert str(Small()) == "a < b\nname     size\n<x>\\x1b     1\ny          10"
    html = Small()._repr_html_()
    assert cells(html) == ["name", "size", "<x>\\x1b", "1", "y", "10"]
    assert "<x>" not in html and "<pre>a &lt; b</pre>" in html


def test_every_report_shows_the_words_of_its_text_as_a_table() -> None:
    credit: Credit = GAE(discount=0.9, lam=0.5)
    loss = check_gradient(lambda: (THETA["theta"] - 1.0).square(), objective=lambda: (THETA["theta"] - 1.0).square())
    for report in (
        check_unbiased(graph(), THETA, max_draws=2000),
        check_credit(credit, laws=["shapes"]),
        loss,
        scg.compare(graph(), THETA, {"x": [scg.ScoreFunction(), scg.Pathwise()]}, draws=16),
        scg.attribute(graph(), THETA, draws=16),
    ):
        html, text = report._repr_html_(), str(report)
        assert "<table>" in html and len(cells(html)) > 4
        for cell in cells(html):
            assert cell in text
