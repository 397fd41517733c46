"""What `scg.compare` measures is what closed forms, enumeration and counting say."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

import scg
from scg.comparison.measurement import Measurement
from scg.comparison.memory import peak_bytes
from scg.comparison.parameters import Parameters
from scg.estimators import ARM, RELAX, DisARM, Enumeration, LeaveOneOut, Pathwise, ScoreFunction, StraightThrough
from scg.estimators.catalogue import ENTRIES, KINDS, SquashedSum
from scg.estimators.factorised import components
from tests.scg.comparison.toys import BATCH, Counter, Exaggerated, bits, closed_form, gaussian, logits

ALL = [ScoreFunction(), LeaveOneOut(2), ARM(), DisARM(), Enumeration()]


@pytest.fixture(scope="module")
def toy():
    torch.set_default_dtype(torch.float64)
    theta, t = 0.7, 0.3
    return scg.compare(
        bits(ScoreFunction(), t), {"logits": logits(theta)}, {"b": [*ALL, StraightThrough(allow_bias=True)]}, draws=400
    ), closed_form(theta, t)


@pytest.mark.parametrize("name", ["ScoreFunction", "LeaveOneOut", "ARM", "DisARM", "Enumeration"])
def test_variances_of_the_bernoulli_toy_are_their_closed_forms(toy, name):
    """25,600 draws of the scalar toy: |z| < 4.5 by the interval's own standard error, false alarm 7e-6. A variance off by
    6 % would be found (LeaveOneOut: s.e. 0.9 %, power 0.98)."""
    comparison, (_, variances) = toy
    found, true = comparison[name].variance, variances[name] / BATCH
    se = (found.high - found.low) / 3.92
    assert abs(found.value - true) <= 4.5 * se + 1e-20
    if true:
        assert abs(found.value - 1.3 * true) > 4.5 * se  # and another number would not pass
    assert comparison[name].variances["logits"] == found  # one parameter: it is the total


def test_unbiased_choices_show_no_bias_and_a_biased_one_shows_its_documented_one(toy):
    """Mean of straight-through: 2 (p − t) p (1 − p) for p (1 − p)(1 − 2t). False alarm 1e-3 by the comparison's own rate."""
    comparison, _ = toy
    assert comparison.reference == "exact"
    for row in comparison.rows:
        assert row.verdict == ("biased" if row.label == "StraightThrough" else "no bias found"), row.label
        assert row.declared == row.unbiased == (row.label != "StraightThrough")
    p = float(torch.tensor(0.7).sigmoid())
    row = comparison["StraightThrough"]
    documented = (2 * (p - 0.3) - (1 - 0.6)) * p * (1 - p) / BATCH
    z = (row.biases["logits"] - documented) / (row.half_widths["logits"] / 1.966)
    assert (z.abs() < 4.5).all()
    assert row.bias.low > 0 or row.bias.high < 0


def test_what_says_that_it_is_unbiased_and_is_not_is_found():
    comparison = scg.compare(
        bits(ScoreFunction()), {"logits": logits(0.7)}, {"b": [LeaveOneOut(4), Exaggerated(1.05)]}, draws=64
    )
    assert comparison["Exaggerated(by=1.05)"].declared
    assert comparison["Exaggerated(by=1.05)"].verdict == "biased"
    assert comparison.best().label == "LeaveOneOut(samples=4)"
    assert comparison.best(biased=True).label == "Exaggerated(by=1.05)"  # it has no variance


def test_the_sum_of_squared_steps_is_the_sample_variance():
    theta = torch.zeros(3, requires_grad=True)
    meter = Measurement("m", {}, scg.Graph(), Parameters(scg.Graph(), {"theta": theta}))
    draws = torch.randn(50, 3).exp()
    for row in draws:
        meter.add(row, 1.0)
    assert torch.allclose(meter.squared_deviations().mean(0), draws.var(0).sum(), rtol=1e-12)
    assert torch.allclose(meter.moments.mean, draws.mean(0), rtol=1e-12)
    centred = draws - draws.mean(0)
    skewness = centred.pow(3).mean(0) / centred.square().mean(0) ** 1.5
    assert torch.allclose(meter.moments.skewness, skewness, rtol=1e-9)


def test_figures_are_products_of_what_was_measured(toy):
    comparison, _ = toy
    for row in comparison.rows:
        assert row.work.value == pytest.approx(row.variance.value * row.time.value)
        assert row.cost.value == pytest.approx(row.variance.value * row.evaluations)
        assert row.time.low <= row.time.value <= row.time.high
    works = [row.work.value for row in comparison.rows]
    assert works == sorted(works)


