"""Black boxes: every kind of derivative against autograd's on the same function, SPSA's mean over all its signs, and refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

import scg
from scg import GraphError, detach, estimators, prev
from scg.estimators import SPSA, FiniteDifference, LeaveOneOut, Pathwise, ScoreFunction, SuppliedJacobian, SuppliedVJP
from scg.estimators.black_box import BlackBox
from scg.estimators.catalogue import BOXES
from scg.estimators.cli import estimators as command


def pull(x, a, bias):
    """[s], [a], number → [2]"""
    both = (x * x.flip(-1)).sum(-1) * bias, torch.sin(x).sum(-1) + (a**2).sum(-1) * torch.exp(bias)
    return torch.stack(torch.broadcast_tensors(*both), -1)


SHAPES = "(s),(a),()->(2)"


def arguments(batches, dtype=torch.float64):
    events = {"x": (3,), "a": (2,), "bias": ()}
    return {
        name: torch.randn((*batch, *events[name]), dtype=dtype).requires_grad_()
        for (name, batch) in zip(events, batches, strict=True)
    }


def gradients(box, given, weight=None):
    value = box(**given)
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    return torch.autograd.grad((weight * value**2).sum(), list(given.values()))


BATCHES = [((), (), ()), ((4,), (4,), (4,)), ((4,), (), (1,)), ((2, 1), (3,), (2, 3)), ((5, 1, 2), (2,), (1, 2))]


# -- finite differences ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", BATCHES, ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_central_differences_are_the_gradient_for_any_argument_and_batch(batches, batched):
    given = arguments(batches)
    box = FiniteDifference(pull, SHAPES, batched=batched)
    shape = torch.broadcast_shapes(*batches)
    truth = gradients(lambda x, a, bias: pull(x.expand(*shape, 3), a.expand(*shape, 2), bias.expand(shape)), given)
    for found, exact in zip(gradients(box, given), truth, strict=True):
        assert torch.allclose(found, exact, rtol=1e-8, atol=1e-8)


def test_the_value_is_the_functions_own_to_the_bit():
    given = arguments(((4,), (4,), (4,)))
    assert torch.equal(FiniteDifference(pull, SHAPES)(**given), pull(**given))


@pytest.mark.parametrize(("scheme", "ratio"), [("central", 4.0), ("forward", 2.0)])
def test_the_error_shrinks_with_the_order_that_is_documented(scheme, ratio):
    x = torch.tensor(0.4, requires_grad=True)
    errors = []
    for step in (1e-2, 5e-3):
        box = FiniteDifference(lambda x: torch.exp(2 * x), step=step, scheme=scheme)
        errors.append(float(torch.autograd.grad(box(x), x)[0]) - 2 * math.exp(0.8))
    assert errors[0] / errors[1] == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize(("scheme", "power"), [("central", 1 / 3), ("forward", 1 / 2)])
def test_the_default_step_is_relative_and_that_of_the_precision(scheme, power):
    seen = []

    def f(x):
        seen.append(x.detach().clone())
        return x**2

    for dtype in (torch.float32, torch.float64):
        for at in (0.5, -300.0):
            seen.clear()
            FiniteDifference(f, scheme=scheme)(torch.tensor(at, dtype=dtype, requires_grad=True))
            assert float(seen[1][0] - at) == pytest.approx(torch.finfo(dtype).eps ** power * max(1.0, abs(at)), rel=2e-2)


@pytest.mark.parametrize(("scheme", "points"), [("central", 12), ("forward", 6)])
def test_all_perturbations_are_one_call_and_none_is_made_without_need(scheme, points):
    calls = []

    def f(x, a, bias):
        calls.append(x.shape)
        return pull(x, a, bias)

    given = arguments(((4,), (4,), (4,)))
    box = FiniteDifference(f, SHAPES, scheme=scheme)
    box(**given)
    assert calls == [(4, 3), (points, 4, 3)]
    calls.clear()
    with torch.no_grad():
        box(**given)
    box(**{name: x.detach() for name, x in given.items()})
    assert calls == [(4, 3), (4, 3)]
    calls.clear()
    box(given["x"].detach(), given["a"], given["bias"].detach())
    assert calls == [(4, 3), (points // 3, 4, 3)]  # only the 2 coordinates that are differentiated


def test_numpy_functions_get_arrays_and_may_write_into_them():
    def f(x, k):
        assert isinstance(x, np.ndarray) and isinstance(k, int)
        x += 0.0
        return float(np.tanh(x).prod() * k)

    x = torch.randn(4, 3, requires_grad=True)
    box = FiniteDifference(f, "(d),()->()", batched=False, numpy=True)
    (found,) = torch.autograd.grad(box(x, 3).sum(), x)
    (exact,) = torch.autograd.grad(3 * torch.tanh(x).prod(-1).sum(), x)
    assert torch.allclose(found, exact, atol=1e-9)


def test_single_precision_outside_may_be_double_inside():
    given = arguments(((4,), (4,), (4,)), torch.float32)
    truth = gradients(pull, {name: x.detach().double().requires_grad_() for name, x in given.items()})

    def error(found):
        return max(float((f.double() - e).abs().max() / e.abs().max()) for f, e in zip(found, truth, strict=True))

    plain, fine = (gradients(FiniteDifference(pull, SHAPES, dtype=d), given) for d in (None, torch.float64))
    assert all(g.dtype == torch.float32 for g in fine)
    assert error(fine) < 2e-6 < error(plain) < 1e-2


def test_absent_optional_arguments_stay_absent():
    def f(x, gain=2.0):
        return x**2 * gain

    x = torch.tensor(1.5, requires_grad=True)
    assert torch.autograd.grad(FiniteDifference(f)(x), x)[0] == pytest.approx(6.0)
    assert torch.autograd.grad(FiniteDifference(f)(x, torch.tensor(3.0)), x)[0] == pytest.approx(9.0)


# -- in graphs ---------------------------------------------------------------------------------------------------


def twin(make):
    """Branches above, another sample below, a detached parent: one graph around any making of `pull`."""
    graph = scg.Graph()
    graph.stochastic(LeaveOneOut(3), lambda theta: Independent(Bernoulli(logits=theta.expand(2, 2)), 1), name="a")
    graph.stochastic(Pathwise(2), lambda theta: Independent(Normal(theta[0] * torch.ones(2, 3), 0.5), 1), name="x")
    graph.deterministic(make(pull), name="y", parents=["x", "a", "bias"])
    graph.stochastic(ScoreFunction(), lambda y: Independent(Normal(y, 1.0), 1), name="z")
    graph.cost(lambda y, z, held=detach("x"): (y * z).sum(-1) + torch.cos(z[..., 0] * held[..., 1]), name="c")
    return graph


def surrogate_and_gradient(graph, seed=3, **inputs):
    surrogate = graph.surrogate(generator=torch.Generator().manual_seed(seed), **inputs)
    return surrogate.detach(), torch.autograd.grad(surrogate, [v for v in inputs.values() if getattr(v, "requires_grad", 0)])


def test_in_a_graph_with_branches_above_and_samples_below_it_is_the_torch_function():
    inputs = {"theta": torch.tensor([0.3, -0.2], requires_grad=True), "bias": torch.tensor(0.4, requires_grad=True)}
    truth, exact = surrogate_and_gradient(twin(lambda f: f), **inputs)
    jacobian = lambda f: SuppliedVJP(f, vjp_of(f), SHAPES)  # noqa: E731
    for make in (lambda f: FiniteDifference(f, SHAPES), lambda f: FiniteDifference(f, SHAPES, batched=False), jacobian):
        value, found = surrogate_and_gradient(twin(make), **inputs)
        assert torch.allclose(value, truth, rtol=1e-12)
        assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, exact, strict=True))


def vjp_of(f):
    def vjp(grad, **given):
        with torch.enable_grad():
            live = {n: x.clone().requires_grad_() for n, x in given.items()}
            return dict(zip(live, torch.autograd.grad(f(**live), list(live.values()), grad), strict=True))

    return vjp


def chain(step):
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(Pathwise(), lambda s=prev("s", init="s0"), k=None: Normal(k[0] * s[..., 0], 0.1), name="u")
        graph.deterministic(step, name="s", parents=[prev("s", init="s0"), "u"])
        graph.cost(lambda s, u: s.square().sum(-1) + u**2, name="c")
    return graph


def swing(s, u):
    return torch.stack([s[..., 0] + 0.1 * s[..., 1], s[..., 1] + 0.1 * torch.sin(s[..., 0]) + 0.2 * u], -1)


def test_in_a_sequence_it_is_the_torch_function():
    inputs = {"k": torch.tensor([-0.5], requires_grad=True), "s0": torch.randn(4, 2, requires_grad=True)}
    found, exact = (
        surrogate_and_gradient(chain(step), steps=6, **inputs)[1] for step in (FiniteDifference(swing, "(s),()->(s)"), swing)
    )
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, exact, strict=True))


def test_parents_are_the_parameters_of_the_function_inside():
    graph = scg.Graph()
    graph.deterministic(FiniteDifference(lambda x, scale, old=detach("x"): (x - old / 2) * scale), name="y")
    graph.cost(lambda y: y, name="c")
    assert [(e.source, e.detached) for e in graph.nodes["y"].parents] == [("x", False), ("scale", False), ("x", True)]
    x, scale = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    found = torch.autograd.grad(graph.surrogate(x=x, scale=scale), [x, scale])
    assert [float(g) for g in found] == pytest.approx([2.0, 1.5])


def test_the_examination_sees_through_the_box():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.deterministic(FiniteDifference(lambda x: x - x.mean()), name="y")
    graph.cost(lambda y: y**2, name="c")
    with pytest.raises(GraphError, match=r"node 'y': element [0-4] of the batch moves"):
        graph.surrogate(mu=torch.zeros(5, requires_grad=True))
    steps = scg.Graph()
    steps.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    steps.deterministic(FiniteDifference(lambda x: torch.floor(3 * x)), name="y")
    steps.cost(lambda y: y**2, name="c")
    with pytest.raises(GraphError, match="the pathwise gradient of 'x' ends here"):
        steps.surrogate(mu=torch.zeros((), requires_grad=True))


@pytest.mark.parametrize("cost", [lambda y: 3 * y, lambda y: y**2], ids=["linear", "square"])
@pytest.mark.parametrize(
    "box",
    [
        FiniteDifference(lambda x: x**3),
        SPSA(lambda x: x**3, allow_bias=True),
        SuppliedJacobian(lambda x: (x**3, 3 * x**2)),
        SuppliedVJP(lambda x: x**3, lambda g, x: 3 * g * x**2),
    ],
    ids=repr,
)
def test_a_second_derivative_is_refused_never_zero(box, cost):
    x = torch.tensor(0.7, requires_grad=True)
    (gradient,) = torch.autograd.grad(cost(box(x)) + x**2, x, create_graph=True)
    with pytest.raises(GraphError, match=r"a second derivative was asked through \w+\(<lambda>\).* first order only"):
        torch.autograd.grad(gradient, x)


def test_several_gradients_may_be_taken_at_once():
    box, x = FiniteDifference(pull, SHAPES), arguments(((4,), (4,), (4,)))
    value = box(**x)
    basis = torch.eye(8).reshape(8, 4, 2)
    together = torch.autograd.grad(value, list(x.values()), basis, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(value, list(x.values()), g, retain_graph=True) for g in basis]
    assert all(torch.allclose(t, torch.stack(e)) for t, e in zip(together, zip(*each, strict=True), strict=True))


# -- SPSA --------------------------------------------------------------------------------------------------------

POLY = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def quartic(x, order=4):
    """A polynomial of that degree: differences have no terms beyond h² in their derivative."""
    terms = [
        torch.einsum("ijkl,...i,...j,...k,...l->...", POLY, *[x] * 4),
        torch.einsum("ijk,...i,...j,...k->...", POLY[0], *[x] * 3),
    ]
    return sum(terms[4 - order :]) if order > 2 else torch.einsum("ij,...i,...j->...", POLY[0, 0], x, x)


class AllSigns(SPSA):
    """Every sign vector once."""

    def draw(self, shape, like):
        signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)))
        return signs.reshape(8, *[1] * (len(shape) - 2), 3).expand(shape).to(like.dtype)


class OneSign(AllSigns):
    """The biased twin: the coordinates share their sign."""

    def draw(self, shape, like):
        signs = torch.tensor([-1.0, 1.0]).repeat(4)
        return signs.reshape(8, *[1] * (len(shape) - 1)).expand(shape).to(like.dtype)


X = torch.tensor([[0.3, -0.5, 0.8], [-0.2, 0.9, 0.1]], dtype=torch.float64)


def mean_of(kind, f, step):
    x = X.clone().requires_grad_()
    return torch.autograd.grad(kind(f, "(d)->()", samples=8, step=step, allow_bias=True)(x).sum(), x)[0]


def documented(f, h):
    """∂ⱼf + h²/6 (∂ⱼ³f + 3 Σ_{k ≠ j} ∂ⱼ∂ₖ²f), by autograd."""
    rows = []
    for x in X:
        x = x.clone().requires_grad_()
        gradient = torch.autograd.functional.jacobian(f, x)
        third = torch.autograd.functional.jacobian(lambda y: torch.autograd.functional.hessian(f, y, create_graph=True), x)
        own = torch.einsum("jjj->j", third)
        rows.append(gradient + h**2 / 6 * (own + 3 * (torch.einsum("jkk->j", third) - own)))
    return torch.stack(rows)


@pytest.mark.parametrize("order", [3, 4])
def test_spsas_mean_over_all_signs_is_the_documented_one(order):
    found = mean_of(AllSigns, lambda x: quartic(x, order), step=0.1)
    expected = documented(lambda x: quartic(x, order), 0.1)
    assert torch.allclose(found, expected, atol=1e-12)
    assert (found - documented(lambda x: quartic(x, order), 0.0)).abs().max() > 1e-3


def test_spsa_is_unbiased_where_the_function_is_quadratic_and_its_twin_is_not():
    exact = documented(lambda x: quartic(x, 2), 0.0)
    assert torch.allclose(mean_of(AllSigns, lambda x: quartic(x, 2), step=0.5), exact, atol=1e-12)
    assert (mean_of(OneSign, lambda x: quartic(x, 2), step=0.5) - exact).abs().max() > 0.1


def test_spsa_perturbs_several_arguments_at_once():
    calls = []

    def f(x, a, bias):
        calls.append(x.shape)
        return pull(x, a, bias)

    given = arguments(((4,), (), (4,)))
    box = SPSA(f, SHAPES, samples=5, allow_bias=True)
    gradients(box, given)
    assert calls == [(4, 3), (10, 4, 3)]
    many = gradients(SPSA(pull, SHAPES, samples=40_000, allow_bias=True), given)
    for found, exact in zip(many, gradients(pull, given), strict=True):
        assert torch.allclose(found, exact, atol=0.05 * float(exact.abs().max()) + 0.05)


def quadratic(s, u):
    return torch.stack([s[..., 0] + 0.5 * s[..., 1] * s[..., 0] + u, 0.8 * s[..., 1] + u * s[..., 0]], -1)


class OneForAll(SPSA):
    """The biased twin: every step has the same signs, so that products of two steps' do not average out."""

    def draw(self, shape, like):
        kept = self.__dict__.setdefault("kept", {})
        return kept.setdefault(shape, super().draw(shape, like))


