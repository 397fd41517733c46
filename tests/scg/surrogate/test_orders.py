"""A second derivative is right, or refused: credits are first order, kinks add what no second slope sees."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Gamma, Normal

import scg
from scg import GraphError, prev
from scg.estimators import Enumeration, MuProp, Pathwise, ScoreFunction
from scg.estimators.credit import LoadedDice, MonteCarlo

F64 = torch.float64


def leaf(value):
    return torch.tensor(value, dtype=F64, requires_grad=True)


def second(graph, theta, **inputs):
    """The second derivative of one draw's surrogate, for θ."""
    (first,) = torch.autograd.grad(graph.surrogate(theta=theta, **inputs), theta, create_graph=True)
    return torch.autograd.grad(first.sum(), theta)[0]


def one(cost, credit=None, estimator=None, distribution=None, parents=None):
    graph = scg.Graph()
    graph.stochastic(
        estimator or ScoreFunction(),
        distribution or (lambda theta: Normal(theta, 1.0)),
        name="x",
        credit=credit,
        parents=["theta"],
    )
    graph.cost(cost, name="f", parents=parents or ["x", "theta"])
    return graph


# -- credits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "credit",
    [MonteCarlo(), 0.7, lambda theta: theta.detach() ** 2, LoadedDice(MonteCarlo())],
    ids=["credit", "constant", "function", "Loaded DiCE"],
)
def test_a_second_derivative_through_a_credit_is_refused(credit):
    """E = θ³: the slope of the cost and the score's multiply in E″, and the credit holds the cost as a constant."""
    graph, theta = one(lambda x, theta: theta * theta * x, credit), leaf(0.5)
    assert torch.isfinite(torch.autograd.grad(graph.surrogate(theta=theta), theta)[0])
    with pytest.raises(GraphError, match="node 'x': a second derivative was asked through its credit"):
        second(graph, theta)


def test_a_second_derivative_through_a_credit_of_pathwise_costs_is_refused():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b", credit=LoadedDice(MonteCarlo()))
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda b, x: b * x**2, name="f")
    with pytest.raises(GraphError, match="node 'b': a second derivative was asked through its credit, and a cost"):
        second(graph, leaf(0.5))


def test_loaded_dice_of_costs_of_the_samples_alone_is_not_refused():
    """Two steps of bits; the mean over all four outcomes is compared in the tests of credits."""
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b", credit=LoadedDice(MonteCarlo()))
        graph.cost(lambda b, c=prev("b", init="start"): b * (1.0 + c), name="f")
    theta = leaf(0.3)
    (first,) = torch.autograd.grad(
        graph.surrogate(theta=theta, start=torch.zeros((), dtype=F64), steps=2), theta, create_graph=True
    )
    assert torch.isfinite(torch.autograd.grad(first, theta)[0])


def test_without_a_credit_the_second_derivative_is_exact():
    bits = one(lambda x, theta: theta * theta * x, estimator=Enumeration(), distribution=lambda theta: Bernoulli(logits=theta))
    theta = leaf(0.5)
    p = theta.sigmoid()
    (slope,) = torch.autograd.grad(theta**2 * p, theta, create_graph=True)
    torch.testing.assert_close(second(bits, theta), torch.autograd.grad(slope, theta)[0])


# -- objects that are no subclass ----------------------------------------------------------------------------------


class Duck:
    moves, weighs = True, False

    def branch(self, distribution):
        return scg.Branches(distribution.rsample())


class Both(Duck):
    weighs = True


class DuckModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=F64))

    def branch(self, distribution):
        values = distribution.sample()
        z = distribution.log_prob(values)
        return scg.Branches(values, score=self.scale * (z - z.detach()))


def test_an_object_with_a_branch_method_is_an_estimator_in_full():
    theta = leaf([0.5] * 4)
    (slope,) = torch.autograd.grad(one(lambda x, theta: x, estimator=Duck()).surrogate(theta=theta), theta)
    assert slope.tolist() == [0.25] * 4
    with pytest.raises(GraphError, match="the pathwise gradient of 'x' ends here"):
        one(lambda x, theta: x.round() + 0 * theta, estimator=Both()).surrogate(theta=leaf(0.5))


