"""Plausible bugs, each beside the right version that differs from it in one place.

Estimators differ in how a node is differentiated; callables write a whole surrogate by hand, with a graph as the truth.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.distributions import Bernoulli, Exponential, Normal, Uniform

import scg
from scg import Branches, Estimator, Pathwise, ScoreFunction, prev
from scg.estimators import Enumeration, LeaveOneOut
from scg.estimators.enumeration import support


def zero(log_prob):
    """z = log p − sg log p: value 0, gradient the score."""
    return log_prob - log_prob.detach()


class Anew(Estimator):
    """An estimator that is all in its `branch`, given as a function of the distribution."""

    def __init__(self, name: str, branch: Callable[..., Branches], given: Callable[..., Branches] | None = None):
        self.name, self.branch = name, branch
        if given is not None:
            self.given = given

    def refuses(self, distribution):
        return None

    def __repr__(self):
        return self.name


@dataclass(frozen=True)
class Mutant:
    """`wrong` and `right` are (subject, keyword arguments) for `check_unbiased`; `node` is to blame, where one is."""

    wrong: Callable[[], tuple[Any, dict]]
    right: Callable[[], tuple[Any, dict]]
    inputs: dict[str, float] = field(default_factory=lambda: {"theta": 0.4})
    node: str | None = "z"
    order: int = 1


MUTANTS: dict[str, Mutant] = {}


# -- one bit, many ways to get it wrong --------------------------------------------------------------------


def bit(estimator, **settings):
    """theta → z → loss, and a second cost that ignores z."""
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="z", **settings)
    graph.cost(lambda z: 2 * (z - 0.3) ** 2 + 0.5 * z, name="loss")
    graph.cost(lambda theta: theta.sin(), name="aside")
    return graph


def estimators(wrong, right, node="z", order=1, make=bit):
    """Both estimators in the same graph."""
    name = wrong.__name__
    return Mutant(lambda: (make(Anew(name, wrong)), {}), lambda: (make(Anew("right", right)), {}), node=node, order=order)


def sampled(weigh, n=None):
    """Branches of n samples (one without an axis), weighed by a function of their log-probabilities."""

    def branch(distribution):
        values = distribution.sample(torch.Size(() if n is None else (n,)))
        return weigh(values, distribution.log_prob(values))

    branch.__name__ = weigh.__name__
    return branch


score = sampled(lambda x, lp: Branches(x, score=zero(lp)))


def sign(x, lp):
    return Branches(x, score=-zero(lp))


def not_detached(x, lp):
    return Branches(x, weights=lp.exp())


MUTANTS["the score has the wrong sign"] = estimators(sampled(sign), score)
MUTANTS["the log-probability is not detached"] = estimators(sampled(not_detached), score)


def plain_mean(x, lp):
    return Branches(x, x.shape[0], weights=(1 + zero(lp)) / x.shape[0])


def plain_sum(x, lp):
    return Branches(x, x.shape[0], weights=1 / x.shape[0] + zero(lp))


MUTANTS["samples are summed, not averaged"] = estimators(sampled(plain_sum, 3), sampled(plain_mean, 3))


def leave_one_out(divisor, itself=0.0, link=torch.expm1):
    """wᵢ = (1 + zᵢ − Σ_{j≠i} zⱼ/divisor − itself·zᵢ/divisor)/n."""

    def weigh(x, lp):
        z, n = link(zero(lp)), x.shape[0]
        others = (z.sum(0) - z + itself * z) / divisor
        return Branches(x, n, weights=(1 + z - others) / n)

    return sampled(weigh, 4)


def centred(divisor):
    """wᵢ = 1/n + (zᵢ − mean z)/divisor: centred by all, so the sum goes over n − 1."""

    def weigh(x, lp):
        z, n = torch.expm1(zero(lp)), x.shape[0]
        return Branches(x, n, weights=1 / n + (z - z.mean(0)) / divisor)

    return sampled(weigh, 4)


MUTANTS["a sample is part of its own baseline"] = estimators(leave_one_out(4, itself=1.0), leave_one_out(3))
MUTANTS["leave-one-out divides by n for n − 1"] = estimators(centred(4), centred(3))
MUTANTS["leave-one-out without the DiCE operator is wrong at order 2"] = estimators(
    leave_one_out(3, link=lambda z: z), leave_one_out(3), order=2
)


def forgetting(distribution):
    values = support(distribution)[:-1]
    return Branches(values, len(values), weights=distribution.log_prob(values).exp())


MUTANTS["enumeration forgets a value"] = estimators(forgetting, Enumeration().branch)


def disarm(factor):
    """½ ± a zero-valued weight that carries (−1)^b̃ 1[b ≠ b̃] σ(|α|)/2 (Dong, Mnih & Tucker 2020)."""

    def branch(distribution):
        logits = distribution.logits
        u = torch.rand_like(logits)
        hard, twin = (u < logits.sigmoid()).to(u.dtype), (u > 1 - logits.sigmoid()).to(u.dtype)
        size = 0.5 * (hard != twin) * torch.where(twin > 0, -1.0, 1.0) * factor(logits.detach())
        carried = size * zero(logits)
        return Branches(torch.stack([hard, twin]), 2, weights=torch.stack([0.5 + carried, 0.5 - carried]))

    branch.__name__ = "disarm"
    return branch


MUTANTS["DisARM's factor is σ(α) for σ(|α|)"] = Mutant(
    lambda: (bit(Anew("disarm", disarm(lambda a: a.sigmoid()))), {}),
    lambda: (bit(Anew("disarm", disarm(lambda a: a.abs().sigmoid()))), {}),
    inputs={"theta": -0.8},
)


def antithetic(weigh):
    """Two samples from u and 1 − u: each is right alone, but they are not independent."""

    def branch(distribution):
        u = torch.rand_like(distribution.logits)
        x = torch.stack([(u < distribution.probs).double(), (1 - u < distribution.probs).double()]).detach()
        return weigh(x, distribution.log_prob(x))

    branch.__name__ = "antithetic"
    return branch


def as_if_independent(x, lp):
    z = torch.expm1(zero(lp))
    return Branches(x, 2, weights=(1 + z - z.flip(0)) / 2)


MUTANTS["an antithetic pair is taken for two independent samples"] = estimators(
    antithetic(as_if_independent), antithetic(plain_mean)
)


def straight_through(distribution):
    """x = hard + p − sg p: a path that is not there. Right only for a cost that is linear in x."""
    hard = distribution.sample()
    return Branches(hard + zero(distribution.probs))


MUTANTS["a straight-through sample is taken for a path"] = Mutant(
    lambda: (bit(Anew("straight_through", straight_through)), {}),
    lambda: (linear(Anew("straight_through", straight_through)), {}),
)


def linear(estimator):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Bernoulli(logits=theta), name="z")
    graph.cost(lambda z: 2 * z, name="loss")
    return graph


# -- a real sample -----------------------------------------------------------------------------------------


def real(estimator):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Normal(theta, 1.2), name="z")
    graph.cost(lambda z: z**2 + z.sin(), name="loss")
    return graph


def both_ways(distribution):
    x = distribution.rsample()
    return Branches(x, score=zero(distribution.log_prob(x.detach())))


MUTANTS["a score is added on top of a path"] = estimators(both_ways, Pathwise().branch, make=real)


def end(estimator):
    graph = scg.Graph()
    graph.stochastic(estimator, lambda theta: Uniform(0.0, 1 + theta), name="z")
    graph.cost(lambda z: z**2, name="loss")
    return graph


MUTANTS["a likelihood ratio across a boundary that moves"] = estimators(score, Pathwise().branch, make=end)


# -- a relaxed control variate -----------------------------------------------------------------------------


def rebar(conditional, eta=0.6, temperature=0.5):
    """Hard, relaxed and conditionally relaxed branches, weighed w, +η, −η·w (Tucker et al. 2017)."""

    def branch(distribution):
        logits = distribution.logits
        u, v = torch.rand_like(logits), torch.rand_like(logits)
        z = logits + torch.logit(u)
        hard = (z > 0).to(z.dtype).detach()
        z_tilde = logits + torch.logit(conditional(hard, v, distribution.probs, u))
        soft, soft_tilde = torch.sigmoid(z / temperature), torch.sigmoid(z_tilde / temperature)
        w = zero(distribution.log_prob(hard)).exp()
        return Branches(torch.stack([hard, soft, soft_tilde]), 3, weights=torch.stack([w, eta + 0 * w, -eta * w]))

    branch.__name__ = "rebar"
    return branch


def given_hard(hard, v, p, u):
    """u' uniform on the half-line that z | b lies on: v(1 − p) below it, 1 − p + v p above."""
    return torch.where(hard > 0, 1 - p + v * p, v * (1 - p))


