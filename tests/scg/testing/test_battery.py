"""The battery catches what it should, by the law that should, passes what is right, and keeps its stated error rates."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

import scg
from scg.estimators import (
    RELAX,
    Antithetic,
    Enumeration,
    GumbelSoftmax,
    LeaveOneOut,
    NoGradient,
    Pathwise,
    Perturbation,
    ScoreFunction,
)
from scg.testing import assert_estimator, check_estimator
from scg.testing.battery import LAWS
from scg.testing.trial_distributions import KINDS
from tests.scg.testing.battery_mutants import MUTANTS, Anew, noisy, right_bit


@pytest.mark.parametrize("name", MUTANTS)
def test_caught_where(name):
    mutant = MUTANTS[name]
    report = check_estimator(mutant.wrong(), mutant.kinds, **mutant.settings)
    assert mutant.law in report.broken and not report.ok, str(report)


@pytest.mark.parametrize("name", MUTANTS)
def test_its_right_twin_passes_where(name):
    mutant = MUTANTS[name]
    report = check_estimator(mutant.right(), mutant.kinds, **(mutant.settings if mutant.of_right is None else mutant.of_right))
    assert report.ok, str(report)


def test_every_law_has_a_mutant():
    assert {m.law for m in MUTANTS.values()} == set(LAWS) - {"compiled", "composition, second order"}


@pytest.mark.parametrize(
    "name",
    [
        "a draw keeps its antithetic partner for the next step",
        "weights without a second derivative",
        "a bias other than the stated one",
        "biased, and no one has to say so",
        "another gradient in single precision",
        "a refusal without words",
    ],
)
def test_only_the_law_that_should_catch_it_does_where(name):
    mutant = MUTANTS[name]
    broken = check_estimator(mutant.wrong(), mutant.kinds, **mutant.settings).broken
    assert broken[0] == mutant.law and set(broken) <= {mutant.law, "composition, second order"}


def test_right_alone_and_wrong_in_company_is_seen_in_company_only():
    wrong = MUTANTS["it rewinds the stream, and what follows is drawn from the same numbers"].wrong()
    assert check_estimator(wrong, ["Bernoulli"]).broken == ("composition", "composition, second order", "sequence")


def test_a_branch_that_the_compiler_cannot_take_in_is_found_by_the_slow_law():
    def item(d):
        x = d.sample()
        z = d.log_prob(x)
        return scg.Branches(x, score=(z - z.detach()) * (1.0 if z.sum().item() < 0 else 1.0 + 1e-9))

    assert check_estimator(Anew(item), ["Bernoulli"]).ok
    assert check_estimator(Anew(item), ["Bernoulli"], slow=True).broken == ("compiled",)
    assert check_estimator(ScoreFunction(), ["Bernoulli"], slow=True)["compiled"][0].status == "passed"


# -- error rates -------------------------------------------------------------------------------------------


def failures(estimator, runs, **settings):
    reports = [check_estimator(estimator, ["Bernoulli"], laws=["first order"], seed=s, **settings) for s in range(runs)]
    return sum(not r.ok for r in reports)


def test_a_right_estimator_fails_no_more_often_than_stated():
    """A false alarm of 0.4 is 0.05 for each sampled law, all of it spent on one look where no more draws are allowed:
    5 of 100 runs are expected to fail, 14 or more do with probability 1e-3."""
    hasty = {"false_alarm": 0.4, "max_draws": 8192, "detectable": 1.0}
    assert failures(Anew(noisy(1.0)), 100, **hasty) < 14
    assert failures(Anew(noisy(0.5)), 100, **hasty) > 80


def test_a_bias_of_the_detectable_size_is_not_missed():
    """10 % of the gradient: missed with probability 1.3e-4 a run."""
    assert failures(Anew(noisy(0.9)), 20) == 20


# -- what it says ------------------------------------------------------------------------------------------


def test_exact_where_all_noise_is_samples_and_sampled_where_it_is_not():
    exact = check_estimator(LeaveOneOut(2), ["Bernoulli", "Poisson", "Normal"], laws=["first order", "second order"])
    assert {r.how for r in exact.results} == {"exact"}
    sampled = check_estimator(right_bit(), ["Bernoulli"], laws=["first order"])
    assert [r.how for r in sampled.results] == ["sampled"] and "other random numbers" in sampled.results[0].evidence


def test_the_table_has_a_line_for_each_law_and_says_what_failed_and_by_how_much():
    report = check_estimator(MUTANTS["half of the score is dropped"].wrong(), ["Bernoulli", "Normal"])
    text = str(report)
    assert (
        text.startswith("Anew: failed first order; second order; composition") and "false alarm 0.001, detectable 0.1" in text
    )
    assert (
        "first order · Bernoulli: failed. the mean of the gradient[0] is 0.097682 over all outcomes, and should be 0.19536"
        in text
    )
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert set(LAWS) - {"compiled", "refusal"} <= set(lines)
    assert "it is unbiased" in lines["stated bias"]


def test_the_assertion_has_the_table_as_its_message():
    with pytest.raises(AssertionError, match="first order · Bernoulli: failed"):
        assert_estimator(MUTANTS["half of the score is dropped"].wrong(), ["Bernoulli"])
    assert assert_estimator(ScoreFunction(), ["Bernoulli"]).ok


def test_a_law_can_be_waived_with_a_reason_that_is_shown():
    wrong = MUTANTS["weights without a second derivative"].wrong()
    assert not check_estimator(wrong, ["Bernoulli"], laws=["second order"])
    report = check_estimator(wrong, ["Bernoulli"], laws=["first order", "second order"], waived={"second order": "never asked"})
    assert report.ok and "never asked" in str(report)


def test_what_it_refuses_is_only_tried_for_its_refusal():
    report = check_estimator(Enumeration(), ["Bernoulli", "Normal"])
    assert [r.kind for r in report["refusal"] if r.status == "passed"] == ["Normal"]
    assert "Normal" not in {r.kind for r in report.results if r.law != "refusal"}


def test_an_estimator_that_refuses_everything_has_not_passed():
    report = check_estimator(Enumeration(), ["Normal"])
    assert report.broken == ("refusal",) and "\nrefusal: failed. it refuses every distribution. Pass" in str(report)
    assert check_estimator(Enumeration(), ["Normal"], laws=["refusal"]).ok


def test_where_no_law_applies_nothing_has_passed():
    report = check_estimator(ScoreFunction(), ["Bernoulli"], laws=["stated bias"])
    assert not report and "none of these laws applies" in str(report)


def test_how_biased_a_biased_estimator_is_is_said():
    report = check_estimator(GumbelSoftmax(allow_bias=True), ["Bernoulli"])
    (stated,) = report["stated bias"]
    assert report.ok and "no mean= was given" in stated.evidence and "and should be" in stated.evidence


def test_without_a_gradient_only_form_and_random_numbers_are_tried():
    report = check_estimator(NoGradient(), ["Bernoulli"])
    passed = {r.law for r in report.results if r.status == "passed"}
    assert report.ok and passed == {"opt-in", "shapes", "precision", "device", "seed"}


def test_a_single_branch_is_put_into_a_recurrence_and_several_beside_one():
    alone, several = (check_estimator(ScoreFunction(n), ["Bernoulli"], laws=["sequence"]) for n in (1, 2))
    assert alone.results[0].evidence == "in a recurrence"
    assert several.results[0].evidence.startswith("at every step, outside of recurrences")


# -- what it takes -----------------------------------------------------------------------------------------


def test_distributions_of_your_own():
    report = check_estimator(ScoreFunction(), {"mine": lambda theta: Normal(theta[..., 0], 1.0 + theta[..., 1] ** 2)})
    assert report.ok and {r.kind for r in report.results} == {"mine"}


def test_a_distribution_of_your_own_that_no_sum_can_hold_is_compared_with_finite_differences():
    mine = {"five normals": lambda theta: Independent(Normal(theta[..., :1].expand(*theta.shape[:-1], 5), 1.0), 1)}
    laws = ["first order", "second order"]
    (first, second) = check_estimator(Pathwise(), mine, detectable=0.4, thetas=((0.3, 0.1, 0.2),), laws=laws).results
    assert (first.status, first.how) == ("passed", "sampled") and "no exact truth" in second.evidence
    (first,) = check_estimator(Anew(half_a_path), mine, detectable=0.4, thetas=((0.3, 0.1, 0.2),), laws=laws[:1]).results
    assert first.status == "failed" and "should be" in first.evidence


@pytest.mark.parametrize("theta", [(0.0, 0.0, 0.0), (2.2e-16, 0.0, 0.0)])
def test_where_a_true_derivative_vanishes_rounding_is_no_bias(theta):
    assert check_estimator(Perturbation(), ["Bernoulli"], laws=["first order", "second order"], thetas=(theta,)).ok


def half_a_path(d):
    x = d.rsample()
    return scg.Branches((x + x.detach()) / 2)


def test_an_event_that_is_too_rare_to_be_seen_is_no_bias():
    """An antithetic pair of bits of probability ½ + 2.5e-6 differs from one of fair bits in one pair of 200,000."""
    almost_fair = ((1e-5, 0.0, 0.0), (-1e-9, 0.5, 0.2))
    assert check_estimator(Antithetic(), ["Bernoulli"], thetas=almost_fair).ok


def test_an_object_that_only_has_a_branch():
    class Mine:
        def branch(self, distribution):
            return ScoreFunction().branch(distribution)

    assert check_estimator(Mine(), ["Bernoulli", "Normal"]).ok


def test_a_module_is_left_as_it_was_and_tried_in_either_precision():
    network = nn.Linear(1, 1, dtype=torch.float32)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    estimator = RELAX(network)
    report = check_estimator(estimator, ["Bernoulli"])
    assert report.ok, str(report)
    assert all(torch.equal(before[k], v) and v.dtype == torch.float32 for k, v in network.state_dict().items())


def test_everything_global_is_left_as_it_was():
    torch.set_default_dtype(torch.float32)
    streams = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    check_estimator(ScoreFunction(), ["Bernoulli"])
    check_estimator(Anew(lambda d: None), ["Bernoulli"])
    assert torch.get_default_dtype() == torch.float32 and torch.equal(streams[0], torch.get_rng_state())
    assert (streams[1] == np.random.get_state()[1]).all() and streams[2] == random.getstate()  # noqa: NPY002


def test_the_same_seed_gives_the_same_report():
    first, again, other = (check_estimator(bit_mean(), ["Bernoulli"], laws=["first order"], seed=s) for s in (1, 1, 2))
    assert str(first) == str(again) != str(other)


def bit_mean():
    return Anew(noisy(0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distributions": ["Bernuli"]}, "no distribution 'Bernuli' in the battery. Did you mean 'Bernoulli'"),
        ({"distributions": []}, "distributions is empty"),
        ({"distributions": {"mine": lambda p: Normal(p, 1.0)}}, "it returned batch shape \\[3\\], and should return"),
        ({"distributions": {"mine": lambda p: p}}, "it returned Tensor, and should return"),
        ({"laws": ["first"]}, "no law 'first'"),
        ({"waived": {"first": "why"}}, "no law 'first'"),
        ({"false_alarm": 0.5}, "false_alarm=0.5"),
        ({"detectable": 0.0}, "detectable=0.0"),
        ({"max_draws": 8191}, "max_draws=8191"),
        ({"thetas": ()}, "thetas="),
        ({"thetas": ((0.1, 0.2),)}, "thetas="),
    ],
    ids=lambda x: "" if isinstance(x, str) else "-".join(x),
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_estimator(ScoreFunction(), **{"distributions": ["Bernoulli"], **arguments})


def test_what_is_no_estimator():
    with pytest.raises(TypeError, match=r"an object with branch\(distribution\): ScoreFunction\(\), not <class"):
        check_estimator(ScoreFunction)
    with pytest.raises(TypeError, match="not 3"):
        check_estimator(3)
    with pytest.raises(ValueError, match="is biased: pass it as a graph would take it, with allow_bias=True"):
        check_estimator(GumbelSoftmax())


def test_a_refusal_that_raises_is_a_broken_refusal():
    def refuses(distribution):
        raise KeyError("no row")

    report = check_estimator(Anew(ScoreFunction().branch, refuses=refuses), ["Bernoulli"])
    assert report.broken == ("refusal",) and "refuses() raised KeyError" in str(report)


def test_a_distribution_that_is_no_function():
    with pytest.raises(TypeError, match=r"distributions\['mine'\] is Bernoulli; it is a function of θ"):
        check_estimator(ScoreFunction(), {"mine": Bernoulli(0.5)})


def test_the_smallest_settings_that_make_sense_are_taken():
    settings = {"false_alarm": 0.49, "max_draws": 8192, "thetas": ((0.1, 0.2, 0.3),)}
    assert check_estimator(ScoreFunction(), "Bernoulli", laws="first order", **settings).ok


# -- what it stands on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_takes_any_batch_and_needs_no_default_precision(kind):
    for dtype in (torch.float32, torch.float64):
        for batch in ((), (2,), (4, 2)):
            distribution = KINDS[kind](torch.zeros(*batch, 3, dtype=dtype))
            assert distribution.batch_shape == batch
            assert distribution.log_prob(distribution.sample()).dtype == dtype


def test_on_a_circle_likelihood_ratios_and_implicit_derivatives_are_right():
    from scg.estimators import Implicit

    for estimator in (ScoreFunction(), Implicit()):
        assert check_estimator(estimator, ["VonMises"], laws=["first order"]).results[0].how == "exact"
    assert check_estimator(Pathwise(), ["VonMises"])["refusal"][0].status == "passed"
