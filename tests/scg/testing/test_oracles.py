"""The true derivative: by enumeration, by quadrature, by finite differences, each against a number known on paper."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Dirichlet,
    Exponential,
    Gamma,
    Independent,
    Laplace,
    MixtureSameFamily,
    Multinomial,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    TransformedDistribution,
    Uniform,
    VonMises,
)
from torch.distributions.transforms import AffineTransform, TanhTransform

import scg
from scg import Pathwise, ScoreFunction, detach, dist, prev
from scg.testing import NoOracle, exact_gradient, finite_difference
from scg.testing.expectation import Expectation
from scg.testing.outcomes import plan
from scg.testing.quadrature import NoPoints, extent, points
from scg.testing.unroll import Program


def leaf(value):
    return torch.tensor(value, requires_grad=True)


def one(distribution, cost, estimator=None):
    """theta → x ~ distribution(theta) → cost(x)."""
    graph = scg.Graph()
    graph.stochastic(estimator or ScoreFunction(), lambda theta: distribution(theta), name="x")
    graph.cost(lambda x: cost(x), name="loss")
    return graph


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# -- enumeration -------------------------------------------------------------------------------------------


def test_a_bernoulli_has_the_gradient_and_hessian_of_its_probability():
    graph, theta = one(lambda t: Bernoulli(logits=t), lambda x: 3 * x + 1), leaf(0.4)
    p = sigmoid(0.4)
    assert exact_gradient(graph, {"theta": theta})["theta"].item() == pytest.approx(3 * p * (1 - p))
    second = exact_gradient(graph, {"theta": theta}, order=2)["theta", "theta"].item()
    assert second == pytest.approx(3 * p * (1 - p) * (1 - 2 * p))


def test_a_poisson_is_summed_until_nothing_is_left():
    graph = one(Poisson, lambda x: x * (x - 1))  # E[x(x-1)] = θ²
    assert exact_gradient(graph, {"theta": leaf(3.0)})["theta"].item() == pytest.approx(6.0, rel=1e-12)


def test_a_node_function_may_ask_a_sample_for_its_truth_value():
    graph = one(lambda t: Bernoulli(logits=t), lambda x: 2.0 if x else 1.0)
    p = sigmoid(0.4)
    assert exact_gradient(graph, {"theta": leaf(0.4)})["theta"].item() == pytest.approx(p * (1 - p))


def test_outcomes_at_once_and_one_by_one_agree():
    graph = scg.Graph()
    graph.stochastic(
        ScoreFunction(), lambda theta, data: Categorical(logits=torch.stack([theta * data, 0 * data, data], -1)), name="k"
    )
    graph.stochastic(Pathwise(), lambda k, theta: Normal(k * theta, 1.0), name="z")
    graph.stochastic(ScoreFunction(), lambda z: Independent(Bernoulli(logits=torch.stack([z, 1 - z], -1)), 1), name="b")
    graph.cost(lambda k, z, b: k * z.sin() + b.sum(-1) * z.cos(), name="loss")
    program = Program(graph, {"theta": leaf(0.5), "data": torch.tensor([0.2, -0.9])}, None)
    found = plan(program, program.costs[0])
    assert (found.count, found.axes, tuple(found.batch)) == (12, 1, (2,))
    together, _ = Expectation(program, found, size=15).value()
    alone, _ = Expectation(program, found, size=15, walk=True).value()
    assert together.item() == pytest.approx(alone.item(), rel=1e-13)


def test_a_sequence_is_unrolled_and_reset_where_an_episode_starts():
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")

        @graph.stochastic(ScoreFunction())
        def a(theta, s=prev("s", init="s0")):
            return Bernoulli(logits=theta + s)

        @graph.deterministic
        def s(a, s=prev("s", init="s0")):
            return s + a

        @graph.cost
        def loss(s):
            return s**2

    theta = 0.2
    first = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    given = {"theta": leaf(theta), "s0": torch.zeros(2), "first": first}
    p, derivative = sigmoid(theta), 0.0
    q, dp = sigmoid(theta + 1), sigmoid(theta) * (1 - sigmoid(theta))
    dq = q * (1 - q)
    # Joined: E[s₁² + s₂²] with s₁ = a₁, s₂ = a₁ + a₂.   Apart: two episodes of one step.
    joined = dp + (dp * (1 + 3 * q) + p * 3 * dq) + (dp * (1 - 2 * p))
    apart = 2 * dp
    derivative = (joined + apart) / 2
    assert exact_gradient(graph, given)["theta"].item() == pytest.approx(derivative)


# -- quadrature --------------------------------------------------------------------------------------------


def bessel(kappa):
    """E[cos(x − μ)] of a von Mises: I₁(κ)/I₀(κ)."""
    return float(torch.special.i1(torch.tensor(kappa)) / torch.special.i0(torch.tensor(kappa)))


CLOSED = {
    "a normal's variance": (lambda t: Normal(0.3, t), lambda x: (x - 0.3) ** 2, 0.8, lambda t: 2 * t),
    "an exponential's mean": (Exponential, lambda x: x, 1.3, lambda t: -1 / t**2),
    "a gamma's mean": (lambda t: Gamma(t, 2.0), lambda x: x, 0.7, lambda t: 0.5),
    "a beta's mean": (lambda t: Beta(t, 2.0), lambda x: x, 0.7, lambda t: 2 / (t + 2) ** 2),
    "a laplace's location": (lambda t: Laplace(t, 0.5), lambda x: x**2, 0.7, lambda t: 2 * t),
    "a cauchy's location": (lambda t: Cauchy(t, 0.5), lambda x: 1 / (1 + x**2), 0.7, lambda t: -3 * t / (1.5**2 + t**2) ** 2),
    "a direction's spread": (
        lambda t: VonMises(0.4, t),
        lambda x: (x - 0.4).cos(),
        0.8,
        lambda t: 1 - bessel(t) / t - bessel(t) ** 2,
    ),
    "a direction's mean": (lambda t: VonMises(t, 0.8), lambda x: x.cos(), 0.7, lambda t: -bessel(0.8) * math.sin(t)),
    "a uniform's moving end": (lambda t: Uniform(0.0, t), lambda x: x**2, 0.7, lambda t: 2 * t / 3),
    "a tail of an exponential": (
        Exponential,
        lambda x: (x > 3.94).double(),
        0.7,
        lambda t: -3.94 * math.exp(-3.94 * t),
    ),
    "a kink under a normal": (
        lambda t: Normal(t, 1.0),
        lambda x: (x - 0.1).relu(),
        0.4,
        lambda t: 0.5 * (1 + math.erf((t - 0.1) / math.sqrt(2))),
    ),
    "a shifted and scaled beta's mean": (
        lambda t: TransformedDistribution(Beta(t, 2.0), [AffineTransform(-1.0, 2.0)]),
        lambda x: x,
        1.3,
        lambda t: 4 / (t + 2) ** 2,
    ),
    "where a shifted exponential begins": (
        lambda t: TransformedDistribution(Exponential(torch.ones(())), [AffineTransform(t, 1.0)]),
        lambda x: x**2,
        0.7,
        lambda t: 2 * (1 + t),
    ),
    "a squashed normal's half": (
        lambda t: TransformedDistribution(Normal(t, 1.0), [TanhTransform(cache_size=1)]),
        lambda x: (x > 0).double(),
        0.4,
        lambda t: math.exp(-t * t / 2) / math.sqrt(2 * math.pi),
    ),
    "a mixture's weight": (
        lambda t: MixtureSameFamily(Categorical(logits=torch.stack([t, -t])), Normal(torch.tensor([-1.0, 2.0]), 0.3)),
        lambda x: x,
        0.4,
        lambda t: -6 * sigmoid(2 * t) * (1 - sigmoid(2 * t)),
    ),
    "a mixture of counts": (
        lambda t: MixtureSameFamily(Categorical(logits=torch.stack([t, -t])), Poisson(torch.tensor([1.0, 3.0]))),
        lambda x: x,
        0.4,
        lambda t: -4 * sigmoid(2 * t) * (1 - sigmoid(2 * t)),
    ),
    "a step under a normal": (
        lambda t: Normal(t, 1.0),
        lambda x: torch.where(x > 0, 1.0, 0.0),
        0.4,
        lambda t: math.exp(-t * t / 2) / math.sqrt(2 * math.pi),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_quadrature_finds(name):
    distribution, cost, theta, truth = CLOSED[name]
    moves = any(word in name for word in ("step", "tail", "half", "weight", "counts", "beta"))
    graph = one(distribution, cost, ScoreFunction() if moves else Pathwise())
    found = exact_gradient(graph, {"theta": leaf(theta)})["theta"].item()
    assert found == pytest.approx(truth(theta), rel=1e-6)


def test_a_kinked_density_has_its_second_derivative_along_the_path():
    graph = one(lambda t: Laplace(t, 0.5), lambda x: x**3, Pathwise())
    assert exact_gradient(graph, {"theta": leaf(0.7)}, order=2)["theta", "theta"].item() == pytest.approx(6 * 0.7, rel=1e-6)


def test_a_correlated_normal_is_integrated_on_a_grid():
    tril = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    graph = one(lambda t: MultivariateNormal(t, scale_tril=tril), lambda x: x[..., 0] * x[..., 1], Pathwise())
    assert exact_gradient(graph, {"theta": leaf([0.3, -0.7])})["theta"].tolist() == pytest.approx([-0.7, 0.3])


def test_a_simplex_is_integrated_stick_by_stick():
    """E[x₀ x₂] = α₀ α₂ / (s (s + 1)), s = Σα; where α < 1 the density is infinite at the edges."""
    for alpha in ([1.3, 2.0, 0.8], [0.2, 3.0, 0.6]):
        graph = one(lambda t: Dirichlet(t), lambda x: x[..., 0] * x[..., 2])
        theta = leaf(alpha)
        total = theta.sum()
        (truth,) = torch.autograd.grad(theta[0] * theta[2] / (total * (total + 1)), theta)
        assert exact_gradient(graph, {"theta": theta})["theta"].tolist() == pytest.approx(truth.tolist(), rel=1e-6)


def test_a_pathwise_node_whose_parts_are_summed_is_one_joint_sample():
    graph = one(lambda t: Normal(t, 1.0), lambda x: x.sum(-1) ** 2, Pathwise())  # batch shape [3], cost rank 0
    found = exact_gradient(graph, {"theta": leaf([0.3, -0.7, 0.1])})["theta"].tolist()
    assert found == pytest.approx([2 * -0.3] * 3)


def test_a_jump_that_no_panels_enclose_is_reported_as_imprecise_and_allowed_on_demand():
    graph = one(lambda t: MultivariateNormal(t, torch.eye(2)), lambda x: (x.sum(-1) > 0.1).double())
    given = {"theta": leaf([0.4, 0.1])}
    with pytest.raises(NoOracle, match="costs that jump or have a kink converge slowly along more than two real axes"):
        exact_gradient(graph, given)
    assert exact_gradient(graph, given, tolerance=math.inf)


def test_jumps_along_two_axes_are_enclosed():
    """P(x + y > 1) and E[1(x > 0) y], y ~ N(x, 1): along y given x, and along x alone."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.stochastic(Pathwise(), lambda x: Normal(x, 1.0), name="y")
    graph.cost(lambda x, y: (x + y > 1).double() + (x > 0) * y, name="loss")
    t, spread = 0.4, math.sqrt(5)
    above = 2 / spread * math.exp(-(((1 - 2 * t) / spread) ** 2) / 2) / math.sqrt(2 * math.pi)
    truth = above + 0.5 * (1 + math.erf(t / math.sqrt(2)))
    assert exact_gradient(graph, {"theta": leaf(t)})["theta"].item() == pytest.approx(truth, rel=1e-8)


