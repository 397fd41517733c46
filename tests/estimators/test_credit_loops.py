"""Every credit is the plain loop that its textbook writes, on random blocks of episodes that end, are cut, or go on.

The loops go forwards from each step by the definition; the credits are scans that run backwards.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, Normal

import scg
from scg import GraphError, prev
from scg.credit import Downstream
from scg.estimators import ScoreFunction
from scg.estimators.credit import (
    GAE,
    BatchLeaveOneOut,
    EarlierRatios,
    LambdaReturn,
    LeadingDiscount,
    MonteCarlo,
    NStep,
    QCritic,
    QLambda,
    Retrace,
    TreeBackup,
    VTrace,
    VTraceTarget,
    cost_to_go,
    evaluate_credit,
)

GAMMA, LAM = 0.9, 0.7


def block(seed=0, steps=9, batch=3):
    """A random block. Some episodes terminate, some are cut, one batch element may end with its block."""
    generator = torch.Generator().manual_seed(seed)

    def uniform():
        return torch.rand(steps, batch, generator=generator, dtype=torch.float64)

    ended = uniform() < 0.35
    terminated = ended & (uniform() < 0.5)
    first = torch.cat([uniform()[:1] < 0.7, ended[:-1]])
    value = uniform() * 4 - 2
    # After a step that goes on, the following value is the next row's; after an end it is the final observation's.
    following = torch.where(ended, uniform() * 4 - 2, torch.cat([value[1:], uniform()[:1]]))
    return {
        "first": first,
        "terminated": terminated,
        "c": uniform() * 2 - 1,
        "value": value,
        "next_value": following,
        "q": uniform() * 4 - 2,
        "next_expected": uniform() * 4 - 2,
        "log_prob": uniform().log(),
        "ratio": uniform() * 2,
    }


def downstream(x, ratio=True, hi=math.inf):
    return Downstream("action", ((x["c"], 0, hi),), x["first"], True, 1, 1, x["ratio"] if ratio else None, x.__getitem__)


def elementwise(x, credit):
    """`credit(x, t)` for every step, with its batch element's column as plain numbers."""
    steps, batch = x["c"].shape
    found = torch.zeros(steps, batch)
    for b in range(batch):
        column = {k: v[:, b].tolist() for k, v in x.items()}
        for t in range(steps):
            found[t, b] = credit(column, t)
    return found


def goes_on(x, t):
    """Whether step t + 1 is of the same episode."""
    return t + 1 < len(x["c"]) and not x["first"][t + 1] and not x["terminated"][t]


def bootstrap(x, t, key="next_value"):
    return 0.0 if x["terminated"][t] else x[key][t]


def n_step(x, t, n):
    total, factor = 0.0, 1.0
    for k in range(n):
        total += factor * x["c"][t + k]
        factor *= GAMMA
        if k == n - 1 or not goes_on(x, t + k):
            return total + factor * bootstrap(x, t + k)
    raise AssertionError


def remaining(x, t):
    n = 1
    while goes_on(x, t + n - 1):
        n += 1
    return n


def lambda_return(x, t):
    """(1 − λ) Σ_{n < N} λ^{n−1} G^{(n)} + λ^{N−1} G^{(N)}, N the steps that are left."""
    left = remaining(x, t)
    mixed = sum((1 - LAM) * LAM ** (n - 1) * n_step(x, t, n) for n in range(1, left))
    return mixed + LAM ** (left - 1) * n_step(x, t, left)


def generalised_advantage(x, t):
    """Σ_l (γλ)^l δ_{t+l}."""
    total = 0.0
    for l in range(remaining(x, t)):
        delta = x["c"][t + l] + GAMMA * bootstrap(x, t + l) - x["value"][t + l]
        total += (GAMMA * LAM) ** l * delta
    return total


def monte_carlo(x, t):
    return sum(GAMMA**l * x["c"][t + l] for l in range(_rows(x, t)))


def _rows(x, t):
    """As `remaining`, by `first` alone: cost-to-go knows no terminations."""
    n = 1
    while t + n < len(x["c"]) and not x["first"][t + n]:
        n += 1
    return n


RHO_BAR, C_BAR = 1.2, 0.9


def v_trace_target(x, t):
    """v_s = V(s) + Σ_t γ^{t−s} (Π_{i=s}^{t−1} k_i) δ_t: equation 1 of the paper, in its own order."""
    total, product = x["value"][t], 1.0
    for l in range(remaining(x, t)):
        rho, k = min(RHO_BAR, x["ratio"][t + l]), LAM * min(C_BAR, x["ratio"][t + l])
        delta = rho * (x["c"][t + l] + GAMMA * bootstrap(x, t + l) - x["value"][t + l])
        total += GAMMA**l * product * delta
        product *= k
    return total


