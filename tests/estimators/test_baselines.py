"""Baselines change the variance and never the mean: by enumeration of every outcome, each beside a twin that has seen too much."""

import copy

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical

import scg
from scg import GraphError, prev
from scg.credit import Credit
from scg.estimators import Clipped, ScoreFunction
from scg.estimators.baselines import (
    MovingAverage,
    learned_baseline,
    optimal_gradient,
    optimal_level,
    scores,
    squared_norm,
)
from scg.estimators.credit import GAE, BatchLeaveOneOut, LoadedDice, MonteCarlo, NStep, cost_to_go, evaluate_credit
from tests.exact import assert_same, derivatives, expectation, log_prob, mean_surrogate, outcomes

BIT = [0.0, 1.0]
LOGITS = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64)
COSTS = torch.tensor([3.0, 5.0, 4.2], dtype=torch.float64)


def bandit(**settings):
    """x of three values, costs that are far from zero."""
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Categorical(logits=theta), name="x", **settings)
    graph.cost(lambda x: COSTS[x], name="c")
    return graph


def each_outcome(graph, theta):
    """The gradient at x = 0, 1, 2, `[3, parameters]`, and the outcomes' probabilities."""
    rows = [torch.autograd.grad(graph.replay({"x": torch.tensor(x)}, theta=theta).surrogate(), theta)[0] for x in range(3)]
    return torch.stack(rows), theta.detach().softmax(0)


def moments(rows, p):
    mean = p @ rows
    return mean, float(p @ (rows - mean).square().sum(1))


def exact_bandit():
    theta = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(theta.softmax(0) @ COSTS, theta)[0]


def same(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-10)


# -- constant and moving average ---------------------------------------------------------------------------


def test_a_constant_lowers_the_variance_and_not_the_mean():
    theta = LOGITS.clone().requires_grad_()
    plain, noise = moments(*each_outcome(bandit(), theta))
    less, quieter = moments(*each_outcome(bandit(baseline=float(LOGITS.softmax(0) @ COSTS)), theta))
    assert same(plain, exact_bandit()) and same(less, exact_bandit())
    assert quieter < 0.1 * noise


def two_rounds(update_first):
    """Mean gradient and variance of the second draw, over both draws; the average saw the first, or the second too."""
    theta = LOGITS.clone().requires_grad_()
    p = theta.detach().softmax(0)
    rows, chance = [], []
    for x1 in range(3):
        for x2 in range(3):
            average = MovingAverage(0.5)
            graph = bandit(baseline=average)
            average.update(COSTS[x1])
            if update_first:
                average.update(COSTS[x2])
            trace = graph.replay({"x": torch.tensor(x2)}, theta=theta)
            rows.append(torch.autograd.grad(trace.surrogate(), theta)[0])
            chance.append(p[x1] * p[x2])
    return moments(torch.stack(rows), torch.stack(chance))


def test_a_moving_average_of_the_past_changes_no_mean():
    theta = LOGITS.clone().requires_grad_()
    mean, quieter = two_rounds(update_first=False)
    assert same(mean, exact_bandit())
    assert quieter < 0.3 * moments(*each_outcome(bandit(), theta))[1]


def test_a_moving_average_that_has_seen_its_own_sample_is_biased():
    """It is updated before use: the gradient shrinks by the share that the own cost has in it, here 2/3."""
    mean, _ = two_rounds(update_first=True)
    assert torch.allclose(mean, exact_bandit() / 3)


def test_a_moving_average_is_its_definition():
    """b = Σ decay^age L / Σ decay^age, the mean of each update's costs; nothing to start with is 0."""
    average = MovingAverage(0.8)
    assert average() == 0.0
    seen = [torch.randn(4, 3) for _ in range(3)]
    for costs in seen:
        average.update(costs)
    ages = torch.tensor([0.64, 0.8, 1.0])
    assert torch.allclose(average(), (ages * torch.stack([s.mean() for s in seen])).sum() / ages.sum())
    assert torch.allclose(_updated(MovingAverage(1.0), seen)(), torch.stack(seen).mean())
    assert torch.allclose(_updated(MovingAverage(0.0), seen)(), seen[-1].mean())


