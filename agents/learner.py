"""Learner: a gradient step on each objective of a graph, and a step of the targets, as one function of a minibatch or several.

    g_J = ∇ J(minibatch) for every objective J,   θ_J ← θ_J − rate · Adam(g_J),   θ̄ ← θ̄ + τ (θ − θ̄)

One sample of the graph gives the gradients of all objectives, at the same parameters. Run eagerly or compiled in one piece
(about half a minute the first time on a machine, a few seconds from the cache). The formulas are the same, the order of
rounding is not: "same seed, same bits" holds for either, not between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

import scg
from agents.agent import Metrics
from agents.descent import Optimiser, compile_whole
from agents.products import products
from agents.replay import Rows, parts

Step = Callable[[dict[str, Any]], tuple[Tensor, Tensor]]


class Learner:
    """Steps on the `objectives` (cost → its optimiser) of `graph`, whose nodes `q` and `target` are the critics' regression.

    targets   pairs (target, source) of modules
    delay     all objectives but the first, and the targets, have their step at every so many calls only
    watched   nodes whose means are metrics
    """

    def __init__(
        self,
        graph: scg.Graph,
        objectives: Mapping[str, Optimiser],
        targets: Sequence[tuple[nn.Module, nn.Module]],
        generator: Generator,
        tau: float = 0.005,
        delay: int = 1,
        watched: Sequence[str] = (),
        compiled: bool = False,
        bf16: bool = False,
    ) -> None:
        self.graph, self.objectives, self.tau, self.delay = graph, dict(objectives), tau, delay
        self.generator, self.watched, self.compiled, self.bf16 = generator, tuple(watched), compiled, bf16
        self._slow: list[Tensor] = [p for target, _ in targets for p in target.parameters()]
        self._fast: list[Tensor] = [p for _, source in targets for p in source.parameters()]
        self._steps: dict[tuple[bool, ...], Step] = {}
        self.count = 0

    def examine(self, rows: Rows) -> None:
        """Evaluate the graph once on example rows, so that its checks run on fresh parameters, and never compiled."""
        with scg.randomness(self.generator):
            trace = self.graph.sample(**_ordered(rows))
            for cost in self.objectives:
                trace.surrogate(cost)

    def __call__(self, rows: Rows, minibatches: int = 1) -> tuple[list[Metrics], Tensor]:
        """A step on each of so many `minibatches`, which lie end to end in `rows`; the metrics of each step, and the critics'
        mean absolute error at each row."""
        due = tuple((self.count + i) % self.delay == 0 for i in range(minibatches))
        if minibatches > 1 and len(set(due)) > 1 and minibatches % self.delay:  # or it would be compiled for every pattern
            found = [self(part) for part in parts(rows, minibatches)]
            return [metrics for several, _ in found for metrics in several], torch.cat([error for _, error in found])
        if due not in self._steps:
            step = self._step(due)
            self._steps[due] = compile_whole(step) if self.compiled else step
        with scg.randomness(self.generator), products(self.bf16):
            values, error = self._steps[due](_ordered(rows))
        self.count += minibatches
        each = iter(values.tolist())
        return [{name: next(each) for name in self._names(now)} for now in due], error

    def _costs(self, due: bool) -> list[str]:
        return list(self.objectives) if due else list(self.objectives)[:1]

    def _names(self, due: bool) -> list[str]:
        costs = self._costs(due)
        return [*costs, *self.watched, *[f"{cost}_grad_norm" for cost in costs]]

    def _step(self, due: Sequence[bool]) -> Step:
        """One function that makes a step for each entry of `due`, which says where the slower objectives have theirs."""
        one = {now: self._single(now) for now in set(due)}

        def step(rows: dict[str, Any]) -> tuple[Tensor, Tensor]:
            found = [one[now](part) for now, part in zip(due, parts(rows, len(due)), strict=True)]
            return torch.cat([values for values, _ in found]), torch.cat([error for _, error in found])

        return step if len(due) > 1 else one[due[0]]

    def _single(self, due: bool) -> Step:
        costs, objectives, watched = self._costs(due), self.objectives, self.watched
        parameters = [p for cost in costs for p in objectives[cost].parameters]
        graph, slow, fast, tau = self.graph, self._slow, self._fast, self.tau

        def step(rows: dict[str, Any]) -> tuple[Tensor, Tensor]:
            trace = graph.sample(**rows)
            # Each objective's gradient reaches its own parameters alone, so that of the sum is all of theirs.
            gradients = iter(torch.autograd.grad(trace.surrogate(*costs), parameters))
            norms = [objectives[cost].step([next(gradients) for _ in objectives[cost].parameters]) for cost in costs]
            with torch.no_grad():
                if due:
                    torch._foreach_lerp_(slow, fast, tau)
                means = [trace[name].mean() for name in (*costs, *watched)]
                q, target = trace["q"], trace["target"]
                error = (q - (target if target.ndim == q.ndim else target.unsqueeze(-1))).abs().mean(-1)
                return torch.stack([*means, *norms]), error

        return step

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.generator.set_state(state["generator"])


def _ordered(rows: Rows) -> dict[str, Any]:
    """By name: a graph looks up what it has examined by its inputs in their order."""
    return dict(sorted(rows.items()))
