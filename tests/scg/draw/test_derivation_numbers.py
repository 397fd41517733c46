"""A derivation is a formula: evaluated term by term it is the gradient, and each term is its share of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import scg
from scg import Graph, Pathwise, ScoreFunction
from scg.derivation import Term, derive
from tests.scg.draw.graphs import mixed


def chain() -> Graph:
    """θ → x₁ → x₂ with a cost at each, as in the paper's graph (5)."""
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x1")
    graph.stochastic(ScoreFunction(), lambda theta, x1: Bernoulli(logits=theta * x1 - 0.3), name="x2")
    graph.cost(lambda x1: (x1 - 0.2) ** 2, name="f1")
    graph.cost(lambda x2: 2 * x2, name="f2")
    return graph


def direct() -> Graph:
    """Graph (4), with a parameter inside a cost and a reward too."""
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.deterministic(lambda theta: theta**2, name="y")
    graph.cost(lambda x, y: (x - y) ** 2, name="f")
    graph.reward(lambda x, theta: x * theta, name="r")
    return graph


def diamond() -> Graph:
    """Siblings with a baseline, under a common parent whose parameter comes by two paths."""
    graph = Graph()
    graph.deterministic(lambda theta: theta.sin(), name="a")
    graph.deterministic(lambda theta, a: theta * a, name="b")
    graph.stochastic(ScoreFunction(), lambda a, b: Bernoulli(logits=a + 2 * b), name="x")
    graph.stochastic(ScoreFunction(), lambda x, b: Bernoulli(logits=x - b), name="y", baseline=lambda x: 2 * x)
    graph.stochastic(ScoreFunction(), lambda x, theta: Bernoulli(logits=x * theta), name="z", baseline=0.7)
    graph.cost(lambda y, z: (1 + y) * (z - 0.4) ** 2, name="f")
    graph.cost(lambda y, a: y * a, name="g")
    return graph


FINITE = (chain, direct, diamond)


def outcomes(graph: Graph, theta: Tensor) -> Iterator[tuple[Tensor, scg.Trace]]:
    """(probability, trace) of every joint value of the graph's Bernoulli nodes."""
    names = graph.structure.stochastic
    for values in itertools.product([0.0, 1.0], repeat=len(names)):
        trace = graph.replay({n: torch.tensor(v) for n, v in zip(names, values)}, theta=theta)
        yield torch.stack([trace.log_prob(n) for n in names]).sum().exp(), trace