def test_what_cannot_be_summed_is_refused_with_the_reason():
    with pytest.raises(NoOracle, match="no quadrature for Multinomial"):
        exact_gradient(one(lambda t: Multinomial(3, logits=t), lambda x: x[..., 0]), {"theta": leaf([1.0, 2.0, 1.0])})
    with pytest.raises(NoOracle, match="9 real axes above it, more than"):
        exact_gradient(one(lambda t: Normal(t, 1.0), lambda x: x.sum(-1), Pathwise()), {"theta": leaf([0.1] * 9)})
    with pytest.raises(NoOracle, match="its StudentT sums to"):  # its tails hold mass beyond any grid
        exact_gradient(one(lambda t: StudentT(0.05, t), lambda x: x.tanh()), {"theta": leaf(0.1)})


def test_points_carry_the_whole_mass():
    for distribution in (
        Normal(0.0, 3.0),
        Gamma(0.3, 1.0),
        Beta(0.5, 0.5),
        Uniform(-1.0, 4.0),
        Laplace(1.0, 2.0),
        Cauchy(1.0, 2.0),
        VonMises(1.0, 30.0),
    ):
        _, log_weight = points(distribution, (), 120)
        assert log_weight.exp().sum().item() == pytest.approx(1.0, abs=1e-7), distribution
    assert extent(Independent(Bernoulli(torch.full((3,), 0.3)), 1)).count == 8
    with pytest.raises(NoPoints, match="joint values of Bernoulli"):
        extent(Independent(Bernoulli(torch.full((30,), 0.3)), 1))


