"""A weight per batch element accounts for its own element's sample: who mixes what is weighed is refused, nobody else."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

import scg
from scg import GraphError, detach, dist, prev
from scg.estimators import Antithetic, DisARM, Enumeration, LeaveOneOut, NoGradient, Pathwise, ScoreFunction

F64 = torch.float64


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theta(*shape):
    return torch.full(shape, 0.3, dtype=F64, requires_grad=True)


@dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


def pairs(x):
    """Elements 2k and 2k + 1 meet, and no others."""
    return x.view(-1, 2).flip(1).reshape(-1)


MIXED = {
    "mean": lambda x: x - x.mean(0),
    "cumulative sum": lambda x: x.cumsum(0),
    "the next element": lambda x: x.roll(-1, 0) * x,
    "the last element": lambda x: x + x[-1],
    "the last pair only": lambda x: torch.cat([x[:-2], x[-2:].flip(0)]),
    "pairs": pairs,
    "sort": lambda x: x.sort(0).values,
    "normalisation": lambda x: (x - x.mean()) / (x.std() + 1e-3),
}
HELD = {
    "tensor": (lambda x: x, lambda h: h),
    "tuple": (lambda x: (x, 1), lambda h: h[0]),
    "dict in a list": (lambda x: [{"x": x}], lambda h: h[0]["x"]),
    "dataclass": (lambda x: Pair(x, x), lambda h: h.left),
}


def held(estimator, mix, put, take, where):
    """x → h → ⟨c⟩, with the mixing in h or in c."""
    graph = scg.Graph()
    graph.stochastic(estimator, lambda th: Normal(th, 1.0), name="x")
    graph.deterministic(lambda x: put(mix(x) if where == "h" else x), name="h")
    graph.cost(lambda h: (mix(take(h)) if where == "c" else take(h)) ** 2, name="c")
    return graph


@pytest.mark.parametrize(("mix", "size"), [(m, n) for m in MIXED for n in (2, 4, 12) if (m, n) != ("normalisation", 2)])
def test_whatever_mixes_weighed_samples_is_refused_at_the_first_sample(mix, size):
    for _ in range(3):
        with pytest.raises(GraphError, match=r"node 'c': element \d+ of the batch moves .*mixes batch elements"):
            held(ScoreFunction(), MIXED[mix], *HELD["tensor"], "c").surrogate(th=theta(size))


@pytest.mark.parametrize("where", ["h", "c"])
@pytest.mark.parametrize("kind", HELD)
def test_containers_hide_no_mixing(kind, where):
    for mix in ("cumulative sum", "mean"):
        with pytest.raises(GraphError, match=f"node '{where}'.*mixes batch elements"):
            held(LeaveOneOut(3), MIXED[mix], *HELD[kind], where).surrogate(th=theta(6))
    held(LeaveOneOut(3), lambda x: x, *HELD[kind], where).surrogate(th=theta(6))


def test_a_distribution_hides_no_mixing():
    def build(mixes):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda th: Normal(th, 1.0), name="x")
        graph.stochastic(ScoreFunction(), lambda x: Normal(x, 1.0), name="y")
        graph.cost(lambda pi, y: (pi.mean - pi.mean.mean(0) * mixes) ** 2 + 0 * y, parents=[dist("y"), "y"], name="c")
        return graph

    with pytest.raises(GraphError, match="node 'c'.*mixes batch elements"):
        build(1.0).surrogate(th=theta(6))
    build(0.0).surrogate(th=theta(6))


def test_a_weighed_sample_of_a_mixed_distribution_is_refused_though_no_value_moves():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda th: Normal(th, 1.0), name="x")
    graph.stochastic(ScoreFunction(), lambda x: Normal(x.cumsum(0), 1.0), name="y")
    graph.cost(lambda y: y**2, name="c")
    with pytest.raises(GraphError, match="node 'y'.*mixes batch elements"):
        graph.surrogate(th=theta(6))


def test_either_of_two_batch_axes_may_be_the_one_that_is_mixed():
    for axis in (0, 1):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda th: Independent(Normal(th, 1.0), 1), name="x")
        graph.cost(lambda x, axis=axis: x.sum(-1).cumsum(axis), name="c", parents=["x"])
        with pytest.raises(GraphError, match="mixes batch elements"):
            graph.surrogate(th=theta(4, 3, 2))


def test_a_shared_sample_is_no_element_of_the_batch():
    """Its event has the batch's size by chance."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda w: Independent(Normal(w, 1.0), 1), name="z")
    graph.stochastic(ScoreFunction(), lambda th: Normal(th, 1.0), name="x")
    graph.cost(lambda z, x, data: (data @ z - x) ** 2, name="c")
    graph.surrogate(w=theta(5), th=theta(5), data=torch.randn(5, 5, dtype=F64))


