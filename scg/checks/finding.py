"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (`error`) or worth knowing (`note`) about a node; `node` is empty where it is the call or the graph."""

    severity: Literal["error", "note"]
    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: node {self.node!r}: {self.message}" if self.node else f"{self.severity}: {self.message}"