def test_best_takes_the_least_and_among_equals_the_quickest():
    clock = Counter()
    comparison = scg.compare(
        bits(ScoreFunction(), clock=clock), {"logits": logits(0.7, 1)}, {"b": [Enumeration(), ARM()]}, draws=64, clock=clock
    )
    assert comparison.best().label == "Enumeration"
    assert comparison.best("time").time.value == 2.0
    with pytest.raises(scg.GraphError, match=r"best\(by='speed'\): one of 'work'"):
        comparison.best("speed")


# -- counted ---------------------------------------------------------------------------------------------------


def test_a_clock_of_evaluations_agrees_with_the_evaluations_counted():
    clock = Counter()
    comparison = scg.compare(bits(ScoreFunction(), clock=clock), {"logits": logits(0.7, 1)}, {"b": ALL}, draws=16, clock=clock)
    for row in comparison.rows:
        assert row.time.value == row.evaluations == {"ScoreFunction": 1.0}.get(row.label, 2.0)
        assert (row.time.low, row.time.high) == (row.time.value, row.time.value)


@pytest.mark.parametrize("name", ["MeasureValued", "Perturbation", "ARMS", "QuasiRandom"])
def test_evaluations_are_those_of_the_catalogue(name):
    graph = scg.Graph()
    graph.stochastic(ENTRIES[name].estimator, lambda theta: KINDS["joint Bernoulli"](theta), name="b")
    graph.cost(lambda b: b.sum(-1) ** 2, name="f")
    theta = torch.tensor([0.3, -0.4, 0.5], requires_grad=True)
    distribution = KINDS["joint Bernoulli"](theta)
    comparison = scg.compare(graph, {"theta": theta}, {"b": [ENTRIES[name].estimator]}, draws=16)
    assert comparison.rows[0].evaluations == ENTRIES[name].count(distribution, components(distribution))


def test_evaluations_multiply_along_nodes_and_add_up_over_costs():
    graph = scg.Graph()
    graph.stochastic(Pathwise(samples=3), lambda mu: Normal(mu, 1.0), name="x")
    graph.stochastic(LeaveOneOut(4), lambda x: Bernoulli(logits=x), name="b")
    graph.cost(lambda x: x**2, name="f")
    graph.cost(lambda x, b: x * b, name="g")
    comparison = scg.compare(graph, {"mu": torch.tensor(0.1, requires_grad=True)}, {"b": [LeaveOneOut(4)]}, draws=16)
    assert comparison.rows[0].evaluations == 3 + 3 * 4


def test_peak_memory_is_what_is_alive_at_once():
    x = torch.randn(100, 1000, requires_grad=True)  # 800,000 bytes in float64

    def call():
        y = x
        for _ in range(5):
            y = y.sin()
        return torch.autograd.grad(y.sum(), x)

    peak = peak_bytes(call, torch.device("cpu"))
    assert 5 * 800_000 <= peak <= 7 * 800_000 + 4096  # five kept for backward, a gradient and its successor
    with torch.no_grad():
        assert 2 * 800_000 <= peak_bytes(lambda: x.sin().sin().sin(), torch.device("cpu")) <= 3 * 800_000
    assert peak_bytes(lambda: x.view(-1), torch.device("cpu")) == 0


def test_more_branches_take_more_memory():
    comparison = scg.compare(bits(ScoreFunction()), {"logits": logits(0.1)}, {"b": [LeaveOneOut(2), LeaveOneOut(64)]}, draws=16)
    assert comparison["LeaveOneOut(samples=64)"].memory > 10 * comparison["LeaveOneOut"].memory


# -- paired ----------------------------------------------------------------------------------------------------


def test_every_round_draws_every_choice_once_in_changing_order_on_one_seed(monkeypatch):
    drawn = []
    plain = Measurement.draw

    def spy(self, seed, clock):
        drawn.append((self.label, seed))
        return plain(self, seed, clock)

    monkeypatch.setattr(Measurement, "draw", spy)
    scg.compare(bits(ScoreFunction()), {"logits": logits(0.1)}, {"b": ALL[:3]}, draws=40)
    rounds = drawn[3 * 4 :]  # one look and three warm calls each
    assert len(rounds) == 120
    orders = set()
    for r in range(40):
        labels, seeds = zip(*rounds[3 * r : 3 * r + 3], strict=True)
        assert sorted(labels) == ["ARM", "LeaveOneOut", "ScoreFunction"] and len(set(seeds)) == 1
        orders.add(labels)
    assert len({seed % 2**32 for _, seed in rounds}) == 40  # the bits that torch takes
    assert len(orders) == 6