# -- finite differences ------------------------------------------------------------------------------------


def test_finite_differences_of_an_expectation_are_good_to_ten_digits():
    graph = one(lambda t: Normal(t, 1.0), lambda x: x.sin(), Pathwise())
    for order, truth in ((1, math.cos(0.4)), (2, -math.sin(0.4))):
        found = finite_difference(graph, {"theta": leaf(0.4)}, order=order)
        key = "theta" if order == 1 else ("theta", "theta")
        assert found.value[key].item() == pytest.approx(truth * math.exp(-0.5), rel=1e-8)
        assert found.error[key].item() < 1e-7
        assert found.se[key].item() == 0.0


@pytest.mark.parametrize("order", [1, 2])
def test_sampled_differences_state_an_error_that_holds(order):
    graph = one(lambda t: Bernoulli(logits=t), lambda x: 2 * x)
    p = sigmoid(0.4)
    truth = 2 * p * (1 - p) * (1.0 if order == 1 else 1 - 2 * p)
    found = finite_difference(graph, {"theta": leaf(0.4)}, order=order, sampled=True, target=0.02)
    key = "theta" if order == 1 else ("theta", "theta")
    assert found.kind == "finite difference (sampled)"
    assert 0 < found.se[key].item() < 0.05
    assert abs(found.value[key].item() - truth) < 4 * found.se[key].item() + found.error[key].item() + 1e-3