def test_spsa_draws_new_signs_at_every_step_of_a_sequence():
    """The step is quadratic, so SPSA is unbiased at every one; 100,000 elements, |z| < 5 of both entries: false alarm 1e-6."""
    n = 100_000
    k, s0 = torch.tensor([-0.5]).repeat(n, 1), torch.tensor([0.5, -0.3]).repeat(n, 1)

    def each(step):
        graph, live = scg.Graph(), k.clone().requires_grad_()
        with graph.sequence():
            graph.deterministic(lambda k, s=prev("s", init="s0"): k[..., 0] * s[..., 0], name="u")
            graph.deterministic(step, name="s", parents=[prev("s", init="s0"), "u"])
            graph.cost(lambda s: torch.cos(s).sum(-1), name="c")
        return torch.autograd.grad(graph.surrogate(k=live, s0=s0, steps=3), live)[0] * n

    exact = each(quadratic)[0]
    for kind, right in ((SPSA, True), (OneForAll, False)):
        found = each(kind(quadratic, "(s),()->(s)", allow_bias=True))
        z = (found.mean(0) - exact).abs() / (found.std(0) / n**0.5)
        assert bool((z < 5).all()) == right, (kind, z)


def test_spsa_draws_from_the_surrogates_generator_whether_or_not_a_gradient_is_wanted():
    def noisy():
        graph = scg.Graph()
        graph.deterministic(SPSA(lambda x: torch.sin(x).sum(-1), "(d)->()", allow_bias=True), name="y")
        graph.stochastic(ScoreFunction(), lambda y: Normal(y, 1.0), name="z")
        graph.cost(lambda y, z: y * z, name="c")
        return graph

    graph, x = noisy(), torch.randn(5, 3, requires_grad=True)
    state = torch.get_rng_state()
    (one, (first,)), (two, (again,)), (_, (other,)) = (surrogate_and_gradient(graph, seed, x=x) for seed in (1, 1, 2))
    assert torch.equal(one, two) and torch.equal(first, again) and not torch.equal(first, other)
    with torch.no_grad():
        assert torch.equal(graph.surrogate(generator=torch.Generator().manual_seed(1), x=x), one)
    assert torch.equal(torch.get_rng_state(), state)


