"""Importance weights against finite sums over every recording of a behaviour policy."""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical

import scg
from scg import prev
from scg.estimators import ScoreFunction
from scg.estimators.credit import EarlierRatios, MonteCarlo, QCritic, SelfNormalisedRatios
from scg.estimators.credit.wrapped import Wrapped
from scg.estimators.importance import SelfNormalised, TruncatedRatio
from tests.exact import assert_same, derivatives, expectation, mean_surrogate, outcomes

COST = torch.tensor([[1.0, -0.4], [0.3, 2.0]], dtype=torch.float64)  # of state and action; the next state is the action
BEHAVIOUR = torch.tensor([[0.3, 0.7], [0.8, 0.2]], dtype=torch.float64)
STEPS = 3


def theta():
    return torch.tensor([[0.4, -0.5], [-0.8, 0.3]], requires_grad=True)


def process(estimator=None, total=False, credit=None):
    """Three steps; `total`: their costs as one, after the sequence, so that every step's ratio weighs all of them."""
    graph = scg.Graph()

    def act(state, theta):
        return Categorical(logits=theta[state])

    def price(state, action):
        return COST[state, action]

    with graph.sequence():
        if isinstance(credit, Wrapped) and isinstance(credit.credit, QCritic):
            graph.observed("q", parents=[prev("action", init="start"), "action"])
        parents = [prev("action", init="start"), "theta"]
        graph.stochastic(estimator or ScoreFunction(), act, name="action", parents=parents, credit=credit)
        if total:
            graph.deterministic(price, name="price", parents=[prev("action", init="start"), "action"])
            graph.deterministic(lambda a, b: a + b, name="sum", parents=["price", prev("sum", init="nothing")])
        else:
            graph.cost(price, name="price", parents=[prev("action", init="start"), "action"])
    if total:
        graph.cost(lambda sum: sum, name="total")
    return graph


def recordings():
    """Every trajectory of the behaviour policy with its log-probabilities, and the log of its own."""
    for actions in itertools.product((0, 1), repeat=STEPS):
        states = (0, *actions[:-1])
        mu = BEHAVIOUR[list(states), list(actions)]
        yield {"action": torch.tensor(actions).view(STEPS, 1), "action.log_prob": mu.log().view(STEPS, 1)}, mu.log().sum()


def under(graph, **inputs):
    """Mean surrogate under the behaviour policy, and the total variance of its gradient."""
    wrt = inputs["theta"]
    total, gradients = torch.zeros(()), []
    for recorded, log_mu in recordings():
        surrogate = graph.replay(recorded, **inputs).surrogate()
        total = total + log_mu.exp() * surrogate
        gradients.append((log_mu.exp(), torch.autograd.grad(surrogate, wrt, retain_graph=True)[0]))
    mean = sum(p * g for p, g in gradients)
    return total, float(sum(p * (g - mean).square().sum() for p, g in gradients))


def inputs(total=False):
    start = {"start": torch.zeros(1, dtype=torch.long), "theta": theta()}
    return {**start, "nothing": torch.zeros(1)} if total else start


def truth(given):
    every = list(outcomes({"action": [0, 1]}, {"action": (STEPS, 1)}))
    return expectation(process(), every, **given)


@pytest.mark.parametrize("total", [False, True], ids=["per decision", "full trajectory"])
def test_ratios_have_the_exact_mean(total):
    given = inputs(total)
    mean, _ = under(process(total=total), **given)
    assert_same(mean, truth({k: v for k, v in given.items() if k != "nothing"}), [given["theta"]])


def test_per_decision_is_quieter_than_full_trajectory():
    assert under(process(), **inputs())[1] < 0.7 * under(process(total=True), **inputs(True))[1]


# -- truncated ---------------------------------------------------------------------------------------------------


def truncated_sum(theta, limit, gradient):
    """Σ over trajectories Σ_t Π_{k ≤ t} min(π, c μ) c_t, as a sum over paths of a table."""
    total = torch.zeros(())
    for actions in itertools.product((0, 1), repeat=STEPS):
        weight = torch.ones(())
        for t, (s, a) in enumerate(zip((0, *actions[:-1]), actions, strict=True)):
            pi, mu = theta[s].softmax(-1)[a], BEHAVIOUR[s, a]
            cut = torch.minimum(pi, limit * mu)
            if gradient == "score":
                cut = cut.detach() * pi / pi.detach()
            weight = weight * cut
            rest = 2.0 ** (t + 1 - STEPS)  # each prefix is met once for each of its continuations
            total = total + rest * weight * COST[s, a]
    return total


