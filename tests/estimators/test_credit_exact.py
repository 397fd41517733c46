"""Credits against exact gradients: every outcome of a small decision process, weighed with its probability.

A block of T steps holds several episodes: they terminate by chance, are cut at a fixed step, and start again. All its
outcomes lie in one batch, each with a copy of the policy's logits for its own gradient, so one replay gives the mean
and the variance of an estimator with no sampling noise. The truth is solved as a linear system.
"""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical

import scg
from scg import detach, dist, prev
from scg.credit import Credit
from scg.estimators import Clipped, ScoreFunction
from scg.estimators.credit import (
    GAE,
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
    evaluate_credit,
)
from tests.exact import derivatives, expectation, mean_surrogate, outcomes

STATES, ACTIONS = 2, 2
COST = torch.tensor([[1.0, -0.4], [0.3, 2.0]], dtype=torch.float64)
MOVES = torch.tensor([[0.8, 0.3], [0.4, 0.1]], dtype=torch.float64)  # P(s' = 0 | s, a)
STOPS = torch.tensor([[0.2, 0.3], [0.5, 0.1]], dtype=torch.float64)  # P(terminated | s, a)
START = torch.tensor([0.6, 0.4], dtype=torch.float64)
LOGITS = torch.tensor([[0.3, -0.5], [-0.2, 0.4]], dtype=torch.float64)
BEHAVIOUR = torch.tensor([[-0.6, 0.5], [0.3, -0.1]], dtype=torch.float64)


def moves(s, a):
    return torch.stack([MOVES[s, a], 1 - MOVES[s, a]], -1)


def solve(policy, discount):
    """V and Q of `policy [S, A]`: Q = c + γ (1 − stop) P V, V = Σ_a π Q."""
    index = torch.cartesian_prod(torch.arange(STATES), torch.arange(ACTIONS))
    onward = ((1 - STOPS)[index[:, 0], index[:, 1]].unsqueeze(-1) * moves(index[:, 0], index[:, 1])).view(
        STATES, ACTIONS, STATES
    )
    step = torch.einsum("sa,san->sn", policy, onward)
    v = torch.linalg.solve(torch.eye(STATES) - discount * step, (policy * COST).sum(1))
    return v, COST + discount * onward @ v


class World:
    """Every outcome of a block under `behaviour`, as one batch. `cut`: the step after which the record is cut."""

    def __init__(self, steps=3, cut=1, behaviour=LOGITS):
        self.steps, self.cut, self.behaviour = steps, cut, behaviour.softmax(-1)
        keys = ("obs", "action", "terminated", "next_obs", "first")
        self.rows = {k: [] for k in keys}
        self.p = []
        for s in range(STATES):
            self._grow([], s, True, float(START[s]))
        self.given = {k: torch.tensor(v).T.contiguous() for k, v in self.rows.items()}
        self.given["first"], self.given["terminated"] = self.given["first"].bool(), self.given["terminated"].bool()
        self.given["cost"] = COST[self.given["obs"], self.given["action"]]
        self.p = torch.tensor(self.p)
        assert torch.isclose(self.p.sum(), torch.tensor(1.0))

    def _grow(self, path, s, first, p):
        t = len(path)
        if t == self.steps:
            for i, key in enumerate(self.rows):
                self.rows[key].append([step[i] for step in path])
            self.p.append(p)
            return
        for a in range(ACTIONS):
            pa, stop = p * float(self.behaviour[s, a]), float(STOPS[s, a])
            for following in range(STATES):
                here = (1 - stop) * float(moves(s, a)[following])
                if t == self.steps - 1:
                    self._grow([*path, (s, a, 0, following, first)], 0, False, pa * here)
                elif t == self.cut:  # the record starts again, what followed is only in next_obs
                    for fresh in range(STATES):
                        self._grow([*path, (s, a, 0, following, first)], fresh, True, pa * here * float(START[fresh]))
                else:
                    self._grow([*path, (s, a, 0, following, first)], following, False, pa * here)
            for fresh in range(STATES) if t < self.steps - 1 else [0]:
                again = float(START[fresh]) if t < self.steps - 1 else 1.0
                self._grow([*path, (s, a, 1, 0, first)], fresh, True, pa * stop * again)

    def visits(self):
        """P(s_t = s) at every step of the block, `[time, S]`."""
        return torch.stack(
            [torch.stack([self.p[self.given["obs"][t] == s].sum() for s in range(STATES)]) for t in range(self.steps)]
        )


