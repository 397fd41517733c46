"""Shares of the variance by node and cost: the identity by enumeration, and the estimate against it."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import scg
from scg.comparison import attribution
from scg.comparison.attribution import REST
from scg.comparison.random_streams import RandomStreams
from scg.estimators import Enumeration, LeaveOneOut, Pathwise, ScoreFunction
from tests.exact import log_prob

THETA = torch.tensor([0.4, -0.3, 0.6], dtype=torch.float64, requires_grad=True)
BATCH = 50
ROWS = THETA.detach().repeat(BATCH, 1).requires_grad_()  # a θ for each batch element: shares are 1/50 of a scalar graph's
DRAWS = 120


def chain(baseline=None):
    """Three bits, each of which moves the next; two costs."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta[..., 0]), name="a")
    graph.stochastic(ScoreFunction(), lambda theta, a: Bernoulli(logits=theta[..., 1] + a), name="b", baseline=baseline)
    graph.stochastic(ScoreFunction(), lambda theta, a, b: Bernoulli(logits=theta[..., 2] * (1 + a - 2 * b)), name="c")
    graph.cost(lambda a, b: (a - 0.6) ** 2 + b, name="near")
    graph.cost(lambda a, b, c: (2 * c - a) ** 2 * (b + 0.5), name="far")
    return graph


def enumerated(graph, nodes, costs, theta):
    """D_kc of the definition: conditional means of the gradient and its parts, over every outcome of the nodes."""
    table = {}
    for outcome in itertools.product((0.0, 1.0), repeat=len(nodes)):
        given = {n: torch.tensor(v) for n, v in zip(nodes, outcome, strict=True)}
        trace = graph.replay(given, theta=theta)
        probability = float(log_prob(trace, nodes).exp().detach())
        whole = gradient(trace.surrogate(), theta)
        plain = graph_without_baselines(graph).replay(given, theta=theta)
        parts = [gradient(plain.surrogate(c), theta) for c in costs]
        table[outcome] = probability, whole, torch.stack([*parts, whole - sum(parts)])

    def mean(k, outcome):
        """E[g | the first k nodes]"""
        kept = [(p, g) for o, (p, g, _) in table.items() if o[:k] == outcome[:k]]
        return sum(p * g for p, g in kept) / sum(p for p, _ in kept)

    found = torch.zeros(len(nodes), len(costs) + 1)
    for outcome, (probability, _, parts) in table.items():
        for k in range(len(nodes)):
            found[k] += probability * parts @ (mean(k + 1, outcome) - mean(k, outcome))
    centre = mean(0, (0.0,) * len(nodes))
    variance = sum(p * float((g - centre).square().sum()) for p, g, _ in table.values())
    return found, variance


def gradient(surrogate, theta):
    return torch.autograd.grad(surrogate, theta, retain_graph=True, allow_unused=True, materialize_grads=True)[0]


def graph_without_baselines(graph):
    plain = chain()
    return plain.with_estimators(**{n: graph.nodes[n].estimator for n in ("a", "b", "c")})


def table(found, nodes, costs):
    return [[found.parts[n, c] for c in (*costs, REST)] for n in nodes]


def far_off(found, exact):
    """Cells whose exact value is more than 4.5 standard errors away."""
    cells = [(i, e) for row, truth in zip(found, exact, strict=True) for i, e in zip(row, truth.tolist(), strict=True)]
    return [(i, e) for i, e in cells if abs(i.value - e) > 4.5 / 1.96 * (i.high - i.low) / 2 + 1e-12]


@pytest.mark.parametrize("baseline", [None, 0.7], ids=["plain", "with a baseline"])
def test_the_parts_add_up_to_the_variance_and_to_the_conditional_means_by_enumeration(baseline):
    """The identity, with no sampling noise: over eight outcomes, Σ_k Σ_c D_kc is tr Var g, and Σ_c D_kc is not negative."""
    exact, variance = enumerated(chain(baseline), "abc", ("near", "far"), THETA)
    assert float(exact.sum()) == pytest.approx(variance, rel=1e-12)
    assert (exact.sum(1) > 0).all()
    assert (exact[:, 2].abs().max() > 1e-3) == (baseline is not None)