def not_given(hard, v, p, u):
    return v


def exchanged(hard, v, p, u):
    return torch.where(hard > 0, p + v * (1 - p), v * p)


def cut(hard, v, p, u):
    return given_hard(hard, v, p.detach(), u)


MUTANTS["REBAR's conditional sample takes p for 1 − p"] = estimators(rebar(exchanged), rebar(given_hard))
MUTANTS["REBAR's conditional sample does not move with p"] = estimators(rebar(cut), rebar(given_hard))


# -- recordings --------------------------------------------------------------------------------------------

BEHAVIOUR = 0.75


def recording():
    b = torch.bernoulli(torch.full((64,), BEHAVIOUR))
    return {"z": b, "z.log_prob": Bernoulli(BEHAVIOUR).log_prob(b)}


def off_policy(given):
    def make():
        graph = scg.Graph()
        graph.stochastic(
            Anew("off_policy", ScoreFunction().branch, given), lambda theta, x: Bernoulli(logits=theta + x), name="z"
        )
        graph.cost(lambda z, x: (1 + z) ** 2 + x, name="loss")
        return graph, {"given": recording, "detectable": 0.1}

    return make


def ratio(distribution, value, log_prob=None):
    return Branches(value, weights=(distribution.log_prob(value) - log_prob).exp())


