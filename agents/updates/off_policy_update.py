"""Off-policy updates as an `Execution` says: eager or compiled, one step or several in a call, on one thread or two.

    one thread      step, step, …                             compiled: one call, whatever its number of steps
    two threads     ──┬─ gradient of the first objective ───────────┬─► step of all ─►
                      └─ gradients of the others ─► the next block ─┴────────────────────►

Why: an eager step is hundreds of small kernels; compiled it takes two thirds of the time, and on two threads about half of
that. Cost: half a minute of compilation (a few seconds from the cache) for each pattern of delayed objectives; rounding in
another order, so that "same seed, same bits" holds for each execution and not between them. Noise is presampled where the
default generator cannot be used: on two threads, and on a GPU. A graph that draws other numbers than `standard_normal`'s
stays on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

import scg
from scg import examination
from scg.agents.execution.compilation import compile_function
from scg.agents.execution.matmul_precision import matmul_precision
from scg.agents.execution.presampled_noise import Request, presample, recorded_requests
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.replay import parts
from scg.agents.experience.rollout import Rows
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.off_policy_step import OffPolicyStep

Call = Callable[[dict[str, Any], Callable[[], object]], tuple[list[Metrics], Tensor]]


class OffPolicyUpdate:
    """Runs `step` on minibatches. `generator` gives the graph's random numbers; it and the number of steps are saved."""

    def __init__(
        self,
        step: OffPolicyStep,
        generator: Generator,
        execution: Execution = EAGER,
        thread: WorkerThread | None = None,
    ) -> None:
        self.step, self.generator, self.execution, self.thread = step, generator, execution, thread
        device = next(iter(step.objectives.values())).rate.device
        self.cpu = device.type == "cpu"
        self.presamples = not self.cpu  # where the default generator is not this one's kind, and no checkpoint has it
        self.count = 0
        self._calls: dict[tuple[bool, ...], Call] = {}

    def examine(self, rows: Rows) -> None:
        """Evaluate the graph once on example rows, so that its checks run on fresh parameters, and never compiled."""
        with scg.randomness(self.generator):
            trace = self.step.graph.sample(**_ordered(rows))
            for cost in self.step.objectives:
                trace.surrogate(cost)

    def __call__(
        self, rows: Rows, minibatches: int = 1, begin: Callable[[], object] | None = None
    ) -> tuple[list[Metrics], Tensor]:
        """A step on each of so many `minibatches`, which lie end to end in `rows`; the metrics of each step, and the critics'
        errors at each row. `begin` is called when the worker thread has got its share of the step."""
        delay = self.step.delay
        due = tuple((self.count + i) % delay == 0 for i in range(minibatches))
        if minibatches > 1 and len(set(due)) > 1 and minibatches % delay:  # or it would be compiled for every pattern
            found = [self(part, 1, begin if i == 0 else None) for i, part in enumerate(parts(rows, minibatches))]
            return [metrics for several, _ in found for metrics in several], torch.cat([errors for _, errors in found])
        rows = _ordered(rows)
        if due not in self._calls:
            self._calls[due] = self._prepared(due, rows)
        with matmul_precision(self.execution.bf16):
            metrics, errors = self._calls[due](rows, begin or _nothing)
        self.count += minibatches
        return metrics, errors

    def _prepared(self, due: Sequence[bool], rows: dict[str, Any]) -> Call:
        compiled, several = self.execution.compile, len(self.step.objectives) > 1
        thread = self.thread if compiled and self.cpu and several and list(due) == [True] else None
        requests = None
        if thread is not None or self.presamples:
            one: dict[str, Any] = parts(rows, len(due))[0]
            with torch.no_grad(), examination(again=False):
                self.step.graph.sample(**one)  # an examination draws numbers of its own: it is to be over
                requests = recorded_requests(lambda: self.step.graph.sample(**one))
        if thread is None or requests is None:
            return self._on_one_thread(due, requests)
        return self._on_two_threads(thread, requests)

    def _on_one_thread(self, due: Sequence[bool], requests: Sequence[Request] | None) -> Call:
        """A step for each entry of `due`, which says where the slower objectives have theirs, as one function."""
        step, n = self.step, len(requests or ())

        def several(rows: dict[str, Any], noise: list[Tensor] | None) -> tuple[Tensor, Tensor]:
            found = [
                step(part, None if noise is None else noise[n * i : n * i + n], now)
                for i, (now, part) in enumerate(zip(due, parts(rows, len(due)), strict=True))
            ]
            return torch.cat([values for values, _ in found]), torch.cat([errors for _, errors in found])

        def single(rows: dict[str, Any], noise: list[Tensor] | None) -> tuple[Tensor, Tensor]:
            return step(rows, noise, due[0])

        run = self._compile(several if len(due) > 1 else single)
        names = [step.names(now) for now in due]

        def call(rows: dict[str, Any], begin: Callable[[], object]) -> tuple[list[Metrics], Tensor]:
            begin()
            device, noise = rows["reward"].device, None
            if requests is not None:
                noise = [x.to(device) for _ in due for x in presample(requests, self.generator)]
            with scg.randomness(self.generator):
                values, errors = run(rows, noise)
            each = iter(values.tolist())
            metrics = [{name: next(each) for name in of_step} for of_step in names]
            return metrics, errors.clone() if self.execution.cuda_graphs else errors

        return call

    def _on_two_threads(self, thread: WorkerThread, requests: Sequence[Request]) -> Call:
        """One step on all objectives, the gradients of all but the first on the worker thread."""
        step = self.step
        first, *others = step.objectives
        known = set(step.graph.ancestors(first))
        here = [name for name in step.watched if known.issuperset(step.graph.ancestors(name))]
        there = [name for name in step.watched if name not in here]

        def gradients(costs: Sequence[str], watched: Sequence[str]) -> Callable[..., Any]:
            return self._compile(lambda rows, noise: step.gradients(rows, noise, costs, watched))

        mine, theirs = gradients([first], here), gradients(others, there)
        descend, ready = self._compile(lambda gradients: step.descend(gradients, [first, *others], True)), False
        names = [first, *here, *others, *there, *[f"{cost}_grad_norm" for cost in step.objectives]]

        def call(rows: dict[str, Any], begin: Callable[[], object]) -> tuple[list[Metrics], Tensor]:
            nonlocal ready
            noise = presample(requests, self.generator)
            if not ready:  # compiled one after another
                theirs(rows, noise)
                ready = True
            other = thread.start(theirs, rows, noise)
            begin()
            try:
                my_gradients, means, errors = mine(rows, noise)
            finally:
                their_gradients, their_means, _ = other.result()
            values = torch.cat([means, their_means, descend([*my_gradients, *their_gradients])])
            return [dict(zip(names, values.tolist(), strict=True))], errors

        return call

    def _compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self.execution.compile:
            return function
        return compile_function(function, self.step.changed if self.execution.cuda_graphs else None)

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
