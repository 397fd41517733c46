"""NVIL: exact by enumeration whatever its averages are, biased where they have seen the sample, and scaled where it says so."""

import itertools

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, Uniform

import scg
from scg import GraphError, prev
from scg.estimators import NVIL, Pathwise, ScoreFunction
from scg.estimators.baselines import MovingAverage, learned_baseline
from scg.estimators.credit import MonteCarlo
from scg.testing import check_unbiased
from tests.exact import derivatives

COSTS = torch.tensor([[3.0, 5.0], [4.0, 9.0]], dtype=torch.float64)


class Critic(nn.Module):
    """C(y): a level for each observation, far from what it is to learn."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([2.0, -1.0]))

    def forward(self, y):
        return self.slope[0] + self.slope[1] * y


def model(signal, **settings):
    """An inference problem: x | y under NVIL, z | x under the score function, a cost of both and of θ."""
    graph = scg.Graph()
    graph.stochastic(signal, lambda y, theta: Bernoulli(logits=theta[0] + y), name="x", **settings)
    graph.stochastic(ScoreFunction(), lambda x, theta: Bernoulli(logits=theta[1] * x - 0.4), name="z")
    graph.cost(lambda x, z, y, theta: COSTS[x.long(), z.long()] + y * x + theta[2] ** 2 * x, name="c")
    return graph


def nvil(signal):
    graph = model(signal, credit=MonteCarlo(), baseline="level")
    learned_baseline(graph, "x", Critic(), name="level", parents=["y"])
    return graph


Y = torch.tensor([0.5, -1.0], dtype=torch.float64)
PATTERNS = [
    dict(zip("xz", torch.tensor(v, dtype=torch.float64).view(2, 2), strict=True))
    for v in itertools.product([0.0, 1.0], repeat=4)
]


def probability(graph, theta, given):
    trace = graph.replay(given, y=Y, theta=theta)
    return (trace.dist("x").log_prob(given["x"]) + trace.dist("z").log_prob(given["z"])).sum().exp()


def truth(theta):
    """E[c], live, the mean over a batch of two."""
    graph = model(ScoreFunction())
    costs = [graph.replay(g, y=Y, theta=theta)["c"].mean() for g in PATTERNS]
    return sum(probability(graph, theta, g) * c for g, c in zip(PATTERNS, costs, strict=True))


def gradient(graph, theta, before=lambda trace: None):
    """The mean gradient over every outcome of the batch."""
    total = torch.zeros(3)
    for given in PATTERNS:
        trace = graph.replay(given, y=Y, theta=theta)
        before(trace)
        total = total + probability(graph, theta, given).detach() * torch.autograd.grad(trace.surrogate("c"), theta)[0]
    return total


def parameters():
    return torch.tensor([0.3, -0.7, 1.2], requires_grad=True)


def used(graph, signal, theta, times=3):
    """After some updates on other draws."""
    torch.manual_seed(5)
    for _ in range(times):
        signal.update(graph.sample(y=torch.randn(64), theta=theta), "x")


@pytest.mark.parametrize("times", [0, 1, 4])
def test_the_mean_over_every_outcome_is_exact_whatever_it_has_seen_before(times):
    signal, theta = NVIL(), parameters()
    graph = nvil(signal)
    used(graph, signal, theta, times)
    assert (times == 0) == (signal.level() == 0)
    assert torch.allclose(gradient(graph, theta), derivatives(truth(theta), [theta], 1)[1], rtol=1e-12)


def test_a_mean_that_has_seen_the_sample_is_biased():
    theta, signal = parameters(), NVIL()
    graph = nvil(signal)
    seen = gradient(graph, theta, before=lambda trace: signal.update(trace, "x"))
    assert not torch.allclose(seen, derivatives(truth(theta), [theta], 1)[1], rtol=0.05)


def test_normalised_it_is_the_true_gradient_of_the_node_divided_by_the_spread():
    """What z and the cost contribute themselves keeps its size: only what makes p(x | y) is rescaled."""
    theta, signal = parameters(), NVIL(normalise=True, allow_bias=True)
    graph = nvil(signal)
    exact = derivatives(truth(theta), [theta], 1)[1]
    assert torch.allclose(gradient(graph, theta), exact, rtol=1e-12)  # σ = 0 before the first update: max(1, σ) = 1
    used(graph, signal, theta)
    sigma = signal.spread().sqrt()
    assert sigma > 1.5
    assert torch.allclose(gradient(graph, theta), exact / torch.stack([sigma, torch.ones(()), torch.ones(())]), rtol=1e-12)


def test_the_spread_is_that_within_a_batch_and_the_mean_that_of_what_the_baseline_leaves():
    signal, theta = NVIL(decay=0.5, normalise=True, allow_bias=True), parameters()
    graph = nvil(signal)
    traces = [graph.sample(y=torch.randn(10), theta=theta) for _ in range(2)]
    left = [(t["c"] - t["level"]).detach() for t in traces]
    for trace in traces:
        signal.update(trace, "x")
    assert torch.isclose(signal.level(), (0.5 * left[0].mean() + left[1].mean()) / 1.5)
    assert torch.isclose(signal.spread(), (0.5 * left[0].var(correction=0) + left[1].var(correction=0)) / 1.5)


def test_a_spread_below_one_changes_nothing():
    signal, theta = NVIL(normalise=True, allow_bias=True), parameters()
    graph = nvil(signal)
    signal.spread.update(torch.tensor(0.81))
    assert torch.allclose(gradient(graph, theta), derivatives(truth(theta), [theta], 1)[1], rtol=1e-12)


def test_a_constant_cost_has_zero_mean_gradient():
    signal, theta = NVIL(), torch.tensor(0.4, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(signal, lambda theta: Bernoulli(logits=theta), name="x", credit=MonteCarlo())
    graph.cost(lambda x: 7.0 + 0 * x, name="c")
    signal.level.update(torch.tensor(2.5))
    total = torch.zeros(())
    for x in (0.0, 1.0):
        trace = graph.replay({"x": torch.tensor(x)}, theta=theta)
        total = total + trace.dist("x").log_prob(trace["x"]).exp().detach() * torch.autograd.grad(trace.surrogate(), theta)[0]
    assert abs(total) < 1e-15


def test_learning_the_baseline_and_centring_lower_the_variance():
    """Exactly, of one observation's gradient for θ: a constant far from zero, a level for each y, then their running mean."""
    theta, signal, critic = parameters(), NVIL(decay=0.9), Critic()
    graph = model(signal, credit=MonteCarlo(), baseline="level")
    regression = learned_baseline(graph, "x", critic, name="level", parents=["y"])

    def variance(graph):
        rows, p = [], []
        for given in PATTERNS:
            rows.append(torch.autograd.grad(graph.replay(given, y=Y, theta=theta).surrogate("c"), theta)[0])
            p.append(probability(graph, theta, given).detach())
        rows, p = torch.stack(rows), torch.stack(p)
        return float(p @ (rows - p @ rows).square().sum(-1))

    plain, fresh = variance(model(ScoreFunction())), variance(graph)
    used(graph, signal, theta, 20)
    centred = variance(graph)
    optimiser = torch.optim.Adam(critic.parameters(), 0.1)
    for _ in range(300):
        trace = graph.sample(y=torch.randn(64), theta=theta)
        optimiser.zero_grad()
        trace.surrogate(regression).backward(inputs=list(critic.parameters()))
        optimiser.step()
        signal.update(trace, "x")
    assert variance(graph) < centred < fresh < plain