def _updated(average, seen):
    for costs in seen:
        average.update(costs)
    return average


def test_a_moving_average_for_each_batch_element():
    average = MovingAverage(1.0, shape=(3,))
    seen = [torch.randn(4, 3) for _ in range(2)]
    assert torch.allclose(_updated(average, seen)(), torch.cat(seen).mean(0))
    with pytest.raises(ValueError, match=r"costs of shape \(4, 2\) for levels of shape \(3,\)"):
        average.update(torch.randn(4, 2))
    with pytest.raises(ValueError, match=r"MovingAverage\(decay=1.5\)"):
        MovingAverage(1.5)


def test_a_moving_average_resumes_from_its_state():
    average = _updated(MovingAverage(0.7, shape=(2,)), [torch.randn(2), torch.randn(2)])
    resumed = MovingAverage(0.7, shape=(2,))
    resumed.load_state_dict(copy.deepcopy(average.state_dict()))
    later = torch.randn(2)
    average.update(later)
    resumed.update(later)
    assert torch.equal(average(), resumed())


def test_a_surrogate_keeps_the_level_that_it_was_made_with():
    """`update` between the surrogate and its backward changes nothing: the state is replaced, not written into."""
    theta = LOGITS.clone().requires_grad_()
    average = _updated(MovingAverage(0.5), [torch.tensor(4.0)])
    trace = bandit(baseline=average).replay({"x": torch.tensor(1)}, theta=theta)
    surrogate = trace.surrogate()
    average.update(cost_to_go(trace, "x"))
    assert torch.allclose(torch.autograd.grad(surrogate, theta)[0], (5.0 - 4.0) * (torch.eye(3)[1] - LOGITS.softmax(0)))
    assert torch.allclose(average(), torch.tensor((0.5 * 4.0 + 5.0) / 1.5))


def test_a_moving_average_along_a_sequence_and_a_batch():
    """One level an element at every step; in the mean over outcomes and to second order nothing changes."""
    theta = torch.tensor(0.3, requires_grad=True)
    average = _updated(MovingAverage(shape=(2,)), [torch.tensor([1.0, -2.0])])

    def build(**settings):
        graph = scg.Graph()
        with graph.sequence():
            graph.stochastic(
                ScoreFunction(),
                lambda a, theta, data: Bernoulli(logits=theta * data + a),
                name="a",
                parents=[prev("a", init="a0"), "theta", "data"],
                **settings,
            )
            graph.cost(lambda a, data: (a - data) ** 2, name="c")
        return graph

    inputs = {"theta": theta, "data": torch.tensor([0.5, -1.0]), "a0": torch.zeros(2)}
    every = list(outcomes({"a": BIT}, {"a": (2, 2)}))
    exact = expectation(build(), every, **inputs)
    assert_same(mean_surrogate(build(baseline=average), every, **inputs), exact, [theta])


# -- batch leave-one-out -----------------------------------------------------------------------------------


class WithItself(Credit):
    """A biased twin: the mean of the whole batch, the own cost in it."""

    def __call__(self, downstream):
        cost_to_go = downstream.cost_to_go()
        return cost_to_go - cost_to_go.mean(-1, keepdim=True)


def batch_process(credit):
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            ScoreFunction(),
            lambda a, theta: Bernoulli(logits=theta[0] * a + theta[1]),
            name="a",
            parents=[prev("a", init="a0"), "theta"],
            credit=credit,
        )
        graph.cost(lambda a: (a - 0.3) ** 2 + 2, name="c")
    return graph


def batch_moments(credit, batch):
    """Mean and variance of the gradient over all outcomes of two steps of a batch; the exact gradient."""
    theta = torch.tensor([0.8, -0.4], requires_grad=True)
    inputs = {"theta": theta, "a0": torch.zeros(batch)}
    graph = batch_process(credit)
    rows, p = [], []
    every = list(outcomes({"a": BIT}, {"a": (2, batch)}))
    for outcome in every:
        trace = graph.replay(outcome, **inputs)
        p.append(log_prob(trace, ["a"]).exp().detach())
        rows.append(torch.autograd.grad(trace.surrogate(), theta)[0])
    exact = derivatives(expectation(batch_process(None), every, **inputs), [theta], order=1)[1]
    return *moments(torch.stack(rows), torch.stack(p)), exact