def test_mixing_along_a_recurrence_is_seen():
    def build(mix):
        graph = scg.Graph()
        with graph.sequence():
            graph.stochastic(ScoreFunction(), lambda s: Normal(s, 1.0), name="a", parents=[prev("s", init="s0")])
            graph.deterministic(lambda a: mix(a), name="s", parents=["a"])
            graph.cost(lambda s: s**2, name="c")
        return graph

    with pytest.raises(GraphError, match="node 's'.*mixes batch elements"):
        build(lambda a: a.cumsum(0)).sample(s0=theta(4), steps=5)
    build(lambda a: 2 * a).sample(s0=theta(4), steps=5)


def test_recorded_samples_are_weighed_too():
    def build(mix):
        graph = scg.Graph()
        with graph.sequence():
            graph.observed("o")
            graph.stochastic(Pathwise(), lambda o, th: Normal(th * o, 1.0), name="a")
            graph.cost(lambda a, o: mix(a) * o, name="c")
        return graph

    o, a = torch.randn(3, 6, dtype=F64), torch.randn(3, 6, dtype=F64)
    log_prob = Normal(0.1 * o, 1.0).log_prob(a)
    with pytest.raises(GraphError, match="node 'c'.*mixes batch elements"):
        build(lambda a: a.flip(-1)).replay({"o": o, "a": a, "a.log_prob": log_prob}, th=theta())
    build(lambda a: a.flip(-1)).replay({"o": o, "a": a}, th=theta())  # pathwise at its own noise: no weight


class Normalised(nn.Module):
    """A critic with batch normalisation, below branches too: its value of an element depends on all of them."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 1).double()
        nn.init.constant_(self.last.weight, 2.0)

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        return self.last((centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt()).unsqueeze(-1)).squeeze(-1)


class Policy(nn.Module):
    """A Bernoulli sample with a logit for each element of the batch."""

    def __init__(self, size=2):
        super().__init__()
        self.logits = nn.Parameter(torch.linspace(-0.4, 0.9, size, dtype=F64))

    def forward(self):
        return Bernoulli(logits=self.logits)


def two_objectives(mixes, estimator=None):
    """b ~ policy; a critic with batch normalisation is fitted to b, and the policy gains by the critic's value, or by b."""
    policy, critic = Policy(), Normalised()
    graph = scg.Graph()
    graph.stochastic(estimator or ScoreFunction(), lambda: policy(), name="b")
    graph.cost(lambda b: (critic(b) - 2 * b) ** 2, name="fit", trains=critic)
    graph.cost(lambda b: (critic(b) if mixes else critic.last(b.unsqueeze(-1)).squeeze(-1)) + b, name="gain", trains=policy)
    return graph, policy, critic


def over_outcomes(graph, policy, cost, trained):
    """(Σ p(outcome) ∇surrogate, ∇ Σ p(outcome) · cost) for one objective, over all samples of b."""
    estimate, objective = 0.0, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=len(policy.logits)):
        b = torch.tensor(outcome, dtype=F64)
        p = policy().log_prob(b).sum().exp()
        trace = graph.replay({"b": b})
        found = torch.autograd.grad(trace.surrogate(cost), list(trained.parameters()), allow_unused=True)
        estimate = estimate + p.detach() * torch.cat([g.flatten() for g in found if g is not None])
        value = graph.nodes[cost].fn(b=b).mean()  # an objective takes what it does not train as constant
        objective = objective + (p * value.detach() if trained is policy else p.detach() * value)
    exact = torch.autograd.grad(objective, list(trained.parameters()), allow_unused=True)
    return estimate, torch.cat([g.flatten() for g in exact if g is not None])


