"""`"auto"`: a node whose estimator is still to be chosen by measurement."""

from __future__ import annotations

from typing import Any, NoReturn

from torch.distributions import Distribution

from scg.errors import GraphError
from scg.estimator import Branches, Estimator

TODO = (
    'its estimator is "auto", which is not chosen yet.\n'
    "Call scg.tune(graph, inputs): its .graph has the estimator that was measured best. Or name one: "
    "graph.with_estimators(…=ScoreFunction())."
)


class Auto(Estimator):
    """The placeholder that `scg.tune` replaces. It draws nothing: the first sample of an untuned graph is an error."""

    def branch(self, distribution: Distribution) -> Branches:
        self._untuned()

    def _untuned(self) -> NoReturn:
        raise GraphError(f"a node was sampled, but {TODO}")

    def refuses(self, distribution: Distribution) -> str | None:
        return TODO

    def __repr__(self) -> str:
        return "auto"


def chosen(candidate: Any) -> Estimator:
    """An estimator from what a declaration says: an estimator, any object with `branch`, or "auto"."""
    if isinstance(candidate, str):
        if candidate != "auto":
            raise GraphError(f'estimator={candidate!r}: an estimator is an instance, as in ScoreFunction(), or the word "auto"')
        return Auto()
    return Estimator.of(candidate)
