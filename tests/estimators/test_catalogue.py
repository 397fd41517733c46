"""The catalogue says what the code does: every row against the class, on a distribution of each kind that it takes."""

import math
from functools import lru_cache

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal, Poisson

import estimators
import scg
from estimators import ScoreFunction
from estimators.catalogue import ENTRIES, KINDS, accepted, as_markdown, catalogue
from estimators.cli import estimators as command
from estimators.componentwise import components, support_size
from scg.testing import NoOracle, assert_unbiased, exact_gradient
from tests.estimators.integral import weights

THETA = [0.3, -0.4, 0.5]
CASES = [(name, kind) for name, entry in ENTRIES.items() for kind in accepted(entry.estimator)]
every_case = pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda x: x.replace(" ", "-"))
differentiated = pytest.mark.parametrize(
    ("name", "kind"), [c for c in CASES if c[0] != "NoGradient"], ids=lambda x: x.replace(" ", "-")
)
DRAWS = 20_000


def cost(x, kind):
    """Bounded and smooth, and no sum over the components of a joint sample."""
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    event = len(KINDS[kind](torch.tensor(THETA)).event_shape)
    total = (x * torch.linspace(1.0, 1.5, x.shape[-1], dtype=x.dtype)).sum(-1) if event else x
    return torch.cos(1.3 * total + 0.2)


def graph_of(name, kind, f=cost):
    graph = scg.Graph()
    graph.stochastic(ENTRIES[name].estimator, lambda theta: KINDS[kind](theta), name="x")
    graph.cost(lambda x: f(x, kind), name="f")
    return graph


def test_every_exported_estimator_is_in_it_and_nothing_else():
    exported = [getattr(estimators, name) for name in estimators.__all__]
    assert set(ENTRIES) == {c.__name__ for c in exported if isinstance(c, type) and issubclass(c, scg.Estimator)}
    assert [row.estimator for row in catalogue()] == list(ENTRIES)
    assert all(all(vars(row).values()) for row in catalogue())


def test_what_it_says_is_what_the_classes_say():
    for row in catalogue():
        estimator = ENTRIES[row.estimator].estimator
        if row.unbiased != "no gradient":
            assert (row.unbiased == "yes") == (estimator.unbiased and not estimator.allow_bias)
        first = [
            kind for kind in accepted(estimator) if estimator.order(KINDS[kind](torch.tensor(THETA, requires_grad=True))) == 1
        ]
        if row.order == "∞":
            assert not first
        if row.order == "1":
            assert first == list(accepted(estimator))


def test_what_it_leaves_out_is_refused_with_what_would_work_instead():
    theta = torch.tensor(THETA, requires_grad=True)
    for entry in ENTRIES.values():
        for kind in KINDS.keys() - accepted(entry.estimator):
            message = entry.estimator.refuses(KINDS[kind](theta))
            assert message is not None and "Use " in message.splitlines()[-1], message


@every_case
def test_evaluations_are_the_branches(name, kind):
    distribution = KINDS[kind](torch.tensor(THETA, requires_grad=True))
    branches = ENTRIES[name].estimator.branch(distribution)
    assert (branches.n or 1) == ENTRIES[name].count(distribution, components(distribution))


@every_case
def test_batch_shapes_and_dtypes_are_kept(name, kind):
    for dtype in (torch.float32, torch.float64):
        for batch in ((), (2,), (4, 2)):
            distribution = KINDS[kind](torch.tensor(THETA, dtype=dtype).expand(*batch, 3).clone().requires_grad_())
            branches = ENTRIES[name].estimator.branch(distribution)
            axis = () if branches.n is None else (branches.n,)
            plain = distribution.sample()
            assert branches.values.shape == axis + plain.shape and branches.values.dtype == plain.dtype
            assert torch.isfinite(branches.values).all()
            for weight in (branches.weights, branches.score):
                if weight is not None:
                    assert weight.shape == axis + distribution.batch_shape and weight.dtype == dtype
                    assert torch.isfinite(weight).all()


@differentiated
def test_the_same_seed_gives_the_same_bits(name, kind):
    graph, theta = graph_of(name, kind), torch.tensor(THETA).repeat(50, 1).requires_grad_()
    draws = []
    for seed in (1, 1, 2):
        state = torch.get_rng_state()
        value = graph.surrogate(theta=theta, generator=torch.Generator().manual_seed(seed))
        draws.append(torch.cat([value.detach().view(1), torch.autograd.grad(value, theta)[0].flatten()]))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(draws[0], draws[1])
    size = support_size(KINDS[kind](theta))
    if size is None or size > ENTRIES[name].count(KINDS[kind](theta), components(KINDS[kind](theta))):
        assert not torch.equal(draws[0], draws[2])


@lru_cache
def truth(kind):
    """The gradient of E[cost], by enumeration or quadrature; None where neither is known."""
    theta = torch.tensor(THETA, requires_grad=True)
    if kind == "Cauchy":  # E[cos(1.3 x + 0.2)] = e^{−1.3 σ} cos(1.3 μ + 0.2)
        return torch.autograd.grad(torch.exp(-1.3 * (0.3 * theta[1]).exp()) * torch.cos(1.3 * theta[0] + 0.2), theta)[0]
    graph = graph_of("ScoreFunction" if kind in accepted(estimators.ScoreFunction()) else "Pathwise", kind)
    try:
        return exact_gradient(graph, {"theta": theta}, tolerance=1e-4)["theta"]
    except NoOracle:
        return None


