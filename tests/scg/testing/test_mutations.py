"""Ways to get a gradient wrong: each is caught, and its right twin passes the same check."""

import pytest
import torch

from scg.testing import check_unbiased
from tests.scg.testing.mutants import MUTANTS, Anew, bit, given_hard, leave_one_out, not_given, rebar


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
    ("harmless", "right", "factor"),
    [
        (leave_one_out(4), leave_one_out(3), 0.74),
        (leave_one_out(1.5), leave_one_out(3), 2.49),
        (rebar(not_given), rebar(given_hard), 1.29),
    ],
    ids=["n for n − 1 others", "half of them", "not conditioned"],
)
def test_what_changes_only_the_variance_is_no_bug(harmless, right, factor):
    """Others' scores have mean zero whatever they are divided by; a control variate may be useless without being wrong."""
    theta = torch.tensor(0.4, requires_grad=True)
    found, better = (check_unbiased(bit(Anew("twin", branch)), {"theta": theta}) for branch in (harmless, right))
    assert found.verdict == better.verdict == "unbiased"
    assert spread(found) / spread(better) == pytest.approx(factor, rel=0.03)


def spread(found):
    """The standard deviation of one draw."""
    (row,) = found.rows
    return row.se * row.draws**0.5
