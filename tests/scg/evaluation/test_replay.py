"""Replay: recorded values, minibatches of pairs, inferred noise, and whole updates that compile."""

import warnings

import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Exponential,
    Gamma,
    Gumbel,
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
)

import scg
from scg import GraphError, detach, prev
from scg.estimators import Clipped, Pathwise, ScoreFunction
from scg.estimators.credit import GAE, MonteCarlo


def policy_graph(policy, value, estimator=None, credit=None):
    """An on-policy agent: recorded observations, actions and rewards; a policy and a critic to train."""
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("terminated")
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.observed("next_obs", parents=["obs", "action"])
        graph.observed("reward", parents=["obs", "action"])
        graph.deterministic(lambda obs: value(obs).squeeze(-1), name="value")
        graph.deterministic(lambda next_obs: value(next_obs).squeeze(-1), name="next_value")
        graph.stochastic(
            estimator or ScoreFunction(),
            lambda obs: Categorical(logits=policy(obs)),
            name="action",
            credit=credit or GAE(discount=0.9, lam=0.8),
        )
        graph.reward(lambda reward: reward, name="gain", trains=policy)
        graph.cost(
            lambda v, target: (v - target).square(), name="regression", parents=["value", detach("reward")], trains=value
        )
    return graph


def recording(steps=6, batch=4):
    first = torch.rand(steps, batch) < 0.3
    first[0] = True
    terminated = torch.cat([first[1:], torch.rand(1, batch) < 0.5]) & (torch.rand(steps, batch) < 0.7)
    return {
        "first": first,
        "terminated": terminated,
        "obs": torch.randn(steps, batch, 3),
        "next_obs": torch.randn(steps, batch, 3),
        "action": torch.randint(2, (steps, batch)),
        "reward": torch.randn(steps, batch),
    }


def networks():
    return nn.Linear(3, 2), nn.Linear(3, 1)


def test_an_advantage_actor_critic_is_its_hand_written_loss():
    policy, value = networks()
    given = recording()
    trace = policy_graph(policy, value).replay(given)
    advantage = trace.credit("action")
    log_prob = Categorical(logits=policy(given["obs"])).log_prob(given["action"])
    by_hand = (log_prob * advantage).mean() + (value(given["obs"]).squeeze(-1) - given["reward"]).square().mean()
    ours = torch.autograd.grad(trace.surrogate(reduce="mean"), [*policy.parameters(), *value.parameters()])
    theirs = torch.autograd.grad(by_hand, [*policy.parameters(), *value.parameters()])
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other)


def test_minibatches_of_pairs_add_up_to_the_whole():
    """Credit is computed once; shuffled (time, batch) pairs never ask for the order of time again."""
    policy, value = networks()
    graph, given = policy_graph(policy, value), recording()
    given["action.log_prob"] = torch.randn(6, 4)
    trace = graph.replay(given)
    whole = torch.autograd.grad(trace.surrogate("gain"), list(policy.parameters()))
    total = [torch.zeros_like(g) for g in whole]
    for index in torch.randperm(24).split(8):
        part = graph.replay(trace.pairs(index)).surrogate("gain")
        for sum_, g in zip(total, torch.autograd.grad(part, list(policy.parameters())), strict=True):
            sum_ += g * 8 / 4  # a minibatch is averaged over its 8 pairs, the whole over its batch of 4
    for mine, other in zip(total, whole, strict=True):
        assert torch.allclose(mine, other)


