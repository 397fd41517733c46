"""What language models' losses are made of, as settings of estimator, credit and costs: mean gradients over all groups of answers.

The policy is a table with a row for each prefix, so that one replay holds every pair of answers, each with a policy of its own.
What is expected is written out by hand, per pair, from log-probabilities; each has a twin that is biased and is seen to be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

import scg
from scg import ScoreFunction, detach, dist, prefix
from scg.estimators import Clipped, TruncatedRatio
from scg.estimators.credit import (
    Aggregated,
    BatchLeaveOneOut,
    EarlierRatios,
    GroupRelative,
    MonteCarlo,
    Without,
)
from scg.estimators.divergence import exact, k1, k2, k3

V, T, END = 3, 2, 2
PREFIXES = 1 + V  # the empty one, and those of one token
REWARD = torch.tensor([[0.3, -0.8, 0.9], [1.1, 0.2, -0.4], [0.7, 0.7, 0.7]], dtype=torch.float64)  # [first, second]


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def tables() -> tuple[Tensor, Tensor, Tensor]:
    """Logits `[prefix, token]` of the policy, of the recording one, and of the reference."""
    g = torch.Generator().manual_seed(5)
    return tuple(torch.randn(PREFIXES, V, generator=g) for _ in range(3))  # type: ignore[return-value]


ANSWERS = torch.tensor(
    [a for a in itertools.product(range(V), repeat=T) if a[0] != END or a[1] == 0]
)  # [7, time], padded with 0
LENGTH = torch.where(ANSWERS[:, 0] == END, 1, 2)
FIRST, SECOND = (i.reshape(-1) for i in torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij"))
PAIRS = torch.stack([FIRST, SECOND], -1)  # [49, 2] all groups of two answers
TOKENS = ANSWERS[PAIRS].movedim(-1, 0)  # [time, 49, 2]


def read(token: Tensor, theta: Tensor) -> Tensor:
    """Logits at all positions of a prefix that begins with one opening token; after END the certainty of 0."""
    row = torch.cat([torch.zeros_like(token[..., :1]), token[..., 1:] + 1], -1)
    spread = theta.expand(*torch.broadcast_shapes(row.shape[:-1], theta.shape[:-2]), *theta.shape[-2:])
    logits = spread.gather(-2, row.unsqueeze(-1).expand(*row.shape, V))
    over = ((token == END) & (torch.arange(token.shape[-1]) > 0)).long().cumsum(-1) > 0
    return torch.where(over.unsqueeze(-1), torch.tensor([0.0, -torch.inf, -torch.inf]), logits)


def graph(estimator=None, credit=MonteCarlo(), penalty: Callable[..., None] | None = None) -> scg.Graph:
    made = scg.Graph()
    with made.sequence():
        made.deterministic(read, name="logits", parents=[prefix("token", init="opening"), "theta"])
        made.deterministic(read, name="other", parents=[prefix("token", init="opening"), "reference"])

        def living(token, opening):
            return ~(((token == END) & (torch.arange(token.shape[-1]) > 0)).long().cumsum(-1) > 0)

        made.deterministic(living, name="alive", parents=[prefix("token", init="opening"), "opening"])
        made.stochastic(estimator or ScoreFunction(), lambda logits: Categorical(logits=logits), name="token", credit=credit)
        if penalty is not None:
            penalty(made)
    made.reward(lambda token: REWARD[token[..., 0], token[..., 1]], name="reward", parents=[prefix("token")])
    return made


def mean_gradient(made: scg.Graph, recorded: bool = False, only: tuple[str, ...] = ()) -> Tensor:
    """Σ over groups of P(group) ∇ surrogate of the group, `[prefix, token]`."""
    policy, behaviour, reference = tables()
    theta = policy.expand(len(PAIRS), 1, PREFIXES, V).clone().requires_grad_()
    p = probability(behaviour if recorded else policy)
    given = {"token": TOKENS}
    if recorded:
        given["token.log_prob"] = log_probs(behaviour)[PAIRS].movedim(-1, 0)
    opening = torch.zeros(len(PAIRS), 2, 1, dtype=torch.long)
    trace = made.replay(given, opening=opening, theta=theta, reference=reference)
    total = trace.surrogate(*only) * len(PAIRS)  # the mean over the batch, group by group
    (each,) = torch.autograd.grad(total, theta)
    weight = (p[FIRST] * p[SECOND]).reshape(-1, 1, 1, 1)
    return (weight * each).sum(0).squeeze(0)


def log_probs(table: Tensor) -> Tensor:
    """`[answer, time]`, 0 where an answer is over."""
    opening = torch.zeros(7, 1, dtype=torch.long)
    logits = read(torch.cat([opening, ANSWERS[:, :-1]], -1), table)
    return logits.log_softmax(-1).gather(-1, ANSWERS.unsqueeze(-1)).squeeze(-1)


def probability(table: Tensor) -> Tensor:
    return log_probs(table).sum(-1).exp()


ALIVE = (torch.arange(T) < LENGTH.unsqueeze(-1)).double()  # [answer, time]
COST = -REWARD[ANSWERS[:, 0], ANSWERS[:, 1]]


def by_hand(loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], recorded: bool = False) -> Tensor:
    """The same of a loss of (log π [pair, 2, time], log μ, costs [pair, 2], alive [pair, 2, time]) as trainers write it."""
    policy, behaviour, _ = tables()
    theta = policy.clone().requires_grad_()
    old = log_probs(behaviour if recorded else policy).detach()
    p = old.sum(-1).exp()
    values = loss(log_probs(theta)[PAIRS], old[PAIRS], COST[PAIRS], ALIVE[PAIRS])  # [pair]
    (gradient,) = torch.autograd.grad((p[FIRST] * p[SECOND] * values).sum(), theta)
    return gradient


def truth(penalty: float = 0.0) -> Tensor:
    """∇ E[cost + penalty · KL], exactly."""
    policy, _, reference = tables()
    theta = policy.clone().requires_grad_()
    log_pi, log_ref = log_probs(theta), log_probs(reference)
    value = (log_pi.sum(-1).exp() * (COST + penalty * (log_pi - log_ref).sum(-1))).sum()
    return torch.autograd.grad(value, theta)[0]


def off(found: Tensor, true: Tensor) -> tuple[float, float]:
    """Scale along the true gradient, and what is orthogonal to it, both relative to its length."""
    scale = float((found * true).sum() / true.square().sum())
    return scale, float((found - scale * true).norm() / true.norm())


def group_mean(costs: Tensor) -> Tensor:
    return costs - costs.mean(-1, keepdim=True)


def standardised(costs: Tensor) -> Tensor:
    return group_mean(costs) / (costs.std(-1, keepdim=True) + 1e-4)


# -- baselines ---------------------------------------------------------------------------------------------------------------


def test_leave_one_out_is_unbiased_and_the_group_mean_halves_the_gradient_of_pairs():
    torch.testing.assert_close(mean_gradient(graph()), truth())
    torch.testing.assert_close(mean_gradient(graph(credit=BatchLeaveOneOut())), truth())
    torch.testing.assert_close(mean_gradient(graph(credit=GroupRelative(standardise=False))), truth() / 2)


def test_standardising_changes_the_direction():
    expected = by_hand(lambda new, old, cost, alive: (standardised(cost).unsqueeze(-1) * new).sum(-1).mean(-1))
    found = mean_gradient(graph(credit=GroupRelative()))
    torch.testing.assert_close(found, expected)
    assert off(found, truth())[1] > 0.1


def test_aggregations():
    """Means over an answer's steps, over the batch's steps; the constant one alone keeps the direction."""
    sequence = mean_gradient(graph(credit=Aggregated(BatchLeaveOneOut(), "alive")))
    expected = by_hand(
        lambda new, old, cost, alive: (
            ((cost - cost.flip(-1)).unsqueeze(-1) * new / alive.sum(-1, keepdim=True)).sum(-1).mean(-1)
        )
    )
    torch.testing.assert_close(sequence, expected)
    batch = {}
    for n in (1, 2):  # a batch of all groups has a sum of its own: group by group, as a trainer's
        rows = (LENGTH[PAIRS].sum(-1) / 2).reshape(-1, 1)
        batch[n] = by_hand(
            lambda new, old, cost, alive, rows=rows: ((cost - cost.flip(-1)).unsqueeze(-1) * new).sum(-1).div(rows).mean(-1)
        )
    assert off(sequence, truth())[1] > 0.03 and off(batch[1], truth())[1] > 0.01
    made = graph(credit=BatchLeaveOneOut())
    torch.testing.assert_close(mean_gradient(made), truth())


def test_the_mean_over_the_batchs_steps_of_one_group():
    made = graph(credit=Aggregated(BatchLeaveOneOut(), "alive", over="batch"))
    theta = tables()[0].clone().requires_grad_()
    pair = TOKENS[:, 20:21]
    trace = made.replay({"token": pair}, opening=torch.zeros(1, 2, 1, dtype=torch.long), theta=theta, reference=tables()[2])
    (found,) = torch.autograd.grad(trace.surrogate(), theta)
    again = tables()[0].clone().requires_grad_()
    new, cost, alive = log_probs(again)[PAIRS[20]], COST[PAIRS[20]], ALIVE[PAIRS[20]]
    loss = ((cost - cost.flip(-1)).unsqueeze(-1) * new * alive).sum() / alive.sum()
    torch.testing.assert_close(found, torch.autograd.grad(loss, again)[0])


# -- ratios ------------------------------------------------------------------------------------------------------------------


def ratios(new: Tensor, old: Tensor) -> Tensor:
    return (new - old).exp()


def clipped(low: float, high: float) -> Callable[..., Tensor]:
    def loss(new, old, cost, alive):
        r, a = ratios(new, old), group_mean(cost).unsqueeze(-1)
        return (torch.maximum(r * a, r.clamp(1 - low, 1 + high) * a) * alive).sum(-1).mean(-1)

    return loss


def gspo(new: Tensor, old: Tensor, cost: Tensor, alive: Tensor) -> Tensor:
    s = (((new - old) * alive).sum(-1) / alive.sum(-1)).exp()
    a = group_mean(cost)
    return torch.maximum(s * a, s.clamp(0.8, 1.2) * a).mean(-1)


def cispo(new: Tensor, old: Tensor, cost: Tensor, alive: Tensor) -> Tensor:
    r = ratios(new, old).clamp(max=1.3).detach()
    return (r * group_mean(cost).unsqueeze(-1) * new * alive).sum(-1).mean(-1)


MEAN = GroupRelative(standardise=False)
CLIPS = {
    "PPO": (Clipped(0.2), MEAN, clipped(0.2, 0.2)),
    "DAPO": (Clipped(0.2, high=0.6), MEAN, clipped(0.2, 0.6)),
    "CISPO": (Clipped(1.0, high=0.3, gradient="score"), MEAN, cispo),
    "truncated": (TruncatedRatio(limit=1.3, gradient="score", allow_bias=True), MEAN, cispo),
    "GSPO": (Clipped(0.2, ratio="sequence", alive="alive"), Aggregated(MEAN, "alive"), gspo),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clips_are_settings_of_one_estimator(name):
    """From a recording each has the mean gradient of the loss as it is published, and it is not the true one's direction."""
    estimator, credit, loss = CLIPS[name]
    found = mean_gradient(graph(estimator, credit), recorded=True)
    torch.testing.assert_close(found, by_hand(loss, recorded=True))
    assert off(found, truth())[1] > 0.05
    others = [by_hand(other, recorded=True) for key, (_, _, other) in CLIPS.items() if key not in (name, "truncated", "CISPO")]
    assert all((found - other).norm() > 0.01 * found.norm() for other in others)


