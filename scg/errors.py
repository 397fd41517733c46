"""Errors say where, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GraphError(ValueError):
    """A graph, or a sample of it, whose gradient would be wrong. The message opens with the node's name."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    match = get_close_matches(name, list(known), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""