def test_batch_leave_one_out_lowers_the_variance_and_not_the_mean():
    for batch in (2, 3):
        plain, noise, exact = batch_moments(MonteCarlo(), batch)
        mean, quieter, _ = batch_moments(BatchLeaveOneOut(), batch)
        assert same(plain, exact) and same(mean, exact)
        assert quieter < 0.2 * noise
        twin, _, _ = batch_moments(WithItself(), batch)
        assert torch.allclose(twin, exact * (batch - 1) / batch)  # the own cost in it shrinks the gradient


# -- variance-optimal --------------------------------------------------------------------------------------


def score_table():
    """∇log p at each outcome, by hand: e_x − π."""
    return torch.eye(3) - LOGITS.softmax(0)


def spread(level):
    """Variance of (L − b) g for each parameter."""
    rows = (COSTS.unsqueeze(1) - level) * score_table()
    p = LOGITS.softmax(0)
    return p @ (rows - p @ rows).square()


def test_the_optimal_levels_are_optimal():
    """No other level has less variance; per parameter is at most the scalar's, that at most the mean cost's."""
    p = LOGITS.softmax(0)
    one = optimal_level(score_table(), COSTS, p=p)
    each = optimal_level(score_table(), COSTS, per_parameter=True, p=p)
    b = torch.tensor(4.0, requires_grad=True)
    quadratic = spread(b).sum()
    (slope,) = torch.autograd.grad(quadratic, b, create_graph=True)
    (curve,) = torch.autograd.grad(slope, b)
    assert torch.allclose(one, (b - slope / curve).detach())  # a parabola's lowest point
    assert (spread(each) <= spread(one) + 1e-15).all()
    assert spread(each).sum() < 0.9 * spread(one).sum() < 0.9 * spread(p @ COSTS).sum()
    for shift in (-0.1, 0.1):
        assert spread(one + shift).sum() > spread(one).sum()
        assert (spread(each + shift) > spread(each)).all()


def test_the_scalar_level_is_the_average_weighed_with_squared_scores():
    """As running state: `update(costs, squared_norm(scores))` over every outcome is b*."""
    theta = LOGITS.clone().requires_grad_()
    average = MovingAverage(1.0)
    for x in range(3):
        trace = bandit().replay({"x": torch.tensor(x)}, theta=theta)
        found = scores(trace, "x", theta)
        assert torch.allclose(found, score_table()[x : x + 1])
        average.update(cost_to_go(trace, "x").reshape(1), squared_norm(found) * theta.detach().softmax(0)[x])
    assert torch.allclose(average(), optimal_level(score_table(), COSTS, p=LOGITS.softmax(0)))


@pytest.mark.parametrize("samples", [2, 3])
@pytest.mark.parametrize("per_parameter", [True, False])
def test_every_sample_with_the_optimal_level_of_the_others_is_unbiased(samples, per_parameter):
    """Over all n-tuples; the twin that estimates the level from all of them is not."""
    p, mean, twin = LOGITS.softmax(0), torch.zeros(3), torch.zeros(3)
    for drawn in outcomes({"x": [0, 1, 2]}, {"x": (samples,)}):
        g, costs, chance = score_table()[drawn["x"]], COSTS[drawn["x"]], p[drawn["x"]].prod()
        mean += chance * optimal_gradient(g, costs, per_parameter)
        twin += chance * ((costs.unsqueeze(1) - optimal_level(g, costs, per_parameter)) * g).mean(0)
    assert same(mean, exact_bandit())
    assert (twin - exact_bandit()).abs().max() > 1e-2