def test_spsa_has_to_be_opted_into():
    with pytest.raises(ValueError, match=r"biased by O\(step²\).*allow_bias=True"):
        SPSA(torch.exp)
    with pytest.raises(ValueError, match="samples is an integer, at least 1"):
        SPSA(torch.exp, samples=0, allow_bias=True)


# -- supplied derivatives ----------------------------------------------------------------------------------------


def with_jacobian(x, a, bias):
    """`pull` of one element, in numpy, as a simulator would."""
    value = pull(*(torch.as_tensor(v) for v in (x, a, bias))).numpy()
    by_x = np.stack([bias * 2 * x[::-1], np.cos(x)])
    by_a = np.stack([0 * a, 2 * a * np.exp(bias)])
    by_bias = np.stack([(x * x[::-1]).sum(), (a**2).sum() * np.exp(bias)])
    return value, (by_x, by_a, by_bias)


@pytest.mark.parametrize("batches", BATCHES, ids=str)
def test_a_supplied_jacobian_is_the_gradient(batches):
    given = arguments(batches)
    # Σ x x.flip = 2 x₀x₂ + x₁²
    box = SuppliedJacobian(with_jacobian, SHAPES, batched=False, numpy=True)
    shape = torch.broadcast_shapes(*batches)
    truth = gradients(lambda x, a, bias: pull(x.expand(*shape, 3), a.expand(*shape, 2), bias.expand(shape)), given)
    for found, exact in zip(gradients(box, given), truth, strict=True):
        assert torch.allclose(found, exact, rtol=1e-10, atol=1e-10)
    by_name = SuppliedJacobian(
        lambda x, a, bias: (lambda v, j: (v, dict(zip(("x", "a", "bias"), j, strict=True))))(*with_jacobian(x, a, bias)),
        SHAPES, batched=False, numpy=True,
    )  # fmt: skip
    assert all(torch.equal(f, g) for f, g in zip(gradients(box, given), gradients(by_name, given), strict=True))


