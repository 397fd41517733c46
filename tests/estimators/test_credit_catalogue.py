"""The catalogue of credits: every claim through the battery, and no stronger claim holds."""

import math
from dataclasses import fields, replace

import pytest

from scg.credit import Credit
from scg.estimators import credit as credits
from scg.estimators.cli import estimators as command
from scg.estimators.credit.catalogue import ENTRIES, CreditRow, as_markdown, catalogue, claims
from scg.testing import assert_credit, check_credit

CLAIMS = claims()
every_claim = pytest.mark.parametrize("name", CLAIMS, ids=lambda name: name.replace(" ", "-"))


def test_every_exported_credit_is_in_it_but_the_abstract_one():
    exported = [getattr(credits, name) for name in credits.__all__]
    concrete = {c.__name__ for c in exported if isinstance(c, type) and issubclass(c, Credit)} - {"QReturn"}
    assert set(ENTRIES) == concrete
    assert [row.credit for row in catalogue()] == list(ENTRIES)


@every_claim
def test_it_passes_the_battery_with_its_claim(name):
    assert_credit(*CLAIMS[name])


def stronger(claim):
    """Each promise that the claim does not make, with the law that decides it."""
    if claim.critics == "exact":
        yield replace(claim, critics="any"), "any critics"
    if not claim.cuts:
        yield replace(claim, cuts=True), "cuts"
    if claim.recorded == "no":
        yield replace(claim, recorded="visited"), "recorded"
        yield replace(claim, recorded="own"), "recorded"
    if not claim.leading and claim.discount < 1:
        yield replace(claim, leading=True), "first order"


@pytest.mark.parametrize("name", [n for n, (_, claim) in CLAIMS.items() if not claim.plate], ids=lambda n: n.replace(" ", "-"))
def test_it_claims_the_most_that_is_true(name):
    credit, claim = CLAIMS[name]
    for more, law in stronger(claim):
        assert check_credit(credit, more, laws=[law]).broken == (law,), f"{more} holds, and the catalogue does not say so"


def test_critics_and_order_are_those_of_the_classes():
    rows = {row.credit: row for row in catalogue()}
    assert rows["GAE"].critics == "value" and rows["QCritic"].critics == "q" and rows["MonteCarlo"].critics == "—"
    assert [row.credit for row in catalogue() if row.order == "∞"] == ["LoadedDice"]
    assert all(ENTRIES[row.credit].credit.order == (math.inf if row.order == "∞" else 1) for row in catalogue())


def test_a_setting_is_mentioned_where_it_promises_something_else():
    rows = {row.credit: row for row in catalogue()}
    assert rows["GAE"].unbiased == "exact critics (any critics: λ = 1)"
    assert rows["LeadingDiscount"].unbiased == "exact critics, with γ^t in front"
    assert rows["VIMCO"].cut == rows["VIMCO"].recorded == "—"


def test_markdown_has_a_line_for_each_credit():
    lines = as_markdown().splitlines()
    assert len(lines) == 2 + len(ENTRIES)
    assert {line.count("|") - line.count("\\|") for line in lines} == {len(fields(CreditRow)) + 1}


def test_the_command_prints_it(capsys):
    assert command(["--credits"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ENTRIES)
    assert command(["--credits", "--markdown"]) == 0
    assert capsys.readouterr().out.strip() == as_markdown()


def test_the_command_refuses_a_distribution_beside_it(capsys):
    assert command(["--credits", "Bernoulli"]) == 2
    assert "--credits takes no distribution" in capsys.readouterr().err
