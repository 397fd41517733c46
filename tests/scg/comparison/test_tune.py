"""`scg.tune` chooses what theory says, never what is biased; "auto" is nothing that could be sampled."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg.auto import Auto
from scg.comparison.tuning import _nodes
from scg.estimators import ARM, RELAX, Enumeration, GumbelSoftmax, LeaveOneOut, Pathwise, ScoreFunction, StraightThrough
from scg.estimators.catalogue import SquashedSum
from scg.testing import exact_gradient
from tests.scg.comparison.toys import Counter, Exaggerated, Refusing, bits, closed_form, gaussian, logits

PRIMITIVES = [ScoreFunction(), LeaveOneOut(2)]


@pytest.mark.parametrize(
    ("theta", "t", "offset", "best"),
    [(0.0, 0.3, 5.0, "LeaveOneOut"), (2.2, 0.0, 0.0, "ScoreFunction")],
    ids=["a cost with an offset", "a cost of one bit that is nearly always set"],
)
def test_the_least_variance_per_evaluation_wins_on_contrasting_toys(theta, t, offset, best):
    """With an offset the baseline is worth its second evaluation (work 60 times less). With f(0) = 0 and p = 0.9 it is not:
    p (1 − p)³ for p (1 − p)(1 − 2p (1 − p)), 80 times more. Time is the number of evaluations."""
    clock = Counter()
    graph, inputs = bits("auto", t, offset, clock), {"logits": logits(theta, 1)}
    tuned = scg.tune(graph, inputs, {"b": PRIMITIVES}, draws=100, clock=clock)
    (evidence,) = tuned.evidence
    assert type(tuned.choice["b"]).__name__ == type(tuned.graph.nodes["b"].estimator).__name__ == best
    other = {"LeaveOneOut": "ScoreFunction", "ScoreFunction": "LeaveOneOut"}[best]
    ratio = evidence.ratio(other, best)
    assert ratio.low > 1
    if not offset:  # the offset changes the score function's variance, and not its closed form here
        _, variances = closed_form(theta, t)
        true = 2 * variances["LeaveOneOut"] / variances["ScoreFunction"]
        assert ratio.low / 1.5 < true < ratio.high * 1.5


@pytest.mark.parametrize(
    ("cost", "best"),
    [(lambda x: (x - 1.0) ** 2, "Pathwise"), (lambda x: torch.cos(5.0 * x), "ScoreFunction")],
    ids=["smooth", "wild"],
)
def test_pathwise_wins_where_the_cost_is_smooth_and_loses_where_it_is_wild(cost, best):
    """E[(x − 1)²]: variance 4 for 15 and more. E[cos(5x)]: 12.5 for less than 1 (Mohamed et al. 2020). One evaluation each."""
    clock = Counter()
    tuned = scg.tune(
        gaussian("auto", cost, clock),
        {"mu": torch.tensor(0.0, requires_grad=True)},
        {"x": [ScoreFunction(), Pathwise()]},
        clock=clock,
    )
    assert type(tuned.choice["x"]).__name__ == best
    assert tuned.evidence[0].ratio({"Pathwise": "ScoreFunction"}.get(best, "Pathwise"), best).low > 2


def test_what_is_biased_is_never_chosen_unless_asked_for():
    """Both biased choices have no or the least variance at fewest evaluations: one says that it is biased, the other lies."""
    clock = Counter()
    graph, inputs = bits("auto", 0.3, clock=clock), {"logits": logits(0.7, 1)}
    biased = [StraightThrough(allow_bias=True), Exaggerated(), LeaveOneOut(2)]
    tuned = scg.tune(graph, inputs, {"b": biased}, draws=100, clock=clock)
    assert tuned.choice["b"] == LeaveOneOut(2)
    assert tuned.evidence[0]["Exaggerated"].work.value < tuned.evidence[0]["LeaveOneOut"].work.value
    assert scg.tune(graph, inputs, {"b": biased}, biased=True, draws=100, clock=clock).choice["b"] == Exaggerated()
    with pytest.raises(
        scg.GraphError, match=r"no unbiased choice among those compared \(.*Exaggerated: measured biased.*\)\. best"
    ):
        scg.tune(graph, inputs, {"b": biased[:2]}, draws=200)


def test_the_default_candidates_are_the_unbiased_ones_of_the_catalogue():
    tuned = scg.tune(bits("auto"), {"logits": logits(0.2, 1)}, draws=16, learn=0)
    labels = {row.label for row in tuned.evidence[0].rows}
    assert {"ScoreFunction", "ARM", "DisARM", "REBAR"} <= labels
    assert not {"GumbelSoftmax", "StraightThrough"} & labels
    assert tuned.evidence[0].best().variance.value == 0  # enumeration, or what comes to the same on one bit
    asked = scg.tune(bits("auto"), {"logits": logits(0.2, 1)}, {"b": [GumbelSoftmax(allow_bias=True)]}, biased=True, draws=16)
    assert asked.choice["b"] == GumbelSoftmax(allow_bias=True)


def test_the_same_seed_gives_the_same_choice_and_evidence():
    evidence = []
    for seed in (1, 1, 2):
        clock = Counter()
        tuned = scg.tune(
            bits("auto", clock=clock), {"logits": logits(0.7, 1)}, {"b": [ARM(), *PRIMITIVES]}, clock=clock, draws=32, seed=seed
        )
        evidence.append([(row.label, row.work) for row in tuned.evidence[0].rows])
    assert evidence[0] == evidence[1] != evidence[2]


def test_other_measures_than_work():
    clock = Counter()
    graph, inputs = bits("auto", 0.0, clock=clock), {"logits": logits(2.2, 1)}
    choices = {"b": [ScoreFunction(), ScoreFunction(samples=64)]}
    assert scg.tune(graph, inputs, choices, clock=clock, draws=64, by="variance").choice["b"] == ScoreFunction(samples=64)
    assert scg.tune(graph, inputs, choices, clock=clock, draws=64, by="time").choice["b"] == ScoreFunction()


def test_what_learned_before_is_in_the_tuned_graph():
    control = SquashedSum()
    tuned = scg.tune(bits("auto"), {"logits": logits(0.7)}, {"b": [RELAX(control)]}, draws=16, learn=50)
    learned = tuned.graph.nodes["b"].estimator
    assert learned.control is not control and not torch.equal(learned.control.slope, control.slope)


# -- several nodes ---------------------------------------------------------------------------------------------


def two(first="auto", second="auto", clock=None):
    graph = scg.Graph()
    graph.stochastic(first, lambda mu: Normal(mu, 1.0), name="x")
    graph.stochastic(second, lambda x: Bernoulli(logits=x), name="b")

    def cost(x, b):
        if clock is not None:
            clock.count += (x * b).numel()
        return 0.1 * (x - 1.0) ** 2 + 5 * b

    graph.cost(cost, name="f")
    return graph


MU = {"mu": torch.tensor(0.2, dtype=torch.float64, requires_grad=True)}


def test_only_the_nodes_declared_auto_are_tuned_and_all_where_none_is():
    some = scg.tune(two(second=ScoreFunction()), MU, {"x": [Pathwise(), ScoreFunction()]}, draws=16)
    assert set(some.choice) == {"x"} and some.graph.nodes["b"].estimator == ScoreFunction()
    every = scg.tune(two(Pathwise(), ScoreFunction()), MU, {"b": [Enumeration()], "x": [Pathwise()]}, draws=16)
    assert list(every.choice) == ["x", "b"]
    graph = two(Pathwise(), ScoreFunction())
    graph.stochastic(ScoreFunction(), lambda mu: Bernoulli(logits=mu), name="idle")
    assert _nodes(graph, None) == ["x", "b"]  # what no cost depends on has nothing to tune
    assert _nodes(two(second=ScoreFunction()), None) == ["x"]


def test_many_combinations_are_tuned_node_by_node_to_the_same_choice():
    clock = Counter()
    few = {"x": [ScoreFunction(), Pathwise()], "b": [ScoreFunction(), Enumeration()]}
    many = {node: [*found, *[ScoreFunction(samples=n) for n in range(2, 6)]] for node, found in few.items()}
    settings = {"draws": 32, "clock": clock, "reference": exact_gradient(two(ScoreFunction(), ScoreFunction()), MU)}
    together = scg.tune(two(clock=clock), MU, few, **settings)
    in_turn = scg.tune(two(clock=clock), MU, many, **settings)
    assert len(together.evidence) == 1 and len(in_turn.evidence) == 4
    assert in_turn.choice == together.choice == {"x": Pathwise(), "b": Enumeration()}


# -- auto ------------------------------------------------------------------------------------------------------


def test_an_untuned_graph_cannot_be_sampled_and_says_what_to_do():
    for graph in (bits("auto"), bits(ScoreFunction()).with_estimators(b="auto")):
        assert isinstance(graph.nodes["b"].estimator, Auto)
        with pytest.raises(
            scg.GraphError, match=r"node 'b': its estimator is \"auto\", which is not chosen yet.\nCall scg.tune"
        ):
            graph.surrogate(logits=logits(0.1))
        (finding,) = graph.check(logits=logits(0.1))
        assert finding.severity == "error" and finding.node == "b"
    tuned = scg.tune(graph, {"logits": logits(0.1)}, {"b": [ScoreFunction()]}, draws=16)
    tuned.graph.surrogate(logits=logits(0.1)).backward()


def test_a_graph_with_auto_can_be_looked_at():
    assert "auto" in bits("auto").to_dot()
    assert "auto" in str(bits("auto").derivation())
    positional = scg.Graph()
    positional.stochastic("auto", lambda theta: Bernoulli(logits=theta), name="b")
    assert isinstance(positional.nodes["b"].estimator, Auto)


@pytest.mark.parametrize("word", ["automatic", "score"])
def test_other_words_are_no_estimators(word):
    with pytest.raises(scg.GraphError, match=f"estimator='{word}': an estimator is an instance, as in ScoreFunction"):
        scg.Graph().stochastic(lambda theta: Bernoulli(logits=theta), estimator=word, name="b")
    with pytest.raises(scg.GraphError, match=f"estimator='{word}'"):
        bits(ScoreFunction()).with_estimators(b=word)


def test_requests_that_make_no_sense_are_refused():
    inputs = {"logits": logits(0.1)}
    with pytest.raises(scg.GraphError, match="candidates is empty"):
        scg.tune(bits("auto"), inputs, {})
    with pytest.raises(scg.GraphError, match="'c' is no node of this graph"):
        scg.tune(bits("auto"), inputs, {"c": [ARM()]})
    with pytest.raises(scg.GraphError, match="it takes nothing"):
        scg.tune(bits("auto"), inputs, {"b": [Refusing()]})
    still = scg.Graph()
    still.cost(lambda theta: theta**2, name="f")
    with pytest.raises(scg.GraphError, match="nothing to tune"):
        scg.tune(still, {"theta": torch.tensor(1.0, requires_grad=True)})


def test_the_evidence_is_printed():
    tuned = scg.tune(bits("auto"), {"logits": logits(0.1)}, {"b": PRIMITIVES}, draws=16)
    text = str(tuned)
    assert text.startswith("chosen: b=") and "var × ms" in text and "ScoreFunction" in text