@pytest.mark.parametrize("batches", BATCHES, ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_a_supplied_vjp_is_the_gradient(batches, batched):
    given = arguments(batches)
    box = SuppliedVJP(pull, vjp_of(pull), SHAPES, batched=batched)
    shape = torch.broadcast_shapes(*batches)
    truth = gradients(lambda x, a, bias: pull(x.expand(*shape, 3), a.expand(*shape, 2), bias.expand(shape)), given)
    for found, exact in zip(gradients(box, given), truth, strict=True):
        assert torch.allclose(found, exact, rtol=1e-12, atol=1e-12)


def test_a_wrong_derivative_is_caught_at_the_first_gradient():
    x = torch.randn(4, 3, requires_grad=True)
    right = lambda x: (torch.sin(x).sum(-1), torch.cos(x))  # noqa: E731
    wrong = lambda x: (torch.sin(x).sum(-1), 1.01 * torch.cos(x))  # noqa: E731
    assert SuppliedJacobian(right, "(d)->()")(x).shape == (4,)
    with pytest.raises(ValueError, match="along a random direction, a central difference of the value"):
        SuppliedJacobian(wrong, "(d)->()")(x)
    with torch.no_grad():
        SuppliedJacobian(wrong, "(d)->()")(x)  # nothing is differentiated
    SuppliedJacobian(wrong, "(d)->()", trust=True)(x)
    with pytest.raises(ValueError, match="along a random direction"):
        SuppliedVJP(lambda x: torch.sin(x), lambda g, x: -g * torch.cos(x))(x)


def test_the_comparison_draws_nothing_from_the_stream_and_is_made_once():
    calls = []

    def f(x):
        calls.append(1)
        return x**2, 2 * x

    box, x, state = SuppliedJacobian(f), torch.randn(3, requires_grad=True), torch.get_rng_state()
    box(x)
    assert len(calls) == 3 and torch.equal(torch.get_rng_state(), state)
    box(x)
    assert len(calls) == 4


def test_what_was_not_supplied_is_asked_for_only_where_it_is_wanted():
    box = SuppliedVJP(lambda x, y: x * y, lambda g, x, y: (g * y, None))
    x, y = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    assert torch.autograd.grad(box(x, y.detach()), x)[0] == 3.0
    with pytest.raises(ValueError, match="a gradient is wanted for 'y', and its vjp is missing"):
        torch.autograd.grad(SuppliedVJP(lambda x, y: x * y, lambda g, x, y: (g * y, None), trust=True)(x, y), [x, y])
    with pytest.raises(
        ValueError, match=r"the jacobian for 'x' has shape \(3,\); it is \[\*batch, \*value, \*argument\] = \(4, 3\)"
    ):
        SuppliedJacobian(lambda x: (x.sum(-1), torch.ones(3)), "(d)->()")(torch.randn(4, 3, requires_grad=True))
    with pytest.raises(ValueError, match=r"returns \(value, jacobian\), got Tensor"):
        SuppliedJacobian(lambda x: x)(x)
    with pytest.raises(ValueError, match="3 vjps for the arguments x, y"):
        torch.autograd.grad(SuppliedVJP(lambda x, y: x * y, lambda g, x, y: (g, g, g), trust=True)(x, y), x)
    with pytest.raises(ValueError, match=r"the vjp for 'x' has shape \(2,\), the argument \(\)"):
        torch.autograd.grad(SuppliedVJP(lambda x: x, lambda g, x: torch.ones(2), trust=True)(x), x)


# -- refusals ----------------------------------------------------------------------------------------------------


def test_a_gradient_that_would_pass_unseen_is_refused():
    module, x = torch.nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match="depends on a tensor that requires a gradient and is no argument"):
        FiniteDifference(module, "(d)->(2)")(x)
    module.requires_grad_(False)
    (found,) = torch.autograd.grad(FiniteDifference(module, "(d)->(2)")(x).sum(), x)
    assert torch.allclose(found, module.weight.sum(0).expand(4, 3), atol=1e-9)
    with pytest.raises(TypeError, match="argument 'x' is a Normal; a black box takes tensors and plain numbers"):
        FiniteDifference(lambda x: x.mean)(Normal(0.0, 1.0))