def test_pairs_carry_the_previous_values_along():
    """`prev` of a given node is recorded before the order of time is lost, the initial value of each episode included."""
    w = torch.randn(3, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs")
        graph.stochastic(
            ScoreFunction(),
            lambda obs, a, w: Normal(w[0] * obs + w[1] * a, 1.0),
            name="a",
            parents=["obs", prev("a", init="a0"), "w"],
            credit=lambda obs: obs,
        )
        graph.cost(lambda a: a, name="f")
    given = {"first": recording()["first"], "obs": torch.randn(6, 4), "a": torch.randn(6, 4)}
    trace = graph.replay(given, w=w, a0=torch.tensor(0.7))
    whole = torch.autograd.grad(trace.surrogate(), w)[0]
    parts = sum(
        torch.autograd.grad(graph.replay(trace.pairs(index), w=w, a0=torch.tensor(0.7)).surrogate(), w)[0] * 12 / 4
        for index in torch.randperm(24).split(12)
    )
    assert torch.allclose(whole, parts)


def test_pairs_of_a_computed_recurrence_are_refused():
    cell = nn.Linear(2, 2)
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("x")
        graph.deterministic(lambda h, x: cell(h) + x, name="h", parents=[prev("h", init="h0"), "x"])
        graph.stochastic(ScoreFunction(), lambda h: Normal(h.sum(-1), 1.0), name="a")
        graph.cost(lambda a: a, name="f")
    trace = graph.replay({"x": torch.randn(3, 4, 2), "a": torch.randn(3, 4)}, h0=torch.zeros(4, 2))
    with pytest.raises(GraphError, match="recurrent node 'h': its value was computed along time; split along batch"):
        trace.pairs(torch.arange(4))


def test_clipping_is_in_cost_units_and_first_order_right_at_ratio_one():
    policy, value = networks()
    given = recording()
    graph = policy_graph(policy, value, Clipped(0.2))
    log_prob = Categorical(logits=policy(given["obs"])).log_prob(given["action"]).detach()
    trace = graph.replay({**given, "action.log_prob": log_prob})
    plain = policy_graph(policy, value).replay(given)
    for mine, other in zip(
        torch.autograd.grad(trace.surrogate("gain"), list(policy.parameters())),
        torch.autograd.grad(plain.surrogate("gain"), list(policy.parameters())),
        strict=True,
    ):
        assert torch.allclose(mine, other)
    far = {**given, "action.log_prob": log_prob - torch.randn(6, 4)}
    trace = graph.replay(far)
    ratio = (Categorical(logits=policy(given["obs"])).log_prob(given["action"]) - far["action.log_prob"]).exp()
    cost_advantage = trace.credit("action")
    ppo = -torch.minimum(ratio * -cost_advantage, ratio.clamp(0.8, 1.2) * -cost_advantage)  # the paper's, in reward units
    for mine, other in zip(
        torch.autograd.grad(trace.surrogate("gain", reduce="mean"), list(policy.parameters())),
        torch.autograd.grad(ppo.mean(), list(policy.parameters())),
        strict=True,
    ):
        assert torch.allclose(mine, other)


def test_a_whole_minibatch_update_compiles_in_one_piece():
    policy, value = networks()
    graph, given = policy_graph(policy, value, Clipped(0.2)), recording()
    given["action.log_prob"] = torch.randn(6, 4)
    chosen = graph.replay(given).pairs(torch.arange(12))
    eager = graph.replay(chosen).surrogate("gain")
    compiled = torch.compile(lambda g: graph.replay(g).surrogate("gain"), fullgraph=True, backend="aot_eager")
    for mine, other in zip(
        torch.autograd.grad(compiled(chosen), list(policy.parameters())),
        torch.autograd.grad(eager, list(policy.parameters())),
        strict=True,
    ):
        assert torch.allclose(mine, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda m, s: Normal(m, s),
        lambda m, s: Laplace(m, s),
        lambda m, s: Gumbel(m, s),
        lambda m, s: Uniform(m, m + s),
        lambda m, s: Exponential(s + m**2),
        lambda m, s: LogNormal(m, s),
        lambda m, s: Independent(Normal(m.expand(2), s), 1),
        lambda m, s: MultivariateNormal(
            m.expand(2), scale_tril=torch.diag(s.expand(2)) + torch.tensor([[0.0, 0.0], [0.3, 0.0]])
        ),
    ],
    ids=["Normal", "Laplace", "Gumbel", "Uniform", "Exponential", "LogNormal", "Independent", "MultivariateNormal"],
)
def test_the_noise_behind_a_recorded_value_is_inferred(make):
    """SVG(1): replayed at its own sample, a pathwise node has the sample's value and the sample's gradient."""
    m, s = torch.tensor(0.4, requires_grad=True), torch.tensor(0.8, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda m, s: make(m, s), name="x")
    graph.cost(lambda x: x.square() if x.ndim == 0 else x.square().sum(-1), name="f")
    sampled = graph.sample(m=m, s=s)
    replayed = graph.replay({"x": sampled["x"].detach()}, m=m, s=s)
    assert torch.allclose(sampled["x"], replayed["x"])
    for mine, other in zip(
        torch.autograd.grad(replayed.surrogate(), [m, s]), torch.autograd.grad(sampled.surrogate(), [m, s]), strict=True
    ):
        assert torch.allclose(mine, other)