@pytest.mark.parametrize("right", [True, False], ids=["ours", "normalised"])
def test_inside_a_graph(right):
    """A pathwise node above, a score function below; a bias of 10 % would be missed, or no bias called one, once in a thousand."""
    signal = NVIL(samples=2) if right else NVIL(samples=2, normalise=True, allow_bias=True)
    signal.level.update(torch.tensor(1.3))
    signal.spread.update(torch.tensor(4.0))
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 0.7), name="u")
    graph.stochastic(signal, lambda u, theta: Bernoulli(logits=u * theta[0]), name="x", credit=MonteCarlo(), baseline="level")
    graph.stochastic(ScoreFunction(), lambda x, u, theta: Bernoulli(logits=x - u + theta[1]), name="z")
    graph.cost(lambda u, x, z, theta: (x + u) ** 2 * (z + 0.4) + theta[2] * x, name="c")
    graph.deterministic(lambda u: 0.5 * u, name="level")
    inputs = {"mu": torch.tensor(0.4, requires_grad=True), "theta": parameters()}
    report = check_unbiased(graph, inputs, detectable=0.1, localise=False)
    assert report.verdict == ("unbiased" if right else "biased"), report


def test_along_time():
    """A state that its own actions move, three steps, a level for each: error rates 1e-3, a bias of 10 % found."""
    signal = NVIL()
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            signal, lambda a, theta: Bernoulli(logits=theta[0] * a + theta[1]), name="a", parents=[prev("a", init="a0"), "theta"],
            credit=MonteCarlo(), baseline="level",
        )  # fmt: skip
        graph.deterministic(lambda a: 0.7 * a, name="level", parents=[prev("a", init="a0")])
        graph.cost(lambda a: (a - 0.3) ** 2 + 1, name="c")
    inputs = {"theta": torch.tensor([0.3, -0.5], requires_grad=True), "a0": torch.zeros(2)}
    signal.update(graph.sample(steps=3, **inputs), "a")
    assert signal.level() > 1
    report = check_unbiased(graph, inputs, steps=3, detectable=0.1, localise=False)
    assert report.verdict == "unbiased", report