# -- and nothing else is -------------------------------------------------------------------------------------


def test_batch_normalisation_of_inputs_is_legal():
    norm = nn.BatchNorm1d(3).double()
    graph = scg.Graph()
    graph.deterministic(lambda o: norm(o), name="h")
    graph.stochastic(ScoreFunction(), lambda h: Normal(h.sum(-1), 1.0), name="x")
    graph.cost(lambda x, h: x * h.sum(-1), name="c")
    graph.surrogate(o=torch.randn(8, 3, dtype=F64))


@pytest.mark.parametrize("mix", MIXED)
def test_pathwise_samples_may_be_mixed(mix):
    """∇ mean cᵢ(x₁ … x_B) is the pathwise gradient, whoever moves whom."""
    th = theta(4)
    graph = held(Pathwise(), MIXED[mix], *HELD["tensor"], "h")
    trace = graph.sample(th=th)
    (found,) = torch.autograd.grad(trace.surrogate(), th)
    x = trace["x"].detach().requires_grad_()
    (right,) = torch.autograd.grad((MIXED[mix](x) ** 2).mean(), x)
    assert torch.allclose(found, right)


def test_a_weight_above_a_pathwise_sample_forbids_it_again():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda th: Bernoulli(logits=th), name="b")
    graph.stochastic(Pathwise(), lambda b: Normal(b, 1.0), name="x")
    graph.cost(lambda x: x - x.mean(0), name="c")
    with pytest.raises(GraphError, match="node 'c'.*mixes batch elements"):
        graph.surrogate(th=theta(6))


def enumerated(graph, th, phi, size):
    """Σ over outcomes of p(outcome) ∇surrogate, and the objective's own gradient, for Bernoulli b and y."""
    estimate, objective = 0.0, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=2 * size):
        b, y = torch.tensor(outcome, dtype=F64).view(2, size)
        p = (Bernoulli(logits=th).log_prob(b) + Bernoulli(logits=phi).log_prob(y)).sum().exp()
        trace = graph.replay({"b": b, "y": y}, th=th, phi=phi)
        (found,) = torch.autograd.grad(trace.surrogate(), th, allow_unused=True)
        estimate = estimate + p.detach() * found
        objective = objective + p * trace.objective
    return estimate, torch.autograd.grad(objective, th)[0]


def weighed_and_not(mixes):
    """b is weighed and costs element by element; y has no weight, and its own cost normalises it over the batch."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda th: Bernoulli(logits=th), name="b")
    graph.stochastic(NoGradient(), lambda phi: Bernoulli(logits=phi), name="y")
    graph.cost(lambda b, y=detach("y"): b * (1 + (y - y.mean(0))), name="c")
    graph.cost(lambda b: b * (1 + mixes * b.mean(0)), name="d")
    return graph


def test_what_passes_is_unbiased_by_enumeration():
    th, phi = torch.tensor([0.3, -0.4], dtype=F64, requires_grad=True), torch.tensor([0.2, 0.9], dtype=F64)
    estimate, exact = enumerated(weighed_and_not(0.0), th, phi, 2)
    assert torch.allclose(estimate, exact, atol=1e-12)


def test_what_is_refused_would_be_biased_by_enumeration(monkeypatch):
    th, phi = torch.tensor([0.3, -0.4], dtype=F64, requires_grad=True), torch.tensor([0.2, 0.9], dtype=F64)
    with pytest.raises(GraphError, match="node 'd'.*mixes batch elements"):
        weighed_and_not(1.0).surrogate(th=th, phi=phi)
    monkeypatch.setattr("scg.checks.examination.mixing", lambda *_: ())
    estimate, exact = enumerated(weighed_and_not(1.0), th, phi, 2)
    assert (estimate - exact).abs().max() > 0.02


def test_a_weight_without_a_gradient_in_an_objective_lets_its_function_mix():
    """The critic's loss is normalised over samples that only the other objective weighs; both gradients are exact."""
    graph, policy, critic = two_objectives(mixes=False)
    for cost, trained in (("fit", critic), ("gain", policy)):
        estimate, exact = over_outcomes(graph, policy, cost, trained)
        assert torch.allclose(estimate, exact, atol=1e-12)
        assert exact.abs().max() > 0.05


