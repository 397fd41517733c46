"""What cannot be compared is listed with its reason, what makes no sense is refused, and nothing measured is lost."""

import matplotlib
import pytest
import torch
from torch.distributions import Bernoulli

import scg
from scg.comparison import reference as references
from scg.comparison.memory import Peak
from scg.estimators import ARM, REBAR, DisARM, LeaveOneOut, Pathwise, ScoreFunction, StraightThrough
from tests.scg.comparison.toys import Counter, Fails, Refusing, bits, logits

INPUTS = {"logits": torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)}


def test_a_choice_that_is_refused_is_listed_with_its_reason_and_the_others_measured():
    comparison = scg.compare(
        bits(ScoreFunction()), INPUTS, {"b": [Refusing(), ScoreFunction(), Pathwise(), StraightThrough()]}, draws=16
    )
    assert [row.label for row in comparison.rows] == ["ScoreFunction"]
    reasons = {r.label: r.reason for r in comparison.refused}
    assert "it takes nothing" in next(v for k, v in reasons.items() if "Refusing" in k)
    assert "Pathwise needs a reparameterised distribution" in reasons["Pathwise"]
    assert "opt in with allow_bias=True" in reasons["StraightThrough"]
    assert "refused: Pathwise: node 'b': Pathwise needs" in str(comparison)
    with pytest.raises(KeyError, match="'Pathwise' was refused"):
        comparison["Pathwise"]
    with pytest.raises(KeyError, match="no choice 'ScoreFunctio'. Did you mean 'ScoreFunction'"):
        comparison["ScoreFunctio"]


def test_a_cost_that_fails_at_relaxed_samples_refuses_what_relaxes():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda logits: Bernoulli(logits=logits), name="b")
    table = {0.0: 0.1, 1.0: 0.4}
    graph.cost(lambda b: b.detach().clone().apply_(lambda v: table[v]), name="f")
    comparison = scg.compare(graph, INPUTS, {"b": [REBAR(), ScoreFunction()]}, draws=16, reference="exact")
    assert [row.label for row in comparison.rows] == ["ScoreFunction"]
    assert comparison.refused[0].label == "REBAR" and "KeyError" in comparison.refused[0].reason


def test_where_every_choice_is_refused_it_says_why():
    with pytest.raises(scg.GraphError, match="^node 'b': it takes nothing"):
        scg.compare(bits(ScoreFunction()), INPUTS, {"b": [Refusing()]})
    with pytest.raises(scg.GraphError, match=r"no choice can be used here:\n(.*\n)*Pathwise: node 'b'"):
        scg.compare(bits(ScoreFunction()), INPUTS, {"b": [Refusing(), Pathwise()]})
    with pytest.raises(scg.GraphError, match="input 'logits' is missing"):
        scg.compare(bits(ScoreFunction()), {}, {"b": [ARM()]}, wrt=torch.zeros(1, requires_grad=True))