def test_optimal_gradients_are_quieter_than_none():
    """Eight samples each of many draws; the sums over others stay exact beside a score that dwarfs them."""
    x = Categorical(logits=LOGITS).sample((20000, 8))
    found = torch.stack([optimal_gradient(score_table()[row], COSTS[row]) for row in x[:2000]])
    plain = torch.stack([(score_table()[row] * COSTS[row].unsqueeze(1)).mean(0) for row in x[:2000]])
    assert found.var(0).sum() < 0.2 * plain.var(0).sum()
    g = torch.tensor([[1e9], [1e-3], [2e-3]])
    costs = torch.tensor([1.0, 3.0, 8.0])
    levels = costs - 3 * torch.stack([optimal_gradient(g, costs)]) / g.squeeze()
    assert torch.isfinite(levels).all()
    expected = torch.stack([(3 * 1e-6 + 8 * 4e-6) / 5e-6 * torch.ones(()), torch.ones(()), torch.ones(())])
    by_hand = (g.squeeze() * (costs - expected)).mean()
    assert torch.allclose(optimal_gradient(g, costs), by_hand.reshape(1), rtol=1e-9)
    with pytest.raises(ValueError, match="needs 2 samples or more, got 1"):
        optimal_gradient(g[:1], costs[:1])


def test_scores_of_steps_and_batch_elements_in_order():
    theta = torch.tensor([0.8, -0.4], requires_grad=True)
    graph = batch_process(None)
    stepped = graph.sample(steps=3, theta=theta, a0=torch.zeros(2))
    replayed = graph.replay({"a": stepped["a"]}, theta=theta, a0=torch.zeros(2))
    before = torch.cat([torch.zeros(1, 2), stepped["a"][:-1]])
    residual = (stepped["a"] - torch.sigmoid(0.8 * before - 0.4)).detach()
    expected = torch.stack([residual * before, residual], -1).reshape(6, 2)
    for trace in (stepped, replayed):
        assert torch.allclose(scores(trace, "a", theta), expected)
    with pytest.raises(GraphError, match="'c' is no stochastic node"):
        scores(replayed, "c", theta)


# -- learned -----------------------------------------------------------------------------------------------


def contextual(critic):
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda data, theta: Bernoulli(logits=theta * data), name="x", baseline="level")
    graph.stochastic(ScoreFunction(), lambda x: Bernoulli(logits=x), name="y")
    graph.cost(lambda x, data: 3 * data + x, name="first")
    graph.reward(lambda y, data: 2 - data * y, name="second")
    regression = learned_baseline(
        graph, "x", lambda data: critic(data.unsqueeze(-1)).squeeze(-1), name="level", parents=["data"], trains=critic
    )
    return graph, regression


def test_a_learned_baseline_regresses_on_the_cost_to_go():
    critic, theta, data = nn.Linear(1, 1), torch.tensor(0.3, requires_grad=True), torch.randn(5)
    graph, regression = contextual(critic)
    assert regression == "level_regression"
    trace = graph.sample(theta=theta, data=data)
    target = trace["first"] + trace["second"]
    assert torch.allclose(cost_to_go(trace, "x"), target)
    loss = (critic(data.unsqueeze(-1)).squeeze(-1) - target.detach()).square().mean()
    ours = torch.autograd.grad(trace.surrogate(regression), list(critic.parameters()), retain_graph=True)
    for mine, theirs in zip(ours, torch.autograd.grad(loss, list(critic.parameters())), strict=True):
        assert torch.allclose(mine, theirs)
    parameters = [theta, *critic.parameters()]
    alone = torch.autograd.grad(trace.surrogate("first", "second"), parameters, allow_unused=True, retain_graph=True)
    assert alone[0] is not None and all(g is None or not g.any() for g in alone[1:])
    both = torch.autograd.grad(trace.surrogate(), theta)[0]
    assert torch.allclose(alone[0], both)  # and the regression leaves nothing in the policy


