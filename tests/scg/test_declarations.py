"""Declarations: names, parents, markers; structural faults are found when the graph is first used."""

import functools

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import scg
from scg import GraphError, detach, dist, prev
from scg.estimators import Pathwise, ScoreFunction

THETA = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)


def bit(theta):
    return Bernoulli(logits=theta)


def test_parents_are_parameter_names_and_other_names_are_inputs():
    graph = scg.Graph()

    @graph.stochastic(ScoreFunction())
    def b(theta):
        return Bernoulli(logits=theta)

    @graph.cost
    def loss(b, target):
        return (b - target) ** 2

    assert graph.structure.inputs == ("theta", "target")
    assert graph.ancestors("loss") == ("b",)
    assert callable(b)  # the decorator gives the function back
    assert callable(loss)


def test_the_three_forms_of_a_declaration_are_the_same_graph():
    graphs = [scg.Graph() for _ in range(3)]
    graphs[0].stochastic(ScoreFunction(), name="b")(bit)
    graphs[1].stochastic(ScoreFunction(), bit, name="b")
    graphs[2].stochastic(bit, estimator=ScoreFunction(), name="b", parents=["theta"])
    for graph in graphs:
        graph.cost(lambda b: b**2, name="f")
    values = [g.surrogate(generator=torch.Generator().manual_seed(0), theta=THETA) for g in graphs]
    assert values[0] == values[1] == values[2]


def test_modules_are_nodes_through_their_forward():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x, scale=2.0):
            return scale * self.layer(x).squeeze(-1)

    graph = scg.Graph()
    graph.deterministic(Net(), name="h")
    graph.cost(lambda h: h, name="f")
    x = torch.randn(4, 3)
    assert torch.allclose(graph.sample(x=x, scale=4.0)["h"], 2 * graph.sample(x=x)["h"])


def test_variadic_callables_need_parents():
    graph = scg.Graph()
    with pytest.raises(GraphError, match=r"node 'h': the signature of .* has \*input, which names no parents .* say parents="):
        graph.deterministic(functools.partial(lambda *input: input), name="h")
    compiled = torch.compile(nn.Linear(3, 1))
    graph.deterministic(compiled, name="h", parents=["x"])
    with pytest.raises(GraphError, match=r"has \*\*options"):
        graph.deterministic(lambda **options: options, name="g")


@pytest.mark.parametrize(
    "anonymous", [lambda x: x, functools.partial(bit, 0.0), nn.Linear(1, 1)], ids=["lambda", "partial", "module"]
)
def test_what_has_no_name_needs_one(anonymous):
    with pytest.raises(GraphError, match="has no name of its own: pass name="):
        scg.Graph().deterministic(anonymous)


@pytest.mark.parametrize("name", ["steps", "generator", "costs", "a.b", ""])
def test_reserved_and_malformed_names_are_refused(name):
    with pytest.raises(GraphError, match=r"reserved|non-empty string without dots"):
        scg.Graph().deterministic(bit, name=name)


def test_reserved_names_are_refused_as_parents_too():
    with pytest.raises(GraphError, match="node 'f': 'steps' is a reserved name"):
        scg.Graph().cost(lambda steps: steps, name="f")


def test_a_name_is_declared_once():
    graph = scg.Graph()
    graph.deterministic(bit)
    with pytest.raises(GraphError, match="node 'bit' is declared twice"):
        graph.deterministic(bit)


def test_positional_only_parameters_are_refused():
    def f(x, /):
        return x

    with pytest.raises(GraphError, match="node 'f': parameter 'x' is positional-only"):
        scg.Graph().cost(f)


def test_a_default_makes_an_optional_input_unless_it_names_a_node():
    graph = scg.Graph()
    graph.cost(lambda x, scale=3.0: scale * x, name="f")
    assert graph.surrogate(x=torch.tensor(2.0)) == 6.0
    assert graph.surrogate(x=torch.tensor(2.0), scale=torch.tensor(1.0)) == 2.0
    graph.deterministic(lambda x: x, name="scale")
    with pytest.raises(GraphError, match="node 'f': parameter 'scale' has a default, but 'scale' is a node"):
        graph.surrogate(x=torch.tensor(2.0))