def inverted(distribution, value, log_prob=None):
    return Branches(value, weights=(log_prob - distribution.log_prob(value)).exp())


def missing(distribution, value, log_prob=None):
    return Branches(value, score=zero(distribution.log_prob(value)))


ROWS = {"theta": 0.4, "x": torch.zeros(64)}
MUTANTS["an importance ratio is inverted"] = Mutant(off_policy(inverted), off_policy(ratio), inputs=ROWS)
MUTANTS["an importance weight is missing"] = Mutant(off_policy(missing), off_policy(ratio), inputs=ROWS)


# -- whole surrogates by hand ------------------------------------------------------------------------------


def by_hand(wrong, right, truth, **settings):
    return Mutant(
        lambda: (wrong(), {"oracle": truth(), **settings}), lambda: (right(), {"oracle": truth(), **settings}), node=None
    )


def loss(z):
    return 2 * (z - 0.3) ** 2 + 0.5 * z + 1.0


def moving_average(first):
    """A running mean of the cost as baseline; `first`: it takes the new cost in before it is subtracted."""

    def make():
        mean = [1.8]

        def draw(inputs):
            q = Bernoulli(logits=inputs["theta"])
            z = q.sample()
            cost = loss(z)
            update = 0.7 * mean[0] + 0.3 * float(cost)
            before, mean[0] = mean[0], update
            return q.log_prob(z) * (cost - (update if first else before))

        return draw

    return make


MUTANTS["a moving average takes the cost in before it is used"] = by_hand(
    moving_average(True), moving_average(False), lambda: linear_loss(), detectable=0.15
)


def linear_loss():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="z")
    graph.cost(loss, name="loss")
    return graph


def own_baseline(depends):
    def make():
        def draw(inputs):
            q = Bernoulli(logits=inputs["theta"])
            z = q.sample((64,))
            baseline = 1.5 + (0.4 * z if depends else 0.4)
            return q.log_prob(z) * (loss(z) - baseline)

        return draw

    return make