def test_the_same_function_below_a_weight_with_a_gradient_is_refused_and_would_be_biased(monkeypatch):
    graph, policy, _ = two_objectives(mixes=True)
    with pytest.raises(GraphError, match="node 'gain'.*mixes batch elements"):
        graph.sample()
    monkeypatch.setattr("scg.checks.examination.mixing", lambda *_: ())
    graph, policy, _ = two_objectives(mixes=True)
    estimate, exact = over_outcomes(graph, policy, "gain", policy)
    assert (estimate - exact).abs().max() > 0.02


@pytest.mark.parametrize("estimator", [LeaveOneOut(3), DisARM(), Antithetic()])
def test_what_is_a_likelihood_ratio_is_one_in_value(estimator):
    two_objectives(mixes=False, estimator=estimator)[0].surrogate()
    with pytest.raises(GraphError, match="node 'gain'.*mixes batch elements"):
        two_objectives(mixes=True, estimator=estimator)[0].surrogate()


def test_probabilities_as_weights_count_without_a_gradient_too():
    """Branch k of all elements meets branch k alone: (0, 0) and (1, 1), of which no mixed pair can be made."""
    with pytest.raises(GraphError, match="node 'fit'.*mixes batch elements"):
        two_objectives(mixes=False, estimator=Enumeration())[0].surrogate()


def test_importance_weights_count_without_a_gradient_too():
    graph, _, _ = two_objectives(mixes=False)
    b = torch.tensor([0.0, 1.0], dtype=F64)
    with pytest.raises(GraphError, match="node 'fit'.*mixes batch elements"):
        graph.replay({"b": b, "b.log_prob": torch.full((2,), -0.7, dtype=F64)})


def test_frozen_parameters_free_what_they_weigh_until_they_are_trained_again():
    policy, critic = Policy(4), Normalised()
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda: policy(), name="b")
    graph.cost(lambda b: critic(b) ** 2, name="c")
    policy.requires_grad_(False)
    graph.surrogate().backward()
    policy.requires_grad_(True)
    with pytest.raises(GraphError, match="node 'c'.*mixes batch elements"):
        graph.surrogate()


def chained(mixes):
    """a ~ Bernoulli(θ) → b ~ Bernoulli(a or its mean over the batch) → ⟨b⟩, and the same from b upwards."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda th: Bernoulli(logits=th), name="a")
    graph.stochastic(ScoreFunction(), lambda a, w: Bernoulli(logits=w * (a - mixes * a.mean(0))), name="b")
    graph.cost(lambda a, b, w: b * (a + w), name="c")
    return graph


def test_a_law_that_mixes_samples_is_judged_by_the_weights_above_it():
    """The upper weight is idle: the lower one's score is that of all samples above it, and right. The upper one alone is live:
    the law moves, whether or not a sample does."""
    th, w = theta(2), torch.full((), 0.8, dtype=F64, requires_grad=True)
    for _ in range(5):
        chained(1.0).surrogate(th=th.detach(), w=w)
        with pytest.raises(GraphError, match="node 'b'.*mixes batch elements"):
            chained(1.0).surrogate(th=th, w=w.detach())
    estimate, objective = 0.0, 0.0
    for outcome in itertools.product((0.0, 1.0), repeat=4):
        a, b = torch.tensor(outcome, dtype=F64).view(2, 2)
        law = Bernoulli(logits=w * (a - a.mean(0)))
        p = (Bernoulli(logits=th.detach()).log_prob(a) + law.log_prob(b)).sum().exp()
        trace = chained(1.0).replay({"a": a, "b": b}, th=th.detach(), w=w)
        estimate = estimate + p.detach() * torch.autograd.grad(trace.surrogate(), w)[0]
        objective = objective + p * (b * (a + w)).mean()
    assert torch.allclose(estimate, torch.autograd.grad(objective, w)[0], atol=1e-12)