def agent(credit, tables, world, estimator=None, baseline=None, boundaries=True):
    """A policy of logits, critics from tables; `theta [N, S, A]` has a copy for each outcome."""
    graph = scg.Graph()
    with graph.sequence(**({"first": "first"} if boundaries else {})):
        graph.observed("first")
        graph.observed("terminated", parents=["obs", "action"])
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.observed("next_obs", parents=["obs", "action"])
        graph.observed("cost", parents=["obs", "action"])
        for name, (table, *parents) in tables.items():
            graph.deterministic(lambda *index, table=table: table[index], name=name, parents=parents)
        graph.stochastic(
            estimator or ScoreFunction(),
            lambda obs, theta: Categorical(logits=theta[torch.arange(theta.shape[0]), obs]),
            name="action",
            credit=credit,
            baseline=baseline,
        )
        graph.deterministic(lambda pi, a: pi.log_prob(a), name="log_prob", parents=[detach(dist("action")), "action"])
        graph.cost(lambda cost: cost, name="c")
    return graph


def tables(v, q=None, ev=None):
    found = {"value": (v, "obs"), "next_value": (v, "next_obs")}
    if q is not None:
        found["q"] = (q, "obs", "action")
    if ev is not None:
        found |= {"expected": (ev, "obs"), "next_expected": (ev, "next_obs")}
    return found


def gradients(graph, world, logits=LOGITS, **extra):
    """The mean over all outcomes of the gradient, `[S, A]`, and its total variance."""
    n = world.p.numel()
    theta = logits.expand(n, STATES, ACTIONS).clone().requires_grad_()
    trace = graph.replay({**world.given, **extra}, theta=theta)
    each = torch.autograd.grad(trace.surrogate() * n, theta)[0]
    mean = torch.einsum("n,nsa->sa", world.p, each)
    return mean, float(torch.einsum("n,nsa->", world.p, (each - mean) ** 2))


def policy_gradient(world, q, logits=LOGITS):
    """Σ_t Σ_s P(s_t = s) Σ_a ∇π(a|s) Q(s, a)."""
    theta = logits.clone().requires_grad_()
    total = (world.visits().sum(0).unsqueeze(-1) * theta.softmax(-1) * q).sum()
    return torch.autograd.grad(total, theta)[0]


def same(a, b):
    return torch.allclose(a, b, rtol=0, atol=1e-10)


GAMMA = 0.9
ON_POLICY = {
    **{f"GAE({lam})": GAE(discount=GAMMA, lam=lam) for lam in (0.0, 0.5, 0.95, 1.0)},
    **{f"lambda-return({lam})": LambdaReturn(discount=GAMMA, lam=lam) for lam in (0.0, 0.7, 1.0)},
    **{f"{n}-step": NStep(discount=GAMMA, n=n) for n in (1, 2, 3, 7)},
    "Q": QCritic("q"),
    **{f"V-trace({lam})": VTrace(discount=GAMMA, lam=lam) for lam in (0.0, 0.6, 1.0)},
    **{f"Retrace({lam})": Retrace(discount=GAMMA, lam=lam, next_critic="next_expected") for lam in (0.0, 0.6, 1.0)},
    "tree backup": TreeBackup(discount=GAMMA, lam=0.8, next_critic="next_expected"),
    "Q(lambda)": QLambda(discount=GAMMA, lam=0.8, next_critic="next_expected"),
}


