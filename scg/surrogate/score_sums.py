"""Sums of scores over sets of nodes, shared by all targets of one surrogate.

    Σ(S) = Σ(S without its last node) + score of the last node

A cost at every node of a chain of n asks for n nested sets: n additions, and not n²/2. Sets are integers, as in `scg.analysis.reach`.
"""

from __future__ import annotations

from torch import Tensor

from scg.analysis.reach import members
from scg.evaluation.record import Record
from scg.evaluation.weight import Weight, joint


class ScoreSums:
    """The weights of one objective's nodes, sorted by form, and the sums of their scores."""

    def __init__(self, trace: Record, scope: int | None) -> None:
        self.trace, self.scope, self.structure = trace, scope, trace.structure
        self.credited, self.inside = trace.structure.credited, trace.structure.inside_set
        self.seen = self.scored = self.others = 0
        self._sums: dict[tuple[int, bool], Tensor] = {}

    def look(self, nodes: int) -> None:
        """Sort the nodes of a set: those that have a score, and those that branch or have another weight."""
        for i in members(nodes & ~self.seen):
            weight = self.weight(i)
            self.scored |= (weight.score is not None) << i
            self.others |= (weight.factor is not None or weight.n is not None) << i
        self.seen |= nodes

    def weight(self, i: int) -> Weight:
        return self.trace.weight(self.structure.order[i], self.scope)

    def of(self, nodes: int, jointly: bool) -> Tensor:
        """The sum over a set that is not empty; `jointly`: over all samples of a plate, too."""
        missing = []
        while nodes and (nodes, jointly) not in self._sums:
            missing.append(nodes)
            nodes &= ~(1 << nodes.bit_length() - 1)
        total = self._sums.get((nodes, jointly))
        for one in reversed(missing):
            weight = self.weight(one.bit_length() - 1)
            score = (joint(weight, self.trace.axes.plate_dim) if jointly and weight.on_plate else weight).score
            assert score is not None
            total = score if total is None else total + score
            self._sums[one, jointly] = total
        assert total is not None
        return total