def test_a_ratio_of_equal_choices_has_an_interval_of_width_zero():
    clock = Counter()
    same = [ScoreFunction(), ScoreFunction(samples=1)]
    graph, inputs = bits(ScoreFunction(), 0.3, clock=clock), {"logits": logits(0.7, 1)}
    comparison = scg.compare(graph, inputs, {"b": same}, draws=40, clock=clock)
    ratio = comparison.ratio("ScoreFunction", "ScoreFunction #2")
    assert (ratio.low, ratio.value, ratio.high) == (1.0, 1.0, 1.0)
    alone = comparison["ScoreFunction"].variance
    assert alone.high / alone.low > 1.3  # each by itself is far less certain


def test_the_same_seed_gives_the_same_comparison_and_leaves_stream_and_gradients_alone():
    theta = logits(0.1)
    found = []
    for seed in (3, 3, 4):
        clock, state = Counter(), torch.get_rng_state()
        comparison = scg.compare(
            bits(ScoreFunction(), clock=clock), {"logits": theta}, {"b": ALL}, draws=20, clock=clock, seed=seed
        )
        assert torch.equal(torch.get_rng_state(), state)
        found.append([(row.label, row.work, row.bias) for row in comparison.rows])
    assert found[0] == found[1] != found[2]
    assert theta.grad is None


# -- references ------------------------------------------------------------------------------------------------


