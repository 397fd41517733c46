"""The surrogate against the loss that one would write by hand, in the same process.

    python -m benchmarks.surrogate              # eager, and compiled where it is asked for; a toy also as one compiled call of
                                                # value and gradient, beside eager code by hand
    python -m benchmarks.surrogate --no-compile --only toy

Each row times value + backward of both, alternately, and prints the median of the pairwise ratios with its
quartiles. One thread. A ratio below 1 means that the graph is faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal
from torch.nn.functional import binary_cross_entropy_with_logits as bce

import scg
from scg.estimators import LeaveOneOut, Pathwise, ScoreFunction

ONE_CALL = "compiled beside eager by hand"


@dataclass
class Case:
    """`ours` and `by_hand` give the same loss; `bare` is written without torch.distributions; `limit` is the ratio to keep."""

    name: str
    ours: Callable[[], Tensor]
    by_hand: Callable[[], Tensor]
    limit: float | None
    bare: Callable[[], Tensor] | None = None
    compiles: bool = False
    wrt: Tensor | None = (
        None  # value and gradient with respect to it are also taken in one compiled call, beside eager code by hand
    )


def discrete_vae() -> Case:
    """784–200, batch 64, 4 leave-one-out samples, linear."""
    encoder, decoder, prior = nn.Linear(784, 200), nn.Linear(200, 784), torch.zeros(200)
    data = torch.rand(64, 784).bernoulli()

    graph = scg.Graph()

    @graph.stochastic(LeaveOneOut(samples=4))
    def b(x):
        return Independent(Bernoulli(logits=encoder(x)), 1)

    @graph.cost
    def negative_elbo(x, b, q=scg.dist("b")):
        log_p = -bce(decoder(b), x.expand(*b.shape[:-1], -1), reduction="none").sum(-1)
        log_prior = Independent(Bernoulli(logits=prior), 1).log_prob(b)
        return q.log_prob(b) - log_prior - log_p

    def by_hand():
        q = Independent(Bernoulli(logits=encoder(data)), 1)
        b = q.sample((4,))
        log_q = q.log_prob(b)
        log_p = -bce(decoder(b), data.expand(4, -1, -1), reduction="none").sum(-1)
        cost = log_q - Independent(Bernoulli(logits=prior), 1).log_prob(b) - log_p
        baseline = (cost.sum(0) - cost) / 3
        return (cost + log_q * (cost - baseline).detach()).mean()

    return Case("discrete VAE 784–200, leave-one-out n=4", lambda: graph.surrogate(x=data), by_hand, 1.05, compiles=True)


def gaussian_vae() -> Case:
    """784–200, batch 64, one pathwise sample, linear."""
    encoder, decoder = nn.Linear(784, 400), nn.Linear(200, 784)
    data = torch.rand(64, 784).bernoulli()

    def q(x):
        mean, log_scale = encoder(x).chunk(2, -1)
        return Independent(Normal(mean, log_scale.exp()), 1)

    prior = Independent(Normal(torch.zeros(200), torch.ones(200)), 1)
    graph = scg.Graph()
    graph.stochastic(Pathwise(), q, name="z")

    @graph.cost
    def negative_elbo(x, z, q=scg.dist("z")):
        log_p = -bce(decoder(z), x, reduction="none").sum(-1)
        return q.log_prob(z) - prior.log_prob(z) - log_p

    def by_hand():
        posterior = q(data)
        z = posterior.rsample()
        log_p = -bce(decoder(z), data, reduction="none").sum(-1)
        return (posterior.log_prob(z) - prior.log_prob(z) - log_p).mean()

    return Case("Gaussian VAE 784–200, pathwise", lambda: graph.surrogate(x=data), by_hand, 1.05, compiles=True)


def chain(steps: int, batch: int = 32) -> Case:
    """T recorded steps: categorical action, a cost each step, score function with cost-to-go, a 64–64 policy."""
    policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    obs, costs = torch.randn(steps, batch, 4), torch.randn(steps, batch)
    actions = torch.randint(5, (steps, batch))

    graph = scg.Graph()
    with graph.sequence():
        graph.observed("obs", parents=[scg.prev("obs"), scg.prev("action")])

        @graph.stochastic(ScoreFunction())
        def action(obs):
            return Categorical(logits=policy(obs))

        graph.observed("price", parents=["obs", "action"])

        @graph.cost
        def cost(price):
            return price

    given = {"obs": obs, "action": actions, "price": costs}

    def by_hand():
        log_prob = Categorical(logits=policy(obs)).log_prob(actions)
        to_go = costs.flip(0).cumsum(0).flip(0)
        return (costs + log_prob * to_go - (log_prob * to_go).detach()).sum(0).mean()

    return Case(f"chain of {steps} steps, replayed", lambda: graph.replay(given).surrogate(), by_hand, 1.10)


def chain_sampled(steps: int, batch: int = 32) -> Case:
    """T steps drawn one after another: one-hot states, a transition that autograd cannot see through, a cost each step."""
    policy = nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 3))
    eye, start, still = torch.eye(5), torch.zeros(batch, dtype=torch.long), torch.zeros(batch, dtype=torch.long)

    def transition(place, action):
        return (place + action) % 5

    graph = scg.Graph()
    with graph.sequence():
        graph.deterministic(
            transition, name="place", parents=[scg.prev("place", init="start"), scg.prev("action", init="still")]
        )

        @graph.stochastic(ScoreFunction())
        def action(place):
            return Categorical(logits=policy(eye[place]))

        @graph.cost
        def cost(place, action):
            return (place - 2) ** 2 + 0.1 * action

    def by_hand():
        place, action = start, still
        scores, costs = [], []
        for _ in range(steps):
            place = transition(place, action)
            distribution = Categorical(logits=policy(eye[place]))
            action = distribution.sample()
            scores.append(distribution.log_prob(action))
            costs.append((place - 2) ** 2 + 0.1 * action)
        cost = torch.stack(costs)
        to_go = cost.flip(0).cumsum(0).flip(0)
        return (cost + torch.stack(scores) * to_go).sum(0).mean()

    draw = partial(graph.surrogate, steps=steps, start=start, still=still)
    return Case(f"chain of {steps} steps, sampled", draw, by_hand, None)


def two_costs() -> Case:
    """The fifth example graph of Schulman et al. (2015): two nested samples, each with a cost."""
    theta = torch.tensor(0.3, requires_grad=True)
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x1")
    graph.stochastic(ScoreFunction(), lambda theta, x1: Normal(theta * x1, 1.0), name="x2")
    graph.cost(lambda x1: x1**2, name="f1")
    graph.cost(lambda x2: (x2 - 1.0) ** 2, name="f2")

    def by_hand():
        p1 = Normal(theta, 1.0)
        x1 = p1.sample()
        p2 = Normal(theta * x1, 1.0)
        x2 = p2.sample()
        f1, f2 = x1**2, (x2 - 1.0) ** 2
        return f1 + f2 + p1.log_prob(x1) * (f1 + f2) + p2.log_prob(x2) * f2

    return Case("example graph (5) of Schulman et al. 2015", lambda: graph.surrogate(theta=theta), by_hand, None)


def scalar_toy() -> Case:
    """E[(b − 0.45)²], b ~ Bernoulli(sigmoid θ): one score-function sample."""
    theta = torch.tensor(0.0, requires_grad=True)
    graph = scg.Graph()

    @graph.stochastic(ScoreFunction())
    def b(theta):
        return Bernoulli(logits=theta)

    @graph.cost
    def loss(b):
        return (b - 0.45) ** 2

    def by_hand():
        p = Bernoulli(logits=theta)
        b = p.sample()
        cost = (b - 0.45) ** 2
        return cost + p.log_prob(b) * cost.detach()

    def bare():
        b = torch.bernoulli(torch.sigmoid(theta.detach()))
        return (b - 0.45) ** 2 + -bce(theta, b) * (b - 0.45) ** 2

    return Case("scalar toy, score function", lambda: graph.surrogate(theta=theta), by_hand, 1.2, bare, wrt=theta)


def wide_toy() -> Case:
    """200 independent bits in one sample, four leave-one-out samples."""
    theta = torch.zeros(200, requires_grad=True)
    graph = scg.Graph()

    @graph.stochastic(LeaveOneOut(samples=4))
    def b(theta):
        return Independent(Bernoulli(logits=theta), 1)

    @graph.cost
    def loss(b):
        return ((b - 0.45) ** 2).sum(-1)

    def by_hand():
        p = Independent(Bernoulli(logits=theta), 1)
        b = p.sample((4,))
        cost = ((b - 0.45) ** 2).sum(-1)
        advantage = cost - (cost.sum(0) - cost) / 3
        return (cost + p.log_prob(b) * advantage.detach()).mean()

    def bare():
        b = torch.bernoulli(torch.sigmoid(theta.detach()).expand(4, 200))
        cost = ((b - 0.45) ** 2).sum(-1)
        log_prob = -bce(theta.expand(4, 200), b, reduction="none").sum(-1)
        return (cost + log_prob * (cost - (cost.sum(0) - cost) / 3)).mean()

    return Case("200-dimensional toy, leave-one-out n=4", lambda: graph.surrogate(theta=theta), by_hand, 1.25, bare, wrt=theta)


def cases() -> Iterator[Case]:
    yield discrete_vae()
    yield gaussian_vae()
    for steps in (10, 100, 1000):
        yield chain(steps)
    for steps in (10, 100, 1000):
        yield chain_sampled(steps)
    yield two_costs()
    yield scalar_toy()
    yield wide_toy()


def seconds(work: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - start) / repeats


def backwards(loss: Callable[[], Tensor]) -> Callable[[], object]:
    return lambda: loss().backward()


def in_one_call(case: Case) -> Callable[[], object]:
    """Value and gradient as one compiled function."""
    from scg.agents.execution.compilation import compile_function

    def step(theta: Tensor) -> tuple[Tensor, Tensor]:
        loss = case.ours()
        return torch.autograd.grad(loss, theta)[0], loss.detach()

    compiled = compile_function(step)
    return lambda: compiled(case.wrt)


def compare(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, list[float]]:
    """Seconds of `ours` (median), and the ratios ours/other of alternating rounds."""
    for loss in (ours, other):
        seconds(loss, 3)
    repeats = max(1, int(0.02 / seconds(other, 5)))
    times, ratios = [], []
    for i in range(rounds):
        pair = [(0, ours), (1, other)] if i % 2 else [(1, other), (0, ours)]
        measured = {which: seconds(loss, repeats) for which, loss in pair}
        times.append(measured[0])
        ratios.append(measured[0] / measured[1])
    return statistics.median(times), ratios


def parts(rounds: int) -> None:
    """Where the time of the scalar toy goes: microseconds a call, the fastest of `rounds` turns."""
    case = scalar_toy()
    theta = case.wrt
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
    graph.cost(lambda b: (b - 0.45) ** 2, name="loss")

    def product() -> Tensor:  # of the cost and the weight exp(z − sg z), which has every derivative; by hand there is one
        p = Bernoulli(logits=theta)
        b = p.sample()
        log_prob = p.log_prob(b)
        return (b - 0.45) ** 2 * (log_prob - log_prob.detach()).exp()

    trace = graph.sample(theta=theta)
    work: dict[str, Callable[[], object]] = {
        "by hand, value and backward": backwards(case.by_hand),
        "by hand as a product of weights, value and backward": backwards(product),
        "the graph, value and backward": backwards(case.ours),
        "  its value alone": case.ours,
        "    finding the plan of the call": lambda: graph._plans.find({}, {"theta": theta}, None),
        "    sampling": lambda: graph.sample(theta=theta),
        "    the surrogate of a trace": trace.surrogate,
        "  by hand, the value alone": case.by_hand,
    }
    best = dict.fromkeys(work, float("inf"))
    for run in work.values():
        seconds(run, 100)
    for _ in range(rounds):
        for name, run in work.items():
            best[name] = min(best[name], seconds(run, 50))
    for name, found in best.items():
        print(f"{name:56} {1e6 * found:7.1f} µs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--parts", action="store_true", help="where the microseconds of the scalar toy go, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.parts:
        parts(options.rounds)
        return 0
    print(f"{'work (value + backward)':44} {'ms':>8} {'ratio':>7} {'quartiles':>13} {'limit':>6}")
    missed = 0
    chosen = [case for case in cases() if options.only in case.name]
    rows = [("", c, c.ours, c.by_hand, c.limit) for c in chosen]
    rows += [("  … to one without torch.distributions", c, c.ours, c.bare, None) for c in chosen if c.bare is not None]
    rows.sort(key=lambda row: chosen.index(row[1]))
    # Last: compiling anything switches the validation of distributions off for the whole process, by hand and in graphs.
    rows += [
        (f"{c.name.split(',')[0]}, both compiled", c, c.ours, c.by_hand, c.limit)
        for c in chosen
        if c.compiles and not options.no_compile
    ]
    if not options.no_compile:
        rows += [(f"{c.name.split(',')[0]}, {ONE_CALL}", c, c.ours, c.by_hand, 0.3) for c in chosen if c.wrt is not None]
    for label, case, ours, other, limit in rows:
        if label.endswith("both compiled"):
            ours, other = (torch.compile(loss, fullgraph=True) for loss in (ours, other))
        work = in_one_call(case) if label.endswith(ONE_CALL) else backwards(ours)
        median, ratios = compare(work, backwards(other), options.rounds)
        low, middle, high = statistics.quantiles(ratios, n=4)
        missed += limit is not None and middle > limit
        shown = f"{limit:.2f}" if limit else ""
        print(f"{label or case.name:44} {1e3 * median:8.3f} {middle:7.3f} {low:6.3f}–{high:.3f} {shown:>6}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
