"""Doubly reparameterised gradients on a linear-Gaussian model, against the derivative of the integral in z's own space.

z ~ N(0, 1),   x | z ~ N(w z, 1),   q(z) = N(m, e^s)         K = 2 samples: the integrals are two-dimensional
"""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

import scg
from scg import detach, dist
from scg.estimators import GeneralisedReparameterisation, Pathwise, ScoreFunction
from scg.estimators.dreg import Bound, coefficients, doubly_reparameterised, dreg
from scg.estimators.multi_sample import negative_bound, negative_jackknife
from tests.exact import assert_same, derivatives

X = 1.3
BOUNDS: list[Bound] = ["iwae", "wake", "jackknife"]


def parameters(rows=None, at=(0.2, -0.3, 0.8)):
    """m, s and w: one of each, or a row for each batch element."""
    shape = () if rows is None else (rows,)
    return {name: torch.full(shape, value, requires_grad=True) for name, value in zip("msw", at, strict=True)}


def log_weight(z, q, w):
    return Normal(0.0, 1.0).log_prob(z) + Normal(w * z, 1.0).log_prob(torch.tensor(X)) - q.log_prob(z)


def posterior(m, s):
    return Normal(m, s.exp())


def doubly(samples, bound="iwae", cost=doubly_reparameterised, q="detached"):
    graph = scg.Graph()
    graph.stochastic(Pathwise(), posterior, name="z", plate=samples)
    density = detach(dist("z")) if q == "detached" else dist("z")
    graph.deterministic(log_weight, name="moving", parents=["z", density, "w"])
    graph.deterministic(log_weight, name="fixed", parents=[detach("z"), density, "w"])
    graph.cost(lambda moving, fixed: cost(moving, fixed, bound), name="bound")
    return graph


def declared(samples, bound="iwae"):
    graph = scg.Graph()
    graph.stochastic(Pathwise(), posterior, name="z", plate=samples)
    dreg(graph, "z", log_weight, parents=["z", dist("z"), "w"], name="bound", bound=bound)
    return graph


def plain(samples):
    graph = scg.Graph()
    graph.stochastic(Pathwise(), posterior, name="z", plate=samples)
    graph.deterministic(log_weight, name="log_weights", parents=["z", dist("z"), "w"])
    graph.cost(lambda log_weights: negative_bound(log_weights), name="bound")
    return graph


def quadrature(graph):
    """The mean gradient over Gauss–Hermite noise for both samples, a batch element for each pair of points."""
    points, weight = np.polynomial.hermite_e.hermegauss(60)
    e = torch.as_tensor(points)
    p = torch.as_tensor(weight / weight.sum())
    noise = torch.stack([g.flatten() for g in torch.meshgrid(e, e, indexing="ij")])  # [2, Q]
    given = parameters(noise.shape[1])
    z = given["m"] + given["s"].exp() * noise
    surrogate = graph.replay({"z": z.detach()}, **given).surrogate() * noise.shape[1]
    rows = torch.autograd.grad(surrogate, list(given.values()))
    return torch.stack(rows) @ (p.unsqueeze(0) * p.unsqueeze(1)).flatten()


def truth(bound):
    """The gradient of ∫∫ q(z₁) q(z₂) cost dz₁ dz₂ on a grid; for wake, φ's is that of −∫∫ q q Σ sg(w̃) log q."""
    given = parameters()
    z, dz = torch.linspace(-9, 9, 600), 18 / 599
    pair = torch.stack([g.flatten() for g in torch.meshgrid(z, z, indexing="ij")])
    q = posterior(given["m"], given["s"])
    p = q.log_prob(pair).sum(0).exp() * dz**2
    log_w = log_weight(pair, q, given["w"])
    cost = negative_jackknife(log_w, 0) if bound == "jackknife" else negative_bound(log_w, 0)
    gradient = derivatives((p * cost).sum(), list(given.values()), order=1)[1]
    if bound == "wake":
        density = posterior(given["m"], given["s"]).log_prob(pair)
        wake = -(p.detach() * (log_w.detach().softmax(0) * density).sum(0)).sum()
        gradient[:2] = derivatives(wake, [given["m"], given["s"]], order=1)[1]
    return gradient


