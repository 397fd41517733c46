"""More than twenty ways to get a gradient wrong: each is caught, and its right twin passes the same check."""

import pytest
import torch

from scg.testing import check_unbiased
from tests.scg.testing.mutants import MUTANTS, Anew, bit, leave_one_out, not_given, rebar


def report(mutant, which, **settings):
    subject, own = getattr(mutant, which)()
    inputs = {
        name: value if isinstance(value, torch.Tensor) else torch.tensor(value, requires_grad=True)
        for name, value in mutant.inputs.items()
    }
    return check_unbiased(subject, inputs, **{"order": mutant.order, **own, **settings})


@pytest.mark.parametrize("name", MUTANTS)
def test_caught_when(name):
    mutant = MUTANTS[name]
    found = report(mutant, "wrong")
    assert found.verdict == "biased", found
    if mutant.node is not None:
        assert [c.node for c in found.culprits] == [mutant.node], found


@pytest.mark.parametrize("name", MUTANTS)
def test_the_right_twin_passes_where(name):
    found = report(MUTANTS[name], "right")
    assert found.verdict == "unbiased", found


def test_the_bug_of_second_order_is_right_at_first_order():
    mutant = MUTANTS["leave-one-out without the DiCE operator is wrong at order 2"]
    assert report(mutant, "wrong", order=1).verdict == "unbiased"


@pytest.mark.parametrize(
    "harmless",
    [leave_one_out(4), leave_one_out(1.5), rebar(not_given)],
    ids=["n for n − 1 others", "half of them", "not conditioned"],
)
def test_what_costs_only_variance_is_no_bug(harmless):
    """Others' scores have mean zero whatever they are divided by; a control variate may be useless without being wrong."""
    assert (
        check_unbiased(bit(Anew("harmless", harmless)), {"theta": torch.tensor(0.4, requires_grad=True)}).verdict == "unbiased"
    )


def test_there_are_more_than_twenty():
    assert len(MUTANTS) > 20