@pytest.mark.parametrize("name", ["PPO", "DAPO", "CISPO", "truncated"])
def test_on_the_recording_policy_clips_are_not_there(name):
    torch.testing.assert_close(mean_gradient(graph(CLIPS[name][0], CLIPS[name][1])), truth() / 2)


def test_whole_products_make_a_recording_right_and_ratios_of_steps_do_not():
    """Without a credit each cost has the ratios of all its tokens. A step's own, and those before it too, are not enough: later
    tokens are the recording policy's."""
    torch.testing.assert_close(mean_gradient(graph(credit=None), recorded=True), truth())
    for credit in (MonteCarlo(), EarlierRatios(MonteCarlo())):
        assert off(mean_gradient(graph(credit=credit), recorded=True), truth())[1] > 0.05


def test_what_a_clip_takes():
    for wrong in ({"high": -0.1}, {"ratio": "token"}, {"gradient": "x"}, {"ratio": "sequence"}, {"alive": "alive"}):
        with pytest.raises(ValueError, match="Clipped"):
            Clipped(0.2, **wrong)


# -- the KL to a reference ---------------------------------------------------------------------------------------------------

BETA = 0.7
ESTIMATES = {"k1": k1, "k2": k2, "k3": k3}


def penalised(kind: str, where: str) -> Callable[[scg.Graph], None]:
    """A penalty as a cost, in the reward (no gradient of its own), or in the loss (left out of the credit)."""
    pi = detach(dist("token")) if where == "reward" else dist("token")

    def declare(made: scg.Graph) -> None:
        def penalty(pi, other, token):
            reference = Categorical(logits=other)
            if kind == "exact":
                return BETA * exact(pi, reference)
            return BETA * ESTIMATES[kind](pi.log_prob(token), reference.log_prob(token))

        made.cost(penalty, name="penalty", parents=[pi, "other", "token"])

    return declare