def test_the_reference_is_the_first_of_exact_differences_and_draws_that_can_be_had():
    """With x of dimension 20 neither a sum nor differences will do; the mean of the primitive's draws will."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda mu: Independent(Normal(mu, 1.0), 1), name="x")
    graph.cost(lambda x: (x**2).sum(-1), name="f")
    mu = torch.linspace(0.1, 1, 20).requires_grad_()
    comparison = scg.compare(graph, {"mu": mu}, {"x": [Pathwise(), LeaveOneOut(8)]}, draws=100)
    assert comparison.reference == "400 draws of x=Pathwise"
    assert {row.verdict for row in comparison.rows} == {"no bias found"}
    small = scg.compare(graph, {"mu": mu}, {"x": [Pathwise()]}, reference=2 * mu.detach(), draws=16)
    assert small.reference == "given"
    wrong = scg.compare(graph, {"mu": mu}, {"x": [Pathwise()]}, reference=4 * mu.detach(), draws=100)
    assert wrong["Pathwise"].verdict == "biased"
    few = gaussian(Pathwise(), lambda x: x**2)
    forced = scg.compare(
        few, {"mu": torch.tensor(0.5, requires_grad=True)}, {"x": [Pathwise()]}, reference="finite_difference", draws=16
    )
    assert forced.reference.startswith("finite difference")


def test_credits_and_biased_neighbours_are_no_part_of_a_drawn_reference():
    graph = scg.Graph()
    graph.stochastic(StraightThrough(allow_bias=True), lambda mu: Bernoulli(logits=mu), name="b")
    graph.stochastic(ScoreFunction(), lambda b, mu: Normal(mu + b, 1.0), name="x", credit=0.0)
    graph.cost(lambda x: x**2, name="f")
    comparison = scg.compare(
        graph, {"mu": torch.tensor(0.5, requires_grad=True)}, {"x": [ScoreFunction()]}, reference="draws", draws=200
    )
    assert comparison.reference == "800 draws of x=Pathwise, b=ScoreFunction(samples=8)"
    assert comparison["ScoreFunction"].verdict == "biased"  # a credit of zero drops the gradient


def test_references_that_make_no_sense_are_refused():
    graph, inputs = bits(ScoreFunction()), {"logits": logits(0.1)}
    with pytest.raises(scg.GraphError, match="reference='truth': 'exact', 'finite_difference', 'draws'"):
        scg.compare(graph, inputs, {"b": [ARM()]}, reference="truth")
    with pytest.raises(scg.GraphError, match=r"the gradient for 'logits' is of shape \(3,\)"):
        scg.compare(graph, inputs, {"b": [ARM()]}, reference=torch.zeros(3))
    with pytest.raises(scg.GraphError, match="the gradient for 'logits' is missing"):
        scg.compare(graph, inputs, {"b": [ARM()]}, reference={"theta": torch.zeros(3)})


# -- what is compared ------------------------------------------------------------------------------------------


def test_all_combinations_or_pairs():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=x), name="b")
    graph.cost(lambda x, b: x * b, name="f")
    inputs = {"mu": torch.tensor(0.1, requires_grad=True)}
    choices = {"x": [Pathwise(), ScoreFunction()], "b": [ARM(), LeaveOneOut(4)]}
    crossed = scg.compare(graph, inputs, choices, draws=16)
    assert {row.label for row in crossed.rows} == {
        "x=Pathwise, b=ARM", "x=Pathwise, b=LeaveOneOut(samples=4)", "x=ScoreFunction, b=ARM",
        "x=ScoreFunction, b=LeaveOneOut(samples=4)",
    }  # fmt: skip
    paired = scg.compare(graph, inputs, choices, zipped=True, draws=16)
    assert {row.label for row in paired.rows} == {"x=Pathwise, b=ARM", "x=ScoreFunction, b=LeaveOneOut(samples=4)"}
    assert all(set(row.estimators) == {"x", "b"} for row in paired.rows)


def test_variances_of_parameters_add_up_to_the_total():
    layer = torch.nn.Linear(2, 1)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda: Bernoulli(logits=layer(torch.ones(2)).squeeze(-1)), name="b")
    graph.cost(lambda b: b, name="f")
    row = scg.compare(graph, {}, {"b": [ScoreFunction()]}, draws=50).rows[0]  # no inputs: the module's parameters
    assert set(row.variances) == {"linear.weight", "linear.bias"}
    assert sum(v.value for v in row.variances.values()) == pytest.approx(row.variance.value)
    assert row.variances["linear.weight"].value == pytest.approx(2 * row.variances["linear.bias"].value)
    assert row.biases["linear.weight"].shape == (1, 2)


def test_a_name_stands_for_every_known_estimator_that_takes_the_distribution():
    comparison = scg.compare(bits("auto"), {"logits": logits(0.2, 1)}, "b", draws=16, learn=2)
    labels = {row.label.partition("(")[0] for row in comparison.rows} | {r.label.partition("(")[0] for r in comparison.refused}
    assert {"ScoreFunction", "DisARM", "REBAR", "RELAX", "GumbelSoftmax", "Enumeration"} <= labels
    assert not {"NoGradient", "Clipped", "Pathwise", "LAX", "TruncatedRatio"} & labels


def test_estimators_that_learn_are_trained_on_copies_before():
    control = SquashedSum()
    before = control.slope.detach().clone()
    graph = bits(ScoreFunction(), t=0.3)
    inputs = {"logits": logits(0.7)}
    fresh = scg.compare(graph, inputs, {"b": [RELAX(control)]}, learn=0, draws=150)
    taught = scg.compare(graph, inputs, {"b": [RELAX(control)]}, learn=80, draws=150)
    assert torch.equal(control.slope, before) and control.slope.grad is None
    assert (fresh.rows[0].learned, taught.rows[0].learned) == (0, 80)
    assert taught.rows[0].variance.high < fresh.rows[0].variance.low
    assert not torch.equal(taught.rows[0].estimators["b"].control.slope, before)
    assert "RELAX (80 steps learned)" in str(taught)


def test_a_sequence_is_compared_too():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda mu, s=scg.prev("s", init="s0"): Normal(0.5 * s + mu, 1.0), name="s")
        graph.cost(lambda s: s**2, name="f")
    inputs = {"mu": torch.tensor(0.3, requires_grad=True), "s0": torch.tensor(0.0)}
    comparison = scg.compare(graph, inputs, {"s": [ScoreFunction(), Pathwise(), LeaveOneOut(2)]}, steps=3, draws=60)
    assert [row.label for row in comparison.rows] == ["Pathwise", "ScoreFunction"]
    assert {row.verdict for row in comparison.rows} == {"no bias found"}
    assert "feeds a prev" in comparison.refused[0].reason


def test_a_budget_ends_the_rounds_though_not_before_the_sixteenth():
    clock = Counter()
    graph, inputs = bits(ScoreFunction(), clock=clock), {"logits": logits(0.1, 1)}
    tight = scg.compare(graph, inputs, {"b": [ScoreFunction()]}, draws=100, budget=1.0, clock=clock)
    assert tight.rows[0].draws == 16
    wide = scg.compare(graph, inputs, {"b": [ScoreFunction()]}, draws=100, budget=30.0, clock=clock)
    assert wide.rows[0].draws == 31
    work = wide.rows[0].work
    assert 0 < work.low < work.value < work.high < math.inf