@pytest.mark.parametrize("name", ON_POLICY)
def test_with_an_exact_critic_every_credit_has_the_exact_gradient(name):
    """Through terminations, a truncation and the block's end, for every λ and n."""
    world = World(steps=4)
    v, q = solve(LOGITS.softmax(-1), GAMMA)
    mean, _ = gradients(agent(ON_POLICY[name], tables(v, q, v), world), world)
    assert same(mean, policy_gradient(world, q))


@pytest.mark.parametrize("name", ["lambda-return(0.7)", "2-step", "Q", "Retrace(0.6)"])
def test_a_baseline_beside_a_credit_lowers_the_variance_and_not_the_mean(name):
    world = World()
    v, q = solve(LOGITS.softmax(-1), GAMMA)
    plain, noise = gradients(agent(ON_POLICY[name], tables(v, q, v), world), world)
    less, quieter = gradients(agent(ON_POLICY[name], tables(v, q, v), world, baseline="value"), world)
    assert same(plain, less)
    assert quieter < 0.9 * noise


def test_an_exact_critic_is_quieter_than_what_it_stands_in_for():
    """Costs to the end (λ = 1), one step of them, none: each time less of what chance does later."""
    world = World(steps=4)
    v, q = solve(LOGITS.softmax(-1), GAMMA)
    noise = [gradients(agent(GAE(discount=GAMMA, lam=lam), tables(v), world), world)[1] for lam in (1.0, 0.0)]
    q_noise = gradients(agent(QCritic("q"), tables(v, q), world, baseline="value"), world)[1]
    assert q_noise < 0.9 * noise[1] < 0.9 * 0.9 * noise[0]


class WithoutTruncation(GAE):
    """A biased twin: it takes a cut for an end, and bootstraps from nothing there."""

    def following(self, downstream):
        return super().following(downstream) * self.carried(downstream)


class OffByOne(GAE):
    """A biased twin: V(s_t) where V(s_{t+1}) belongs."""

    def following(self, downstream):
        return self.value(downstream)


class OwnStepTwice(QLambda):
    """A biased twin: it weighs a step's own ratio into its return where the next step's belongs."""

    def estimate(self, downstream):
        from scg.scan import affine

        rho = torch.ones_like(self.value(downstream)) if downstream.ratio is None else downstream.ratio
        trace = self.lam * rho * self.carried(downstream)
        return self.value(downstream) + affine(self.discount * trace, rho * self.error(downstream)) * rho