def penalty_gradient(kind: str, where: str) -> Tensor:
    credit = Without(MonteCarlo(), ("penalty",)) if where == "loss" else MonteCarlo()
    return mean_gradient(graph(credit=credit, penalty=penalised(kind, where))) - truth()


def expected_penalty(kind: str, where: str) -> Tensor:
    """By hand, over single answers: ∇ Σ_a π(a) k(a), or with parts of it held constant."""
    policy, _, reference = tables()
    theta = policy.clone().requires_grad_()
    new, ref = log_probs(theta), log_probs(reference)
    p = new.sum(-1).exp()
    if kind == "exact":
        logits = read(torch.cat([torch.zeros(7, 1, dtype=torch.long), ANSWERS[:, :-1]], -1), theta)
        other = read(torch.cat([torch.zeros(7, 1, dtype=torch.long), ANSWERS[:, :-1]], -1), reference)
        q = logits.softmax(-1)
        each = torch.where(q > 0, q * (logits.log_softmax(-1) - other.log_softmax(-1)), 0.0).nansum(-1)
    else:
        each = ESTIMATES[kind](new, ref)
    each = BETA * each.sum(-1)
    value = {"cost": p * each, "loss": p.detach() * each, "reward": p * each.detach()}[where]
    return torch.autograd.grad(value.sum(), theta, allow_unused=True)[0]