@pytest.mark.parametrize("baseline", [None, 0.7], ids=["plain", "with a baseline"])
def test_the_estimate_is_that_of_the_enumeration(baseline):
    """Nine cells and four margins within 4.5 standard errors: false alarm 9e-5. The twin test shows what is found."""
    exact, variance = enumerated(chain(baseline), "abc", ("near", "far"), THETA)
    found = scg.attribute(chain(baseline), {"theta": ROWS}, draws=DRAWS)
    assert not far_off(table(found, "abc", ("near", "far")), exact / BATCH)
    assert not far_off([[found.total]], torch.tensor([[variance]]) / BATCH)
    assert not far_off([[found.by_cost[c] for c in ("near", "far", REST)]], exact.sum(0, keepdim=True) / BATCH)


def test_a_wrong_order_of_the_nodes_is_found_by_the_same_test(monkeypatch):
    exact, _ = enumerated(chain(), "abc", ("near", "far"), THETA)
    right = attribution._Draw.__init__

    def reversed_order(self, streams, nodes, parameters, steps):
        right(self, streams, nodes[::-1], parameters, steps)

    monkeypatch.setattr(attribution._Draw, "__init__", reversed_order)
    found = scg.attribute(chain(), {"theta": ROWS}, draws=DRAWS)
    swapped = table(found, "cba", ("near", "far"))  # the labels are the other way round too: here each node is in its place
    assert far_off(swapped, exact / BATCH)


def test_sums_over_nodes_and_over_costs_are_the_margins():
    found = scg.attribute(chain(), {"theta": THETA}, draws=50)
    for n in "abc":
        assert sum(found.parts[n, c].value for c in ("near", "far", REST)) == pytest.approx(found.by_node[n].value)
    assert sum(i.value for i in found.by_node.values()) == pytest.approx(found.total.value)
    assert sum(i.value for i in found.by_cost.values()) == pytest.approx(found.total.value)
    assert sum(found.share(n) for n in "abc") == pytest.approx(1.0)
    assert found.share("a", "far") == pytest.approx(found.parts["a", "far"].value / found.total.value)
    assert found.share(cost="near") == pytest.approx(found.by_cost["near"].value / found.total.value)


def test_a_node_that_is_summed_out_has_no_share_and_a_sole_noisy_one_has_all():
    graph = chain().with_estimators(a=Enumeration(), b=Enumeration())
    found = scg.attribute(graph, {"theta": THETA}, draws=40)
    assert found.by_node["a"].value == found.by_node["b"].value == 0
    assert found.share("c") == pytest.approx(1.0)
    still = scg.attribute(graph.with_estimators(c=Enumeration()), {"theta": THETA}, draws=16)
    assert still.total.value == pytest.approx(0, abs=1e-25) and still.share("c") == pytest.approx(0, abs=2)


def test_the_total_is_the_variance_that_a_comparison_measures():
    """Two estimates on different draws: 4.5 standard errors of both together."""
    graph = chain().with_estimators(b=LeaveOneOut(4))
    found = scg.attribute(graph, {"theta": ROWS}, draws=DRAWS).total
    (row,) = scg.compare(
        graph, {"theta": ROWS}, {"b": [LeaveOneOut(4)]}, draws=DRAWS, seed=5, reference=torch.zeros(BATCH, 3)
    ).rows
    se = ((found.high - found.low) ** 2 + (row.variance.high - row.variance.low) ** 2) ** 0.5 / 3.92
    assert abs(found.value - row.variance.value) < 4.5 * se


def test_in_a_sequence_a_node_counts_with_its_noise_at_all_steps():
    """x = μ + ε, s_t = s_{t−1} + x + η_t, cost s_2²: g = 2 s_2 · 2, so var g = 16 (4 Var ε + 2 Var η), of which ε has 4/6."""
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    with graph.sequence():
        graph.stochastic(Pathwise(), lambda x, s=scg.prev("s", init="s0"): Normal(s + x, 1.0), name="s")
        graph.deterministic(lambda s: s, name="kept")
    graph.cost(lambda kept: kept**2, name="f")
    inputs = {"mu": torch.full((BATCH,), 0.3, requires_grad=True), "s0": torch.zeros(BATCH)}
    found = scg.attribute(graph, inputs, steps=2, draws=100)
    assert not far_off([[found.by_node["x"]], [found.by_node["s"]]], torch.tensor([[64.0], [32.0]]) / BATCH)
    assert found.by_cost[REST].value == pytest.approx(0, abs=1e-20)


