"""Off-policy updates as an `Execution` says: eager or compiled, one step or several in a call, on one thread or two.

    one thread      step, step, …                             compiled: one call, whatever its number of steps
    two threads     ──┬─ gradient of the first objective ───────────┬─► step of all ─►
                      └─ gradients of the others ─► the next block ─┴────────────────────►

Why: an eager step is hundreds of small kernels; compiled it takes two thirds of the time, and on two threads about half of
that. Cost: half a minute of compilation (a few seconds from the cache) for each pattern of delayed objectives; rounding in
another order, so that equal seeds give equal bits within each execution and not between them. Noise is presampled where the
default generator cannot be used: on two threads, and on a GPU. A graph that draws random numbers by other functions than
`standard_normal` stays on one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

import scg
from scg import examination
from scg.agents.execution.compilation import compile_function
from scg.agents.execution.matmul_precision import matmul_precision
from scg.agents.execution.presampled_noise import Request, presample, recorded_requests, replayed
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.execution.worker_thread import WorkerThread
from scg.agents.experience.replay import parts
from scg.agents.experience.rollout import Rows
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Optimiser

Call = Callable[[dict[str, Any], Callable[[], object]], tuple[list[Metrics], Tensor]]


class Step(Protocol):
    """A step on one minibatch, whole (`__call__`) and in its two halves: `scg.agents.common.off_policy.OffPolicyStep`."""

    graph: scg.Graph
    optimisers: dict[str, Optimiser]
    """by objective, the one first that has a step at every minibatch"""
    targets: list[Tensor]
    """parameters of the target networks"""

    watched: Sequence[str]
    """nodes whose means are metrics"""
    delay: int
    """the other objectives, and the targets, have their step at every so many calls only"""

    def __call__(self, rows: dict[str, Any], due: bool = True) -> tuple[Tensor, Tensor]: ...

    def names(self, due: bool) -> list[str]: ...

    def costs(self, due: bool) -> list[str]: ...

    def gradients(
        self, rows: dict[str, Any], costs: Sequence[str], watched: Sequence[str]
    ) -> tuple[list[Tensor], Tensor, Tensor]: ...

    def descend(self, gradients: list[Tensor], costs: Sequence[str], due: bool) -> Tensor: ...


class OffPolicyUpdate:
    """Runs `step` on minibatches. `generator` gives the graph's random numbers; it and the number of steps are saved.

    `begin` is called once, when the worker thread has got its share of the next step.
    """

    def __init__(
        self,
        step: Step,
        generator: Generator,
        execution: Execution = EAGER,
        thread: WorkerThread | None = None,
    ) -> None:
        self.step, self.generator, self.execution, self.thread = step, generator, execution, thread
        self.device = next(iter(step.optimisers.values())).rate.device
        self.cpu = self.device.type == "cpu"
        self.presamples = not self.cpu  # a GPU's default generator is another one, and not part of a checkpoint
        self.count = 0
        self.begin: Callable[[], object] = _nothing
        self._calls: dict[tuple[bool, ...], Call] = {}

    def examine(self, rows: Rows) -> None:
        """Evaluate the graph once on example rows, so that its checks run on fresh parameters, and never compiled."""
        with scg.randomness(self.generator):
            trace = self.step.graph.sample(**self._placed(rows))
            for cost in self.step.optimisers:
                trace.surrogate(cost)

    def __call__(self, rows: Rows, minibatches: int = 1) -> tuple[list[Metrics], Tensor]:
        """A step on each of so many `minibatches`, which lie end to end in `rows`; the metrics of each step, and the critics'
        errors at each row."""
        delay = self.step.delay
        due = tuple((self.count + i) % delay == 0 for i in range(minibatches))
        if minibatches > 1 and len(set(due)) > 1 and minibatches % delay:  # one by one: each pattern of `due` is compiled
            found = [self(part) for part in parts(rows, minibatches)]
            return [metrics for several, _ in found for metrics in several], torch.cat([errors for _, errors in found])
        rows = self._placed(rows)
        if due not in self._calls:
            self._calls[due] = self._prepared(due, rows)
        with matmul_precision(self.execution.bf16):
            begin, self.begin = self.begin, _nothing
            metrics, errors = self._calls[due](rows, begin)
        self.count += minibatches
        return metrics, errors

    def _prepared(self, due: Sequence[bool], rows: dict[str, Any]) -> Call:
        compiled, several = self.execution.compile, self.step.costs(False) != self.step.costs(True)
        thread = self.thread if compiled and self.cpu and several and list(due) == [True] else None
        requests = None
        if thread is not None or self.presamples:
            one: dict[str, Any] = parts(rows, len(due))[0]
            with torch.no_grad(), examination(again=False):
                self.step.graph.sample(**one)  # first: an examination draws numbers too
                requests = recorded_requests(lambda: self.step.graph.sample(**one))
        if thread is None or requests is None:
            return self._on_one_thread(due, requests)
        return self._on_two_threads(thread, requests)

    def _on_one_thread(self, due: Sequence[bool], requests: Sequence[Request] | None) -> Call:
        """A step for each entry of `due` as one function; an entry is True where the delayed objectives have a step too."""
        step, n = self.step, len(requests or ())

        def several(rows: dict[str, Any], noise: list[Tensor] | None) -> tuple[Tensor, Tensor]:
            found = []
            for i, (now, part) in enumerate(zip(due, parts(rows, len(due)), strict=True)):
                with replayed(None if noise is None else noise[n * i : n * i + n]):
                    found.append(step(part, now))
            return torch.cat([values for values, _ in found]), torch.cat([errors for _, errors in found])

        def single(rows: dict[str, Any], noise: list[Tensor] | None) -> tuple[Tensor, Tensor]:
            with replayed(noise):
                return step(rows, due[0])

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
        """One step on all objectives, the gradients of those that may be delayed on the worker thread."""
        step = self.step
        first = step.costs(False)
        others = [cost for cost in step.costs(True) if cost not in first]
        known = {node for cost in first for node in step.graph.ancestors(cost)}
        here = [name for name in step.watched if known.issuperset(step.graph.ancestors(name))]
        there = [name for name in step.watched if name not in here]

        def gradients(costs: Sequence[str], watched: Sequence[str]) -> Callable[..., Any]:
            def presampled(rows: dict[str, Any], noise: list[Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
                with replayed(noise):
                    return step.gradients(rows, costs, watched)

            return self._compile(presampled)

        mine, theirs, every = gradients(first, here), gradients(others, there), [*first, *others]
        descend, ready = self._compile(lambda gradients: step.descend(gradients, every, True)), False
        names = [*first, *here, *others, *there, *[f"{cost}_grad_norm" for cost in every]]

        def call(rows: dict[str, Any], begin: Callable[[], object]) -> tuple[list[Metrics], Tensor]:
            nonlocal ready
            noise = presample(requests, self.generator)
            if not ready:  # compile one function after the other
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
        if not self.execution.cuda_graphs:
            return compile_function(function)
        optimised = [tensor for optimiser in self.step.optimisers.values() for tensor in optimiser.tensors]
        return compile_function(function, [*self.step.targets, *optimised])

    def _placed(self, rows: Rows) -> dict[str, Any]:
        """The rows on the updates' device, sorted by name: a graph knows an examined signature by the order of its inputs."""
        return {name: value.to(self.device) for name, value in sorted(rows.items())}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self.generator.set_state(state["generator"])


def _nothing() -> None:
    pass
