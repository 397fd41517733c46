"""The catalogue says what the code does: every row against the class, and every estimator through the battery."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scg
from scg import estimators
from scg.estimators.catalogue import ENTRIES, accepted, as_markdown, catalogue
from scg.estimators.cli import estimators as command
from scg.estimators.factorised import components
from scg.testing import check_estimator, finite_difference
from scg.testing.battery import LAWS
from scg.testing.battery.subject import Subject, graph_of
from scg.testing.trial_distributions import KINDS

THETA = [0.3, -0.4, 0.5]
CASES = [(name, kind) for name, entry in ENTRIES.items() for kind in accepted(entry.estimator)]
every_case = pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda x: x.replace(" ", "-"))
every_entry = pytest.mark.parametrize("name", ENTRIES)
LONG = settings.default.max_examples > 100  # the long profile
COMPOSED_TWICE = "composition, second order"
SURE = (
    1e-7 if LONG else 1e-3
)  # the false alarm of one battery: of thousands on new random streams below 1e-3; else streams stay


def examples(usual):
    """So many in the short profile, more in the long one in proportion."""
    return settings(max_examples=max(1, usual * settings.default.max_examples // 30))


def test_every_exported_estimator_is_in_it_and_nothing_else():
    exported = [getattr(estimators, name) for name in estimators.__all__]
    assert set(ENTRIES) == {c.__name__ for c in exported if isinstance(c, type) and issubclass(c, scg.Estimator)}
    assert [row.estimator for row in catalogue()] == list(ENTRIES)
    assert all(all(vars(row).values()) for row in catalogue()), "an empty cell"


def test_it_says_which_estimators_are_biased():
    """The papers' own words, not the classes'; that they are biased, and the others not, the battery finds."""
    biased = {
        "GumbelSoftmax", "StraightThrough", "StraightThroughGumbel", "RaoGumbel", "ReinMax",
        "TruncatedRatio", "SelfNormalised", "Clipped", "TotalPropagation", "AlphaOrder",
    }  # fmt: skip
    assert {row.estimator for row in catalogue() if row.unbiased == "no"} == biased
    assert {row.estimator for row in catalogue() if row.unbiased == "no gradient"} == {"NoGradient"}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("Enumeration", "∞"),
        ("ScoreFunction", "∞ (1: Laplace)"),  # torch's log-density of a Laplace has no second derivative at its centre
        ("Pathwise", "∞ (1: StudentT, Gamma, Beta, Dirichlet)"),  # torch's implicit samplers are differentiable once
        ("ARM", "1"),
        ("MeasureValued", "1 (∞: Bernoulli, Categorical)"),
        ("NoGradient", "—"),
    ],
)
def test_it_says_how_often_an_estimate_may_be_differentiated(name, order):
    (row,) = [row for row in catalogue() if row.estimator == name]
    assert row.order == order


def test_what_it_leaves_out_is_refused_with_what_would_work_instead():
    theta = torch.tensor(THETA, requires_grad=True)
    for entry in ENTRIES.values():
        for kind in KINDS.keys() - accepted(entry.estimator):
            message = entry.estimator.refuses(KINDS[kind](theta))
            assert message is not None and "Use " in message.splitlines()[-1], message


@every_case
def test_evaluations_are_the_branches(name, kind):
    distribution = KINDS[kind](torch.tensor(THETA, requires_grad=True))
    branches = ENTRIES[name].estimator.branch(distribution)
    assert (branches.n or 1) == ENTRIES[name].count(distribution, components(distribution))


# -- the battery -------------------------------------------------------------------------------------------


@every_entry
def test_it_passes_the_battery(name):
    """Every law on every distribution that it accepts, but the slowest on two of them: the Hessian of the composition (on
    all in the long profile), and compilation (in the long profile only). Found would be a bias of 10 % of the gradient, or
    of 5 % of one draw's root mean square where that is more."""
    entry = ENTRIES[name]
    settled = {"false_alarm": SURE, "waived": WAIVED.get(name)}
    short = ["compiled"] if LONG else ["compiled", COMPOSED_TWICE]
    report = check_estimator(entry.estimator, laws=[law for law in LAWS if law not in short], **settled)
    assert report.ok, str(report)
    slow = ["compiled"] if LONG else [COMPOSED_TWICE]
    report = check_estimator(entry.estimator, accepted(entry.estimator)[:2], laws=slow, **settled)
    assert not report.failures, str(report)