def test_noise_that_reaches_a_cost_through_a_detached_edge_counts():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda: Bernoulli(0.5), name="scale")
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.cost(lambda x, k=scg.detach("scale"): k * x, name="f")  # g = k
    found = scg.attribute(graph, {"mu": torch.tensor(0.3, requires_grad=True)}, draws=100)
    assert found.share("scale") == pytest.approx(1.0) and found.by_node["x"].value == 0
    assert not far_off([[found.total]], torch.tensor([[0.25]]))


def test_a_seed_of_its_own_gives_a_node_the_same_draw_whatever_the_others_draw():
    streams = RandomStreams(chain())
    streams.graph.sample(theta=THETA)
    seeds = {"a": 1, "b": 2, "c": 3}
    first, again, other = (
        streams.draw(s, {}, lambda g: g.sample(theta=THETA)) for s in (seeds, seeds, {**seeds, "c": 7})
    )  # fmt: skip
    assert all(torch.equal(first[n], again[n]) for n in "abc")
    assert torch.equal(first["a"], other["a"]) and torch.equal(first["b"], other["b"])
    free = [float(streams.graph.sample(theta=THETA)["a"]) for _ in range(20)]
    assert set(free) == {0.0, 1.0}  # without seeds, the stream is the usual one


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_stream_alone():
    found = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        found.append(scg.attribute(chain(), {"theta": THETA}, draws=20, seed=seed).parts)
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1] != found[2]
    assert THETA.grad is None


def test_it_prints_shares_and_hides_what_is_not_there():
    text = str(scg.attribute(chain(), {"theta": THETA}, draws=20))
    assert "near" in text and "far" in text and REST not in text and "100 %" in text
    assert REST in str(scg.attribute(chain(0.7), {"theta": THETA}, draws=20))


def test_an_interrupted_attribution_keeps_its_draws(monkeypatch):
    calls = []
    right = attribution._Draw.__call__

    def stops(self, seed, r):
        calls.append(r)
        if len(calls) == 31:
            raise KeyboardInterrupt
        return right(self, seed, r)

    monkeypatch.setattr(attribution._Draw, "__call__", stops)
    found = scg.attribute(chain(), {"theta": THETA}, draws=100)
    assert found.interrupted and found.draws == 29 and "interrupted" in str(found)
    calls[:] = [0] * 20  # the eleventh draw
    with pytest.raises(KeyboardInterrupt):
        scg.attribute(chain(), {"theta": THETA}, draws=100)


def test_requests_that_make_no_sense_are_refused():
    with pytest.raises(scg.GraphError, match="draws=3: at least 16"):
        scg.attribute(chain(), {"theta": THETA}, draws=3)
    with pytest.raises(scg.GraphError, match="confidence=95"):
        scg.attribute(chain(), {"theta": THETA}, confidence=95)
    still = scg.Graph()
    still.cost(lambda theta: theta.sum() ** 2, name="f")
    with pytest.raises(scg.GraphError, match="no stochastic node"):
        scg.attribute(still, {"theta": THETA})
    with pytest.raises(scg.GraphError, match='"auto"'):
        scg.attribute(chain().with_estimators(a="auto"), {"theta": THETA})


def test_the_bars_are_the_parts_and_add_up_to_each_nodes_share(tmp_path):
    found = scg.attribute(chain(), {"theta": ROWS}, draws=20)
    figure = found.plot(tmp_path / "shares.svg")
    (axis,) = figure.axes
    bars = axis.patches
    costs = found.costs
    assert costs == ["near", "far"]
    assert [bar.get_width() for bar in bars] == [found.parts[node, cost].value for node in found.by_node for cost in costs]
    for place, node in enumerate(found.by_node):
        assert sum(bar.get_width() for bar in bars[place * len(costs) : (place + 1) * len(costs)]) == pytest.approx(
            found.by_node[node].value
        )
    assert [text.get_text() for text in axis.texts] == [f"{100 * found.share(node):.0f} %" for node in found.by_node]
    assert "far" in (tmp_path / "shares.svg").read_text()
    with pytest.raises(scg.GraphError, match=r"ends in \.png, \.pdf, \.svg"):
        found.plot("shares.txt")