def test_a_value_whose_noise_cannot_be_inferred_is_refused():
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda m: Gamma(m, 1.0), name="x")
    graph.cost(lambda x: x, name="f")
    with pytest.raises(GraphError, match="node 'x': a value was given at a pathwise node, and the noise behind a Gamma"):
        graph.replay({"x": torch.tensor(1.0)}, m=torch.tensor(0.4, requires_grad=True))


def test_log_probabilities_are_recorded_for_later():
    policy, value = networks()
    given = recording()
    trace = policy_graph(policy, value).replay(given)
    assert torch.allclose(trace.log_prob("action"), Categorical(logits=policy(given["obs"])).log_prob(given["action"]))
    ratio = policy_graph(policy, value).replay({**given, "action.log_prob": trace.log_prob("action")})
    assert torch.allclose(ratio.weight("action").factor, torch.ones(6, 4))


def returns(reward, first, terminated, value, next_value, discount, lam):
    """GAE in reward units by the plain loop of the textbooks."""
    steps, batch = reward.shape
    advantage = torch.zeros(steps, batch)
    for b in range(batch):
        running = 0.0
        for t in reversed(range(steps)):
            delta = reward[t, b] + discount * next_value[t, b] * (1.0 - terminated[t, b].double()) - value[t, b]
            last = t == steps - 1 or bool(first[t + 1, b])
            running = delta + (0.0 if last else discount * lam * running)
            advantage[t, b] = running
    return advantage


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_generalised_advantages_equal_the_plain_loop(lam):
    policy, value = networks()
    given = recording(9, 3)
    trace = policy_graph(policy, value, credit=GAE(discount=0.9, lam=lam)).replay(given)
    v, following = (-value(given[k]).squeeze(-1).detach() for k in ("obs", "next_obs"))  # critics are in cost units
    expected = returns(given["reward"], given["first"], given["terminated"], v, following, 0.9, lam)
    assert torch.allclose(trace.credit("action"), -expected)


def test_monte_carlo_credit_equals_the_plain_loop():
    policy, value = networks()
    given = recording(9, 3)
    credit = policy_graph(policy, value, credit=MonteCarlo(0.9)).replay(given).credit("action")
    none = torch.zeros(9, 3)
    cut = torch.ones(9, 3, dtype=torch.bool)
    assert torch.allclose(credit, -returns(given["reward"], given["first"], cut, none, none, 0.9, 1.0))
    undiscounted = policy_graph(policy, value, credit=MonteCarlo()).replay(given)
    theta = list(policy.parameters())
    plain = scg.Graph()
    with plain.sequence(first="first"):
        plain.observed("first")
        plain.observed("obs", parents=[prev("obs"), prev("action")])
        plain.observed("reward", parents=["obs", "action"])
        plain.stochastic(ScoreFunction(), lambda obs: Categorical(logits=policy(obs)), name="action")
        plain.reward(lambda reward: reward, name="gain")
    own = plain.replay({k: given[k] for k in ("first", "obs", "action", "reward")})
    for mine, other in zip(
        torch.autograd.grad(undiscounted.surrogate("gain"), theta), torch.autograd.grad(own.surrogate(), theta), strict=True
    ):
        assert torch.allclose(mine, other)  # with γ = 1 the credit is the graph's own cost-to-go