@pytest.mark.parametrize("gradient", ["objective", "score"])
@pytest.mark.parametrize("limit", [0.7, 1.0, 1.6])
def test_truncated_ratios_have_their_documented_mean(limit, gradient):
    given = inputs()
    mean, _ = under(process(TruncatedRatio(limit=limit, gradient=gradient, allow_bias=True)), **given)
    assert_same(mean, truncated_sum(given["theta"], limit, gradient), [given["theta"]], order=1)
    assert abs(float((mean - truth(given)).detach())) > 0.05


def test_a_limit_beyond_all_ratios_changes_nothing():
    given = inputs()
    most = float((given["theta"].detach().softmax(-1) / BEHAVIOUR).max())
    for gradient in ("objective", "score"):
        beyond, within = (
            under(process(TruncatedRatio(limit=most * factor, gradient=gradient, allow_bias=True)), **given)[0]
            for factor in (1.0001, 0.9999)
        )
        assert_same(beyond, truth(given), [given["theta"]])
        assert not torch.allclose(within, truth(given), rtol=1e-10)


def test_truncation_lowers_the_variance():
    noise = [
        under(process(TruncatedRatio(limit=limit, gradient="score", allow_bias=True)), **inputs())[1]
        for limit in (9.0, 1.6, 1.0)
    ]
    assert noise[0] > noise[1] > noise[2]


# -- self-normalised ---------------------------------------------------------------------------------------------

F, MU = torch.tensor([0.7, -1.9], dtype=torch.float64), torch.tensor([0.8, 0.2], dtype=torch.float64)


def bandit(estimator, f=F):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta, x: Bernoulli(logits=theta + 0 * x), name="a")
    graph.cost(lambda a: f[a.long()], name="f")
    return graph


def batches(graph, n, theta, scale=1.0):
    """The mean surrogate over every batch of n recorded bits, by how many are 1."""
    total = torch.zeros(())
    for ones in range(n + 1):
        a = (torch.arange(n) < ones).double()
        log_mu = MU[a.long()].log()
        p = math.comb(n, ones) * log_mu.sum().exp()
        recorded = {"a": a, "a.log_prob": log_mu + math.log(scale)}
        total = total + p * graph.replay(recorded, theta=theta, x=torch.zeros(n)).surrogate()
    return total


SELF = SelfNormalised(allow_bias=True)


def pi_of(theta):
    return torch.stack([torch.sigmoid(-theta), torch.sigmoid(theta)])


@pytest.mark.parametrize("n", [2, 3, 5])
def test_self_normalised_ratios_have_their_documented_mean(n):
    logit = torch.tensor(0.4, requires_grad=True)
    ratio, total = pi_of(logit) / MU, torch.zeros(())
    for a in itertools.product((0, 1), repeat=n):
        rho = ratio[list(a)]
        total = total + MU[list(a)].prod() * (rho * F[list(a)]).sum() / rho.sum()
    assert_same(batches(bandit(SELF), n, logit), total, [logit])


def test_their_bias_is_the_documented_one():
    """N (mean − truth) comes to −E_μ[ρ² (f − E_π f)], and so does its derivative; half the distance at twice the N."""
    logit = torch.tensor(0.4, requires_grad=True)
    pi = pi_of(logit)
    exact = (pi * F).sum()
    limit = derivatives(-(pi**2 / MU * (F - exact)).sum(), [logit], order=1)
    away = []
    for n in (32, 64):
        bias = derivatives(n * (batches(bandit(SELF), n, logit) - (pi_of(logit) * F).sum()), [logit], order=1)
        away.append([float((b - a).abs().max() / a.abs().max()) for b, a in zip(bias, limit, strict=True)])
    assert all(second < 0.15 for second in away[1])
    assert all(0.45 < second / first < 0.55 for first, second in zip(*away, strict=True))


def test_without_normalisation_there_is_no_bias():
    logit = torch.tensor(0.4, requires_grad=True)
    assert_same(batches(bandit(ScoreFunction()), 5, logit), (pi_of(logit) * F).sum(), [logit])


