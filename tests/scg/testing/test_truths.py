"""The table of the battery's true derivatives is what the oracle computes; all of it in the long profile, some of it always."""

import pytest
import torch
from hypothesis import settings

from scg.testing.battery import truths
from scg.testing.battery.subject import THETAS, Subject, compute_truth
from scg.testing.trial_distributions import KINDS

LONG = settings.default.max_examples > 100
PLACES = [("alone", 1), ("alone", 2), ("composed", 1), ("composed", 2), ("chained", 1), ("driven", 1)]
ALWAYS = {("Normal", "composed", 1), ("Exponential", "driven", 1), ("Beta", "alone", 2), ("Laplace", "driven", 1)}
KEPT = [
    (kind, place, order)
    for kind in KINDS
    for place, order in PLACES
    if truths.key(kind, place, THETAS[0], order) in truths.table()
    and (LONG or (place, order) == ("alone", 1) or (kind, place, order) in ALWAYS)
]


@pytest.mark.parametrize(("kind", "place", "order"), KEPT)
def test_the_table_has_what_the_oracle_computes(kind, place, order):
    entry, now = truths.table()[truths.key(kind, place, THETAS[0], order)], compute_truth(place, KINDS[kind], THETAS[0], order)
    assert entry["kind"] == now.kind
    exact, error = torch.tensor(entry["exact"]), torch.tensor(entry["error"])
    assert bool(((exact - now.exact).abs() <= error + now.error + 1e-12).all())


def test_most_of_it_is_looked_at():
    assert len(KEPT) >= 15 + len(ALWAYS) and len(truths.table()) > 100


def test_a_change_of_the_graph_or_of_a_distribution_would_be_seen():
    """The same comparison, with a θ that is a thousandth off."""
    entry = truths.table()[truths.key("Normal", "composed", THETAS[0], 1)]
    other = compute_truth("composed", KINDS["Normal"], (THETAS[0][0] + 1e-3, *THETAS[0][1:]), 1)
    gap = (torch.tensor(entry["exact"]) - other.exact).abs()
    assert bool((gap > torch.tensor(entry["error"]) + other.error + 1e-12).any())


def test_what_is_no_entry_is_computed(monkeypatch):
    calls = []
    monkeypatch.setattr("scg.testing.battery.subject.compute_truth", lambda *a: calls.append(a) or compute_truth(*a))
    own = lambda theta: KINDS["Normal"](theta)  # noqa: E731
    mine = Subject(None, "mine", own, 0.01, 0.1, 2**12, 0, THETAS, None)
    theirs = Subject(None, "Normal", KINDS["Normal"], 0.01, 0.1, 2**12, 0, THETAS, None)
    assert torch.allclose(mine.truth("composed", 1).exact, theirs.truth("composed", 1).exact) and len(calls) == 1
    rare = theirs.truth("composed", 1).unseen
    assert rare is not None and bool((rare(0.01) >= 0).all()) and len(calls) == 2