def close(a, b):
    return torch.allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("make", [doubly, declared], ids=["as a cost", "declared"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_mean_gradient_is_the_derivative_of_the_integral(bound, make):
    assert close(quadrature(make(2, bound)), truth(bound))


@pytest.mark.parametrize("bound", BOUNDS)
def test_both_forms_are_the_same_draw_by_draw(bound):
    found = []
    for make in (doubly, declared):
        given = parameters(50)
        surrogate = make(4, bound).surrogate(**given, generator=torch.Generator().manual_seed(1))
        found.append([surrogate, *torch.autograd.grad(surrogate, list(given.values()))])
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(*found, strict=True))


def test_the_plain_bound_has_the_same_mean():
    assert close(quadrature(plain(2)), truth("iwae"))


def unscaled(moving, fixed, bound):
    """Biased twin: w̃_k in place of its square, which is sticking the landing for several samples."""
    return negative_bound(fixed) - (fixed.detach().softmax(-2) * (moving - fixed)).sum(-2)


@pytest.mark.parametrize(
    "twin", [doubly(2, cost=unscaled), doubly(2, q="live")], ids=["weights not squared", "q's own parameters live"]
)
def test_biased_twins_are_caught(twin):
    assert not torch.allclose(quadrature(twin), truth("iwae"), rtol=0.02, atol=0.005)


def test_the_value_is_the_bound():
    trace = declared(5).sample(**parameters(3))
    assert torch.equal(trace["bound"], negative_bound(trace["bound_log_weights"]))


def test_one_sample_is_sticking_the_landing():
    given, z = parameters(), torch.tensor([0.37])
    stick = scg.Graph()
    stick.stochastic(Pathwise(), posterior, name="z", plate=1)
    stick.deterministic(log_weight, name="log_weights", parents=["z", detach(dist("z")), "w"])
    stick.cost(lambda log_weights: negative_bound(log_weights, -1), name="bound")
    one = scg.Graph()
    one.stochastic(Pathwise(), posterior, name="z", plate=1)
    one.deterministic(log_weight, name="moving", parents=["z", detach(dist("z")), "w"])
    one.deterministic(log_weight, name="fixed", parents=[detach("z"), detach(dist("z")), "w"])
    one.cost(lambda moving, fixed: doubly_reparameterised(moving, fixed, dim=-1), name="bound")
    replay = [g.replay({"z": z}, **given).surrogate() for g in (one, stick)]
    assert_same(*replay, list(given.values()), order=1)


def test_at_the_posterior_every_draws_gradient_of_q_is_zero():
    w = 0.8
    exact = (w * X / (1 + w**2), -0.5 * math.log(1 + w**2), w)
    given = parameters(200, exact)
    surrogate = declared(8).surrogate(**given) * 200
    for gradient in torch.autograd.grad(surrogate, [given["m"], given["s"]]):
        assert gradient.abs().max() < 1e-14
    moving = torch.autograd.grad(plain(8).surrogate(**given) * 200, [given["m"], given["s"]])
    assert all(g.std() > 0.01 for g in moving)


def signal_to_noise(graph, rows=20_000, at=(0.2, 0.1, 0.8)):
    """|E g| / sd(g) for m and for s, with its standard error: √((1 + ½ snr²)/rows)."""
    graph.surrogate(**parameters(2))  # the first sample is examined: a small one
    given = parameters(rows, at)
    surrogate = graph.surrogate(**given) * rows
    rows_of = torch.stack(torch.autograd.grad(surrogate, [given["m"], given["s"]]))
    snr = rows_of.mean(1).abs() / rows_of.std(1)
    return snr, ((1 + snr**2 / 2) / rows).sqrt()


def test_the_signal_does_not_fall_behind_the_noise_as_samples_are_added():
    """K = 1 against K = 64, 20,000 draws each. The theory's rates are 1/√K for the bound, √K doubly reparameterised, so the
    ratios of signal to noise are to differ by 8; they are held to 2, at five standard errors (false alarm 3e-7)."""
    (few, se_few), (many, se_many) = signal_to_noise(plain(1)), signal_to_noise(plain(64))
    assert (many + 5 * se_many < few / 2 - 5 * se_few / 2).all(), (few, many)
    (few, se_few), (many, se_many) = signal_to_noise(declared(1)), signal_to_noise(declared(64))
    assert (many - 5 * se_many > 2 * few + 10 * se_few).all(), (few, many)


@pytest.mark.parametrize("bound", BOUNDS)
def test_coefficients_are_the_derivatives_of_their_objective(bound):
    """c_k = a_k − ∂a_k/∂log w_k with a_k what multiplies ∇log w_k, the score reparameterised; for wake ∂w̃_k/∂log w_k."""
    log_w = torch.randn(5, requires_grad=True)
    cost = negative_jackknife(log_w, 0) if bound == "jackknife" else negative_bound(log_w, 0)
    (a,) = torch.autograd.grad(-cost, log_w, create_graph=True)
    own = torch.stack([torch.autograd.grad(a[k], log_w, retain_graph=True)[0][k] for k in range(5)])
    assert torch.allclose(coefficients(log_w.detach(), bound, 0), own if bound == "wake" else (a - own).detach())


def test_samples_with_an_event():
    """The scale is one number for each sample, whatever its event: z of three components, x of a batch of five."""
    given = {name: torch.full((5, 3), value, requires_grad=True) for name, value in (("m", 0.2), ("s", -0.3), ("w", 0.8))}

    def weight(z, q, w):
        return log_weight(z, Normal(q.base_dist.loc, q.base_dist.scale), w).sum(-1)

    found = []
    for bound in ("iwae", "jackknife"):
        graph = scg.Graph()
        graph.stochastic(Pathwise(), lambda m, s: Independent(posterior(m, s), 1), name="z", plate=4)
        dreg(graph, "z", weight, parents=["z", dist("z"), "w"], name="bound", bound=bound)
        surrogate = graph.surrogate(**given, generator=torch.Generator().manual_seed(1)) * 5
        found.append(torch.autograd.grad(surrogate, list(given.values())))
        z = graph.sample(**given, generator=torch.Generator().manual_seed(1))["z"].detach()
    log_w = log_weight(z, posterior(given["m"], given["s"]), given["w"]).sum(-1).detach()
    moving = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        log_weight(moving, posterior(given["m"].detach(), given["s"].detach()), given["w"].detach()).sum(), moving
    )
    for gradients, bound in zip(found, ("iwae", "jackknife"), strict=True):
        by_hand = -(coefficients(log_w, bound).unsqueeze(-1) * slope).sum(0)  # dz/dm = 1
        assert torch.allclose(gradients[0], by_hand)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_second_derivative_is_refused(bound):
    given = parameters(3)
    surrogate = declared(4, bound).surrogate(**given)
    gradient = torch.autograd.grad(surrogate, given["m"], create_graph=True)[0]
    with pytest.raises(scg.GraphError, match="node 'z': a second derivative .* right to first order only"):
        torch.autograd.grad(gradient.sum(), given["m"])