def test_attributes_of_an_adopted_object_are_its_own_and_not_copies():
    duck = Duck()
    adopted = scg.Estimator.of(duck)
    duck.unbiased = False
    assert isinstance(adopted, Duck)
    assert not adopted.unbiased


def test_no_surrogate_trains_a_module_that_only_has_a_branch_method():
    module = DuckModule()
    one(lambda x, theta: x**2, estimator=module).surrogate(theta=leaf(0.5)).backward()
    assert module.scale.grad is None


class Slotted:
    __slots__ = ("samples",)

    def branch(self, distribution):
        return scg.Branches(distribution.rsample())


@pytest.mark.parametrize("candidate", [Slotted(), 3.0], ids=["slots", "no estimator"])
def test_what_cannot_be_an_estimator_is_told_to_inherit(candidate):
    with pytest.raises(GraphError, match=r"inherit from scg\.Estimator"):
        scg.Estimator.of(candidate)


# -- transforms of torch.func --------------------------------------------------------------------------------------


def transformable(estimator, distribution, cost, theta):
    """The surrogate as a function of θ, examined with and without a gradient."""
    graph = scg.Graph()
    graph.stochastic(estimator, distribution, name="x", parents=["theta"])
    graph.cost(cost, name="f", parents=["x"])
    graph.surrogate(theta=theta.clone().requires_grad_())
    graph.surrogate(theta=theta)
    return lambda t: graph.surrogate(theta=t)


def test_a_first_derivative_of_first_order_passes_every_transform():
    """MuProp of a linear cost has no variance: ∇ E[3b] = 3 p (1 − p), divided by the batch."""
    theta = torch.tensor([0.4, -0.3], dtype=F64)
    f = transformable(MuProp(), lambda theta: Bernoulli(logits=theta), lambda x: 3 * x, theta)
    p = theta.sigmoid()
    slope = 3 * p * (1 - p) / 2
    torch.testing.assert_close(torch.func.grad(f)(theta), slope)
    torch.testing.assert_close(torch.func.jvp(f, (theta,), (torch.ones_like(theta),))[1], slope.sum())
    torch.testing.assert_close(torch.func.jacrev(f)(theta), slope)
    gamma = transformable(Pathwise(), lambda theta: Gamma(theta, torch.ones_like(theta)), lambda x: x**2, theta.exp())
    assert torch.isfinite(torch.func.grad(gamma)(theta.exp())).all()


@pytest.mark.parametrize(
    "second", ["forward over forward", "forward over reverse", "reverse over reverse", "reverse over forward"]
)
def test_a_second_derivative_is_refused_in_every_mode(second):
    theta = torch.tensor([0.4, -0.3], dtype=F64)
    f = transformable(MuProp(), lambda theta: Bernoulli(logits=theta), lambda x: 3 * x, theta)
    outer, inner = second.split(" over ")
    way = {"forward": lambda g: torch.func.jacfwd(g, randomness="same"), "reverse": torch.func.jacrev}
    with pytest.raises(GraphError, match="node 'x': a second derivative was asked through an estimator"):
        way[outer](way[inner](f))(theta)


def test_a_second_derivative_through_a_credit_is_refused_forwards():
    theta = torch.tensor(0.5, dtype=F64)
    graph = one(lambda x, theta: theta * theta * x, 0.7)
    graph.surrogate(theta=theta)
    slope = torch.func.jacfwd(lambda t: graph.surrogate(theta=t), randomness="same")
    assert torch.isfinite(slope(theta))
    with pytest.raises(GraphError, match="node 'x': a second derivative was asked through its credit"):
        torch.func.jacfwd(slope, randomness="same")(theta)


def test_a_smooth_estimator_has_its_second_derivative_there():
    theta = torch.tensor([0.4, -0.3], dtype=F64)
    f = transformable(Enumeration(), lambda theta: Bernoulli(logits=theta), lambda x: 3 * x, theta)
    p = theta.sigmoid()
    curvature = torch.diag(3 * p * (1 - p) * (1 - 2 * p) / 2)
    for hessian in (torch.func.hessian(f), torch.func.jacrev(torch.func.jacrev(f)), torch.func.jacrev(torch.func.jacfwd(f))):
        torch.testing.assert_close(hessian(theta), curvature)
