"""Sticking the landing is an edge: q = detach(dist("z")) inside the cost. Roeder, Wu & Duvenaud (2017).

E_q[log q_θ(z) − log p(z)]       the score of q_θ at its own sample has mean zero: left out, at q = p nothing is left
"""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

import scg
from scg import detach, dist
from scg.estimators import Pathwise, ScoreFunction
from scg.estimators.sticking_the_landing import sticking_the_landing

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


def kls(density, closed_form):
    """A KL divergence to the prior by its sample, and perhaps another one in closed form that reads the distribution alone."""
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu, sigma: Normal(mu, sigma), name="z")
    graph.cost(lambda z, q: q.log_prob(z) - Normal(0.5, 0.8).log_prob(z), name="sampled", parents=["z", density])
    if closed_form:
        graph.cost(lambda q: kl_divergence(q, Normal(-1.0, 1.0)), name="closed", parents=[dist("z")])
    return graph


def mean_gradient(graph):
    """Over Gauss–Hermite noise."""
    import numpy as np

    x, w = np.polynomial.hermite_e.hermegauss(20)
    mu, sigma = torch.tensor(0.1, requires_grad=True), torch.tensor(1.3, requires_grad=True)
    total = torch.zeros(())
    for e, weight in zip(x, w / w.sum(), strict=True):
        total = total + weight * graph.replay({"z": (mu + sigma * e).detach()}, mu=mu, sigma=sigma).surrogate()
    return torch.stack(torch.autograd.grad(total, [mu, sigma]))


def test_the_function_makes_the_edge():
    made = sticking_the_landing(kls(dist("z"), closed_form=False), "z")
    assert made.nodes["sampled"].parents == kls(detach(dist("z")), closed_form=False).nodes["sampled"].parents
    assert made.nodes["z"] == made.with_estimators().nodes["z"]


def test_a_closed_form_that_reads_no_sample_keeps_its_gradient():
    plain = kls(dist("z"), closed_form=True)
    exact = mean_gradient(plain)
    assert torch.allclose(mean_gradient(sticking_the_landing(plain, "z")), exact, rtol=1e-10)
    everywhere = kls(detach(dist("z")), closed_form=False)  # the biased twin: the closed form is detached as well
    everywhere.cost(lambda q: kl_divergence(q, Normal(-1.0, 1.0)), name="closed", parents=[detach(dist("z"))])
    assert not torch.allclose(mean_gradient(everywhere), exact, rtol=0.05)


def test_a_density_at_a_detached_sample_keeps_its_score():
    """log q(sg z) trains q on its samples: there the score is all there is."""
    graph = kls(dist("z"), closed_form=False)
    graph.cost(lambda z, q: q.log_prob(z), name="fit", parents=[detach("z"), dist("z")])
    made = sticking_the_landing(graph, "z")
    assert made.nodes["fit"] == graph.nodes["fit"] and made.nodes["sampled"] != graph.nodes["sampled"]


@pytest.mark.parametrize(
    ("estimator", "settings", "names", "message"),
    [
        (Pathwise(), {}, (), "name the pathwise nodes"),
        (Pathwise(), {}, ("y",), "no node 'y'"),
        (Pathwise(), {}, ("c",), "node 'c': .* this is a cost node.\nUse it with Pathwise"),
        (ScoreFunction(), {}, ("z",), r"node 'z': .* this is ScoreFunction\(samples=1\).\nUse it with Pathwise"),
        (Pathwise(), {"plate": 3}, ("z",), "node 'z': it has plate=3, .*\nUse estimators.dreg.doubly_reparameterised"),
    ],
    ids=["no name", "an unknown name", "a cost", "a score function", "a plate"],
)
def test_what_it_cannot_help_is_refused(estimator, settings, names, message):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda mu: Normal(mu, 1.0), name="z", **settings)
    graph.cost(lambda z, q: q.log_prob(z), name="c", parents=["z", dist("z")])
    with pytest.raises(scg.GraphError, match=message):
        sticking_the_landing(graph, *names)


def test_a_graph_without_a_density_to_detach_is_refused():
    with pytest.raises(scg.GraphError, match=r"node 'z': no node reads both its sample and dist\('z'\)"):
        sticking_the_landing(kls(detach(dist("z")), closed_form=True), "z")