def test_two_objectives_train_what_is_theirs():
    """`trains=`: the bound leaves nothing in q's parameters where it trains the model alone, and the other way round."""
    given = parameters(3)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), posterior, name="z", plate=4)
    dreg(graph, "z", log_weight, parents=["z", dist("z"), "w"], name="model", trains=["w"])
    dreg(graph, "z", log_weight, parents=["z", dist("z"), "w"], name="posterior", bound="wake", trains=["m", "s"])
    trace = graph.sample(**given)
    found = {
        name: torch.autograd.grad(trace.surrogate(name), list(given.values()), allow_unused=True, retain_graph=True)
        for name in ("model", "posterior")
    }
    moved = {name: [g is not None and bool((g != 0).any()) for g in gradients] for name, gradients in found.items()}
    assert moved == {"model": [False, False, True], "posterior": [True, True, False]}


def test_below_another_latent_of_the_plate_it_would_be_biased():
    """Why that is refused: z₂ ~ N(z₁, 1) below z₁ ~ N(m, e^s), by Gauss–Hermite quadrature in four dimensions."""

    def layers(doubly):
        def log_w(z1, z2, q1, q2, w):
            p = (
                Normal(0.0, 1.5).log_prob(z1)
                + Normal(0.5 * z1, 1.0).log_prob(z2)
                + Normal(w * z2, 1.0).log_prob(torch.tensor(X))
            )
            return p - q1.log_prob(z1) - q2.log_prob(z2)

        graph = scg.Graph()
        graph.stochastic(Pathwise(), posterior, name="z1", plate=2)
        graph.stochastic(Pathwise(), lambda z1: Normal(z1, 1.0), name="z2")
        if not doubly:
            graph.deterministic(log_w, name="log_w", parents=["z1", "z2", dist("z1"), dist("z2"), "w"])
            graph.cost(lambda log_w: negative_bound(log_w), name="bound")
            return graph
        densities = [detach(dist("z1")), detach(dist("z2")), "w"]
        graph.deterministic(log_w, name="moving", parents=["z1", "z2", *densities])
        graph.deterministic(log_w, name="fixed", parents=[detach("z1"), detach("z2"), *densities])
        graph.cost(lambda moving, fixed: doubly_reparameterised(moving, fixed), name="bound")
        return graph

    points, weight = np.polynomial.hermite_e.hermegauss(12)
    grid = torch.meshgrid(*[torch.as_tensor(points)] * 4, indexing="ij")
    p = torch.stack([g.flatten() for g in torch.meshgrid(*[torch.as_tensor(weight / weight.sum())] * 4, indexing="ij")]).prod(0)
    a, b, c, d = (g.flatten() for g in grid)
    found = []
    for doubly in (False, True):
        given = parameters(len(a))
        z1 = given["m"] + given["s"].exp() * torch.stack([a, b])
        z2 = z1 + torch.stack([c, d])
        graph = layers(doubly)
        surrogate = graph.replay({"z1": z1.detach(), "z2": z2.detach()}, **given).surrogate() * len(a)
        found.append(torch.stack(torch.autograd.grad(surrogate, list(given.values()))) @ p)
    assert torch.allclose(found[0][2], found[1][2], rtol=1e-6)  # the model's
    assert abs(found[0][0] - found[1][0]) > 0.02 * abs(found[0][0])


