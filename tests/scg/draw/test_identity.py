"""Identities in a derivation: letter by letter, and as numbers against the weights that the estimators return."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal

import scg
from scg import Graph
from scg.estimators import ARM, Clipped, CommonRandomNumbers, DisARM, Enumeration, LeaveOneOut
from scg.estimators.credit import GAE
from website.formulas import mathml


def one_node(estimator):
    graph = Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: b, name="f")
    return graph


def policy_graph(estimator, baseline=None):
    policy = nn.Linear(1, 1)
    graph = Graph()
    with graph.sequence():
        graph.observed("obs")
        graph.observed("alive")
        graph.observed("reward", parents=["action"])
        graph.stochastic(estimator, lambda obs: Normal(policy(obs), 1.0), name="action", credit=GAE(), baseline=baseline)
        graph.reward(lambda reward: reward, name="gain")
    return graph


def identities(graph):
    derivation = graph.derivation()
    return [formula for formula, words in derivation.where_unicode if not words]


WRITTEN = {
    LeaveOneOut(samples=4): "∂w_b F(b) = 1/4 Σ_i ∂log p(b_i; θ) (F(b_i) − 1/3 Σ_{j≠i} F(b_j))",
    Enumeration(): "∂w_b F(b) = Σ_b ∂p(b; θ) F(b)",
    ARM(): "∂w_b F(b) = (F(b) − F(b̃)) (u − 1/2) ∂logit p(1; θ)",
    DisARM(): "∂w_b F(b) = (F(b) − F(b̃)) 1/2 (b − b̃) σ(|logit p(1; θ)|) ∂logit p(1; θ)",
}


@pytest.mark.parametrize(("estimator", "written"), WRITTEN.items(), ids=repr)
def test_the_weights_of_branches_are_written_out(estimator, written):
    assert identities(one_node(estimator)) == [written]


def test_ppos_clip_is_written_out_with_its_ratio():
    assert identities(policy_graph(Clipped(0.3))) == [
        "∂K_{action,t} = r_t ∂log p(action_t | obs_t; θ_policy) GAE_t 1[r_t GAE_t ≥ clip(r_t, 0.7, 1.3) GAE_t]",
        "r_t = p(action_t | obs_t; θ_policy)/μ(action_t)",
    ]
    assert identities(policy_graph(Clipped(1.0, high=0.28, gradient="score")))[0] == (
        "∂K_{action,t} = clip(r_t, 0, 1.28) ∂log p(action_t | obs_t; θ_policy) GAE_t"
    )
    assert identities(policy_graph(Clipped(0.2, ratio="sequence", alive="alive"))) == [
        "∂K_{action,t} = r (1/n Σ_{t'} ∂log p(action_{t'} | obs_{t'}; θ_policy)) GAE_t 1[r GAE_t ≥ clip(r, 0.8, 1.2) GAE_t]",
        "r = (Π_{t'} p(action_{t'} | obs_{t'}; θ_policy)/μ(action_{t'}))^{1/n}",
    ]


def test_a_baseline_is_inside_the_clip():
    assert (
        "(GAE_t − 0.5) 1[r_t (GAE_t − 0.5) ≥ clip(r_t, 0.8, 1.2) (GAE_t − 0.5)]"
        in identities(policy_graph(Clipped(0.2), baseline=0.5))[0]
    )


def test_the_same_in_latex_is_a_formula_that_can_be_drawn():
    for graph in (*map(one_node, WRITTEN), policy_graph(Clipped())):
        for formula in [f for f, words in graph.derivation().where_latex if not words]:
            drawn = mathml(formula, True)
            assert drawn.startswith("<math") and "\\" not in drawn


def test_what_is_changed_does_not_inherit_an_identity():
    class Shrunk(LeaveOneOut):
        def branch(self, distribution):
            drawn = super().branch(distribution)
            return scg.Branches(drawn.values, drawn.n, weights=0.5 + 0.5 * drawn.weights)

    class Renamed(LeaveOneOut):
        pass

    assert identities(one_node(Shrunk(samples=2))) == []
    assert identities(one_node(Renamed(samples=2))) == identities(one_node(LeaveOneOut(samples=2)))
    assert identities(one_node(CommonRandomNumbers(LeaveOneOut(samples=2)))) == []  # its draws are its own


def test_a_node_of_a_pathwise_estimator_has_no_weights_to_write():
    graph = Graph()
    graph.stochastic(scg.Pathwise(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x, name="f")
    assert identities(graph) == []


# -- as numbers: d/dθ Σ wᵢ F(xᵢ) at the drawn values is what the identity says ----------------------------------


def slope(branches, theta, cost):
    weights = torch.autograd.grad((branches.weights * cost(branches.values)).sum(), theta)
    return weights[0]


def cost(x):
    return (x - 0.45) ** 2 + 3.0


def scores(distribution, values, theta):
    return torch.stack([torch.autograd.grad(distribution.log_prob(v), theta, retain_graph=True)[0] for v in values])


def test_leave_one_outs_identity_is_the_derivative_of_its_weights():
    theta = torch.tensor([0.3, -0.2, 0.5], requires_grad=True)
    distribution = Categorical(logits=theta)
    branches = LeaveOneOut(samples=4).branch(distribution)
    f = cost(branches.values.double())
    own = f - (f.sum() - f) / 3
    expected = (scores(distribution, branches.values, theta) * own[:, None]).mean(0)
    assert own.abs().max() > 0
    assert torch.allclose(slope(branches, theta, lambda x: cost(x.double())), expected)


def test_enumerations_identity_is_the_derivative_of_its_weights():
    theta = torch.tensor(0.3, requires_grad=True)
    found = slope(Enumeration().branch(Bernoulli(logits=theta)), theta, cost)
    p = math.exp(0.3) / (1 + math.exp(0.3))
    assert found.item() == pytest.approx(p * (1 - p) * (cost(torch.tensor(1.0)) - cost(torch.tensor(0.0))).item())


def test_disarms_identity_is_the_derivative_of_its_weights():
    theta = torch.tensor(0.3, requires_grad=True)
    seen = set()
    for _ in range(40):
        branches = DisARM().branch(Bernoulli(logits=theta))
        b, twin = branches.values
        expected = (cost(b) - cost(twin)) * 0.5 * (b - twin) * torch.sigmoid(theta.abs())
        assert slope(branches, theta, cost).item() == pytest.approx(expected.item(), abs=1e-12)
        seen.add((b.item(), twin.item()))
    assert {(1.0, 0.0), (0.0, 1.0)} <= seen


@pytest.mark.parametrize("credit", [-1.5, 2.0])
@pytest.mark.parametrize("ratio", [0.5, 0.95, 1.05, 1.6])
def test_the_clips_identity_is_the_derivative_of_its_combination(credit, ratio):
    theta = torch.tensor(0.2, requires_grad=True)
    weight = ratio * torch.exp(theta - theta.detach())  # a score of 1
    (found,) = torch.autograd.grad(Clipped(0.2).combine(weight, torch.tensor(credit)), theta, retain_graph=True)
    clipped = min(max(ratio, 0.8), 1.2)
    expected = ratio * credit if ratio * credit >= clipped * credit else 0.0
    assert found.item() == pytest.approx(expected)
    (found,) = torch.autograd.grad(Clipped(0.2, gradient="score").combine(weight, torch.tensor(credit)), theta)
    assert found.item() == pytest.approx(clipped * credit)
