"""What a baseline or a critic may be a function of: listed by d-separation, held against exact conditional expectations."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli

import scg
from scg import GraphError, prev
from scg.analysis.d_separation import Lifted, missed
from scg.estimators import NoGradient, ScoreFunction
from scg.estimators.credit import valid_conditioning_sets
from tests.exact import log_prob, outcomes


def process(policy=("obs",), task=False):
    """obs_t from obs_{t-1} and a_{t-1}, a_t ~ π(·| policy), reward from both."""
    graph = scg.Graph()
    if task:
        graph.observed("task")
    with graph.sequence():
        graph.observed("obs", parents=[prev("obs"), prev("a"), *(["task"] if task else [])])
        graph.deterministic(lambda obs: 2 * obs, name="features")
        graph.stochastic(ScoreFunction(), lambda *seen: Bernoulli(logits=sum(seen)), name="a", parents=[*policy, "theta"])
        graph.observed("reward", parents=["obs", "a"])
        graph.reward(lambda reward: reward, name="gain")
    return graph


def sets(*names):
    return {frozenset(n) for n in names}


def test_a_markov_policy_needs_the_state_for_a_value_and_the_action_too_for_a_critic():
    found = valid_conditioning_sets(process(), "a")
    assert dict(found.baseline) == {"obs": 0, "features": 0, "a": -1, "reward": -1}
    assert set(found.values) == sets({"obs"})
    assert set(found.critics) == sets({"obs", "a"})


def test_a_policy_with_memory_needs_its_memory_in_the_value():
    """V(obs_{t+1}) as a bootstrap would average over obs_t, which a_{t+1} reads."""
    found = valid_conditioning_sets(process(policy=("obs", prev("obs", init="o0"))), "a")
    assert set(found.values) == sets({"obs", "prev(obs)"})
    assert set(found.critics) == sets({"obs", "a"})  # once a is known, obs_{t-1} says nothing more of what follows


def test_a_task_that_drives_every_step_belongs_into_the_value():
    """A critic of (obs, a) may average over the task, as the score does not know it either; a bootstrap may not."""
    found = valid_conditioning_sets(process(task=True), "a")
    assert set(found.values) == sets({"obs", "task"})
    assert set(found.critics) == sets({"obs", "a"})
    assert dict(found.baseline)["task"] == float("inf")


def test_a_critic_below_its_node_must_see_all_the_ways_down():
    """x → y → c alone: a critic of y will do. With x → c as well it must see x."""

    def build(direct):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
        graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=x), name="y")
        graph.cost(lambda y, *x: y + sum(x), name="c", parents=["y", "x"] if direct else ["y"])
        return graph

    assert set(valid_conditioning_sets(build(False), "x").critics) == sets({"x"}, {"y"})
    assert set(valid_conditioning_sets(build(True), "x").critics) == sets({"x"})
    assert valid_conditioning_sets(build(True), "x").baseline == ()
    assert valid_conditioning_sets(build(True), "y").baseline == (("x", float("inf")),)


def test_a_collider_is_no_separator():
    """Given s, which u and x made together, u says something of x: a critic of s alone is wrong where u costs too."""
    graph = scg.Graph()
    graph.observed("u")
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.stochastic(NoGradient(), lambda u, x: Bernoulli(logits=u + x), name="s")
    graph.cost(lambda s, u: s * u, name="c")
    assert set(valid_conditioning_sets(graph, "x").critics) == sets({"x"}, {"s", "u"})


def network():
    """Six bits: a hidden cause, a collider, two costs, a bit that follows a cost's parent."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="u")
    graph.stochastic(ScoreFunction(), lambda u: Bernoulli(logits=2 * u - 1.2), name="w")
    graph.stochastic(ScoreFunction(), lambda w, theta: Bernoulli(logits=w - theta), name="x")
    graph.stochastic(ScoreFunction(), lambda x, u: Bernoulli(logits=1.5 * x - u), name="s")
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=0.5 - x), name="y")
    graph.stochastic(ScoreFunction(), lambda s: Bernoulli(logits=s - 0.3), name="z")
    graph.cost(lambda s, y: (s + 2 * y - 0.4) ** 2, name="c")
    graph.cost(lambda u, z: 3 * u * z, name="d")
    return graph