def test_a_choice_that_fails_later_is_dropped_with_the_draw_that_failed():
    comparison = scg.compare(bits(ScoreFunction()), INPUTS, {"b": [Fails(calls=([], 40)), ScoreFunction()]}, draws=100)
    assert [row.label for row in comparison.rows] == ["ScoreFunction"] and comparison.rows[0].draws == 100
    assert comparison.refused[0].reason.startswith("at draw ") and "not finite" in comparison.refused[0].reason


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"c": [ARM()]}, "'c' is no node of this graph"),
        ({"f": [ARM()]}, "node 'f': a cost node has no estimator to choose"),
        ({"b": [ARM]}, "is no estimator; pass instances"),
        ({"b": [3]}, "3 is no estimator"),
        ({"b": []}, "no estimators to choose from"),
        ({}, "choices is empty"),
        ({"b": [ScoreFunction(samples=n) for n in range(1, 300)]}, "299 combinations of estimators .* more than 256"),
        ({"b": ["best"]}, "estimator='best'"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choices, message):
    with pytest.raises(scg.GraphError, match=message):
        scg.compare(bits(ScoreFunction()), INPUTS, choices)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 15}, "draws=15: at least 16"),
        ({"budget": 0}, "budget=0: seconds, more than 0"),
        ({"confidence": 95}, "confidence=95: a probability"),
        ({"false_alarm": 0}, "false_alarm=0: a probability"),
        ({"learn": -1}, "learn=-1: a number of steps"),
        ({"wrt": "logit"}, "'logit' is no input. Did you mean 'logits'"),
        ({"wrt": INPUTS["logits"] * 2}, "is no leaf tensor that requires a gradient"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        scg.compare(bits(ScoreFunction()), INPUTS, {"b": [ARM()]}, **settings)
    with pytest.raises(TypeError, match="wrt takes names of inputs, tensors and modules, got int"):
        scg.compare(bits(ScoreFunction()), INPUTS, {"b": [ARM()]}, wrt=3)


def test_pairs_need_lists_of_one_length_and_a_gradient_needs_something_to_differentiate():
    graph = bits(ScoreFunction())
    graph.stochastic(ScoreFunction(), lambda b: Bernoulli(logits=b), name="c")
    with pytest.raises(scg.GraphError, match="different numbers of them: {'b': 1, 'c': 2}"):
        scg.compare(graph, INPUTS, {"b": [ARM()], "c": [ARM(), DisARM()]}, zipped=True)
    with pytest.raises(scg.GraphError, match="nothing to differentiate for"):
        scg.compare(bits(ScoreFunction()), {"logits": torch.zeros(2)}, {"b": [ARM()]})


def test_an_input_that_does_not_require_a_gradient_can_be_named_and_is_left_as_it_is():
    plain = torch.full((4,), 0.3)
    comparison = scg.compare(bits(ScoreFunction()), {"logits": plain}, {"b": [ARM()]}, wrt="logits", draws=16)
    assert set(comparison.rows[0].variances) == {"logits"} and not plain.requires_grad


# -- interrupted -----------------------------------------------------------------------------------------------


class Stops(Counter):
    """A clock behind which somebody presses Ctrl-C, at the n-th look."""

    def __init__(self, after):
        super().__init__()
        self.looks, self.after = 0, after

    def __call__(self):
        self.looks += 1
        if self.looks == self.after:
            raise KeyboardInterrupt
        return float(self.looks)


def test_an_interrupted_comparison_keeps_what_was_measured():
    """Two looks a draw, two choices: the 200th look falls into round 50, in which one choice may have been drawn."""
    choices = {"b": [ScoreFunction(), LeaveOneOut(2)]}
    comparison = scg.compare(bits(ScoreFunction()), INPUTS, choices, draws=1000, clock=Stops(200))
    assert comparison.interrupted
    assert sorted(row.draws for row in comparison.rows) in ([49, 49], [49, 50])
    assert "interrupted: these are the draws made until then" in str(comparison)
    whole = scg.compare(bits(ScoreFunction()), INPUTS, choices, draws=49)
    for row in comparison.rows:
        if row.draws == 49:  # and they are those of a comparison that asked for no more
            assert row.variance == whole[row.label].variance
            assert torch.equal(row.biases["logits"], whole[row.label].biases["logits"])


def test_an_interrupt_before_anything_was_measured_is_an_interrupt():
    with pytest.raises(KeyboardInterrupt):
        scg.compare(bits(ScoreFunction()), INPUTS, {"b": [ScoreFunction(), ARM()]}, draws=1000, clock=Stops(6))


def test_an_interrupt_of_tune_shows_the_table_so_far():
    with pytest.raises(KeyboardInterrupt, match=r"measured so far:\nchoice"):
        scg.tune(bits("auto"), INPUTS, {"b": [ScoreFunction(), ARM()]}, draws=1000, clock=Stops(200))


def test_an_interrupt_while_the_reference_is_drawn_leaves_a_table(monkeypatch):
    monkeypatch.setattr(references, "known", lambda *args: None)
    choices = {"b": [ScoreFunction()]}
    early = scg.compare(bits(ScoreFunction()), INPUTS, choices, draws=20, clock=Stops(2 * 20 + 2 + 20))
    assert early.interrupted and early.rows[0].verdict == "unknown" and early.rows[0].unbiased
    assert early.reference == "nothing: interrupted before"
    assert "?" in str(early)
    late = scg.compare(bits(ScoreFunction()), INPUTS, choices, draws=20, clock=Stops(2 * 20 + 2 + 140))
    assert late.interrupted and late.reference.startswith("69 draws of") and late.rows[0].verdict == "no bias found"


# -- files -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison():
    torch.set_default_dtype(torch.float64)
    return scg.compare(
        bits(ScoreFunction()), {"logits": logits(0.3, 3)},
        {"b": [ScoreFunction(), LeaveOneOut(4), Refusing(), StraightThrough(allow_bias=True)]}, draws=50,
    )  # fmt: skip


def test_the_table_has_a_line_a_choice(comparison):
    lines = str(comparison).splitlines()
    assert lines[0].split()[0] == "choice" and "var × evaluations" in lines[0]
    assert sum(line.startswith(("ScoreFunction", "LeaveOneOut(samples=4)", "StraightThrough")) for line in lines) == 3
    assert any("biased by design" in line for line in lines)
    assert "50 paired draws; bias against: exact; in brackets 95 % intervals; seed 0" in lines[-1]


def test_the_numbers_of_a_csv_are_those_of_the_comparison(comparison, tmp_path):
    import csv

    path = comparison.to_csv(tmp_path / "new" / "b.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 1
    for row in rows[:-1]:
        found = comparison[row["choice"]]
        assert float(row["variance"]) == found.variance.value and float(row["variance_high"]) == found.variance.high
        if row["parameter"] == "total":
            assert float(row["work"]) == found.work.value and float(row["seconds_low"]) == found.time.low
            assert float(row["bias"]) == found.bias.value and row["bias_entry"] == found.worst
        else:
            entry = int(row["bias_entry"])
            assert float(row["bias"]) == float(found.biases[row["parameter"]].flatten()[entry])
    assert rows[-1]["verdict"] == "refused" and "it takes nothing" in rows[-1]["reason"]


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_plot_is_drawn_with_every_label(comparison, tmp_path, ending):
    path, before = tmp_path / "new" / f"b.{ending}", matplotlib.rcParams._get("backend")
    figure = comparison.plot(path)
    assert {row.label for row in comparison.rows} <= {text.get_text() for text in figure.axes[0].texts}
    assert matplotlib.rcParams._get("backend") == before
    assert path.stat().st_size > 5000
    if ending == "svg":
        assert all(row.label in path.read_text() for row in comparison.rows)


def test_a_plot_shows_choices_without_variance_and_refuses_other_endings(tmp_path):
    from scg.estimators import Enumeration

    only = scg.compare(bits(ScoreFunction()), INPUTS, {"b": [Enumeration()]}, draws=16)
    assert [text.get_text() for text in only.plot().axes[0].texts if text.get_text() == "variance 0"]
    both = scg.compare(bits(ScoreFunction()), INPUTS, {"b": [Enumeration(), ScoreFunction()]}, draws=16)
    both.plot(tmp_path / "two.svg")
    assert "variance 0" in (tmp_path / "two.svg").read_text()
    assert both.ratio("ScoreFunction", "Enumeration").value == float("inf")
    with pytest.raises(scg.GraphError, match=r"ends in \.png, \.pdf, \.svg"):
        both.plot(tmp_path / "two.jpg")


def test_measuring_memory_does_not_load_the_compiler():
    """Which would switch the validation of distributions off for the whole process."""
    assert not hasattr(Peak.__torch_dispatch__, "__wrapped__")