TWINS = {
    "bootstraps at a termination": GAE(discount=GAMMA, lam=0.5, terminated=None),
    "takes a truncation for a termination": WithoutTruncation(discount=GAMMA, lam=0.5),
    "is off by one": OffByOne(discount=GAMMA, lam=0.5),
    "sees the costs of the block only": MonteCarlo(GAMMA),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_biased_twin_is_caught(name):
    world = World(steps=4)
    v, q = solve(LOGITS.softmax(-1), GAMMA)
    mean, _ = gradients(agent(TWINS[name], tables(v, q), world), world)
    assert (mean - policy_gradient(world, q)).abs().max() > 1e-3


def test_a_trace_does_not_cross_an_episode_when_nothing_but_termination_says_so():
    """Without `first` a termination still cuts the trace; with it the numbers are the same where only it cuts."""
    world = World(steps=3, cut=None)
    v, _ = solve(LOGITS.softmax(-1), GAMMA)
    wrong = v + torch.tensor([0.7, -0.3])
    for credit in (GAE(discount=GAMMA), NStep(discount=GAMMA, n=2), VTrace(discount=GAMMA)):
        with_flags, _ = gradients(agent(credit, tables(wrong), world), world)
        without, _ = gradients(agent(credit, tables(wrong), world, boundaries=False), world)
        assert same(with_flags, without)


# -- off-policy --------------------------------------------------------------------------------------------


def recorded(world):
    return {"action.log_prob": world.behaviour.log()[world.given["obs"], world.given["action"]]}


OFF_POLICY = {
    **{
        f"V-trace({lam})": VTrace(discount=GAMMA, lam=lam, rho_bar=1e6, c_bar=c)
        for lam, c in ((0.0, 1.0), (0.6, 1.0), (1.0, 1e6))
    },
    **{f"Retrace({lam})": Retrace(discount=GAMMA, lam=lam, next_critic="next_expected") for lam in (0.0, 0.6, 1.0)},
    "tree backup": TreeBackup(discount=GAMMA, lam=0.8, next_critic="next_expected"),
    "Q(lambda)": QLambda(discount=GAMMA, lam=0.8, next_critic="next_expected"),
    "Q": QCritic("q"),
    "1-step": NStep(discount=GAMMA, n=1),
}


@pytest.mark.parametrize("name", OFF_POLICY)
def test_off_policy_with_an_exact_critic_the_gradient_at_the_visited_states_is_exact(name):
    """E_μ[Σ_t ρ_t K_t ∇log π] = Σ_t Σ_s P_μ(s_t) Σ_a ∇π(a|s) Q^π(s, a): Degris et al. (2012)."""
    world = World(behaviour=BEHAVIOUR)
    v, q = solve(LOGITS.softmax(-1), GAMMA)
    mean, _ = gradients(agent(OFF_POLICY[name], tables(v, q, v), world), world, **recorded(world))
    assert same(mean, policy_gradient(world, q))


@pytest.mark.parametrize("credit", [GAE(discount=GAMMA, lam=1.0), NStep(discount=GAMMA, n=3)])
def test_returns_without_ratios_are_biased_off_policy_only_through_later_critics(credit):
    """Later steps follow μ: with an exact critic of π their errors have not mean zero under μ."""
    world = World(behaviour=BEHAVIOUR)
    v, q = solve(LOGITS.softmax(-1), GAMMA)
    mean, _ = gradients(agent(credit, tables(v, q), world), world, **recorded(world))
    assert (mean - policy_gradient(world, q)).abs().max() > 1e-3


def test_truncating_rho_biases_v_trace_as_documented():
    """The critic's fixed point is V of the policy ∝ min(ρ̄ μ, π), for every c̄ and λ; it is not V^π."""
    world = World(behaviour=BEHAVIOUR)
    pi, mu = LOGITS.softmax(-1), BEHAVIOUR.softmax(-1)
    between = torch.minimum(1.1 * mu, pi)
    between = between / between.sum(1, keepdim=True)
    v_between, _ = solve(between, GAMMA)
    v, q = solve(pi, GAMMA)
    assert (v - v_between).abs().max() > 1e-2
    for lam, c_bar in ((1.0, 1.0), (0.6, 1e6), (1.0, 0.5)):
        for critic, unbiased in ((v_between, True), (v, False)):
            credit = VTraceTarget(discount=GAMMA, lam=lam, rho_bar=1.1, c_bar=c_bar)
            n = world.p.numel()
            theta = LOGITS.expand(n, STATES, ACTIONS).clone().requires_grad_()
            trace = agent(credit, tables(critic), world).replay({**world.given, **recorded(world)}, theta=theta)
            target = evaluate_credit(credit, trace, "action")
            for t in range(world.steps):
                for s in range(STATES):
                    here = world.p * (world.given["obs"][t] == s)
                    mean = (here * target[t]).sum() / here.sum()
                    assert (abs(mean - critic[s]) < 1e-10) if unbiased else (abs(mean - critic[s]) > 1e-3)
    truncated, _ = gradients(agent(VTrace(discount=GAMMA, rho_bar=1.1), tables(v), world), world, **recorded(world))
    assert (truncated - policy_gradient(world, q)).abs().max() > 1e-3


def test_v_trace_truncates_the_weight_of_its_own_step():
    """ρ_t A_t ∇log π with ρ_t = min(ρ̄, π/μ), outcome by outcome; inf leaves π/μ to the estimator."""
    world = World(behaviour=BEHAVIOUR)
    v, _ = solve(LOGITS.softmax(-1), GAMMA)
    given = {**world.given, **recorded(world)}
    n = world.p.numel()
    theta = LOGITS.expand(n, STATES, ACTIONS).clone().requires_grad_()
    cut, whole = (VTrace(discount=GAMMA, rho_bar=1.1, rho_bar_gradient=bar) for bar in (None, float("inf")))
    trace = agent(cut, tables(v), world).replay(given, theta=theta)
    log_prob = LOGITS.log_softmax(-1)[given["obs"], given["action"]]
    rho = (log_prob - given["action.log_prob"]).exp()
    assert (rho > 1.1).any() and (rho < 1.1).any()
    assert torch.allclose(
        rho * evaluate_credit(cut, trace, "action"), rho.clamp(max=1.1) * evaluate_credit(whole, trace, "action")
    )
    clipped = agent(whole, tables(v), world, estimator=Clipped(0.2)).replay(given, theta=theta)
    live = theta.log_softmax(-1)[torch.arange(n), given["obs"], given["action"]]
    r, credit = (live - given["action.log_prob"]).exp(), evaluate_credit(whole, trace, "action")
    pessimistic = torch.maximum(r * credit, r.clamp(0.8, 1.2) * credit).sum(0).mean()
    ours, expected = (torch.autograd.grad(loss, theta)[0] for loss in (clipped.surrogate(), pessimistic))
    assert torch.allclose(ours, expected)


class Episodes(World):
    """Blocks in which every episode ends: the last step always terminates, nothing is cut."""

    def _grow(self, path, s, first, p):
        if len(path) == self.steps:
            for i, key in enumerate(self.rows):
                self.rows[key].append([step[i] for step in path])
            self.p.append(p)
            return
        last = len(path) == self.steps - 1
        for a in range(ACTIONS):
            pa = p * float(self.behaviour[s, a])
            for following in [0] if last else range(STATES):
                here = 1.0 if last else float(moves(s, a)[following])
                self._grow([*path, (s, a, int(last), following, first)], following, False, pa * here)


def finite_horizon(policy, steps, discount):
    """V and Q of each step, `[time, S]` and `[time, S, A]`."""
    v, found = torch.zeros(STATES), []
    for _ in range(steps):
        q = COST + discount * (MOVES * v[0] + (1 - MOVES) * v[1])
        v = (policy * q).sum(1)
        found.append((v, q))
    return [torch.stack(x) for x in zip(*reversed(found), strict=True)]


WRONG = torch.tensor([1.3, -0.8], dtype=torch.float64)
WRONG_Q = torch.tensor([[0.5, -1.0], [2.0, 0.1]], dtype=torch.float64)


def wrong_tables(logits=LOGITS):
    """Critics with no truth in them; E_π Q is that of the wrong Q, as it has to be."""
    return tables(WRONG, WRONG_Q, (logits.softmax(-1) * WRONG_Q).sum(1))


FULL = {
    "V-trace": VTrace(discount=GAMMA, rho_bar=1e6, c_bar=1e6),
    "Retrace": Retrace(discount=GAMMA, c_bar=1e6, next_critic="next_expected"),
}
TRUNCATED = {
    "V-trace": VTrace(discount=GAMMA, rho_bar=1e6, c_bar=1.0),
    "Retrace": Retrace(discount=GAMMA, next_critic="next_expected"),
    "Retrace(0.5)": Retrace(discount=GAMMA, lam=0.5, c_bar=1e6, next_critic="next_expected"),
    "Q(lambda)": QLambda(discount=GAMMA, next_critic="next_expected"),
    "tree backup": TreeBackup(discount=GAMMA, next_critic="next_expected"),
    "own step's ratio": OwnStepTwice(discount=GAMMA, next_critic="next_expected"),
}


def semi_gradient(world, discount):
    _, q = finite_horizon(LOGITS.softmax(-1), world.steps, discount)
    theta = LOGITS.clone().requires_grad_()
    return torch.autograd.grad((world.visits().unsqueeze(-1) * theta.softmax(-1) * q).sum(), theta)[0]


@pytest.mark.parametrize("name", FULL)
def test_full_ratios_need_no_critic(name):
    """λ = 1 and no truncation: whatever the critic says cancels out, where every episode is seen to its end."""
    world = Episodes(behaviour=BEHAVIOUR)
    mean, _ = gradients(agent(FULL[name], wrong_tables(), world), world, **recorded(world))
    assert same(mean, semi_gradient(world, GAMMA))


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_ratios_lean_on_the_critic(name):
    world = Episodes(behaviour=BEHAVIOUR)
    mean, _ = gradients(agent(TRUNCATED[name], wrong_tables(), world), world, **recorded(world))
    assert (mean - semi_gradient(world, GAMMA)).abs().max() > 1e-3


def objective_gradient(steps, discount):
    """∇ E[Σ_t γ^t c_t], by autograd through the backward recursion."""
    theta = LOGITS.clone().requires_grad_()
    v, _ = finite_horizon(theta.softmax(-1), steps, discount)
    return torch.autograd.grad((START * v[0]).sum(), theta)[0]


@pytest.mark.parametrize("name", FULL)
def test_earlier_ratios_and_the_leading_discount_make_it_the_gradient_of_the_objective(name):
    """∇E_π[Σ γ^t c_t] from μ's record and a wrong critic: nothing is left out any more."""
    world = Episodes(behaviour=BEHAVIOUR)
    exact = objective_gradient(world.steps, GAMMA)
    whole = LeadingDiscount(EarlierRatios(FULL[name]), GAMMA)
    mean, _ = gradients(agent(whole, wrong_tables(), world), world, **recorded(world))
    assert same(mean, exact)
    for part in (EarlierRatios(FULL[name]), LeadingDiscount(FULL[name], GAMMA)):
        mean, _ = gradients(agent(part, wrong_tables(), world), world, **recorded(world))
        assert (mean - exact).abs().max() > 1e-3
    assert whole.critics == FULL[name].critics


def test_on_policy_the_leading_discount_is_all_that_is_missing():
    world = Episodes()
    mean, _ = gradients(agent(LeadingDiscount(MonteCarlo(GAMMA), GAMMA), {}, world), world)
    assert same(mean, objective_gradient(world.steps, GAMMA))
    undiscounted, _ = gradients(agent(MonteCarlo(1.0), {}, world), world)
    assert same(undiscounted, objective_gradient(world.steps, 1.0))


# -- without any theory of decision processes --------------------------------------------------------------


@pytest.mark.parametrize(
    "credit",
    [
        *[GAE(discount=1.0, lam=lam, terminated=None) for lam in (0.0, 0.4, 1.0)],
        *[LambdaReturn(discount=1.0, lam=lam, terminated=None) for lam in (0.0, 1.0)],
        *[NStep(discount=1.0, n=n, terminated=None) for n in (1, 2, 3)],
    ],
    ids=repr,
)
def test_a_process_that_never_terminates_has_the_gradient_of_its_expectation(credit):
    """No `terminated`, no `first`: a critic of what is left at each step, 0 beyond the last; the truth is a plain sum."""
    steps, bits = 3, [0.0, 1.0]
    theta = torch.tensor([0.5, -0.7], requires_grad=True)

    def build(credit, v):
        graph = scg.Graph()
        with graph.sequence():
            graph.observed("t")
            graph.stochastic(
                ScoreFunction(),
                lambda s, a: Bernoulli(probs=0.2 + 0.3 * s + 0.4 * a),
                name="s",
                parents=[prev("s", init="s0"), prev("a", init="a0")],
            )
            graph.stochastic(
                ScoreFunction(), lambda s, theta: Bernoulli(logits=theta[0] * s + theta[1]), name="a", credit=credit
            )
            graph.cost(lambda s, a: (s - 0.6) ** 2 + 0.5 * a * s, name="c")
            if v is not None:
                graph.deterministic(lambda t, s: v[t.long(), s.long()], name="value")
                # E[V(s_{t+1}) | s_t, a_t] is a bootstrap as good as V(s_{t+1}): the process' own expectation of it
                graph.deterministic(
                    lambda t, s, a: (
                        (0.2 + 0.3 * s + 0.4 * a) * v[t.long() + 1, 1] + (0.8 - 0.3 * s - 0.4 * a) * v[t.long() + 1, 0]
                    ),
                    name="next_value",
                )
        return graph

    v = torch.zeros(steps + 1, 2)
    pi = torch.sigmoid(theta[0] * torch.tensor(bits) + theta[1]).detach()
    for t in reversed(range(steps)):
        for s in (0, 1):
            for a, p in ((0, 1 - pi[s]), (1, pi[s])):
                up = 0.2 + 0.3 * s + 0.4 * a
                v[t, s] += p * ((s - 0.6) ** 2 + 0.5 * a * s + up * v[t + 1, 1] + (1 - up) * v[t + 1, 0])
    every = list(outcomes({"s": bits, "a": bits}, {"s": (steps,), "a": (steps,)}))
    given, inputs = {"t": torch.arange(steps)}, {"theta": theta, "s0": torch.tensor(1.0), "a0": torch.tensor(0.0)}
    exact = derivatives(expectation(build(None, None), every, given, **inputs), [theta], order=1)
    ours = derivatives(mean_surrogate(build(credit, v), every, given, **inputs), [theta], order=1)
    assert torch.allclose(ours[1], exact[1], rtol=0, atol=1e-10)


def test_a_credited_update_compiles_in_one_piece():
    world = World(behaviour=BEHAVIOUR)
    v, _ = solve(LOGITS.softmax(-1), GAMMA)
    given = {**world.given, **recorded(world)}
    theta = LOGITS.expand(world.p.numel(), STATES, ACTIONS).clone().requires_grad_()
    for credit in (LeadingDiscount(EarlierRatios(VTrace(discount=GAMMA, lam=0.7)), GAMMA), NStep(discount=GAMMA, n=2)):
        graph = agent(credit, tables(v), world)
        eager = torch.autograd.grad(graph.replay(given, theta=theta).surrogate(), theta)[0]
        whole = torch.compile(
            lambda g, t, graph=graph: graph.replay(g, theta=t).surrogate(), fullgraph=True, backend="aot_eager"
        )
        assert torch.allclose(torch.autograd.grad(whole(given, theta), theta)[0], eager)


def test_credits_survive_being_handed_to_shuffled_pairs():
    """Computed once on the block; the pairs ask for no order of time any more."""
    world = World(behaviour=BEHAVIOUR)
    v, _ = solve(LOGITS.softmax(-1), GAMMA)
    graph = scg.Graph()
    theta = LOGITS.clone().requires_grad_()
    with graph.sequence(first="first"):
        for name in ("first", "terminated"):
            graph.observed(name)
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.observed("next_obs", parents=["obs", "action"])
        graph.observed("cost", parents=["obs", "action"])
        for name, (table, *parents) in tables(v).items():
            graph.deterministic(lambda *index, table=table: table[index], name=name, parents=parents)
        graph.stochastic(
            ScoreFunction(),
            lambda obs, theta: Categorical(logits=theta[obs]),
            name="action",
            credit=VTrace(discount=GAMMA, lam=0.7),
        )
        graph.cost(lambda cost: cost, name="c")
    trace = graph.replay({**world.given, **recorded(world)}, theta=theta)
    whole = torch.autograd.grad(trace.surrogate(), theta)[0]
    count = trace["c"].numel()
    parts = torch.zeros_like(whole)
    for index in torch.randperm(count).split(count // 4):
        part = graph.replay(trace.pairs(index), theta=theta).surrogate()
        parts += torch.autograd.grad(part, theta)[0] * len(index) / world.p.numel()
    assert torch.allclose(whole, parts)


def test_every_credit_says_which_critics_it_leans_on():
    assert [c.critics for c in (GAE(), NStep(), VTrace(), Retrace(), QCritic("f"), MonteCarlo())] == [
        ("value",), ("value",), ("value",), ("q",), (), (),
    ]  # fmt: skip
    assert QCritic("f").q_critics == ("f",)
    assert EarlierRatios(GAE()).critics == LeadingDiscount(GAE()).critics == ("value",)
    assert isinstance(GAE(), Credit)