def test_common_random_numbers_make_a_path_almost_noiseless():
    found = finite_difference(one(lambda t: Normal(t, 1.0), lambda x: x, Pathwise()), {"theta": leaf(0.4)}, sampled=True)
    assert found.value["theta"].item() == pytest.approx(1.0, abs=1e-9)


def test_differences_leave_parameters_as_they_were():
    layer = nn.Linear(1, 1)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=layer(x).squeeze(-1)), name="b")
    graph.cost(lambda b: b, name="loss")
    before = [p.detach().clone() for p in layer.parameters()]
    found = finite_difference(graph, {"x": torch.ones(1)}, wrt=layer)
    truth = exact_gradient(graph, {"x": torch.ones(1)}, wrt=layer)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert found.value["linear.weight"].item() == pytest.approx(truth["linear.weight"].item(), rel=1e-7)


def test_differences_over_a_whole_network_are_refused():
    with pytest.raises(NoOracle, match="finite differences over 1000 numbers take too long"):
        finite_difference(one(lambda t: Normal(t.sum(-1), 1.0), lambda x: x, Pathwise()), {"theta": leaf([0.0] * 1000)})


# -- what the objective is ---------------------------------------------------------------------------------


def test_a_detached_value_is_a_constant_to_every_oracle():
    """c = x · sg(y): only x moves. y is x's own detached copy, or another node."""
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.stochastic(ScoreFunction(), lambda mu: Bernoulli(logits=mu), name="b")
    graph.cost(lambda x, b=detach("b"): x * b, name="other")
    graph.cost(lambda x, copy=detach("x"): x * copy, name="own")
    p = sigmoid(0.3)
    truth = p + 0.3  # ∂/∂μ E[x] · E[sg b]  +  E[sg x · ∂x/∂μ]
    assert exact_gradient(graph, {"mu": leaf(0.3)})["mu"].item() == pytest.approx(truth)
    exactly = finite_difference(graph, {"mu": leaf(0.3)})
    assert exactly.value["mu"].item() == pytest.approx(truth, rel=1e-8)
    found = finite_difference(graph, {"mu": leaf(0.3)}, sampled=True, target=0.1)  # frozen values live beside their draw
    assert abs(found.value["mu"].item() - truth) < 5 * found.se["mu"].item() + 1e-6


