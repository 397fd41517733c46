"""Learner: a gradient step on each objective of a graph, and a step of the targets, as one function of a minibatch or several.

    g_J = ∇ J(minibatch) for every objective J,   θ_J ← θ_J − rate · Adam(g_J),   θ̄ ← θ̄ + τ (θ − θ̄)

The gradients of all objectives are taken at the same parameters: from one sample of the graph, or, with a second thread, the
first objective's from one and the others' from the same one beside it. Run eagerly or compiled in one piece (about half a
minute the first time on a machine, a few seconds from the cache). The formulas are the same, the order of rounding is not:
"same seed, same bits" holds for each, not between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.execution.compilation import compile_function
from scg.agents.execution.matmul_precision import matmul_precision
from scg.agents.execution.presampled_noise import Request, presample, recorded_requests, replayed
from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.replay import parts
from scg.agents.experience.rollout import Rows
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Optimiser

Gradients = list[Tensor]
Step = Callable[[dict[str, Any], Callable[[], object]], tuple[list[Metrics], Tensor]]


class OffPolicyUpdate:
    """Steps on the `objectives` (cost → its optimiser) of `graph`, whose nodes `q` and `target` are the critics' regression.

    targets   pairs (target, source) of modules
    delay     all objectives but the first, and the targets, have their step at every so many calls only
    watched   nodes whose means are metrics
    graphs    compiled calls on a GPU are CUDA graphs
    beside    a second thread: compiled, the first objective's gradient is taken on this one and the others' there. A graph
              that draws other random numbers than `standard_normal`'s stays on one
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
        beside: WorkerThread | None = None,
        graphs: bool = False,
    ) -> None:
        self.graph, self.objectives, self.tau, self.delay = graph, dict(objectives), tau, delay
        self.generator, self.watched, self.compiled, self.bf16 = generator, tuple(watched), compiled, bf16
        self.beside = beside
        self._slow: list[Tensor] = [p for target, _ in targets for p in target.parameters()]
        self._fast: list[Tensor] = [p for _, source in targets for p in source.parameters()]
        self._steps: dict[tuple[bool, ...], Step] = {}
        device = self.objectives[next(iter(self.objectives))].rate.device
        self.cpu, self.graphs = device.type == "cpu", graphs
        self.gives = not self.cpu  # noise: where the default generator is not this one's kind, and no checkpoint has it
        self.count = 0

    def examine(self, rows: Rows) -> None:
        """Evaluate the graph once on example rows, so that its checks run on fresh parameters, and never compiled."""
        with scg.randomness(self.generator):
            trace = self.graph.sample(**_ordered(rows))
            for cost in self.objectives:
                trace.surrogate(cost)

    def __call__(
        self, rows: Rows, minibatches: int = 1, begin: Callable[[], object] | None = None
    ) -> tuple[list[Metrics], Tensor]:
        """A step on each of so many `minibatches`, which lie end to end in `rows`; the metrics of each step, and the critics'
        mean absolute error at each row. `begin` is called when the second thread has got its share of the step."""
        due = tuple((self.count + i) % self.delay == 0 for i in range(minibatches))
        if minibatches > 1 and len(set(due)) > 1 and minibatches % self.delay:  # or it would be compiled for every pattern
            found = [self(part, 1, begin if i == 0 else None) for i, part in enumerate(parts(rows, minibatches))]
            return [metrics for several, _ in found for metrics in several], torch.cat([error for _, error in found])
        rows = _ordered(rows)
        if due not in self._steps:
            self._steps[due] = self._step(due, rows)
        with matmul_precision(self.bf16):
            metrics, error = self._steps[due](rows, begin or _nothing)
        self.count += minibatches
        return metrics, error

    def _step(self, due: Sequence[bool], rows: dict[str, Any]) -> Step:
        apart = self.beside if self.compiled and self.cpu and len(self.objectives) > 1 and list(due) == [True] else None
        kinds = None
        if apart is not None or self.gives:
            one: dict[str, Any] = parts(rows, len(due))[0]
            with torch.no_grad():
                kinds = recorded_requests(lambda: self.graph.sample(**one))
        return self._whole(due, kinds) if apart is None or kinds is None else self._side_by_side(apart, kinds)

    def _whole(self, due: Sequence[bool], kinds: Sequence[Request] | None) -> Step:
        """A step for each entry of `due`, which says where the slower objectives have theirs, as one function."""
        one = {now: self._single(now) for now in set(due)}
        n = len(kinds or ())

        def step(rows: dict[str, Any], noise: list[Tensor] | None) -> tuple[Tensor, Tensor]:
            found = [
                one[now](part, None if noise is None else noise[n * i : n * i + n])
                for i, (now, part) in enumerate(zip(due, parts(rows, len(due)), strict=True))
            ]
            return torch.cat([values for values, _ in found]), torch.cat([error for _, error in found])

        run = self._compile(step if len(due) > 1 else one[due[0]])
        names = [self._names(self._costs(now), self.watched) for now in due]

        def call(rows: dict[str, Any], begin: Callable[[], object]) -> tuple[list[Metrics], Tensor]:
            begin()
            device, noise = rows["reward"].device, None
            if kinds is not None:
                noise = [x.to(device) for _ in due for x in presample(kinds, self.generator)]
            with scg.randomness(self.generator):
                values, error = run(rows, noise)
            each = iter(values.tolist())
            return [{name: next(each) for name in of_step} for of_step in names], error.clone() if self.graphs else error

        return call

    def _single(self, due: bool) -> Callable[[dict[str, Any], list[Tensor] | None], tuple[Tensor, Tensor]]:
        costs = self._costs(due)
        gradient, descend = self._gradient(costs, self.watched), self._descend(costs, due)

        def step(rows: dict[str, Any], noise: list[Tensor] | None) -> tuple[Tensor, Tensor]:
            gradients, means, error = gradient(rows, noise)
            return torch.cat([means, descend(gradients)]), error

        return step

    def _side_by_side(self, beside: WorkerThread, kinds: Sequence[Request]) -> Step:
        """One step on all objectives, the gradients of all but the first on the second thread."""
        (first, *others), watched = self.objectives, self.watched
        known = set(self.graph.ancestors(first))
        here = [name for name in watched if known.issuperset(self.graph.ancestors(name))]
        there = [name for name in watched if name not in here]
        mine, theirs = self._compile(self._gradient([first], here)), self._compile(self._gradient(others, there))
        descend, ready = self._compile(self._descend([first, *others], True)), False
        names = [first, *here, *others, *there, *self._names([first, *others], ())[len(self.objectives) :]]

        def call(rows: dict[str, Any], begin: Callable[[], object]) -> tuple[list[Metrics], Tensor]:
            nonlocal ready
            noise = presample(kinds, self.generator)
            if not ready:  # compiled one after another
                theirs(rows, noise)
                ready = True
            other = beside.start(theirs, rows, noise)
            begin()
            try:
                gradients, means, error = mine(rows, noise)
            finally:
                their_gradients, their_means, _ = other.result()
            values = torch.cat([means, their_means, descend([*gradients, *their_gradients])])
            return [dict(zip(names, values.tolist(), strict=True))], error

        return call

    def _gradient(
        self, costs: Sequence[str], watched: Sequence[str]
    ) -> Callable[[dict[str, Any], Sequence[Tensor] | None], tuple[Gradients, Tensor, Tensor]]:
        """Minibatch ↦ gradients of `costs`, means of these and of `watched`, and with the first one's the critics' errors."""
        parameters = [p for cost in costs for p in self.objectives[cost].parameters]
        graph, critics = self.graph, costs[0] == next(iter(self.objectives))

        def gradient(rows: dict[str, Any], noise: Sequence[Tensor] | None) -> tuple[Gradients, Tensor, Tensor]:
            with replayed(noise):
                trace = graph.sample(**rows)
            # Each objective's gradient reaches its own parameters alone, so that of the sum is all of theirs.
            gradients = torch.autograd.grad(trace.surrogate(*costs), parameters)
            with torch.no_grad():
                means = torch.stack([trace[name].mean() for name in (*costs, *watched)])
                if not critics:
                    return list(gradients), means, means[:0]
                q, target = trace["q"], trace["target"]
                error = (q - (target if target.ndim == q.ndim else target.unsqueeze(-1))).abs().mean(-1)
                return list(gradients), means, error

        return gradient

    def _descend(self, costs: Sequence[str], due: bool) -> Callable[[Gradients], Tensor]:
        """Gradients of `costs` ↦ their norms: the optimisers' steps, and that of the targets where it is `due`."""
        objectives, slow, fast, tau = self.objectives, self._slow, self._fast, self.tau

        def descend(gradients: Gradients) -> Tensor:
            each = iter(gradients)
            norms = [objectives[cost].step([next(each) for _ in objectives[cost].parameters]) for cost in costs]
            with torch.no_grad():
                if due:
                    torch._foreach_lerp_(slow, fast, tau)
                return torch.stack(norms)

        return descend

    def _compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self.compiled:
            return function
        kept = [*self._slow, *(tensor for optimiser in self.objectives.values() for tensor in optimiser.tensors)]
        return compile_function(function, kept if self.graphs else None)

    def _costs(self, due: bool) -> list[str]:
        return list(self.objectives) if due else list(self.objectives)[:1]

    def _names(self, costs: Sequence[str], watched: Sequence[str]) -> list[str]:
        return [*costs, *watched, *[f"{cost}_grad_norm" for cost in costs]]

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.generator.set_state(state["generator"])


def _ordered(rows: Rows) -> dict[str, Any]:
    """By name: a graph looks up what it has examined by its inputs in their order."""
    return dict(sorted(rows.items()))


def _nothing() -> None:
    pass
