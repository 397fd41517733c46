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

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scg.checks.batch_sizes import sizes
from scg.checks.causal import leaking
from scg.checks.episodes import crossing
from scg.checks.finding import Finding
from scg.checks.gradient_check import infinite_gradients
from scg.checks.mixing import mixing
from scg.checks.path_check import PathCheck
from scg.checks.recording import Call, Recording, close, content, same
from scg.distributions.laws import kind
from scg.errors import GraphError
from scg.evaluation.axes import broadcast
from scg.evaluation.plan import Plan
from scg.randomness import seed
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
        self.given, self.inputs, self.steps = given, inputs, steps
        self.stream = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        self.recording = self._draw(given, watched=True)
        if self.recording.altered:
            self.recording.put_back()
            self.recording = self._draw(given, tracking=True)
        self.distributions = self.recording.distributions
        self.large = sum(1 + len(call.arguments) / 10 for call in self.recording.calls) > LARGE
        self.halvings = HALVINGS if before == 0 and not self.large else 1
        self.found: dict[tuple[str, str], Finding] = {}
        self.kinked: frozenset[str] = frozenset()

    def _draw(
        self,
        given: Mapping[str, Any],
        branching: bool = False,
        stepping: bool = True,
        like: Recording | None = None,
        watched: bool = False,
        tracking: bool = False,
    ) -> Recording:
        seed(self._seed())  # running functions again rewinds the stream; every draw is to be a new one
        recording = Recording(
            self.graph,
            self.plan,
            given,
            self.inputs,
            self.steps,
            branching=branching,
            stepping=stepping,
            like=like,
            watched=watched,
            tracking=tracking,
        )
        self.latest = recording
        recording.trace = recording.run()
        return recording

    def _seed(self) -> int:
        return int(torch.randint(2**31, (), generator=self.stream))

    def _error(self, node: str, what: str, message: str) -> None:
        self.found.setdefault((node, what), Finding("error", node, message))

    def _failed(self) -> bool:
        return any(f.severity == "error" for f in self.found.values())

    def findings(self) -> list[Finding]:
        self._distributions()
        self._batch_shapes()
        for examine in (
            self._sizes,
            self._again,
            self._gradients,
            self._mixing,
            self._episodes,
            self._causal,
            self._branches,
            self._at_once,
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

    def _batch_shapes(self) -> None:
        ranks_of_costs = set(self.plan.cost_ranks.values())
        for name in self.structure.stochastic:
            for what in ("baseline", "credit"):
                source = getattr(self.graph.nodes[name], what)
                rank = self.plan.value_ranks.get(source, 0) if isinstance(source, str) else 0
                if rank - (source in self.structure.on_plate) > self.plan.batch_rank:
                    self._error(
                        name,
                        what,
                        f"its {what} {source!r} has {rank} axes, the costs have {self.plan.batch_rank}; one would broadcast against "
                        "the other. Return one value per batch element (squeeze a trailing axis of size 1).",
                    )
            node, rank = self.graph.nodes[name], self.plan.ranks[name] - (name in self.structure.on_plate)
            if node.plate is not None and rank != self.plan.batch_rank:
                self._error(
                    name,
                    "batch",
                    f"its plate stands left of batch shape {list(self.distributions[name].batch_shape)}, while the costs have rank "
                    f"{self.plan.batch_rank}. Give the distribution the batch axes of the costs (expand it), and have each cost "
                    "reduce the plate's axis, dim=-(batch axes + 1).",
                )
            if not node.estimator.weighs and name not in self.given:
                continue  # no likelihood ratio: nothing broadcasts
            batch = self.distributions[name].batch_shape
            if not ranks_of_costs - {rank} and not (batch and batch[-1] == 1):
                continue
            for cost in self.structure.costs:
                window = self.structure.window(name, cost, live=True)
                if window is not None and rank == self.plan.cost_ranks[cost]:
                    self._crossed(name, cost)
                if window is None or rank in (0, self.plan.cost_ranks[cost]):
                    continue
                shape = list(self.distributions[name].batch_shape)
                if rank < self.plan.cost_ranks[cost] and torch.Size(shape).numel() > 1:
                    self._error(
                        name,
                        "batch",
                        f"its {kind(self.distributions[name])} has batch shape {shape}, fewer axes than the cost {cost!r} (rank "
                        f"{self.plan.cost_ranks[cost]}), so its log-density would broadcast from the right.\nSum the cost over what "
                        "belongs to one sample, or give the distribution axes of size 1 where it is shared.",
                    )
                if rank < self.plan.cost_ranks[cost]:
                    continue
                self._error(
                    name,
                    "batch",
                    f"its {kind(self.distributions[name])} has batch shape {shape}, more axes than the cost {cost!r} "
                    f"(rank {self.plan.cost_ranks[cost]}), so its log-density would broadcast against the cost.\n"
                    f"Wrap it in Independent(…, {rank - self.plan.cost_ranks[cost]}) where those axes belong to one sample, "
                    "or return one cost per batch element.",
                )

    def _sizes(self) -> None:
        for node, what, message in sizes(self.recording.trace):
            self._error(node, what, message)

    def _crossed(self, name: str, cost: str) -> None:
        """`[n, 1]` beside `[n]` makes a cost `[n, n]`: each sample meets the data of all others."""
        batch, value = self.distributions[name].batch_shape, self.recording.trace[cost]
        shape = value.shape[value.ndim - len(batch) :]
        if not batch or batch[-1] != 1 or shape[-1] < 2 or shape[-1] not in batch[:-1]:
            return
        parents = next(call.named for call in self.recording.calls if call.node.name == cost).values()
        if any(p.shape == shape[-1:] for p in parents if isinstance(p, Tensor)):
            self._error(
                cost,
                "batch",
                f"its batch shape is {list(shape)}, that of its ancestor {name!r} {list(batch)}: a parent of shape "
                f"{list(shape[-1:])} met it and became a row. Squeeze the trailing axis of {name!r}; where every sample is meant "
                "to meet all of that parent, give the parent a leading axis of size 1.",
            )

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
            other = self._draw(self._exchanged())
            unchanged = {name for name in unchanged if self._same_samples(name, other)}
            # Backwards, so that what a function leaves behind is still the other draw's when its reader runs.
            for mine in reversed(self.recording.calls):
                self._same_again(mine, first=i == 0)
            paths.compare(self.recording, other)
            if self._failed() or ((i or self.large) and not unchanged and paths.settled):
                break
        for node, what, message in paths.errors():
            self._error(node, what, message)
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
            seed(self._seed())
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
        for node, message in mixing(self.recording, lambda given, like: self._draw(given, like=like), self.halvings):
            self._error(node, "mixing", message)

    def _episodes(self) -> None:
        for node, message in crossing(self.recording, lambda given, like: self._draw(given, like=like)):
            self._error(node, "first", message)

    def _causal(self) -> None:
        steps = self.whole or self.recording.steps or 1
        for node, message in leaking(self.recording, lambda: self._draw(self._exchanged()), steps):
            self._error(node, "mask", message)

    # -- branches and time ---------------------------------------------------------------------------------

    def _branches(self) -> None:
        """On branch 0 alone every function must give slice 0 of what it gave on all branches."""
        try:
            recording = self._draw(self.given, branching=True, stepping=True)
        except GraphError:
            raise
        except Exception as error:
            name = self.latest.at
            self._error(
                name,
                "branch",
                f"on one sample of each node it works, below branches it does not: {type(error).__name__}: {error}.\nBranch axes come "
                "first, left of the batch, and a function must broadcast over them; where it reaches no cost, its batch is not known.",
            )
            return
        if not recording.axes.slot:
            return
        first = {n: self._first_branch(n, recording) for n in self.structure.stochastic if n not in self.given}
        try:
            alone = self._draw({**self.given, **first}, like=recording)
        except Exception as error:
            at = min(len(self.latest.calls), len(recording.calls) - 1)
            self._error(
                recording.calls[at].node.name,
                "branch",
                f"it works on all branches at once, but not on one alone: {type(error).__name__}: {error}",
            )
            return
        for call, again in zip(recording.calls, alone.calls, strict=True):
            for together, single in zip(call.content, again.content, strict=False):
                if not isinstance(together, Tensor) or not isinstance(single, Tensor):
                    continue
                extra = together.ndim - single.ndim
                slice0 = together[(0,) * extra] if extra > 0 else together
                if slice0.shape != single.shape or not close(slice0, single):
                    self._error(
                        call.node.name,
                        "branch",
                        f"run on branch 0 alone it gives another result than branch 0 of all branches (shapes {tuple(single.shape)} "
                        f"and {tuple(together.shape)}): its function mixes branches (a reduction, a bmm or a norm over a leading "
                        "axis).\nBranch axes come first: address axes from the right (dim=-1), and use @ rather than bmm.",
                    )
                    return

    def _first_branch(self, name: str, recording: Recording) -> Tensor:
        """Branch 0 of every branching node, in the value of a stochastic node; of the shape that an unbranched draw has."""
        axes = recording.axes
        rank = axes.plate + axes.batch + len(self.distributions[name].event_shape)

        def one(value: Tensor, like: Tensor) -> Tensor:
            value = value.detach()
            return value[(0,) * (value.ndim - rank)].reshape(like.shape) if value.ndim > like.ndim else value

        mine, theirs = self.recording.trace, recording.trace
        if self.graph.nodes[name].in_sequence and mine.history and theirs.history:
            steps = zip(theirs.history, mine.history, strict=True)
            return torch.stack(broadcast([one(step.values[name], like.values[name]) for step, like in steps]))
        return one(theirs[name], mine[name])

    def _at_once(self) -> None:
        """All steps at once must give what one step after another gives, where nothing is drawn."""
        if self.recording.steps in (None, 1):
            return
        try:
            at_once = self._draw(self.given, stepping=False)
        except GraphError:
            raise
        except Exception as error:
            self._error(
                next(
                    (n.name for n in self.structure.inside if any(n.name in note for note in getattr(error, "__notes__", ()))),
                    "",
                ),
                "time",
                f"one step after another the graph is evaluated, all steps at once it fails ({type(error).__name__}: {error}).\n"
                "Give what is the same for the whole batch an axis of size 1 in the batch's place.",
            )
            return
        if not at_once.vectorised:
            return
        drawn = {n for n in self.structure.stochastic if n not in self.given}
        blocks = {c.node.name: c.content for c in at_once.calls}
        steps: dict[str, list[Call]] = {}
        for call in self.recording.calls:
            steps.setdefault(call.node.name, []).append(call)
        for node in self.structure.inside:
            name = node.name
            if (
                name not in blocks
                or name in drawn
                or name in self.structure.prefixed
                or any(self.structure.window(d, name) for d in drawn)
            ):
                continue
            for t, call in enumerate(steps[name]):
                for block, single in zip(blocks[name], call.content, strict=True):
                    if not isinstance(block, Tensor) or block.ndim <= single.ndim:
                        continue
                    now = block[t] if block.shape[0] == len(steps[name]) else block
                    if not agrees(now, single):
                        self._error(
                            name,
                            "time",
                            "all steps at once it gives another result than one step after another: its function mixes time steps, "
                            "or counts axes from the left.\nA node of the sequence is a function of one step; what recurs goes "
                            "through prev(…).",
                        )
                        return


def agrees(now: Tensor, single: Tensor) -> bool:
    """One step of a block against the same step alone, which may still be the same for the whole batch: an initial value is."""
    now, single = now.squeeze(), single.squeeze()
    if now.shape == single.shape:
        return close(now, single)
    return (
        single.ndim < now.ndim and now.shape[now.ndim - single.ndim :] == single.shape and close(now, single.expand(now.shape))
    )