MUTANTS["a baseline depends on the sample"] = by_hand(own_baseline(True), own_baseline(False), linear_loss)


def layered():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="x")
    graph.stochastic(ScoreFunction(), lambda x, theta: Bernoulli(logits=x - theta), name="y")
    graph.cost(lambda x, y: (1 + x) * y, name="loss")
    return graph


def two_layers(dropped):
    def make():
        def draw(inputs):
            theta = inputs["theta"]
            top = Bernoulli(logits=theta.expand(64))
            x = top.sample()
            below = Bernoulli(logits=x - theta)
            y = below.sample()
            scores = below.log_prob(y) + (0.0 if dropped else top.log_prob(x))
            return scores * (1 + x) * y

        return draw

    return make


MUTANTS["an ancestor's score is dropped"] = by_hand(two_layers(True), two_layers(False), layered)


def walk():
    graph = scg.Graph()
    with graph.sequence():
        graph.stochastic(
            ScoreFunction(),
            lambda theta, s: Bernoulli(logits=theta + 0.3 * s),
            name="a",
            parents=["theta", prev("s", init="s0")],
        )
        graph.deterministic(lambda a, s: s + a, name="s", parents=["a", prev("s", init="s0")])
        graph.cost(lambda s: s**2, name="loss")
    return graph


def reward_to_go(lag):
    """Σ_t log π(a_t) Σ_{t' ≥ t + lag} c_{t'}, three steps of the walk."""

    def make():
        def draw(inputs):
            theta, s = inputs["theta"], torch.zeros(64)
            log_probs, costs = [], []
            for _ in range(3):
                q = Bernoulli(logits=theta + 0.3 * s)
                a = q.sample()
                s = s + a
                log_probs.append(q.log_prob(a))
                costs.append(s**2)
            togo = [sum(costs[t + lag :], torch.zeros(64)) for t in range(3)]
            return sum(lp * g for lp, g in zip(log_probs, togo, strict=True))

        return draw

    return lambda: make()


def walk_truth():
    return scg.testing.exact_gradient(
        walk(), {"theta": torch.tensor(0.4, requires_grad=True), "s0": torch.tensor(0.0)}, steps=3
    )


MUTANTS["the cost-to-go starts one step late"] = by_hand(reward_to_go(1), reward_to_go(0), walk_truth)


def branched_aside(divided):
    """z has 4 branches. The cost that ignores z but depends on y is divided by 4 all the same."""

    def make():
        def draw(inputs):
            theta = inputs["theta"]
            top, other = Bernoulli(logits=theta.expand(64)), Bernoulli(logits=2 * theta.expand(64))
            z, y = top.sample((4,)), other.sample()
            first = (top.log_prob(z) * loss(z)).mean(0)
            second = other.log_prob(y) * (1 + y)
            return first + (second / 4 if divided else second)

        return draw

    return make


def aside_truth():
    graph = scg.Graph()
    graph.stochastic(LeaveOneOut(samples=4), lambda theta: Bernoulli(logits=theta), name="z")
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=2 * theta), name="y")
    graph.cost(loss, name="loss")
    graph.cost(lambda y: 1 + y, name="aside")
    return graph


MUTANTS["a cost is divided by the branches of a node that it ignores"] = by_hand(
    branched_aside(True), branched_aside(False), aside_truth
)


def rate(direct):
    """An exponential by the score function, its cost depending on the rate as well."""

    def make():
        def draw(inputs):
            q = Exponential((1 + inputs["theta"]).expand(256))
            x = q.sample()
            known = inputs["theta"]
            cost = x.sin() * known
            return q.log_prob(x) * cost.detach() + (cost if direct else 0.0)

        return draw

    return make


def rate_truth():
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Exponential(1 + theta), name="x")
    graph.cost(lambda x, theta: x.sin() * theta, name="loss")
    return graph


MUTANTS["the cost's own dependence on the parameter is forgotten"] = by_hand(rate(False), rate(True), rate_truth)