def test_a_constant_cost_has_no_gradient_in_any_batch():
    logit = torch.tensor(0.4, requires_grad=True)
    for estimator, moves in ((SELF, False), (ScoreFunction(), True)):
        recorded = {"a": torch.tensor([1.0, 0.0, 1.0, 1.0]), "a.log_prob": MU.log()[[1, 0, 1, 1]]}
        surrogate = bandit(estimator, torch.full((2,), 3.0)).replay(recorded, theta=logit, x=torch.zeros(4)).surrogate()
        (gradient,) = torch.autograd.grad(surrogate, logit)
        assert (abs(float(gradient)) > 0.1) == moves
        assert moves or (torch.isclose(surrogate, torch.tensor(3.0)) and abs(float(gradient)) < 1e-14)


def test_a_self_normalised_mean_lies_between_its_costs_and_adds_what_is_added():
    """With ratios far from 1, where the plain mean does neither."""
    a, log_mu = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([-3.0, -0.1, -2.0])
    logit = torch.tensor(0.4)
    value = {}
    for estimator, kind in ((SELF, "self"), (ScoreFunction(), "plain")):
        for added in (0.0, 10.0):
            recorded = {"a": a, "a.log_prob": log_mu}
            value[kind, added] = bandit(estimator, F + added).replay(recorded, theta=logit, x=torch.zeros(3)).surrogate()
    assert F.min() < value["self", 0.0] < F.max() and value["plain", 0.0] < F.min()
    assert torch.isclose(value["self", 10.0], value["self", 0.0] + 10)
    assert not torch.isclose(value["plain", 10.0], value["plain", 0.0] + 10, rtol=0.1)


def test_the_behaviours_scale_does_not_matter():
    logit = torch.tensor(0.4, requires_grad=True)
    assert_same(batches(bandit(SELF), 4, logit, scale=1e-200), batches(bandit(SELF), 4, logit), [logit])


def test_in_a_sequence_each_step_is_normalised_over_the_batch():
    """The same for steps at once and one after another, and by hand."""
    given = {**inputs(), "start": torch.zeros(4, dtype=torch.long)}
    actions = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 0, 1]])
    states = torch.cat([torch.zeros(1, 4, dtype=torch.long), actions[:-1]])
    recorded = {"action": actions, "action.log_prob": BEHAVIOUR[states, actions].log()}
    ratio = given["theta"].softmax(-1)[states, actions] / BEHAVIOUR[states, actions]
    by_hand = ((ratio / ratio.mean(1, keepdim=True)).cumprod(0) * COST[states, actions]).sum(0).mean()
    assert_same(process(SELF).replay(recorded, **given).surrogate(), by_hand, [given["theta"]])


@pytest.mark.parametrize("estimator", [SELF, TruncatedRatio(limit=0.1, allow_bias=True)])
def test_fresh_samples_are_the_score_functions(estimator):
    logit = torch.tensor(0.4, requires_grad=True)
    every = list(outcomes({"a": [0.0, 1.0]}, {"a": (2,)}))
    ours, plain = (mean_surrogate(bandit(e), every, theta=logit, x=torch.zeros(2)) for e in (estimator, ScoreFunction()))
    assert_same(ours, plain, [logit])


# -- a product that is normalised ----------------------------------------------------------------------------------


def exact_q():
    """Q_t(s, a) of the policy, from the last step back."""
    pi, follows, q = theta().detach().softmax(-1), torch.zeros(2), []
    for _ in range(STEPS):
        q.append(COST + follows)  # the next state is the action
        follows = (pi * q[-1]).sum(-1)
    return torch.stack(q[::-1])


def gradient(credit, actions, log_mu, given_too=None):
    given = {"start": torch.zeros(actions.shape[1], dtype=torch.long), "theta": theta()}
    graph = process(credit=credit)
    if "first" in (given_too or {}):
        graph = scg.Graph()
        with graph.sequence(first="first"):
            graph.observed("first")
            graph.observed("state", parents=[prev("state"), prev("action")])
            act = {"name": "action", "parents": ["state", "theta"], "credit": credit}
            graph.stochastic(ScoreFunction(), lambda state, theta: Categorical(logits=theta[state]), **act)
            graph.cost(lambda s, a: COST[s, a], name="price", parents=["state", "action"])
        given = {"theta": theta()}
    recorded = {"action": actions, "action.log_prob": log_mu, **(given_too or {})}
    return torch.autograd.grad(graph.replay(recorded, **given).surrogate(), given["theta"])[0]