def test_shapes_are_held_against_what_comes_and_what_is_returned():
    x = torch.randn(4, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"returned shape \(4,\) for a batch \(4, 3\); by shapes='None \(numbers\)'"):
        FiniteDifference(lambda x: x.sum(-1))(x)
    with pytest.raises(ValueError, match=r"returned shape \(4, 3\) for a batch \(4,\).*it is the batch, then \(\)"):
        FiniteDifference(lambda x: x, "(d)->()")(x)
    with pytest.raises(ValueError, match=r"returned shape \(4, 2\) for a batch \(4,\).*then \(d\)"):
        FiniteDifference(lambda x: x[..., :2], "(d)->(d)")(x)
    with pytest.raises(ValueError, match="argument 'y' has 2 on its event axis 'd', which is 3"):
        FiniteDifference(lambda x, y: x, "(d),(d)->(d)")(x, x[..., :2])
    with pytest.raises(ValueError, match="argument 'x' has 3 on its event axis '5', which is 5"):
        FiniteDifference(lambda x: x, "(5)->(5)")(x)
    with pytest.raises(
        ValueError, match=r"argument 'x' has shape \(\), and shapes='\(d\)->\(\)' gives it the event axes \(d\)"
    ):
        FiniteDifference(lambda x: x, "(d)->()")(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"do not broadcast over the batch: x \(4, 3\), y \(2,\)"):
        FiniteDifference(lambda x, y: x, "(d),()->(d)")(x, torch.randn(2))
    with pytest.raises(ValueError, match="returned torch.int64, which has no derivative"):
        FiniteDifference(lambda x: x.round().long())(x)
    with pytest.raises(ValueError, match="an empty batch"):
        FiniteDifference(lambda x: x, batched=False)(torch.empty(0, requires_grad=True))


