"""Each contract of the core on one hard case, proved by the harness.

weights      leave-one-out and enumeration, nested, in a batch, to second order
branches     a relaxed control variate that re-runs what follows on hard and relaxed samples
combine      the clipped importance ratio: the score function's gradient at ratio 1, a documented bias away from it
credit       the λ-return of a small Markov decision process: exact for every λ where the critic is
"""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

import scg
from scg import Pathwise, ScoreFunction, prev
from scg.estimators import Clipped, Enumeration, LeaveOneOut
from scg.estimators.credit import GAE, LambdaReturn
from scg.testing import assert_unbiased, check_unbiased, exact_gradient
from tests.scg.testing.mutants import Anew, cut, exchanged, given_hard, rebar


def leaf(value):
    return torch.tensor(value, requires_grad=True)


# -- weights -----------------------------------------------------------------------------------------------


def nested(top, bottom):
    """theta → k → b, both with several branches; a cost of both, a cost of each; a batch."""
    graph = scg.Graph()
    graph.stochastic(
        top, lambda theta, data: Categorical(logits=torch.stack([theta + 0 * data, data, -theta * data], -1)), name="k"
    )
    graph.stochastic(bottom, lambda k, theta: Bernoulli(logits=theta - 0.5 * k), name="b", baseline="level")
    graph.deterministic(lambda k, data: 0.3 * k + data, name="level")
    graph.cost(lambda k, b, data: (k - data) ** 2 * (1 + b), name="joint")
    graph.cost(lambda k: k.sqrt(), name="above")
    graph.cost(lambda b, theta: b * theta, name="below")
    return graph


ESTIMATORS = {"leave-one-out": LeaveOneOut(samples=3), "enumeration": Enumeration(), "score function": ScoreFunction(samples=2)}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("bottom", ESTIMATORS)
@pytest.mark.parametrize("top", ESTIMATORS)
def test_weights_of_nested_branches(top, bottom, order):
    given = {"theta": leaf(0.4), "data": torch.tensor([0.3, -1.1])}
    assert_unbiased(nested(ESTIMATORS[top], ESTIMATORS[bottom]), given, order=order, detectable=0.1)


# -- branches that re-run what follows ---------------------------------------------------------------------


def relaxed(estimator):
    """What follows the relaxed bit is drawn anew for each branch: a real sample by its path, a bit by its score."""
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta, data: Bernoulli(logits=theta + data), name="z")
    graph.stochastic(Pathwise(), lambda z, theta: Normal(z * theta, 1.0), name="x")
    graph.stochastic(ScoreFunction(), lambda z, x: Bernoulli(logits=2 * z - x), name="y")
    graph.cost(lambda z, x, y: (1 + z) ** 2 * (y + 0.2) + x.sin(), name="loss")
    return graph


GIVEN = {"theta": 0.7, "data": [0.3, -0.9]}


def given():
    return {"theta": leaf(GIVEN["theta"]), "data": torch.tensor(GIVEN["data"])}


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_relaxed_control_variate_is_unbiased_for_any_strength(eta):
    assert_unbiased(relaxed(Anew("rebar", rebar(given_hard, eta=eta))), given())


def test_a_relaxed_control_variate_is_unbiased_at_second_order():
    assert_unbiased(relaxed(Anew("rebar", rebar(given_hard, temperature=1.0))), given(), order=2, detectable=0.1)


@pytest.mark.parametrize("wrong", [exchanged, cut], ids=lambda f: f.__name__)
def test_its_wrong_twin_is_caught_and_named(wrong):
    report = check_unbiased(relaxed(Anew("rebar", rebar(wrong))), given())
    assert report.verdict == "biased"
    assert [c.node for c in report.culprits] == ["z"]


def test_it_takes_a_constant_cost_out_of_the_noise():
    spreads = {}
    for eta in (0.0, 1.0):
        graph = scg.Graph()
        graph.stochastic(Anew("rebar", rebar(given_hard, eta=eta)), lambda theta: Bernoulli(logits=theta), name="z")
        graph.cost(lambda z: 4 + 2 * z, name="loss")
        report = assert_unbiased(graph, {"theta": leaf(0.4)})
        spreads[eta] = report.rows[0].se * report.draws**0.5
    assert spreads[1.0] < 0.3 * spreads[0.0]


# -- combine -----------------------------------------------------------------------------------------------


def bandit(estimator, cost):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="a", credit="loss")
    graph.cost(lambda a: cost(a), name="loss")
    return graph


def recorded(mu):
    policy = Bernoulli(probs=mu)

    def draw():
        a = policy.sample((64,))
        return {"a": a, "a.log_prob": policy.log_prob(a)}

    return draw


def costs(a):
    return 3.0 * a - 1.0  # −1 or 2: the pessimistic choice differs


def policies(theta=0.4):
    """A behaviour policy equal to the present one, and one that is far from it."""
    p = 1 / (1 + math.exp(-theta))
    return p, {"on": p, "off": 0.72}


@pytest.mark.parametrize("a", [0.0, 1.0])
def test_at_ratio_one_the_clipped_gradient_is_the_score_functions(a):
    p, _ = policies()
    gradients = []
    for estimator in (Clipped(0.2), ScoreFunction()):
        theta = leaf(0.4)
        value = torch.tensor([a])
        given = {"a": value, "a.log_prob": Bernoulli(probs=p).log_prob(value)}
        bandit(estimator, costs).replay(given, theta=theta).surrogate().backward()
        gradients.append(theta.grad.item())
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-12)
    assert gradients[1] == pytest.approx(costs(a) * (a - p))


