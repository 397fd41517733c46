"""Sticking the landing is an edge here: q = detach(dist("z")) inside the cost. Roeder, Wu & Duvenaud (2017).

E_q[log q_θ(z) − log p(z)]       the score of q_θ at its own sample has mean zero: left out, at q = p nothing is left
"""

import pytest
import torch
from torch.distributions import Independent, Normal

import scg
from estimators import Pathwise
from scg import detach, dist

P_LOC, P_SCALE = torch.tensor([0.5, -1.0]), torch.tensor([0.8, 1.7])


def elbo(stick, samples=1):
    graph = scg.Graph()

    @graph.stochastic(Pathwise(samples))
    def z(mu, log_sigma):
        return Independent(Normal(mu, log_sigma.exp()), 1)

    def negative(z, q):
        return q.log_prob(z) - Independent(Normal(P_LOC.to(z), P_SCALE.to(z)), 1).log_prob(z)

    graph.cost(negative, name="kl", parents=["z", detach(dist("z")) if stick else dist("z")])
    return graph


def gradients(graph, mu, log_sigma, draws=200):
    inputs = {"mu": mu.requires_grad_(), "log_sigma": log_sigma.requires_grad_()}
    rows = [torch.autograd.grad(graph.surrogate(**inputs), list(inputs.values())) for _ in range(draws)]
    return torch.stack([torch.cat(row) for row in rows])


@pytest.mark.parametrize("samples", [1, 3])
def test_at_the_optimum_the_gradient_is_zero_draw_by_draw(samples):
    at_optimum = P_LOC.double().clone(), P_SCALE.double().log()
    assert gradients(elbo(True, samples), *at_optimum).abs().max() < 1e-14
    assert (gradients(elbo(False, samples), *at_optimum)[:, 2:].var(0) > 0.1).all()  # the plain one moves there


def test_elsewhere_it_is_unbiased():
    inputs = {"mu": torch.tensor([0.1, 0.3], requires_grad=True), "log_sigma": torch.tensor([-0.4, 0.2], requires_grad=True)}
    scg.testing.assert_unbiased(elbo(True), inputs, oracle=elbo(False))


def test_its_gradient_is_the_kl_divergences_exactly():
    """Σ over Gauss–Hermite noise, against the closed form."""
    import numpy as np

    x, w = np.polynomial.hermite_e.hermegauss(20)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu, sigma: Normal(mu, sigma), name="z")
    graph.cost(lambda z, q: q.log_prob(z) - Normal(0.5, 0.8).log_prob(z), name="kl", parents=["z", detach(dist("z"))])
    mu, sigma = torch.tensor(0.1, requires_grad=True), torch.tensor(1.3, requires_grad=True)
    total = torch.zeros(())
    for e, weight in zip(x, w / w.sum(), strict=True):
        total = total + weight * graph.replay({"z": (mu + sigma * e).detach()}, mu=mu, sigma=sigma).surrogate()
    exact = torch.distributions.kl_divergence(Normal(mu, sigma), Normal(0.5, 0.8))
    for mine, truth in zip(torch.autograd.grad(total, [mu, sigma]), torch.autograd.grad(exact, [mu, sigma]), strict=True):
        assert torch.allclose(mine, truth, rtol=1e-10)