def test_a_frozen_copy_of_a_path_needs_a_path_that_can_be_inferred():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda theta: Gamma(theta, 1.0), name="x")
    graph.cost(lambda x, copy=detach("x"): x * copy, name="loss")
    with pytest.raises(NoOracle, match="node 'x' is pathwise and reaches the cost 'loss' both with and without detach"):
        exact_gradient(graph, {"theta": leaf(0.7)})


def test_a_distribution_is_read_with_and_without_gradient():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda q=dist("b"): q.entropy(), name="live")
    graph.cost(lambda q=detach(dist("b")): q.entropy(), name="frozen")
    p = sigmoid(0.3)
    assert exact_gradient(graph, {"theta": leaf(0.3)})["theta"].item() == pytest.approx(-0.3 * p * (1 - p))


def test_a_cost_counts_for_what_it_trains():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b, w: b * w, name="actor", trains="theta")
    graph.cost(lambda b, w: (b - w) ** 2, name="critic", trains="w")
    p, w = sigmoid(0.3), 0.6
    given = {"theta": leaf(0.3), "w": leaf(w)}
    for found in (exact_gradient(graph, given), finite_difference(graph, given).value):
        assert found["theta"].item() == pytest.approx(w * p * (1 - p))
        assert found["w"].item() == pytest.approx(2 * (w - p))
    assert exact_gradient(graph, given, order=2)["theta", "w"].item() == 0.0


def test_the_objective_is_a_mean_over_the_batch_and_a_sum_over_costs():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, data: Bernoulli(logits=theta * data), name="b")
    graph.cost(lambda b: b, name="one")
    graph.reward(lambda b: 3 * b, name="two")
    data = torch.tensor([0.2, -0.9])
    truth = sum(-2 * x * sigmoid(0.3 * x) * (1 - sigmoid(0.3 * x)) for x in data.tolist()) / 2
    assert exact_gradient(graph, {"theta": leaf(0.3), "data": data})["theta"].item() == pytest.approx(truth)


def test_all_samples_of_a_plate_are_one_outcome():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta, x: Bernoulli(logits=theta + 0 * x), name="z", plate=2)
    graph.cost(lambda z: z.prod(-2), name="both")
    p = sigmoid(0.3)
    given = {"theta": leaf(0.3), "x": torch.zeros(1)}
    assert exact_gradient(graph, given)["theta"].item() == pytest.approx(2 * p * p * (1 - p))
    assert finite_difference(graph, given).value["theta"].item() == pytest.approx(2 * p * p * (1 - p))


def test_missing_inputs_and_steps_are_named():
    graph = one(lambda t: Bernoulli(logits=t), lambda x: x)
    with pytest.raises(ValueError, match="none of \\(no inputs\\) does"):
        exact_gradient(graph, {})
    with pytest.raises(scg.GraphError, match="'theta' is missing"):
        exact_gradient(graph, {"phi": leaf(0.0)})
    sequence = scg.Graph()
    with sequence.sequence():
        sequence.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
        sequence.cost(lambda b: b, name="loss")
    with pytest.raises(scg.GraphError, match="say how many steps"):
        exact_gradient(sequence, {"theta": leaf(0.0)})
    with pytest.raises(ValueError, match="order=3: 1 for gradients, 2 for Hessians"):
        exact_gradient(graph, {"theta": leaf(0.0)}, order=3)
