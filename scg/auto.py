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


def chosen(candidate: Any, node: str | None = None) -> Estimator:
    """An estimator from what a declaration (of `node`) says: an estimator, any object with `branch`, or "auto"."""
    where = f"node {node!r}: " if node else ""
    if isinstance(candidate, str):
        if candidate != "auto":
            raise GraphError(
                f'{where}estimator={candidate!r}: an estimator is an instance, as in ScoreFunction(), or the word "auto"'
            )
        return Auto()
    if isinstance(candidate, type):
        title = candidate.__name__
        raise GraphError(f"{where}estimator={title} is a class; an estimator is an instance, as in {title}()")
    try:
        return Estimator.of(candidate)
    except GraphError as error:
        raise GraphError(f"{where}{error}") from error.__cause__
