"""Blends of pathwise and likelihood ratio: exact by quadrature, their weights from other elements, and what a jump does to them."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import scg
from scg.agents.dynamics.contact import Wall
from scg.estimators import AlphaOrder, Mixed, Pathwise, ScoreFunction, TotalPropagation
from scg.estimators import total_propagation as module
from scg.testing.lqr import hermite

MU, SIGMA = 0.4, 0.7


def graph_of(estimator: scg.Estimator, cost=lambda x: x**4 - x) -> scg.Graph:
    graph = scg.Graph()
    graph.stochastic(estimator, lambda mu, sigma: Normal(mu, sigma), name="x", parents=["mu", "sigma"])
    graph.cost(cost, name="loss", parents=["x"])
    return graph


def gradient(graph: scg.Graph, noise: Tensor) -> Tensor:
    """Of every element of the batch `[2, batch]`, each with parameters of its own."""
    mu, sigma = (torch.full_like(noise, v).requires_grad_() for v in (MU, SIGMA))
    graph.replay({"x": MU + SIGMA * noise}, mu=mu, sigma=sigma).surrogate().backward()
    return torch.stack([mu.grad, sigma.grad]) * len(noise)


def exact() -> Tensor:
    """Of E[x⁴ − x] = μ⁴ + 6 μ² σ² + 3 σ⁴ − μ."""
    return torch.tensor([4 * MU**3 + 12 * MU * SIGMA**2 - 1, 12 * MU**2 * SIGMA + 12 * SIGMA**3])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_blend_with_constant_weights_has_the_exact_gradient(alpha):
    nodes, weights = hermite(4)
    found = (gradient(graph_of(Mixed(alpha)), nodes) * weights).sum(-1)
    torch.testing.assert_close(found, exact(), rtol=1e-12, atol=1e-12)


def test_a_blend_whose_weights_do_not_sum_to_one_is_found():
    class Twice(Mixed):
        def _at(self, distribution, moved):
            log_prob = distribution.log_prob(moved.detach())
            return scg.Branches(torch.lerp(moved.detach(), moved, self.alpha), score=log_prob - log_prob.detach())

    nodes, weights = hermite(4)
    found = (gradient(graph_of(Twice(0.3)), nodes) * weights).sum(-1)
    assert not torch.allclose(found, exact(), rtol=0.1)


def test_its_ends_are_the_score_function_and_pathwise():
    nodes, _ = hermite(4)
    for alpha, other in ((0.0, ScoreFunction()), (1.0, Pathwise())):
        torch.testing.assert_close(gradient(graph_of(Mixed(alpha)), nodes), gradient(graph_of(other), nodes))


def expected(estimator: scg.Estimator) -> Tensor:
    """Over all triples of noise: the mean of the batch's gradient."""
    nodes, weights = hermite(4)
    graph, total = graph_of(estimator), torch.zeros(2)
    for triple in itertools.combinations_with_replacement(range(4), 3):
        orders = len(set(itertools.permutations(triple)))
        index = torch.tensor(triple)
        total += orders * weights[index].prod() * gradient(graph, nodes[index]).mean(-1)
    return total


@pytest.mark.parametrize("estimator", [TotalPropagation(allow_bias=True), AlphaOrder(allow_bias=True, bound=0.5)])
def test_weights_measured_on_the_other_elements_leave_the_gradient_exact(estimator):
    torch.testing.assert_close(expected(estimator), exact(), rtol=1e-12, atol=1e-12)


def test_weights_measured_on_the_element_itself_are_found(monkeypatch):
    def all_of_them(path: Tensor, score: Tensor, cost: Tensor, baseline: Tensor, tolerance: float) -> Tensor:
        ratio = (cost - cost.mean()) * score
        v_path, v_ratio = path.var(0).sum(), ratio.var(0).sum()
        return (v_ratio / (v_path + v_ratio)).nan_to_num(0.5).expand(len(path), 1)

    monkeypatch.setattr(module, "share", all_of_them)
    assert not torch.allclose(expected(TotalPropagation(allow_bias=True)), exact(), rtol=1e-3)