def gradient(of: Tensor, theta: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(of, theta, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found


def score(trace: scg.Trace, name: str) -> Tensor:
    distribution = trace.dist(name)
    assert isinstance(distribution, torch.distributions.Distribution)
    return distribution.log_prob(trace[name])


def contribution(term: Term, trace: scg.Trace, theta: Tensor) -> Tensor:
    """A term at one outcome, evaluated as its formula reads."""
    if term.kind == "likelihood-ratio":
        baseline = trace[term.baseline] if isinstance(term.baseline, str) else term.baseline or 0.0
        downstream = torch.stack([trace[c] for c in term.costs]).sum() - baseline
        return gradient(score(trace, term.node), theta) * downstream.detach()
    return chained(trace.graph, term.paths[0], trace, theta)


def chained(graph: Graph, path: tuple[str, ...], trace: scg.Trace, theta: Tensor) -> Tensor:
    """The product of the partial derivatives along a path, each taken with everything else held."""
    product, source = torch.ones(()), "theta"
    for name in path:
        node = graph.nodes[name]
        arguments = {
            e.param: (theta if e.source not in graph.nodes else trace[e.source]).detach().requires_grad_(e.source == source)
            for e in node.parents
        }
        value = node.fn(**arguments)  # type: ignore[misc]
        if node.kind == "stochastic":
            value = value.loc + value.scale * ((trace[name] - value.loc) / value.scale).detach()
        (partial,) = torch.autograd.grad(node.sign * value, [a for a in arguments.values() if a.requires_grad])
        product, source = product * partial, name
    return product


@pytest.mark.parametrize("make", FINITE, ids=[make.__name__ for make in FINITE])
def test_the_terms_add_up_to_the_exact_gradient(make):
    graph, theta = make(), torch.tensor(0.6, requires_grad=True)
    objective, total = torch.zeros(()), torch.zeros(())
    for p, trace in outcomes(graph, theta):
        live = torch.stack([score(trace, n) for n in graph.structure.stochastic]).sum().exp()
        objective = objective + live * sum(trace[c] for c in graph.structure.costs)
        total = total + p * sum(contribution(term, trace, theta) for term in derive(graph).terms)
    assert torch.allclose(total, gradient(objective, theta), rtol=1e-12)


@pytest.mark.parametrize("make", FINITE, ids=[make.__name__ for make in FINITE])
def test_a_likelihood_ratio_term_is_the_gradient_with_only_its_score_live(make):
    graph, theta = make(), torch.tensor(0.6, requires_grad=True)
    terms = [t for t in derive(graph).terms if t.kind == "likelihood-ratio"]
    assert [t.node for t in terms] == list(graph.structure.stochastic)
    for term in terms:
        mine, only = torch.zeros(()), torch.zeros(())
        for p, trace in outcomes(graph, theta):
            mine = mine + p * contribution(term, trace, theta)
            held = torch.stack(
                [score(trace, n).detach() for n in graph.structure.stochastic if n != term.node] or [torch.zeros(())]
            )
            everything = sum(trace[c].detach() for c in graph.structure.costs)  # not only the costs downstream
            only = only + (held.sum() + score(trace, term.node)).exp() * everything
        assert torch.allclose(mine, gradient(only, theta), rtol=1e-12), term


@pytest.mark.parametrize("make", FINITE, ids=[make.__name__ for make in FINITE])
def test_the_terms_at_one_outcome_are_the_surrogates_gradient_there(make):
    graph, theta = make(), torch.tensor(0.6, requires_grad=True)
    for _, trace in outcomes(graph, theta):
        terms = torch.stack([contribution(term, trace, theta) for term in derive(graph).terms]).sum()
        assert torch.allclose(terms, gradient(trace.surrogate(), theta), rtol=1e-12)


def test_the_products_along_the_paths_add_up_to_what_autograd_finds():
    graph, theta = mixed(), torch.tensor(0.6, requires_grad=True)
    trace = graph.sample(theta=theta)
    derivation = derive(graph)
    for cost in ("f", "r"):
        products = [chained(graph, t.paths[0], trace, theta) for t in derivation.terms if t.node == cost]
        assert len(products) == 3
        assert torch.allclose(torch.stack(products).sum(), gradient(trace[cost], theta), rtol=1e-12)


def test_the_paths_into_a_distribution_add_up_to_its_score():
    graph, theta = mixed(), torch.tensor(0.6, requires_grad=True)
    trace = graph.sample(theta=theta)
    (term,) = [t for t in derive(graph).terms if t.kind == "likelihood-ratio"]
    products = []
    for path in term.paths:
        source = path[-2]
        arguments = {e.param: trace[e.source].detach().requires_grad_(e.source == source) for e in graph.nodes["y"].parents}
        log_prob = Bernoulli(logits=arguments["z"] + arguments["a"]).log_prob(trace["y"])
        (last,) = torch.autograd.grad(log_prob, [a for a in arguments.values() if a.requires_grad])
        products.append(chained(graph, path[:-1], trace, theta) * last)
    assert len(products) == 4
    assert torch.allclose(torch.stack(products).sum(), gradient(score(trace, "y"), theta), rtol=1e-12)


def test_switching_to_pathwise_moves_the_share_of_a_node_from_scores_to_paths():
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x**2, name="f")
    assert [t.kind for t in derive(graph).terms] == ["likelihood-ratio"]
    assert [t.kind for t in derive(graph.with_estimators(x=Pathwise())).terms] == ["pathwise"]
