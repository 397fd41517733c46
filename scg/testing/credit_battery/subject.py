"""A credit in a graph: what it promises, and the mean of its gradient over all outcomes of a process.

Every outcome of the process is an element of one batch, with a copy of the policy's logits for its own gradient; the mean
over outcomes, weighed with their probabilities, is the mean of the estimator with no sampling noise. A credit that mixes
the elements of a batch gets a batch of pairs of independent outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from scg.credit import Credit, Downstream
from scg.estimator import ScoreFunction
from scg.graph import Graph
from scg.node import detach, dist, prev
from scg.scan import INFINITE
from scg.testing.credit_battery.process import ACTIONS, Process, recording

Critics = Literal["any", "exact", "none"]
Recorded = Literal["visited", "own", "no"]
NAMES = ("value", "next_value", "q", "terminated", "log_prob")


@dataclass(frozen=True)
class Claim:
    """What a credit promises of the mean of its gradient.

    discount    γ of the cost that it estimates
    critics     with which critics the gradient is unbiased where every episode ends within the record: "any" (also where it
                reads none), "exact" ones only, or "none"
    cuts        whether it stays so, with exact critics, where the record is cut before the episode ends
    recorded    what it estimates from a recording of another policy, with exact critics: "visited" (the gradient at the states
                that the other policy visits), "own" (at those that the policy itself would visit), or "no": it is biased
    leading     whether the t-th step of an episode counts γ^t
    plate       it is for the samples of a plate; the other promises are about steps of a sequence
    """

    discount: float = 1.0
    critics: Critics = "exact"
    cuts: bool = True
    recorded: Recorded = "no"
    leading: bool = False
    plate: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.discount <= 1:
            raise ValueError(f"Claim(discount={self.discount!r}): greater than 0, and at most 1")
        for name, allowed in (("critics", ("any", "exact", "none")), ("recorded", ("visited", "own", "no"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"Claim({name}={getattr(self, name)!r}): one of {', '.join(map(repr, allowed))}")


@dataclass(frozen=True)
class Subject:
    """`credit` with its `claim`. `names`: how the credit calls a node of the process, where it calls it otherwise."""

    credit: Credit
    claim: Claim
    names: Mapping[str, str] = field(default_factory=dict)

    def named(self, what: str) -> str:
        return self.names.get(what, what)

    @cached_property
    def mixes(self) -> bool:
        """Whether the credit of one batch element depends on the costs or the ratios of another."""
        costs = torch.linspace(-1, 2, 15).reshape(5, 3)
        change = torch.zeros_like(costs)
        change[2, 0] = 1.0
        seen = [
            downstream(self, costs, ratio=torch.ones_like(costs)),
            downstream(self, costs + change, ratio=torch.ones_like(costs)),
            downstream(self, costs, ratio=1 + change),
        ]
        plain, *moved = (self.credit(d)[:, 1:] for d in seen)
        return not all(torch.equal(plain, other) for other in moved)

    def mean(self, process: Process, critics: tuple[Tensor, Tensor], behaviour: Tensor | None = None, order: int = 1) -> Tensor:
        """The mean over all outcomes of the gradient `[X, A]`, or of the Hessian `[X·A, X·A]`."""
        record, policy = recording(process), logits(process)
        p = record.probabilities(policy.softmax(-1) if behaviour is None else behaviour)
        seen = {self.named(k): v for k, v in record.seen.items()}
        if behaviour is not None:
            seen["action.log_prob"] = behaviour.log()[seen["x"], seen["action"]]
        if self.mixes:  # every pair of outcomes, independent of each other
            first, second = (i.reshape(-1) for i in torch.meshgrid(*[torch.arange(len(p))] * 2, indexing="ij"))
            seen = {k: torch.stack([v[:, first], v[:, second]], -1) for k, v in seen.items()}
            p = (p[first] * p[second] / 2).unsqueeze(-1).expand(-1, 2)
        timed = process.steps > 1
        if not timed:
            seen = {k: v.squeeze(0) for k, v in seen.items() if k != "first"}
        theta = policy.expand(*p.shape, *policy.shape).clone().requires_grad_()
        graph = self.along_time if timed else self.single
        trace = graph.replay(seen, theta=theta, v_table=critics[0], q_table=critics[1])
        total = trace.surrogate() * p.numel()
        (each,) = torch.autograd.grad(total, theta, create_graph=order > 1)
        if order == 1:
            return weighed(p, each)
        rows = [
            weighed(p, torch.autograd.grad(each[..., x, a].sum(), theta, retain_graph=True)[0]).reshape(-1)
            for x in range(policy.shape[0])
            for a in range(ACTIONS)
        ]
        return torch.stack(rows)

    @cached_property
    def along_time(self) -> Graph:
        """The policy with its critics, at every step of a sequence; once for all processes, since it is examined once."""
        graph = Graph()
        with graph.sequence(first="first"):
            graph.observed("first")
            self._declare(graph, [prev("x"), prev("action")])
        return graph

    @cached_property
    def single(self) -> Graph:
        """The same for one decision."""
        graph = Graph()
        self._declare(graph, [])
        return graph

    def _declare(self, graph: Graph, before: list[Any]) -> None:
        graph.observed("x", parents=before)
        graph.observed(self.named("terminated"), parents=["x", "action"])
        graph.observed("next_x", parents=["x", "action"])
        graph.observed("cost", parents=["x", "action"])
        graph.deterministic(lambda x, v: v[x], name=self.named("value"), parents=["x", "v_table"])
        graph.deterministic(lambda x, v: v[x], name=self.named("next_value"), parents=["next_x", "v_table"])
        graph.deterministic(lambda x, a, q: q[x, a], name=self.named("q"), parents=["x", "action", "q_table"])
        graph.stochastic(ScoreFunction(), _policy, name="action", parents=["x", "theta"], credit=self.credit)
        graph.deterministic(
            lambda pi, a: pi.log_prob(a), name=self.named("log_prob"), parents=[detach(dist("action")), "action"]
        )
        graph.cost(lambda cost: cost, name="c", parents=["cost"])


def _policy(x: Tensor, theta: Tensor) -> Categorical:
    """The row x of each element's own logits `[*batch, X, A]`."""
    index = x.unsqueeze(-1).unsqueeze(-1).expand(*x.shape, 1, ACTIONS)
    table = theta.expand(*x.shape, *theta.shape[-2:])
    return Categorical(logits=table.gather(-2, index).squeeze(-2))