# -- refusals --------------------------------------------------------------------------------------------------


def test_one_tensor_for_both_is_refused():
    log_w = torch.randn(3, 2)
    with pytest.raises(ValueError, match="moving and fixed are the same tensor.*\n.*parents=\\[detach\\('z'\\)"):
        doubly_reparameterised(log_w, log_w)
    doubly_reparameterised(log_w, log_w.clone())


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"moving has shape \(3, 2\), fixed \(3, 1\)"):
        doubly_reparameterised(torch.randn(3, 2), torch.randn(3, 1))


def test_an_unknown_bound_is_refused():
    with pytest.raises(ValueError, match="bound='elbo'.*'iwae', 'wake' or 'jackknife'"):
        doubly_reparameterised(torch.randn(3, 2), torch.randn(3, 2), "elbo")
    with pytest.raises(ValueError, match="dreg\\(bound='elbo'\\): it is 'iwae', 'wake' or 'jackknife'"):
        declared(3, "elbo")


def test_the_jackknife_of_one_sample_is_refused():
    with pytest.raises(ValueError, match=r"log_weights has shape \(1, 2\)"):
        doubly_reparameterised(torch.randn(1, 2), torch.randn(1, 2), "jackknife")


@pytest.mark.parametrize(
    ("estimator", "plate", "parents", "message"),
    [
        (ScoreFunction(), 3, ["z", dist("z"), "w"], r"node 'z' is ScoreFunction\(samples=1\), plate=3.\n.*VIMCO"),
        (GeneralisedReparameterisation(), 3, ["z", dist("z"), "w"], "node 'z' is GeneralisedReparameterisation"),
        (
            Pathwise(),
            None,
            ["z", dist("z"), "w"],
            r"node 'z' is Pathwise.*, plate=None.\nDeclare it with Pathwise\(\) and plate=K",
        ),
        (Pathwise(), 3, ["z", "w", "w"], r"so their parents are 'z' and dist\('z'\)"),
        (Pathwise(), 3, [detach("z"), dist("z"), "w"], r"so their parents are 'z' and dist\('z'\)"),
        (Pathwise(), 3, ["z", dist("z"), "decoded"], "its parent 'decoded' moves with 'z'"),
    ],
    ids=["a score function", "samples with a score", "no plate", "no density", "no sample", "a node between"],
)
def test_what_would_be_biased_is_refused(estimator, plate, parents, message):
    graph = scg.Graph()
    graph.stochastic(estimator, posterior, name="z", plate=plate)
    graph.deterministic(lambda z, w: z * w, name="decoded")
    with pytest.raises(scg.GraphError, match=f"dreg\\('bound'\\): .*{message}"):
        dreg(graph, "z", log_weight, parents=parents, name="bound")


def test_a_second_layer_on_the_plate_is_refused():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), posterior, name="z1", plate=3)
    graph.stochastic(Pathwise(), lambda z1: Normal(z1, 1.0), name="z2")
    with pytest.raises(
        scg.GraphError, match="node 'z1' is on the plate too, and moves log q of 'z2'; its gradient would be biased"
    ):
        dreg(graph, "z2", log_weight, parents=["z2", dist("z2"), "w"], name="bound")
    with pytest.raises(scg.GraphError, match="its parent 'z2' moves with 'z1'"):
        dreg(graph, "z1", log_weight, parents=["z1", dist("z1"), "z2"], name="bound")


def test_an_unknown_node_is_refused():
    with pytest.raises(scg.GraphError, match="'y' is no node of this graph"):
        dreg(scg.Graph(), "y", log_weight, parents=["y", dist("y"), "w"], name="bound")
