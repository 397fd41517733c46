"""What is declared of a graph, and its analysis: passive, so that evaluations and checks need not know `Graph`."""

from __future__ import annotations

from torch.compiler import assume_constant_result

from scg.analysis.structure import Structure
from scg.node import Node


class Specification:
    """Nodes by name in the order of their declaration; `first`: the observed node that marks where episodes start."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.first: str | None = None
        self._structure: Structure | None = None

    @property
    def structure(self) -> Structure:
        """Order, ancestors and lags. Raises what is structurally wrong, at the first use after a declaration."""
        if self._structure is None:
            self._structure = self._analysed()
        return self._structure

    @assume_constant_result  # compiled code asks for the analysis, and does not look inside
    def _analysed(self) -> Structure:
        return Structure(self.nodes, self.first)