def weighed(p: Tensor, each: Tensor) -> Tensor:
    return (p.unsqueeze(-1).unsqueeze(-1) * each).flatten(0, -3).sum(0)


def logits(process: Process, shift: float = 0.0) -> Tensor:
    """Some policy, no two of whose rows are alike; `shift` for another one."""
    return torch.sin(torch.arange(process.rows * ACTIONS, dtype=torch.float64) * (1.3 + shift) + 0.4).reshape(-1, ACTIONS)


# -- called by itself ------------------------------------------------------------------------------------------------


def downstream(
    subject: Subject, costs: Tensor, *, timed: bool = True, end: float | None = None, ratio: Tensor | None = None
) -> Downstream:
    """What a credit sees of `costs [time, batch…]`: the first element's first episode terminates after the second step, the
    others' are cut after the third. `end`: what the critic says of the observation behind a termination."""
    dtype, batch = costs.dtype, costs.shape[1:] if timed else costs.shape
    shape = costs.shape if timed else (1, *costs.shape)
    flat = torch.zeros(shape, dtype=torch.bool).reshape(shape[0], -1)
    first, terminated = flat.clone(), flat.clone()
    first[0] = True
    if timed:
        first[2, 0] = terminated[1, 0] = True
        first[3, 1:] = True
    else:
        terminated[0, 0] = True
    first, terminated = first.reshape(shape), terminated.reshape(shape)
    numbers = torch.sin(torch.arange(3 * costs.numel(), dtype=dtype)).reshape(3, *shape)
    value, following, q = numbers.unbind(0)
    if end is not None:
        following = following.masked_fill(terminated, end)
    found = {"value": value, "next_value": following, "q": q, "terminated": terminated.to(dtype), "log_prob": -numbers[0].abs()}
    tensors = {subject.named(k): x if timed else x.squeeze(0) for k, x in found.items()}
    return Downstream(
        "action",
        ((costs, 0, INFINITE if timed else 0.0),),
        first if timed else None,
        timed,
        len(batch),
        len(batch),
        ratio,
        tensors.__getitem__,
        tuple(batch),
    )


# -- on a plate ------------------------------------------------------------------------------------------------------


def on_plate(credit: Credit | None, samples: int, cost: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The mean gradient of a plate's `[samples]` bits over all their outcomes, and the true one."""
    count = 2**samples
    z = (torch.arange(count).unsqueeze(0) >> torch.arange(samples).unsqueeze(1) & 1).to(torch.float64)  # [plate, N]
    theta = torch.tensor([0.4, -0.7]).expand(count, 2).clone().requires_grad_()
    p = Bernoulli(logits=theta[:, 0] + theta[:, 1]).log_prob(z).sum(0).exp()
    graph = Graph()
    graph.stochastic(
        ScoreFunction(),
        lambda theta: Bernoulli(logits=theta[..., 0] + theta[..., 1]),
        name="z",
        plate=samples,
        credit=credit,
    )
    graph.deterministic(lambda z: 0.3 - 0.9 * z, name="log_weights", parents=["z"])
    graph.cost(cost, name="c", parents=["log_weights", "z"])
    (each,) = torch.autograd.grad(graph.replay({"z": z}, theta=theta).surrogate() * count, theta)
    (true,) = torch.autograd.grad((p * cost(0.3 - 0.9 * z, z)).sum(), theta)
    return (p.detach().unsqueeze(-1) * each).sum(0), true.sum(0)