# Laws that have nothing to say of an entry, with the reason.
_WEIGHTS = "its weights are measured on the batch's other elements"
WAIVED: dict[str, dict[str, str]] = {name: {"elements": _WEIGHTS} for name in ("TotalPropagation", "AlphaOrder")}


def test_what_is_said_to_be_biased_is_found_to_be():
    biased = [name for name, entry in ENTRIES.items() if not entry.estimator.unbiased]
    assert {"GumbelSoftmax", "StraightThrough", "ReinMax"} <= set(biased)
    recorded = {"Clipped", "SelfNormalised", "TruncatedRatio"}  # biased by what they make of a recording
    along = {"TotalPropagation", "AlphaOrder"}  # with one node they have no bias, as tests/estimators/test_mixed.py shows
    for name in set(biased) - recorded - along:
        found = check_estimator(ENTRIES[name].estimator, laws=["stated bias"], false_alarm=SURE)
        assert any("should be" in r.evidence for r in found.results), str(found)


numbers = st.floats(-1.2, 1.2)
thetas = st.tuples(numbers, numbers, numbers)


@every_entry
def test_it_passes_at_random_parameters(name):
    """The laws of the mean and of place on one of its distributions, at two random θ in one batch, on a random stream."""
    entry = ENTRIES[name]

    @examples(2)
    @given(kind=st.sampled_from(accepted(entry.estimator)), first=thetas, second=thetas, seed=st.integers(0, 2**31))
    def passes(kind, first, second, seed):
        laws = ["elements", "first order", "second order", "constant", "composition", "sequence"]
        at = {"thetas": (first, second), "seed": seed, "false_alarm": SURE, "waived": WAIVED.get(name)}
        report = check_estimator(entry.estimator, [kind], laws=laws, **at)
        assert not report.failures, str(report)

    passes()


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_agrees_with_finite_differences(kind):
    """The battery's oracle differentiates a sum over outcomes; differences of that sum know nothing of derivatives."""

    @examples(2)
    @given(theta=thetas, order=st.sampled_from([1, 2]))
    def agrees(theta, order):
        subject = Subject(scg.ScoreFunction(), kind, KINDS[kind], 1e-3, 0.1, 2**13, thetas=(theta,))
        exact = subject.truth("alone", order)
        found = exact.exact[1:] if order == 1 else exact.exact
        at = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        graph = graph_of("alone", KINDS[kind], Anything())
        difference = finite_difference(graph, {"theta": at}, order=order)
        ((_, value),), ((_, error),) = difference.value.items(), difference.error.items()
        if order == 2:
            value, error = (x[torch.triu_indices(3, 3).unbind()] for x in (value, error))
        slack = 10 * error + 1e-6 * found.abs().max() + 1e-9
        assert ((found - value).abs() <= slack).all(), (found, value, error)

    agrees()


class Anything(scg.ScoreFunction):
    """A graph of which only the objective is asked."""

    def refuses(self, distribution):
        return None


# -- printed -----------------------------------------------------------------------------------------------------


def test_markdown_has_a_line_for_each_estimator():
    lines = as_markdown().splitlines()
    assert len(lines) == 2 + len(ENTRIES)
    assert {line.count("|") - line.count("\\|") for line in lines} == {8}
    assert any(line.startswith("| `DisARM` | Bernoulli | bits | yes | 1 | 2 per pair | Dong et al. (2020)") for line in lines)


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_command_prints_the_table(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert command([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ENTRIES)
    assert max(map(len, printed.splitlines())) <= int(columns)
    assert command(["--markdown"]) == 0
    assert capsys.readouterr().out.strip() == as_markdown()


def test_the_command_chooses_by_distribution(capsys):
    assert command(["Poisson"]) == 0
    printed = capsys.readouterr().out
    assert "MeasureValued" in printed and "DisARM" not in printed


def test_the_command_refuses_what_makes_no_sense(capsys):
    assert command(["Poison"]) == 2
    assert "Did you mean 'Poisson'?" in capsys.readouterr().err
    assert command(["--latex"]) == 2
    assert command(["--help"]) == 0