def test_its_averages_are_state():
    signal, theta = NVIL(normalise=True, allow_bias=True), parameters()
    used(nvil(signal), signal, theta)
    again = NVIL(normalise=True, allow_bias=True)
    again.load_state_dict(signal.state_dict())
    assert again.level() == signal.level() != 0 and again.spread() == signal.spread() != 0
    assert not list(signal.parameters()) and isinstance(signal.level, MovingAverage)


def test_what_would_go_unnoticed_is_refused():
    theta = parameters()
    with pytest.raises(GraphError, match=r"node 'x': NVIL\(samples=1, decay=0.8, normalise=True\) is biased.*allow_bias=True"):
        model(NVIL(normalise=True))
    signal = NVIL()
    with pytest.raises(GraphError, match="node 'x': it has no credit"):
        signal.update(model(signal).sample(y=Y, theta=theta), "x")
    trace = nvil(signal).sample(y=Y, theta=theta)
    for name, found in (("z", r"ScoreFunction\(samples=1\)"), ("c", "None"), ("nothing", "None")):
        with pytest.raises(GraphError, match=rf"NVIL.update: the estimator of node '{name}' is {found}, not this one"):
            signal.update(trace, name)
    lone = NVIL(normalise=True, allow_bias=True)
    with pytest.raises(GraphError, match="node 'x' has one learning signal, and one has no variance; draw a batch"):
        lone.update(nvil(lone).sample(y=Y[:1], theta=theta), "x")
    lone.update(nvil(lone).sample(y=Y, theta=theta), "x")
    with pytest.raises(ValueError, match=r"MovingAverage\(decay=1.5\)"):
        NVIL(decay=1.5)
    with pytest.raises(ValueError, match=r"NVIL\(samples=0\)"):
        NVIL(samples=0)
    assert "a likelihood ratio misses" in NVIL().refuses(Uniform(0.0, torch.tensor(1.0, requires_grad=True)))


def test_a_second_derivative_is_refused():
    theta = parameters()
    (first,) = torch.autograd.grad(nvil(NVIL()).surrogate(y=Y, theta=theta), theta, create_graph=True)
    with pytest.raises(GraphError, match="right to first order only"):
        torch.autograd.grad(first[0], theta)