def test_a_missing_input_is_named_with_who_needs_it_and_what_was_meant():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), bit, name="b")
    graph.cost(lambda bb: bb, name="f")
    with pytest.raises(GraphError, match="input 'bb' is missing, needed by 'f': pass it by keyword. Did you mean 'b'?"):
        graph.surrogate(theta=THETA)
    with pytest.raises(GraphError, match="'thetta' is neither an input nor an observed node .* Did you mean 'theta'?"):
        graph.surrogate(theta=THETA, bb=THETA, thetta=THETA)


def test_a_stochastic_node_must_return_a_distribution():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: theta, name="b")
    graph.cost(lambda b: b, name="f")
    with pytest.raises(GraphError, match="node 'b': a stochastic node's function returns a torch Distribution, got Tensor"):
        graph.surrogate(theta=THETA)


def test_estimators_are_instances():
    with pytest.raises(GraphError, match=r"takes an estimator \(an instance, as in ScoreFunction\(\)\)"):
        scg.Graph().stochastic(ScoreFunction)
    with pytest.raises(GraphError, match="needs an estimator"):
        scg.Graph().stochastic(bit)


@pytest.mark.parametrize("samples", [0, -1, 1.5])
def test_the_number_of_samples_is_a_positive_integer(samples):
    for estimator in (ScoreFunction, Pathwise):
        with pytest.raises(ValueError, match="samples is an integer, at least 1"):
            estimator(samples=samples)


def test_an_estimator_need_not_inherit():
    class Mine:
        def branch(self, distribution):
            value = distribution.sample()
            lp = distribution.log_prob(value)
            return scg.Branches(value, score=lp - lp.detach())

    graph = scg.Graph()
    graph.stochastic(Mine(), bit, name="b")
    graph.cost(lambda b: b, name="f")
    assert graph.surrogate(theta=THETA).requires_grad


def test_cycles_are_named():
    graph = scg.Graph()
    graph.deterministic(lambda b: b, name="a")
    graph.deterministic(lambda c: c, name="b")
    graph.deterministic(lambda a: a, name="c")
    with pytest.raises(GraphError, match="cycle a → b → c → a; break it with prev"):
        graph.ancestors("a")


def test_markers_outside_their_place_are_refused():
    graph = scg.Graph()
    with pytest.raises(GraphError, match="node 'f': prev\\('x'\\) outside a sequence"):
        graph.cost(lambda x: x, name="f", parents=[prev("x", init="x0")])
    with graph.sequence():
        with pytest.raises(GraphError, match=r"dist\(prev\('x'\)\) has no value at the first step"):
            graph.cost(lambda x: x, name="f", parents=[dist(prev("x"))])
        graph.cost(lambda x: x, name="g", parents=[prev("y", init="y0")])
    with pytest.raises(GraphError, match=r"node 'g': prev\('y'\) needs a node of the sequence"):
        graph.ancestors("g")


def test_prev_needs_a_first_value():
    graph = scg.Graph()
    with graph.sequence():
        graph.deterministic(lambda h: h, name="h", parents=[prev("h")])
    with pytest.raises(GraphError, match=r"node 'h': prev\('h'\) has no value at the first step; say prev\('h', init="):
        graph.ancestors("h")


def test_dist_needs_a_stochastic_node():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), bit, name="action")
    graph.deterministic(bit, name="h")
    graph.cost(lambda q: q, name="f", parents=[dist("h")])
    with pytest.raises(GraphError, match=r"dist\('h'\) needs a stochastic node, but 'h' is a deterministic node"):
        graph.ancestors("f")


def test_a_baseline_must_exist():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), bit, name="b", baseline="valu")
    graph.deterministic(lambda theta: theta, name="value")
    with pytest.raises(GraphError, match="node 'b': baseline='valu' is no node. Did you mean 'value'?"):
        graph.surrogate(theta=THETA)


def test_the_flags_of_episodes_must_be_observed():
    graph = scg.Graph()
    with graph.sequence(first="firsts"):
        graph.observed("first")
    with pytest.raises(GraphError, match=r"sequence\(first='firsts'\): declare it .* Did you mean 'first'?"):
        _ = graph.structure


def test_a_sequence_inside_a_sequence_is_refused():
    graph = scg.Graph()
    with graph.sequence(), pytest.raises(GraphError, match="a graph has one time axis"), graph.sequence():
        pass


def test_nodes_inside_the_sequence_cannot_wait_for_its_last_step():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), bit, name="a")
        graph.cost(lambda end: end, name="f")
    graph.deterministic(lambda a: a, name="end")
    with pytest.raises(GraphError, match="node 'f': it is inside the sequence and needs 'end', which waits for its last step"):
        graph.surrogate(steps=2, theta=THETA)