def v_trace_advantage(x, t):
    follows = v_trace_target(x, t + 1) if goes_on(x, t) else bootstrap(x, t)
    advantage = x["c"][t] + GAMMA * follows - x["value"][t]
    return min(RHO_BAR, x["ratio"][t]) / x["ratio"][t] * advantage


def q_return(coefficient):
    def credit(x, t):
        """Q + Σ_{k ≥ t} γ^{k−t} (Π_{i=t+1}^k k_i) δ_k: equation 3 of Munos et al."""
        total, product = x["q"][t], 1.0
        for l in range(remaining(x, t)):
            if l:
                product *= coefficient(x, t + l)
            delta = x["c"][t + l] + GAMMA * bootstrap(x, t + l, "next_expected") - x["q"][t + l]
            total += GAMMA**l * product * delta
        return total

    return credit


def earlier(x, t):
    product, s = 1.0, t
    while s > 0 and not x["first"][s]:
        s -= 1
        product *= x["ratio"][s]
    return product * monte_carlo(x, t)


def leading(x, t):
    s = t
    while s > 0 and not x["first"][s]:
        s -= 1
    return GAMMA ** (t - s) * monte_carlo(x, t)


Q = {"discount": GAMMA, "lam": LAM, "next_critic": "next_expected"}
LOOPS = {
    **{f"{n}-step": (NStep(discount=GAMMA, n=n), lambda x, t, n=n: n_step(x, t, min(n, remaining(x, t)))) for n in (1, 2, 3, 5, 8, 50)},
    "lambda-return": (LambdaReturn(discount=GAMMA, lam=LAM), lambda_return),
    "GAE": (GAE(discount=GAMMA, lam=LAM), generalised_advantage),
    "Monte Carlo": (MonteCarlo(GAMMA), monte_carlo),
    "V-trace": (VTrace(discount=GAMMA, lam=LAM, rho_bar=RHO_BAR, c_bar=C_BAR), v_trace_advantage),
    "V-trace target": (VTraceTarget(discount=GAMMA, lam=LAM, rho_bar=RHO_BAR, c_bar=C_BAR), v_trace_target),
    "Retrace": (Retrace(**Q), q_return(lambda x, t: LAM * min(1.0, x["ratio"][t]))),
    "tree backup": (TreeBackup(**Q), q_return(lambda x, t: LAM * math.exp(x["log_prob"][t]))),
    "Q(lambda)": (QLambda(**Q), q_return(lambda x, t: LAM)),
    "Q": (QCritic(), lambda x, t: x["q"][t]),
    "earlier ratios": (EarlierRatios(MonteCarlo(GAMMA)), earlier),
    "leading discount": (LeadingDiscount(MonteCarlo(GAMMA), GAMMA), leading),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
@for_all(seed=st.integers(0, 10**6), steps=st.integers(1, 12))
@settings(deadline=None, max_examples=12)
def test_a_credit_is_the_loop_of_its_definition(name, seed, steps):
    credit, loop = LOOPS[name]
    x = block(seed, steps)
    assert torch.allclose(credit(downstream(x)), elementwise(x, loop), rtol=1e-12, atol=1e-12)


class NoCut(GAE):
    def carried(self, downstream):
        return torch.cat([torch.ones_like(super().carried(downstream)[1:]), torch.zeros(1, 3)])


class LateRatio(Retrace):
    """k_t where k_{t+1} belongs."""

    def estimate(self, downstream):
        from scg.scan import affine

        trace = self.trace(downstream) * self.carried(downstream)
        return self.value(downstream) + affine(self.discount * trace, self.error(downstream))


class NPlusOne(NStep):
    def estimate(self, downstream):
        return replace(NStep(discount=self.discount), n=self.n + 1).estimate(downstream)


TWINS = {
    "bootstraps at a termination": (GAE(discount=GAMMA, lam=LAM, terminated=None), generalised_advantage),
    "carries its trace over an end": (NoCut(discount=GAMMA, lam=LAM), generalised_advantage),
    "is off by one": (NPlusOne(discount=GAMMA, n=2), lambda x, t: n_step(x, t, min(2, remaining(x, t)))),
    "takes its own step's ratio": (LateRatio(**Q), q_return(lambda x, t: LAM * min(1.0, x["ratio"][t]))),
    "forgets the truncation of rho": (
        VTraceTarget(discount=GAMMA, lam=LAM, rho_bar=9.0, c_bar=C_BAR),
        v_trace_target,
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_wrong_twin_is_not_the_loop(name):
    credit, loop = TWINS[name]
    x = block(3)
    assert (credit(downstream(x)) - elementwise(x, loop)).abs().max() > 1e-2


def test_the_ends_of_the_family():
    """λ = 0 is one step, λ = 1 is all of them; so is V-trace on-policy; nothing recorded means ρ = 1."""
    x = block(1)
    here = downstream(x, ratio=False)
    assert torch.allclose(LambdaReturn(discount=GAMMA, lam=0.0)(here), NStep(discount=GAMMA, n=1)(here))
    assert torch.allclose(LambdaReturn(discount=GAMMA, lam=1.0)(here), NStep(discount=GAMMA, n=100)(here))
    assert torch.allclose(VTraceTarget(discount=GAMMA, lam=LAM)(here), LambdaReturn(discount=GAMMA, lam=LAM)(here))
    assert torch.allclose(EarlierRatios(MonteCarlo())(here), MonteCarlo()(here))


def test_what_a_critic_says_of_a_terminal_state_is_not_read():
    """It may be NaN there."""
    x = block(1)
    spoilt = {**x, "next_value": torch.where(x["terminated"], torch.nan, x["next_value"])}
    for credit in (GAE(), LambdaReturn(), NStep(n=3), VTrace()):
        assert torch.equal(credit(downstream(x)), credit(downstream(spoilt)))


# -- on graphs ---------------------------------------------------------------------------------------------


def transition(credit, inside):
    """One recorded transition each batch element, with or without a sequence around it."""
    graph = scg.Graph()

    def declare():
        for name in ("obs", "next_value", "terminated", "reward"):
            graph.observed(name)
        graph.deterministic(lambda obs: obs**2, name="value")
        graph.stochastic(ScoreFunction(), lambda obs, theta: Bernoulli(logits=theta * obs), name="action", credit=credit)
        graph.observed("gained", parents=["reward", "action"])
        graph.reward(lambda gained: gained, name="gain")

    if inside:
        with graph.sequence():
            declare()
    else:
        declare()
    return graph


@pytest.mark.parametrize("credit", [GAE(), LambdaReturn(lam=0.3), NStep(n=4), VTrace()], ids=repr)
def test_outside_a_sequence_a_sample_is_an_episode_of_one_step(credit):
    theta = torch.tensor(0.3, requires_grad=True)
    given = {k: torch.randn(5) for k in ("obs", "next_value", "reward", "gained")}
    given |= {"terminated": torch.tensor([True, False, True, False, False]), "action": torch.ones(5)}
    given["action.log_prob"] = torch.randn(5)
    alone = transition(credit, inside=False).replay(given, theta=theta)
    block = transition(credit, inside=True).replay({k: v.unsqueeze(0) for k, v in given.items()}, theta=theta)
    follows = torch.where(given["terminated"], 0.0, given["next_value"])
    error = -given["gained"] + credit.discount * follows - given["obs"] ** 2
    expected = error if isinstance(credit, GAE) else error + given["obs"] ** 2
    if isinstance(credit, VTrace):
        ratio = (Bernoulli(logits=0.3 * given["obs"]).log_prob(given["action"]) - given["action.log_prob"]).exp()
        expected = error * (1 / ratio).clamp(max=1.0)
    assert torch.allclose(alone.credit("action"), expected)
    assert torch.allclose(block.credit("action")[0], expected)
    ours, theirs = (torch.autograd.grad(t.surrogate(), theta)[0] for t in (alone, block))
    assert torch.allclose(ours, theirs)


def test_a_missing_node_is_named_with_what_reads_it():
    theta = torch.tensor(0.3, requires_grad=True)
    given = {k: torch.randn(5) for k in ("obs", "next_value", "reward", "gained", "terminated")} | {"action": torch.ones(5)}
    graph = transition(GAE(terminated="done"), inside=False)
    with pytest.raises(GraphError, match=r"GAE\(.*terminated='done'.*\) reads 'done', which has no value here: declare a node"):
        graph.replay(given, theta=theta).surrogate()


def test_a_critic_with_an_axis_too_many_is_refused():
    theta = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    with graph.sequence():
        for name in ("obs", "next_value", "reward"):
            graph.observed(name)
        graph.deterministic(lambda obs: obs.unsqueeze(-1), name="value", parents=["obs"])
        graph.stochastic(
            ScoreFunction(), lambda obs, theta: Bernoulli(logits=theta * obs), name="action", credit=GAE(terminated=None)
        )
        graph.reward(lambda reward, action: reward * action, name="gain")
    given = {k: torch.randn(4, 5) for k in ("obs", "next_value", "reward")} | {"action": torch.ones(4, 5)}
    with pytest.raises(GraphError, match=r"'value' of shape .*, and the costs are \(4, 5\): they would broadcast.*\n.*squeeze"):
        graph.replay(given, theta=theta).surrogate()


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"GAE\(discount=1.1\): it lies between 0 and 1"):
        GAE(discount=1.1)
    with pytest.raises(ValueError, match=r"Retrace\(lam=-0.1\): it lies between 0 and 1"):
        Retrace(lam=-0.1)
    with pytest.raises(ValueError, match=r"NStep\(n=0\): n is an integer, at least 1"):
        NStep(n=0)
    with pytest.raises(ValueError, match=r"VTrace\(rho_bar=0.0\): a truncation level is positive"):
        VTrace(rho_bar=0.0)
    with pytest.raises(ValueError, match=r"Retrace\(c_bar=0\): a truncation level is positive"):
        Retrace(c_bar=0)
    assert (GAE(discount=1.0, lam=0.0).lam, NStep(n=1).n) == (0.0, 1)


def test_any_credit_can_be_read_from_a_trace():
    """Targets for a critic, whatever the node is credited with; the costs that train other modules are left out."""
    policy, critic = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.observed("next_obs", parents=["obs", "action"])
        graph.observed("reward", parents=["obs", "action"])
        graph.deterministic(lambda obs: critic(obs).squeeze(-1), name="value")
        graph.deterministic(lambda next_obs: critic(next_obs).squeeze(-1), name="next_value")
        graph.stochastic(
            ScoreFunction(), lambda obs: Categorical(logits=policy(obs)), name="action", credit=GAE(terminated=None)
        )
        graph.reward(lambda reward: reward, name="gain", trains=policy)
        graph.cost(lambda value, reward: (value - reward) ** 2, name="regression", trains=critic)
    given = {k: torch.randn(4, 3, 2) for k in ("obs", "next_obs")} | {"reward": torch.randn(4, 3)}
    trace = graph.replay({**given, "action": torch.zeros(4, 3)})
    target = evaluate_credit(LambdaReturn(terminated=None), trace, "action")
    assert torch.allclose(target, trace.credit("action") + trace["value"]) and not target.requires_grad
    assert torch.allclose(cost_to_go(trace, "action"), -given["reward"].flip(0).cumsum(0).flip(0))
    with pytest.raises(GraphError, match="'acton' is no stochastic node of this trace. Did you mean 'action'"):
        evaluate_credit(MonteCarlo(), trace, "acton")


# -- batch leave-one-out -----------------------------------------------------------------------------------


def test_batch_leave_one_out_is_its_definition():
    x = block(2, steps=4, batch=5)
    cost_to_go = MonteCarlo(GAMMA)(downstream(x))
    others = torch.stack([torch.stack([cost_to_go[:, j] for j in range(5) if j != b]).mean(0) for b in range(5)], 1)
    assert torch.allclose(BatchLeaveOneOut(GAMMA)(downstream(x)), cost_to_go - others)


def test_batch_leave_one_out_compares_along_one_axis():
    """[prompt, answer]: the answers to a prompt are compared, not answers to different prompts."""
    theta = torch.zeros(3, 1, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta.expand(3, 4), 1.0), name="answer", credit=BatchLeaveOneOut())
    graph.cost(lambda answer: answer**2, name="c")
    trace = graph.sample(theta=theta)
    c = trace["c"]
    assert torch.allclose(trace.credit("answer"), c - (c.sum(1, keepdim=True) - c) / 3)


@pytest.mark.parametrize("axis", [-1, -2])
def test_batch_leave_one_out_refuses_a_sample_that_the_elements_share(axis):
    """Its cost-to-go would be its own baseline, and the gradient 0."""
    shape = [4, 3]
    shape[axis] = 1
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", credit=BatchLeaveOneOut(axis=axis))
    graph.cost(lambda x, n: (x + n) ** 2, name="c")
    with pytest.raises(GraphError, match=r"node 'x': .*one sample influences"):
        graph.surrogate(theta=torch.zeros(shape, requires_grad=True), n=torch.randn(4, 3))
    graph = graph.with_estimators(x=ScoreFunction())
    graph.surrogate(theta=torch.zeros(4, 3, requires_grad=True), n=torch.randn(4, 3))


def test_batch_leave_one_out_needs_two_elements():
    for shape, message in (
        ((1,), "compares at least 2 batch elements; its costs have 1"),
        ((), "that the node's distribution does not"),
    ):
        theta = torch.zeros(shape, requires_grad=True)
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x", credit=BatchLeaveOneOut())
        graph.cost(lambda x: x**2, name="c")
        with pytest.raises(GraphError, match=rf"node 'x': BatchLeaveOneOut\(.*\) .*{message}"):
            graph.surrogate(theta=theta)
    with pytest.raises(ValueError, match="counted from the right, -1 is the last"):
        BatchLeaveOneOut(axis=0)