def test_importance_weights_on_a_cost_that_does_not_train_their_node_are_pointed_out():
    """A regression whose recorded target is declared below the action is weighed with π/μ: right by the formula, seldom meant."""
    policy, value = networks()

    def build(parents):
        graph = scg.Graph()
        graph.observed("obs")
        graph.stochastic(
            ScoreFunction(), lambda obs: Categorical(logits=policy(obs)), name="action", credit=lambda obs: obs.sum(-1)
        )
        graph.observed("target", parents=parents)
        graph.reward(lambda obs, action: action.double(), name="gain", trains=policy)
        graph.cost(lambda obs, target: (value(obs).squeeze(-1) - target).square(), name="regression", trains=value)
        return graph

    given = {
        "obs": torch.randn(5, 3),
        "action": torch.randint(2, (5,)),
        "target": torch.randn(5),
        "action.log_prob": torch.randn(5),
    }
    with pytest.warns(UserWarning, match="node 'action': its importance weights also multiply the cost 'regression'"):
        build(["action"]).replay(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build([]).replay(given)


@pytest.mark.parametrize("credit", [0.7, "same"])
def test_a_credit_that_is_the_same_at_all_steps_can_be_handed_on(credit):
    """`trace.credit` was without its time axis: it could not be given again, and `trace.pairs` failed."""
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs")
        graph.deterministic(lambda theta: theta * 2, name="same")
        graph.stochastic(ScoreFunction(), lambda obs, theta: Normal(obs * theta, 1.0), name="a", credit=credit)
        graph.cost(lambda a, obs: a * obs, name="c")
    given = {"obs": torch.randn(4, 3), "a": torch.randn(4, 3)}

    def gradient(given, **inputs):
        theta = torch.tensor(0.4, requires_grad=True)
        trace = graph.replay(given, theta=theta)
        return trace, torch.autograd.grad(trace.surrogate(), theta)[0]

    trace, whole = gradient(given)
    assert trace.credit("a").shape[0] == 4
    assert torch.allclose(gradient({**given, "a.credit": trace.credit("a")})[1], whole)
    parts = [gradient(trace.pairs(index))[1] * len(index) for index in (torch.arange(5), torch.arange(5, 12))]
    assert torch.allclose(sum(parts) / 3, whole)


@pytest.mark.parametrize("shared", ["parameters", "recording"])
@pytest.mark.parametrize("cost", ["of the sample", "of the sample and data"])
@pytest.mark.parametrize(("steps", "batch"), [(3, 3), (2, 3), (3, 2), (2, 1)])
def test_recordings_and_distributions_may_differ_in_having_a_batch(shared, cost, steps, batch):
    """θ without a batch beside actions with one, which gave T times the gradient, and the other way round; by the unrolled sum."""
    torch.manual_seed(0)
    f64 = torch.float64
    theta = torch.randn(() if shared == "parameters" else (batch,), dtype=f64, requires_grad=True)
    a = torch.randn((steps, batch) if shared == "parameters" else (steps,), dtype=f64)
    y = torch.randn(steps, batch, dtype=f64)
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="a")
        if cost == "of the sample":
            graph.cost(lambda a, theta: a**2 + 0 * theta, name="c")
        else:
            graph.observed("y")
            graph.cost(lambda a, y: a**2 * y, name="c")
    given = {"a": a} if cost == "of the sample" else {"a": a, "y": y}
    found = graph.replay(given, theta=theta).surrogate()
    expected = torch.zeros((), dtype=f64)
    for t in range(steps):
        for b in range(batch):
            mine, mean = (a[t, b], theta) if shared == "parameters" else (a[t], theta[b])
            z = Normal(mean, 1.0).log_prob(mine)
            expected = expected + torch.exp(z - z.detach()) * mine**2 * (y[t, b] if "data" in cost else 1.0) / batch
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, theta)[0] for x in (found, expected)))