def test_settings_that_make_no_sense_are_refused_at_once():
    for shapes in ("(d)", "d->()", "(d)->()()", "(d->()", "->()"):
        with pytest.raises(ValueError, match="is no signature"):
            FiniteDifference(lambda x: x, shapes)
    with pytest.raises(ValueError, match="has 1 arguments, the function 2"):
        FiniteDifference(lambda x, y: x, "(d)->()")
    with pytest.raises(ValueError, match="the step is a positive number"):
        FiniteDifference(lambda x: x, step=0.0)
    with pytest.raises(ValueError, match="the step is a positive number"):
        SPSA(lambda x: x, step=-1.0, allow_bias=True)
    with pytest.raises(ValueError, match="'central' or 'forward'"):
        FiniteDifference(lambda x: x, scheme="backward")
    with pytest.raises(TypeError, match="wraps a function"):
        FiniteDifference(3.0)


def test_functions_without_parameter_names_are_called_by_position():
    graph = scg.Graph()
    graph.deterministic(FiniteDifference(np.arctan2, numpy=True), name="y", parents=["a", "b"])
    graph.cost(lambda y: y, name="c")
    a, b = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0.5, -1.0], requires_grad=True)
    found = torch.autograd.grad(graph.surrogate(a=a, b=b), [a, b])
    exact = torch.autograd.grad(torch.arctan2(a, b).mean(), [a, b])
    assert all(torch.allclose(f, e, atol=1e-9) for f, e in zip(found, exact, strict=True))
    with pytest.raises(TypeError, match="called by position"):
        FiniteDifference(lambda *xs: xs[0])(x=a)
    with pytest.raises(ValueError, match="has 1 arguments, it was called with 2"):
        FiniteDifference(lambda *xs: xs[0], "()->()")(a, b)