def test_a_learned_baseline_changes_no_mean_and_learns_to_lower_the_variance():
    critic, theta, data = nn.Linear(1, 1), torch.tensor(0.3, requires_grad=True), torch.tensor([0.5, -1.0])
    graph, regression = contextual(critic)
    every = list(outcomes({"x": BIT, "y": BIT}, {"x": (2,), "y": (2,)}))
    inputs = {"theta": theta, "data": data}

    def found():
        rows, p = [], []
        for outcome in every:
            trace = graph.replay(outcome, **inputs)
            p.append(log_prob(trace, ["x", "y"]).exp().detach())
            rows.append(torch.autograd.grad(trace.surrogate("first", "second"), theta)[0].reshape(1))
        return moments(torch.stack(rows), torch.stack(p))

    live = torch.zeros(())
    for outcome in every:
        trace = graph.replay(outcome, **inputs)
        live = live + log_prob(trace, ["x", "y"]).exp() * (trace["first"] + trace["second"]).mean()
    exact = torch.autograd.grad(live, theta)[0].reshape(1)
    before, noise = found()
    optimiser = torch.optim.Adam(critic.parameters(), 0.1)
    for _ in range(150):
        optimiser.zero_grad()
        graph.sample(theta=theta, data=data.repeat(16)).surrogate(regression).backward()
        optimiser.step()
    after, quieter = found()
    assert same(before, exact) and same(after, exact)
    assert quieter < 0.5 * noise


def test_a_learned_baseline_that_reads_its_sample_is_refused():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x", baseline="level")
    graph.cost(lambda x: x, name="c")
    with pytest.raises(GraphError, match="its baseline 'level' is influenced by 'x' itself"):
        learned_baseline(graph, "x", lambda x, phi: x * phi, name="level", parents=["x", "phi"], trains=["phi"])


def test_a_learned_baseline_in_a_sequence_takes_a_recorded_target():
    """The cost-to-go looks ahead in time, so no node can be it: evaluate it once, and give it."""
    policy, critic = nn.Linear(1, 1), nn.Linear(1, 1)

    def build(target):
        graph = scg.Graph()
        with graph.sequence():
            graph.observed("obs", parents=[prev("obs"), prev("a")])
            graph.stochastic(ScoreFunction(), lambda obs: Bernoulli(logits=policy(obs).squeeze(-1)), name="a", baseline="level")
            graph.observed("reward", parents=["obs", "a"])
            graph.observed("target", parents=["reward"])
            graph.reward(lambda reward: reward, name="gain", trains=policy)
        learned_baseline(
            graph, "a", lambda obs: critic(obs).squeeze(-1), name="level", parents=["obs"], trains=critic, target=target
        )
        return graph

    with pytest.raises(GraphError, match="node 'a' is in a sequence, and its cost-to-go looks ahead.*\n.*target='cost_to_go'"):
        build(None)
    graph = build("target")
    given = {"obs": torch.randn(4, 3, 1), "reward": torch.randn(4, 3), "a": torch.ones(4, 3), "target": torch.zeros(4, 3)}
    target = cost_to_go(graph.replay(given), "a")
    assert torch.allclose(target, -given["reward"].flip(0).cumsum(0).flip(0))
    trace = graph.replay({**given, "target": target})
    ours = torch.autograd.grad(trace.surrogate("level_regression", reduce="mean"), critic.weight)[0]
    loss = (critic(given["obs"]).squeeze(-1) - target).square().mean()
    assert torch.allclose(ours, torch.autograd.grad(loss, critic.weight)[0])


def test_what_a_learned_baseline_is_to_train_must_be_said():
    with pytest.raises(GraphError, match=r"learned_baseline\('level'\): say what the regression trains"):
        learned_baseline(bandit(), "x", lambda phi: phi, name="level", parents=["phi"])


# -- higher order ------------------------------------------------------------------------------------------


def chain(steps, credit=None, v=None, loaded=False):
    """s_t from s_{t-1} and a_{t-1}, a_t ~ π. `loaded`: the advantage as a recorded baseline, negated, of a cost that is 0."""
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("t")
        graph.stochastic(
            ScoreFunction(),
            lambda s, a: Bernoulli(probs=0.2 + 0.3 * s + 0.4 * a),
            name="s",
            parents=[prev("s", init="s0"), prev("a", init="a0")],
        )
        settings = {"baseline": "against"} if loaded else {"credit": credit}
        graph.stochastic(ScoreFunction(), lambda s, theta: Bernoulli(logits=theta[0] * s + theta[1]), name="a", **settings)
        if loaded:
            graph.observed("advantage")
            graph.deterministic(lambda advantage: -advantage, name="against")
            graph.cost(lambda a: 0 * a, name="c")
        else:
            graph.cost(lambda s, a: (s - 0.6) ** 2 + 0.5 * a * s, name="c")
        if v is not None:
            graph.deterministic(lambda t, s: v[t.long(), s.long()], name="value")
            graph.deterministic(
                lambda t, s, a: (0.2 + 0.3 * s + 0.4 * a) * v[t.long() + 1, 1] + (0.8 - 0.3 * s - 0.4 * a) * v[t.long() + 1, 0],
                name="next_value",
            )
    return graph