@pytest.mark.parametrize("node", ["x", "s", "w"])
def test_the_listed_sets_are_those_whose_conditional_expectations_fit(node):
    """By enumeration: E[L|C] has the gradient of L exactly for the sets that contain a listed critic set.

    Sets that d-separation does not find valid fail on these numbers, which have no accidental independence.
    """
    graph = network()
    theta = torch.tensor(0.4)
    bits = list(graph.structure.stochastic)
    every = list(outcomes({name: [0.0, 1.0] for name in bits}))
    rows = torch.stack([torch.stack([o[n] for n in bits]) for o in every])
    traces = [graph.replay(o, theta=theta) for o in every]
    p = torch.stack([log_prob(t, bits).exp() for t in traces])
    below = [c for c in ("c", "d") if graph.lags(node, c) is not None]
    cost = torch.stack([sum(t[c] for c in below) for t in traces])

    def conditional(names):
        """E[L | names] at every outcome."""
        key = rows[:, [bits.index(n) for n in names]]
        match = (key.unsqueeze(0) == key.unsqueeze(1)).all(-1).to(p.dtype)
        return (match * p * cost).sum(1) / (match * p).sum(1)

    own = bits.index(node)
    family = [bits.index(e.source) for e in graph.nodes[node].parents if e.source in bits] + [own]

    def fits(names):
        """Σ over everything but x's family of p (E[L|C] − L) vanishes for each of its values: any score will do."""
        gap = p * (conditional(names) - cost)
        totals: dict = {}
        for row, g in zip(rows.tolist(), gap, strict=True):
            key = tuple(row[i] for i in family)
            totals[key] = totals.get(key, 0.0) + g
        return all(abs(g) < 1e-12 for g in totals.values())

    found = valid_conditioning_sets(graph, node, largest=6).critics
    for size in range(len(bits) + 1):
        for names in itertools.combinations(bits, size):
            listed = any(s <= set(names) for s in found)
            separates = Lifted(graph.structure).separated(
                {(bits[i], 0) for i in family}, {(c, 0) for c in below}, {(n, 0) for n in names}
            )
            if separates:
                assert fits(names), names
            elif not listed:
                assert not fits(names), names


def test_missed_by_agrees_where_the_critic_is_one_of_the_state():
    """What the core says of a value in the plain process is what the lists say."""
    graph = process()
    with graph.sequence():
        graph.deterministic(lambda obs: obs, name="value")
        graph.deterministic(lambda reward: reward, name="blind", parents=[prev("reward", init="r0")])
    assert missed(graph.structure, "a", "value", replaces=False) == ()
    assert missed(graph.structure, "a", "blind", replaces=False) != ()


def test_the_list_reads_as_a_sentence():
    assert str(valid_conditioning_sets(process(policy=("obs", prev("obs", init="o0"))), "a")) == (
        "node 'a'\n"
        "  baseline of up to this step: obs, features\n"
        "  baseline of up to the previous step: a, reward\n"
        "  critic Q of at least: {a, obs}\n"
        "  value V of at least: {obs, prev(obs)}"
    )


def test_what_is_no_sample_or_costs_nothing_is_refused():
    graph = process()
    with pytest.raises(GraphError, match="'obs' is no stochastic node"):
        valid_conditioning_sets(graph, "obs")
    idle = scg.Graph()
    idle.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    idle.cost(lambda theta: theta, name="c")
    with pytest.raises(GraphError, match="no cost is downstream of node 'x'"):
        valid_conditioning_sets(idle, "x")


def test_critics_that_only_look_like_a_state_are_found():
    """A latent outside the sequence, a policy with memory, a Q-critic that sees only one of two ways to the cost."""
    graph = scg.Graph()
    graph.observed("z")
    with graph.sequence():
        graph.observed("obs", parents=[prev("obs"), prev("a"), "z"])
        graph.deterministic(lambda obs: obs, name="value")
        graph.stochastic(ScoreFunction(), lambda obs, th: Bernoulli(logits=obs + th), name="a")
        graph.observed("r", parents=["obs", "a"])
        graph.cost(lambda r: r, name="c")
    assert "z" in missed(graph.structure, "a", "value", replaces=False)

    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs", parents=[prev("obs"), prev("a")])
        graph.deterministic(lambda obs: obs, name="value")
        graph.deterministic(lambda obs, before: obs + before, name="both", parents=["obs", prev("obs", init="o0")])
        graph.stochastic(
            ScoreFunction(),
            lambda obs, o, th: Bernoulli(logits=obs + o + th),
            name="a",
            parents=["obs", prev("obs", init="o0"), "th"],
        )
        graph.observed("r", parents=["obs", "a"])
        graph.cost(lambda r: r, name="c")
    assert "obs" in missed(graph.structure, "a", "value", replaces=False)
    assert missed(graph.structure, "a", "both", replaces=False) == ()

    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda th: Bernoulli(logits=th), name="x")
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(probs=0.3 + 0.4 * x), name="y")
    graph.deterministic(lambda y: y, name="of_y")
    graph.deterministic(lambda x, y: x + y, name="of_both")
    graph.cost(lambda x, y: x + y, name="c")
    assert missed(graph.structure, "x", "of_y", replaces=True) == ("x",)
    assert missed(graph.structure, "x", "of_both", replaces=True) == ()