def far_from(exact, values, theta):
    """z of the mean gradient of independent draws, each of which has its own row of θ."""
    if not values.requires_grad:
        return torch.zeros(3)
    (gradient,) = torch.autograd.grad(values.sum(), theta, retain_graph=True, allow_unused=True, materialize_grads=True)
    rounding = 1e-12 + 1e-12 * gradient.abs().amax(0)  # where every draw is exact, only rounding is left
    return (gradient.mean(0) - exact).abs() / (gradient.std(0) / DRAWS**0.5 + rounding)


@differentiated
def test_the_mean_gradient_is_the_true_one_and_a_constant_has_none(name, kind):
    """20,000 draws: |z| < 5.5 for every entry. False alarm 4e-8 · 1,400 entries = 5e-5; a bias of 0.07 standard deviations of
    one draw would be found with certainty."""
    theta = torch.tensor(THETA).repeat(DRAWS, 1).requires_grad_()
    branches = ENTRIES[name].estimator.branch(KINDS[kind](theta))
    w, values = weights(branches), branches.values if branches.n is not None else branches.values.unsqueeze(0)
    assert (far_from(torch.zeros(3), (w * torch.ones(len(values), DRAWS)).sum(0), theta) < 5.5).all()
    if truth(kind) is not None:
        z = far_from(truth(kind), (w * cost(values, kind)).sum(0), theta)
        if ENTRIES[name].estimator.unbiased or name == "Clipped":  # which is biased by what it makes of a recording
            assert (z < 5.5).all(), z.tolist()
        else:
            assert (z > 5.5).any(), "said to be biased, and was not found to be"


def test_most_kinds_have_a_true_gradient_to_compare_with():
    assert {kind for kind in KINDS if truth(kind) is None} <= {"Dirichlet", "VonMises"}


@differentiated
def test_a_second_derivative_is_refused_exactly_where_the_order_is_one(name, kind):
    theta = torch.tensor(THETA, requires_grad=True)
    order = ENTRIES[name].estimator.order(KINDS[kind](theta))
    (gradient,) = torch.autograd.grad(graph_of(name, kind).surrogate(theta=theta), theta, create_graph=True)
    if order == math.inf:
        assert torch.isfinite(torch.autograd.grad(gradient.sum(), theta)[0]).all()
    else:
        with pytest.raises(scg.GraphError, match="right to first order only"):
            torch.autograd.grad(gradient.sum(), theta)


def categories(logit):
    return Categorical(logits=torch.stack([logit, -logit, 0 * logit], -1))


@pytest.mark.parametrize(
    ("estimator", "node"),
    [
        (estimators.Antithetic(), lambda logit: Bernoulli(logits=logit)),
        (estimators.QuasiRandom(), lambda logit: Normal(logit, 1.0)),
        (estimators.ARM(), lambda logit: Bernoulli(logits=logit)),
        (estimators.DisARM(), lambda logit: Bernoulli(logits=logit)),
        (estimators.ARMS(3), lambda logit: Bernoulli(logits=logit)),
        (estimators.MeasureValued(), lambda logit: Normal(logit, 1.0)),
        (estimators.Perturbation(), lambda logit: Poisson(logit.exp())),
        (estimators.CategoricalDisARM(), categories),
        (estimators.UnorderedSet(2), categories),
        (estimators.SumAndSample(2), categories),
        (estimators.PrioritySampling(2), categories),
        (estimators.TopK(1), categories),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, scg.Estimator) else "",
)
def test_at_every_step_of_a_sequence(estimator, node):
    """Branches at each of three given observations, in a batch of two, a score function node below; error rates 1e-3, 10 %."""
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs")
        graph.stochastic(estimator, lambda obs, theta: node(theta[0] * obs + theta[1]), name="a")
        graph.stochastic(ScoreFunction(), lambda a, theta: Bernoulli(logits=0.5 * a.double() - theta[1]), name="y")
        graph.cost(lambda obs, a, y: (a.double() - obs) ** 2 * (y + 0.5), name="c")
    inputs = {"obs": torch.randn(3, 2), "theta": torch.tensor([0.4, -0.2], requires_grad=True)}
    assert_unbiased(graph, inputs, steps=3, detectable=0.1, localise=False)


# -- printed -----------------------------------------------------------------------------------------------------


def test_markdown_has_a_line_for_each_estimator():
    lines = as_markdown().splitlines()
    assert len(lines) == 2 + len(ENTRIES)
    assert {line.count("|") - line.count("\\|") for line in lines} == {8}
    assert any(line.startswith("| `DisARM` | Bernoulli | bits | yes | 1 | 2 per pair | Dong et al. (2020)") for line in lines)


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_command_prints_the_table(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert command([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ENTRIES)
    assert max(map(len, printed.splitlines())) <= int(columns)
    assert command(["--markdown"]) == 0
    assert capsys.readouterr().out.strip() == as_markdown()


def test_the_command_chooses_by_distribution(capsys):
    assert command(["Poisson"]) == 0
    printed = capsys.readouterr().out
    assert "MeasureValued" in printed and "DisARM" not in printed


def test_the_command_refuses_what_makes_no_sense(capsys):
    assert command(["Poison"]) == 2
    assert "Did you mean 'Poisson'?" in capsys.readouterr().err
    assert command(["--latex"]) == 2
    assert command(["--help"]) == 0