def test_a_share_is_the_inverse_variance_weight_of_the_others():
    path, score, cost = torch.randn(6, 3), torch.randn(6, 3), torch.randn(6, 1)
    baseline = (cost.sum(0) - cost) / 5
    found = module.share(path, score, cost, baseline, math.inf)
    for i in range(6):
        rest = [j for j in range(6) if j != i]
        ratio = (cost[rest] - cost[rest].mean()) * score[rest]
        v_path, v_ratio = (x.var(0, correction=0).sum() for x in (path[rest], ratio))
        torch.testing.assert_close(found[i, 0], v_ratio / (v_path + v_ratio))


# -- the wall --------------------------------------------------------------------------------------------------


def thrown(estimator: scg.Estimator) -> scg.Graph:
    wall = Wall()
    graph = scg.Graph()
    graph.stochastic(estimator, lambda mu: Normal(mu, 0.1), name="action", parents=["mu"])
    graph.reward(lambda action: wall.transition(action, action), name="distance", parents=["action"])
    return graph


def at_wall(mean: float) -> Tensor:
    """∂/∂μ E[−distance], piece by piece between the jumps."""
    wall, total = Wall(), torch.zeros(())
    ends = [-0.999, *wall.jumps(), 0.999]
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(200))
    for lo, hi in itertools.pairwise(ends):
        a = (lo + hi) / 2 + (hi - lo) / 2 * x
        density = torch.exp(-(((a - mean) / 0.1) ** 2) / 2) / (0.1 * math.sqrt(2 * math.pi))
        total = total - (w * (hi - lo) / 2 * wall.transition(a, a) * density * (a - mean) / 0.01).sum()
    return total


def thrown_gradient(estimator: scg.Estimator, mean: float, size: int = 20_000) -> float:
    graph = thrown(estimator)
    mu = torch.full((size,), mean).requires_grad_()
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(size) + 0.5) / size)[torch.randperm(size)]
    graph.replay({"action": mean + 0.1 * quantiles}, mu=mu).surrogate().backward()
    return float(mu.grad.sum())


def test_beside_a_wall_inverse_variances_choose_the_biased_gradient_and_the_bound_does_not():
    mean = -0.2  # most throws hit the wall: the distance is 5 whatever the angle
    truth = float(at_wall(mean))
    assert thrown_gradient(ScoreFunction(), mean) == pytest.approx(truth, rel=0.02)
    assert abs(thrown_gradient(TotalPropagation(allow_bias=True), mean)) < 0.3 * abs(truth)
    assert thrown_gradient(AlphaOrder(allow_bias=True), mean) == pytest.approx(truth, rel=0.05)


def test_the_check_finds_that_the_path_jumps_and_names_where_from():
    findings = thrown(Pathwise()).check(mu=torch.full((8,), -0.2, requires_grad=True))
    assert any(f.severity == "error" and f.node == "distance" and "jumps" in f.message for f in findings), findings


def test_settings_that_make_no_sense_are_refused():
    for make, text in ((lambda: Mixed(1.5), "between 0 and 1"), (lambda: AlphaOrder(bound=-1.0), "at least 0")):
        with pytest.raises(ValueError, match=text):
            make()
    with pytest.raises(scg.GraphError, match="biased"):
        graph_of(TotalPropagation())
    shared = scg.Graph()
    shared.stochastic(TotalPropagation(allow_bias=True), _Shared, name="x", parents=["mu", "noise"])
    shared.cost(lambda x: x**2, name="loss", parents=["x"])
    with pytest.raises(scg.GraphError, match="Expand it to the batch"):
        shared.surrogate(mu=torch.tensor(0.3, requires_grad=True), noise=torch.zeros(4))


class _Shared(Normal):
    """Keeps a parameter without a batch."""

    def __init__(self, mu: Tensor, noise: Tensor) -> None:
        super().__init__(mu + noise, torch.ones_like(noise))
        self.mu = mu


def test_torch_func_has_no_backward_pass_to_measure_in():
    graph = scg.Graph()
    graph.stochastic(TotalPropagation(allow_bias=True), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x**2, name="f")
    theta = torch.zeros(4, dtype=torch.float64)
    graph.surrogate(theta=theta.clone().requires_grad_())
    with pytest.raises(scg.GraphError, match="measures its weights in autograd's backward pass"):
        torch.func.grad(lambda t: graph.surrogate(theta=t))(theta)
