"""The first sample's examination: every node function is run again, in ways that cannot change a right one's answer.

    after another draw of everything else, on the same parents     it reads a sample that it does not declare
    on the same parents and another random state                   it draws random numbers of its own
    with every other batch element's samples exchanged             it mixes batch elements
    on branch 0 alone                                              it mixes branches
    one step at a time                                             it mixes time steps
    with episodes of other batch elements moved                    its recurrent value is shared by the batch
    with later values of a prefix exchanged                        its mask lets it see them
    with one parent moved that has a gradient                      its slope is not the value's, or it jumps

Autograd can see none of these. The criterion is the graph's own: a node is a function of its declared parents, and
element by element of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from scg.checks.batch_ranks import ranks
from scg.checks.batch_sizes import sizes
from scg.checks.branches_and_steps import mixing_branches, mixing_steps
from scg.checks.causal import leaking
from scg.checks.episodes import crossing
from scg.checks.finding import Finding
from scg.checks.gradient_check import infinite_gradients
from scg.checks.mixing import mixing
from scg.checks.path_check import PathCheck
from scg.checks.recording import Call, Draws, Recording, content, same
from scg.evaluation.plan import Plan
from scg.specification import Specification

DRAWS = 16
HALVINGS = 4  # of the batch: 16 elements are all told apart, of more at least 15 pairs in 16
# Calls of node functions, each as 1 and a tenth of its arguments: where there are more, one halving, one other draw where
# nothing is left to see, and fewer points of smooth functions.
LARGE = 1000


class Examination:
    """Draws plain samples of a graph and compares. `findings()` is the outcome."""

    def __init__(
        self,
        graph: Specification,
        plan: Plan,
        given: Mapping[str, Any],
        inputs: Mapping[str, Any],
        steps: int | None,
        before: int = 0,
        whole: int | None = None,
    ) -> None:
        """`whole`: steps of the call, of which `steps` are examined."""
        self.whole = whole or steps
        self.graph, self.plan, self.structure = graph, plan, graph.structure
        self.given, self.draw = given, Draws(graph, plan, inputs, steps)
        self.recording = self.draw(given, watched=True)
        if self.recording.altered:
            self.recording.put_back()
            self.recording = self.draw(given, tracking=True)
        self.distributions = self.recording.distributions
        self.large = sum(1 + len(call.arguments) / 10 for call in self.recording.calls) > LARGE
        self.halvings = HALVINGS if before == 0 and not self.large else 1
        self.found: dict[tuple[str, str], Finding] = {}
        self.kinked: frozenset[str] = frozenset()

    def _error(self, node: str, what: str, message: str) -> None:
        self.found.setdefault((node, what), Finding("error", node, message))

    def _errors(self, found: Iterable[tuple[str, str, str]]) -> None:
        for node, what, message in found:
            self._error(node, what, message)

    def _failed(self) -> bool:
        return any(f.severity == "error" for f in self.found.values())

    def findings(self) -> list[Finding]:
        self._distributions()
        self._errors(ranks(self.recording))
        for examine in (
            self._sizes,
            self._again,
            self._gradients,
            self._mixing,
            self._episodes,
            self._causal,
            self._below_branches,
            self._all_steps,
        ):
            if not self._failed():
                examine()
        return list(self.found.values())

    # -- what the estimators need --------------------------------------------------------------------------

    def _distributions(self) -> None:
        for name, distribution in self.distributions.items():
            node = self.graph.nodes[name]
            live = self.structure.counts(name, live=True)
            if name in self.given and (f"{name}.log_prob" in self.given or node.estimator.moves):
                continue
            refusal = node.estimator.refuses(distribution) if live or node.estimator.moves else None
            if refusal is not None:
                self._error(name, "distribution", refusal)
            if not node.estimator.weighs and node.baseline is not None:
                note = "it has a baseline, and no likelihood ratio to subtract it from: the baseline does nothing"
                self.found.setdefault((name, "baseline"), Finding("note", name, note))
            if live and not node.estimator.differentiates:
                self._error(
                    name,
                    "gradient",
                    f"{node.estimator!r} gives no gradient, but a cost depends on this sample other than through detach(…). "
                    "Detach it there, or choose an estimator.",
                )

    def _sizes(self) -> None:
        self._errors(sizes(self.recording.trace))

    # -- running again -------------------------------------------------------------------------------------

    def _again(self) -> None:
        """Up to DRAWS other draws, until every sample has differed once and every pathwise gradient has shown itself."""
        for call in self.recording.calls:
            if call.written:
                self._error(
                    call.node.name,
                    "written",
                    "its function writes into a parent in place, which changes what other nodes see. Clone it first.",
                )
        if self._failed():
            return
        unchanged = {c.node.name for c in self.recording.calls if c.node.kind == "stochastic"} - set(self.given)
        paths = PathCheck(self.structure, self.given, self.large)
        for i in range(DRAWS):
            other = self.draw(self._exchanged())
            unchanged = {name for name in unchanged if self._same_samples(name, other)}
            # Backwards, so that what a function leaves behind is still the other draw's when its reader runs.
            for mine in reversed(self.recording.calls):
                self._same_again(mine, first=i == 0)
            paths.compare(self.recording, other)
            if self._failed() or ((i or self.large) and not unchanged and paths.settled):
                break
        self._errors(paths.errors())
        self.kinked = paths.kinked

    def _same_samples(self, name: str, other: Recording) -> bool:
        return same(self.recording.trace[name], other.trace[name])

    def _same_again(self, call: Call, first: bool) -> None:
        name = call.node.name
        torch.set_rng_state(call.state)
        again = content(call.again())
        if not same(call.content, again):
            self._error(
                name,
                "dependency",
                "run again on the same parents after another draw of the rest of the graph, it gave another result: it reads "
                "a sample, or something made from one, that it does not declare (a closure, a global, a buffer).\n"
                "Make what it reads a parameter of its function.",
            )
            return
        if first:
            self.draw.seed()
            if not same(again, content(call.again())):
                self._error(
                    name,
                    "randomness",
                    "its function draws random numbers of its own (dropout in training mode does), so its value is no function "
                    "of its parents and no estimator accounts for it.\nCall .eval() on the module, or make the noise a stochastic node.",
                )

    def _exchanged(self) -> dict[str, Any]:
        """Given values cannot be drawn again: other batch elements' and steps' values stand in for another draw."""
        exchanged = dict(self.given)
        for name, value in self.given.items():
            node = self.graph.nodes.get(name)
            if node is None or not isinstance(value, Tensor) or not node.in_sequence or name == self.structure.first:
                continue
            for axis in range(min(value.ndim, self.plan.batch_rank + 1)):
                value = value.roll(1, axis)
            exchanged[name] = value
        return exchanged

    def _gradients(self) -> None:
        """Of functions that a gradient passes."""
        live = {*self.structure.costs, *(n for n in self.structure.order if self.structure.counts(n, live=True))}
        for node, message in infinite_gradients(c for c in self.recording.calls if c.node.name in live):
            self._error(node, "gradient", message)

    def _mixing(self) -> None:
        for node, message in mixing(self.recording, self.draw, self.halvings):
            self._error(node, "mixing", message)

    def _episodes(self) -> None:
        for node, message in crossing(self.recording, self.draw):
            self._error(node, "first", message)

    def _causal(self) -> None:
        steps = self.whole or self.recording.steps or 1
        for node, message in leaking(self.recording, lambda: self.draw(self._exchanged()), steps):
            self._error(node, "mask", message)

    def _below_branches(self) -> None:
        self._errors(mixing_branches(self.recording, self.draw))

    def _all_steps(self) -> None:
        self._errors(mixing_steps(self.recording, self.draw))