@pytest.mark.parametrize("box", [FiniteDifference(torch.log), SPSA(torch.log, allow_bias=True)], ids=repr)
def test_a_step_over_the_end_of_the_domain_is_named(box):
    x = torch.tensor([1.0, 1e-9], requires_grad=True)
    with pytest.raises(ValueError, match="its value is finite, but not a step away from it"):
        box(x)
    inside = torch.tensor([1.0], requires_grad=True)
    assert torch.autograd.grad(box(inside), inside)[0] == pytest.approx(1.0, rel=1e-6)


# -- catalogue ---------------------------------------------------------------------------------------------------


def test_every_exported_black_box_is_in_the_catalogue(capsys):
    exported = [getattr(estimators, name) for name in estimators.__all__]
    boxes = [c.__name__ for c in exported if isinstance(c, type) and issubclass(c, BlackBox)]
    assert sorted(boxes) == sorted(row.node for row in BOXES)
    assert command([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in boxes)
    assert command(["Poisson"]) == 0
    assert "SPSA" not in capsys.readouterr().out


def test_the_catalogues_evaluations_are_those_that_are_made():
    for make, first, later in (
        (lambda f: FiniteDifference(f, "(d)->()", batched=False), 7, 7),
        (lambda f: FiniteDifference(f, "(d)->()", batched=False, scheme="forward"), 4, 4),
        (lambda f: SPSA(f, "(d)->()", batched=False, samples=5, allow_bias=True), 11, 11),
        (lambda f: SuppliedVJP(f, lambda g, x: 2 * g * x, "(d)->()", batched=False), 3, 1),
        (lambda f: SuppliedJacobian(lambda x: (f(x), 2 * x), "(d)->()", batched=False), 3, 1),
    ):
        calls = []

        def f(x, calls=calls):
            calls.append(1)
            return (x**2).sum(-1)

        box, x = make(lambda x: f(x)), torch.randn(3, requires_grad=True)
        for expected in (first, later):
            calls.clear()
            torch.autograd.grad(box(x), x)
            assert len(calls) == expected
