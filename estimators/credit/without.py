"""A credit that leaves costs out: what is "in the loss" and not "in the reward", in the words of language models' trainers.

a penalty c_t that θ moves directly        Without(credit, costs=("c",))        credit
its direct gradient                        yes                                  yes
what θ does through later steps            no: biased                           yes
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from scg.credit import Downstream
from scg.errors import GraphError
from scg.estimators.credit.wrapped import Wrapped


@dataclass(frozen=True)
class Without(Wrapped):
    """`credit` of all costs but the named ones: those keep their direct gradient, and no score is multiplied with them.

    A penalty "in the loss", as trainers say: of Σ_t KL_t what θ does to each term at the states that were visited, and not what
    it does to the states. Biased, unless the omitted costs have mean 0 given the step.
    """

    costs: tuple[str, ...] = ()

    def __call__(self, downstream: Downstream) -> Tensor:
        if not self.costs:
            return self.credit(downstream)
        missing = set(self.costs) - set(downstream.names)
        if missing:
            raise GraphError(
                f"node {downstream.node!r}: {self!r} leaves out {sorted(missing)[0]!r}, which is no cost downstream of it; those are "
                f"{', '.join(map(repr, downstream.names))}"
            )
        kept = [i for i, name in enumerate(downstream.names) if name not in self.costs]
        if not kept:
            raise GraphError(f"node {downstream.node!r}: {self!r} leaves out all costs downstream of it")
        return self.credit(
            replace(downstream, costs=tuple(downstream.costs[i] for i in kept), names=tuple(downstream.names[i] for i in kept))
        )