def test_steps_are_asked_for_and_held_against_what_was_given():
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs")
        graph.observed("price")
        graph.stochastic(ScoreFunction(), lambda obs, theta: Normal(theta * obs, 1.0), name="a")
        graph.cost(lambda a, price: a * price, name="f")
    with pytest.raises(GraphError, match="observed node 'obs' is missing, needed by 'a'"):
        graph.surrogate(theta=THETA, steps=3)
    with pytest.raises(GraphError, match="given values of different length along time"):
        graph.surrogate(theta=THETA, obs=torch.zeros(3), price=torch.zeros(4))
    with pytest.raises(GraphError, match="steps=5, but"):
        graph.surrogate(theta=THETA, obs=torch.zeros(3), price=torch.zeros(3), steps=5)
    free = scg.Graph()
    with free.sequence():
        free.stochastic(ScoreFunction(), bit, name="a")
        free.cost(lambda a: a, name="f")
    with pytest.raises(GraphError, match="say how many steps"):
        free.surrogate(theta=THETA)


def test_branching_where_the_future_recurs_is_refused():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(samples=2), lambda s: Normal(s, 1.0), name="s", parents=[prev("s", init="s0")])
        graph.cost(lambda s: s, name="f")
    with pytest.raises(GraphError, match=r"node 's': it branches, and 's', which it reaches, feeds a prev\(…\)"):
        graph.surrogate(steps=3, s0=THETA)


def test_computed_nodes_are_not_given():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), bit, name="b")
    graph.cost(lambda b: b, name="f")
    with pytest.raises(GraphError, match="node 'b': a stochastic node is computed here; to give its value use graph.replay"):
        graph.surrogate(theta=THETA, b=torch.tensor(1.0))
    with pytest.raises(GraphError, match=r"given\['f'\]: a cost node is computed from its parents"):
        graph.replay({"f": torch.tensor(1.0)}, theta=THETA)
    with pytest.raises(GraphError, match=r"given\['bb'\]: no such node. Did you mean 'b'?"):
        graph.replay({"bb": torch.tensor(1.0)}, theta=THETA)


def test_a_graph_without_costs_samples_but_has_no_surrogate():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), bit, name="b")
    trace = graph.sample(theta=THETA)
    assert trace["b"].shape == ()
    with pytest.raises(GraphError, match="no cost"):
        trace.surrogate()


def test_unknown_costs_and_reductions_are_refused():
    graph = scg.Graph()
    graph.cost(lambda theta: theta, name="loss")
    trace = graph.sample(theta=THETA)
    with pytest.raises(GraphError, match=r"trace.surrogate\('los'\): no such cost. Did you mean 'loss'?"):
        trace.surrogate("los")
    with pytest.raises(GraphError, match="over time it is 'sum' or 'mean'"):
        trace.surrogate(reduce="max")


def test_other_estimators_leave_the_first_graph_as_it_was():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x, name="f")
    other = graph.with_estimators(x=Pathwise(samples=2))
    assert graph.nodes["x"].estimator == ScoreFunction()
    assert other.sample(theta=THETA)["x"].shape == (2,)
    with pytest.raises(GraphError, match="'y' is no node of this graph"):
        graph.with_estimators(y=Pathwise())
    with pytest.raises(GraphError, match="node 'f': a cost node has no estimator to replace"):
        graph.with_estimators(f=Pathwise())


def test_rewards_are_negated_where_they_enter():
    graph = scg.Graph()
    graph.reward(lambda theta: 3 * theta, name="gain")
    assert torch.allclose(graph.surrogate(theta=THETA), -3 * THETA)


def test_detach_and_prev_nest_either_way():
    for marker in (detach(prev("h", init="h0")), prev(detach("h"), init="h0")):
        graph = scg.Graph()
        with graph.sequence():
            graph.deterministic(lambda h, theta: theta * h + 1, name="h", parents=[marker, "theta"])
            graph.cost(lambda h: h, name="f")
        theta = torch.tensor(2.0, requires_grad=True)
        graph.surrogate(steps=3, theta=theta, h0=torch.tensor(1.0)).backward()
        assert theta.grad == 1.0 + 3.0 + 7.0  # truncated at each step: Σ h_{t-1}