def test_on_the_population_a_normalised_product_is_exact():
    """All trajectories once, recorded by chance alone: then the mean ratio is 1, and with the exact Q the gradient is the true
    one."""
    actions = torch.tensor(list(itertools.product((0, 1), repeat=STEPS))).T
    half = torch.full(actions.shape, math.log(0.5))
    exact = derivatives(truth(given := inputs()), [given["theta"]], order=1)[1].view(2, 2)
    state = torch.cat([torch.zeros_like(actions[:1]), actions[:-1]])
    q = exact_q()[torch.arange(STEPS).unsqueeze(-1), state, actions]
    for credit in (SelfNormalisedRatios(QCritic("q")), EarlierRatios(QCritic("q"))):
        assert torch.allclose(gradient(credit, actions, half, {"q": q}), exact, atol=1e-12)
    some = actions[:, :5], half[:, :5], {"q": q[:, :5]}
    found = [gradient(credit, *some) for credit in (SelfNormalisedRatios(QCritic("q")), EarlierRatios(QCritic("q")))]
    assert not torch.allclose(*found, rtol=0.01)


def test_the_normalised_product_is_a_plain_loop_within_episodes():
    """Two blocks of four steps, one of which starts again; a factor of μ, other at each step, drops out where none does."""
    actions, state = torch.randint(2, (4, 3)), torch.randint(2, (4, 3))
    first = torch.tensor([[1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    log_mu = BEHAVIOUR[state, actions].log()
    t = theta()
    log_pi = t.log_softmax(-1)[state, actions]
    rho = (log_pi - log_mu).exp().detach()
    total = torch.zeros(())
    running = torch.ones(3)
    for step in range(4):
        running = torch.where(first[step], rho[step], running * rho[step])
        for b in range(3):
            to_go = 0.0
            for later in range(step, 4):
                if later > step and first[later, b]:
                    break
                to_go += float(COST[state[later, b], actions[later, b]])
            total = total + running[b] / running.mean() * to_go * log_pi[step, b] / 3
    (by_hand,) = torch.autograd.grad(total, t)
    credit = SelfNormalisedRatios(MonteCarlo())
    assert torch.allclose(gradient(credit, actions, log_mu, {"first": first, "state": state}), by_hand)
    shifted = log_mu + torch.tensor([[0.3], [-40.0], [7.0], [0.0]])
    never = {"first": torch.zeros_like(first), "state": state}
    assert torch.allclose(gradient(credit, actions, shifted, never), gradient(credit, actions, log_mu, never))


@pytest.mark.parametrize(("dim", "batch"), [(-1, 1), (-2, 3), (0, 3)])
def test_a_product_needs_a_batch_to_be_normalised_over(dim, batch):
    actions = torch.zeros(STEPS, batch, dtype=torch.long)
    with pytest.raises(
        scg.GraphError, match=rf"node 'action': SelfNormalisedRatios.* over the batch, which has shape \({batch},\)"
    ):
        gradient(SelfNormalisedRatios(MonteCarlo(), dim=dim), actions, torch.zeros(STEPS, batch))


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [SelfNormalised(), TruncatedRatio()])
def test_both_are_opted_into(estimator):
    with pytest.raises(scg.GraphError, match="is biased. If that is what you want, opt in with allow_bias=True"):
        bandit(estimator)


def test_one_recorded_value_cannot_be_normalised():
    recorded = {"a": torch.tensor([1.0]), "a.log_prob": torch.tensor([-0.5])}
    logit = torch.tensor(0.4, requires_grad=True)
    with pytest.raises(
        scg.GraphError, match=r"node 'a': SelfNormalised\(dim=-1\) .* shape \(1,\): of one, nothing is left but 1"
    ):
        bandit(SELF).replay(recorded, theta=logit, x=torch.zeros(1))
    two = {k: v.repeat(2) for k, v in recorded.items()}
    bandit(SELF).replay(two, theta=logit, x=torch.zeros(2))


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"limit=0\): a truncation level is positive"):
        TruncatedRatio(limit=0)
    with pytest.raises(ValueError, match=r"gradient='all'\): it is 'objective' or 'score'"):
        TruncatedRatio(gradient="all")