@pytest.mark.parametrize(
    "credit",
    [
        MonteCarlo(),
        *[GAE(discount=1.0, lam=lam, terminated=None) for lam in (0.0, 0.5, 1.0)],
        NStep(discount=1.0, n=2, terminated=None),
    ],
    ids=repr,
)
def test_loaded_dice_is_a_recorded_baseline_of_no_cost(credit):
    """Σ_t (Π_{k ≤ t} w_k − Π_{k < t} w_k) sg A_t (Farquhar et al. 2019): the baseline's own line of the surrogate with b = −A.

    With the exact value as critic, gradient and Hessian are those of the objective for every λ and n, as DiCE's are for
    the sampled costs; the credited surrogate is right to first order only.
    """
    steps = 3
    theta = torch.tensor([0.5, -0.7], requires_grad=True)
    v = torch.zeros(steps + 1, 2)
    pi = torch.sigmoid(theta[0] * torch.tensor(BIT) + theta[1]).detach()
    for t in reversed(range(steps)):
        for s in (0, 1):
            for a, p in ((0, 1 - pi[s]), (1, pi[s])):
                up = 0.2 + 0.3 * s + 0.4 * a
                v[t, s] += p * ((s - 0.6) ** 2 + 0.5 * a * s + up * v[t + 1, 1] + (1 - up) * v[t + 1, 0])
    inputs = {"theta": theta, "s0": torch.tensor(1.0), "a0": torch.tensor(0.0)}
    every = list(outcomes({"s": BIT, "a": BIT}, {"s": (steps,), "a": (steps,)}))
    exact = derivatives(expectation(chain(steps), every, {"t": torch.arange(steps)}, **inputs), [theta])
    credited, loaded = chain(steps, credit, v), chain(steps, loaded=True)
    total = torch.zeros(())
    for outcome in every:
        given = {**outcome, "t": torch.arange(steps)}
        trace = credited.replay(given, **inputs)
        advantage = evaluate_credit(credit, trace, "a")
        p = log_prob(trace, ["s", "a"]).exp().detach()
        total = total + p * loaded.replay({**given, "advantage": advantage}, **inputs).surrogate()
    ours = derivatives(total, [theta])
    assert torch.allclose(ours[1], exact[1], rtol=0, atol=1e-10)
    assert torch.allclose(ours[2], exact[2], rtol=0, atol=1e-10)
    first_order = mean_surrogate(credited, every, {"t": torch.arange(steps)}, **inputs)
    (slope,) = torch.autograd.grad(first_order, theta, create_graph=True)
    assert torch.allclose(slope, exact[1], rtol=0, atol=1e-10)
    with pytest.raises(GraphError, match="node 'a': a second derivative was asked through its credit"):
        torch.autograd.grad(slope.sum(), theta)
    as_credit = chain(steps, LoadedDice(credit), v)
    wrapped = derivatives(mean_surrogate(as_credit, every, {"t": torch.arange(steps)}, **inputs), [theta])
    assert torch.allclose(wrapped[1], exact[1], rtol=0, atol=1e-10)
    assert torch.allclose(wrapped[2], exact[2], rtol=0, atol=1e-10)


def test_loaded_dice_needs_an_estimator_that_multiplies():
    graph = scg.Graph()
    graph.stochastic(Clipped(), lambda theta: Bernoulli(logits=theta), name="a", credit=LoadedDice(MonteCarlo()))
    graph.cost(lambda a: a, name="c")
    with pytest.raises(
        GraphError, match="node 'a': LoadedDice.* is of higher order, and Clipped.* combines to first order only"
    ):
        graph.surrogate(theta=torch.tensor(0.1, requires_grad=True))