CELLS = [
    (kind, where)
    for kind in ("exact", "k1", "k2", "k3")
    for where in ("cost", "reward", "loss")
    if (kind, where) != ("exact", "reward")
]
RIGHT = {("exact", "cost"), ("k1", "cost"), ("k3", "cost"), ("k1", "reward")}


@pytest.mark.parametrize(("kind", "where"), CELLS)
def test_the_gradient_of_each_kl_estimate_in_each_place(kind, where):
    found = penalty_gradient(kind, where)
    torch.testing.assert_close(found, expected_penalty(kind, where), atol=1e-12, rtol=1e-7)
    true = truth(BETA) - truth()
    right = bool((found - true).norm() < 1e-9)
    assert right == ((kind, where) in RIGHT)


def test_in_the_loss_k1_has_no_gradient_and_k2_that_of_the_exact_one():
    assert penalty_gradient("k1", "loss").norm() < 1e-12
    torch.testing.assert_close(penalty_gradient("k2", "loss"), penalty_gradient("exact", "loss"))


def test_what_without_refuses():
    with pytest.raises(scg.GraphError, match="leaves out 'penlty', which is no cost downstream"):
        mean_gradient(graph(credit=Without(MonteCarlo(), ("penlty",)), penalty=penalised("k1", "loss")))
    with pytest.raises(scg.GraphError, match="leaves out all costs"):
        mean_gradient(graph(credit=Without(MonteCarlo(), ("reward",))))