def clipped_mean(theta, mu, clip):
    """E_μ[ ∇ max(r A, clip(r) A) ], by hand: the gradient r A ∇log π survives unless clipping is what is dearer."""
    p, total = 1 / (1 + math.exp(-theta)), 0.0
    for a, pi, recorded_with in ((0.0, 1 - p, 1 - mu), (1.0, p, mu)):
        r, cost = pi / recorded_with, costs(a)
        kept = r * cost >= min(max(r, 1 - clip), 1 + clip) * cost
        total += recorded_with * kept * r * cost * (a - p)
    return torch.tensor([total]).sum()


def test_the_clipped_ratio_is_unbiased_on_policy_and_has_its_documented_mean_off_it():
    _, by_name = policies()
    for name, mu in by_name.items():
        graph, theta = bandit(Clipped(0.2), costs), {"theta": leaf(0.4)}
        on_paper = clipped_mean(0.4, mu, 0.2)
        settings = {"given": recorded(mu), "detectable": 0.1, "localise": False}
        assert check_unbiased(graph, theta, oracle=on_paper, **settings).verdict == "unbiased"
        truth = check_unbiased(graph, theta, **settings).verdict
        assert truth == ("unbiased" if name == "on" else "biased")
        plain = graph.with_estimators(a=ScoreFunction())
        assert check_unbiased(plain, theta, **settings).verdict == "unbiased"


# -- credit ------------------------------------------------------------------------------------------------

STEPS = 3
TRANSITION = torch.tensor([[0.2, 0.9], [0.6, 0.3]], dtype=torch.float64)  # P(next state 1 | state, action)
COST = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)


def values(theta):
    """V_t(s) of the policy π(1|s) = σ(θ_s), by dynamic programming; V_T = 0."""
    policy = torch.sigmoid(theta.detach())
    table = [torch.zeros(2, dtype=torch.float64)]
    for _ in range(STEPS):
        q = COST + (1 - TRANSITION) * table[0][0] + TRANSITION * table[0][1]
        table.insert(0, (1 - policy) * q[:, 0] + policy * q[:, 1])
    return torch.stack(table)


def process(credit):
    graph = scg.Graph()
    with graph.sequence():
        graph.deterministic(lambda t: t + 1.0, name="clock", parents=[prev("clock", init="before")])
        graph.deterministic(lambda s: s, name="s", parents=[prev("next_s", init="s0")])
        graph.stochastic(ScoreFunction(), lambda theta, s: Bernoulli(logits=theta[s.long()]), name="a", credit=credit)
        graph.stochastic(ScoreFunction(), lambda s, a: Bernoulli(probs=TRANSITION[s.long(), a.long()]), name="next_s")
        graph.cost(lambda s, a: COST[s.long(), a.long()], name="cost")
        graph.deterministic(lambda clock, s, table: table[clock.long(), s.long()], name="value")
        graph.deterministic(lambda clock, next_s, table: table[clock.long() + 1, next_s.long()], name="next_value")
        graph.deterministic(lambda clock: (clock >= STEPS - 1).double(), name="terminated")
    return graph


def start(theta, table):
    return {"theta": theta, "table": table, "before": torch.tensor(-1.0), "s0": torch.tensor(0.0)}


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("credit", [GAE, LambdaReturn], ids=lambda c: c.__name__)
def test_the_lambda_return_of_an_exact_critic_gives_the_exact_gradient(credit, lam):
    theta = leaf([0.4, -0.6])
    graph = process(credit(discount=1.0, lam=lam))
    report = assert_unbiased(graph, start(theta, values(theta)), wrt="theta", steps=STEPS)
    assert report.rows[0].oracle == "enumeration"


def test_a_wrong_critic_biases_the_lambda_return_unless_lambda_is_one():
    theta = leaf([0.4, -0.6])
    wrong = values(theta) + torch.tensor([[0.0, 1.5], [1.0, -2.0], [0.0, 2.0], [0.0, 0.0]])
    for lam, verdict in ((0.0, "biased"), (0.7, "biased"), (1.0, "unbiased")):
        report = check_unbiased(process(GAE(discount=1.0, lam=lam)), start(theta, wrong), wrt="theta", steps=STEPS)
        assert report.verdict == verdict, report
        if verdict == "biased":
            assert [(c.node, "credit" in c.what) for c in report.culprits] == [("a", True)]


def test_the_process_is_what_dynamic_programming_says():
    """The oracle's gradient is that of V_0(s0), differentiated through the recursion."""
    theta = leaf([0.4, -0.6])
    policy, table = torch.sigmoid(theta), torch.zeros(2)
    for _ in range(STEPS):
        q = COST + (1 - TRANSITION) * table[0] + TRANSITION * table[1]
        table = (1 - policy) * q[:, 0] + policy * q[:, 1]
    (truth,) = torch.autograd.grad(table[0], theta)
    found = exact_gradient(process(None), start(theta, values(theta)), wrt="theta", steps=STEPS)["theta"]
    assert torch.allclose(found, truth, rtol=1e-12)
