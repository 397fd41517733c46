"""Errors say where, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from torch import Tensor


class GraphError(ValueError):
    """A graph, or a sample of it, whose gradient would be wrong. The message opens with the node's name."""


class UnknownName(GraphError, KeyError):
    """A name that a trace does not know: `trace["x"]` is a look-up, too."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError's is the repr


def impossible(name: str, weights: Tensor) -> NoReturn:
    """A recorded value that the distribution now excludes."""
    where = (weights == 0).nonzero()[0].tolist()
    raise GraphError(
        f"node {name!r}: a recorded value has probability 0 under its distribution now (weight 0 at index {where}, shape "
        f"{list(weights.shape)}). It says nothing about this policy; leave it out, or keep the policy's support from shrinking."
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    match = get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


def visible(text: str) -> str:
    """`text` on one line, with escapes in place of what a terminal would obey: a name may hold any characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
