"""The words of an estimator's identity (`scg.identity`), spelt for one node in one notation.

A class that changes how branches are drawn, or how a weight meets a credit, does not inherit an identity: it would be another's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from scg.derivation.node_notation import NodeNotation, bends
from scg.derivation.notation import Symbol, Time
from scg.estimator import Estimator
from scg.node import Node

DECIDES = ("branch", "given", "combine", "pooled")  # what makes an identity true


@dataclass(frozen=True)
class NodeWords:
    """The pieces of an identity of `node`, at step `time` where it is in a sequence."""

    speller: NodeNotation
    node: Node
    time: Time | None

    def at(self, variable: str) -> NodeWords:
        """The same at another step, for sums over steps."""
        return replace(self, time=Time(variable))

    @property
    def left(self) -> str:
        """What the identity is of: ∂w_b F(b), or ∂K_b where the weight meets a credit in a way of its own."""
        if bends(self.node):
            return self.d(self.speller.symbol(self.node.name, self.time, "K"))
        return f"{self.d(self.speller.symbol(self.node.name, self.time, 'w'))} {self.f()}"

    @property
    def credit(self) -> str:
        """The credit less the baseline, in brackets where it is a sum."""
        spelt = self.speller.credit_less_baseline(self.node, (), self.time)
        return spelt or self.f()

    @property
    def given(self) -> str:
        return self.speller.given(self.node, self.time)

    def value(self, branch: str = "", twin: bool = False) -> str:
        """x, or xᵢ; its twin is x̃, the other of a pair."""
        spelt = self.speller.write.symbol(Symbol(self.node.name, self.time, branch=branch))
        return self.speller.write.tilde(spelt) if twin else spelt

    def f(self, branch: str = "", twin: bool = False) -> str:
        return f"F({self.value(branch, twin)})"

    def probability(self, branch: str = "") -> str:
        return f"p({self.value(branch)}{self.given})"

    def score(self, branch: str = "") -> str:
        """∂log p(xᵢ | parents)."""
        return self.d(self.speller.write.log_density(self.value(branch), self.given))

    def d(self, what: str) -> str:
        return self.speller.write.differential(what)

    def sum(self, below: str) -> str:
        return self.speller.write.sum(below)

    def product(self, below: str) -> str:
        return self.speller.write.product(below)

    def unequal(self, one: str, other: str) -> str:
        return self.speller.write.unequal(one, other)

    def fraction(self, above: str | int, below: str | int) -> str:
        return self.speller.write.fraction(str(above), str(below))

    def bracket(self, inside: str) -> str:
        return self.speller.write.bracket(inside)

    def less(self, one: str, other: str) -> str:
        return f"{one} {self.speller.write.minus} {other}"

    def log_odds(self) -> str:
        """The logit of a bit."""
        return f"{self.speller.write.named('logit')} p(1{self.given})"

    def sigmoid(self, inside: str) -> str:
        return self.speller.write.call(self.speller.write.word("sigma"), inside)

    def absolute(self, inside: str) -> str:
        return f"|{inside}|"

    def root(self, inside: str, degree: str) -> str:
        return f"{inside}^{{1/{degree}}}"

    def ratio(self, of_all: bool = False) -> str:
        """r: the ratio of this policy to the recorded one at the recorded value; of a whole sequence it has no step."""
        return self.speller.write.symbol(Symbol("r", None if of_all else self.time))

    def recorded(self) -> str:
        """μ(x): the probability with which the value was recorded."""
        return f"{self.speller.write.word('mu')}({self.value()})"

    def clip(self, what: str, low: float, high: float) -> str:
        return self.speller.write.call(self.speller.write.named("clip"), f"{what}, {low:g}, {high:g}")

    def where(self, formula: str, condition: str) -> str:
        """A formula that holds under a condition, and is 0 elsewhere."""
        return f"{formula} {self.speller.write.indicator(condition)}"

    def at_least(self, one: str, other: str) -> str:
        return self.speller.write.at_least(f"{one} ", f" {other}")


def identity_of(node: Node, speller: NodeNotation, time: Time | None) -> tuple[str, ...]:
    """The equations of the node's estimator; none where the class that defines them is not the one that draws."""
    estimator = node.estimator
    line = type(estimator).__mro__
    says = _defined(line, "identity")
    if says is Estimator or any(line.index(_defined(line, method)) < line.index(says) for method in DECIDES):
        return ()
    return tuple(estimator.identity(NodeWords(speller, node, time)))


def _defined(line: tuple[type, ...], method: str) -> type:
    return next(c for c in line if method in vars(c))
