"""The words in which an estimator writes its identity (`Estimator.identity`), for a node that it does not know, in any notation.

    ∂w_b F(b) = 1/4 Σ_i ∂log p(b_i; θ) (F(b_i) − 1/3 Σ_{j≠i} F(b_j))

∂ is the derivative by whatever the distribution depends on, F what multiplies ∂w in the gradient's terms. `scg.derivation`
spells them.
"""

from __future__ import annotations

from typing import Protocol


class Words(Protocol):
    """The pieces of an identity; each returns a formula."""

    @property
    def left(self) -> str:
        """What the identity is of: ∂w_b F(b), or ∂K_b where the weight meets a credit in a way of its own."""

    @property
    def credit(self) -> str:
        """The credit less the baseline."""

    def at(self, variable: str) -> Words:
        """The same at another step, for sums over steps."""

    def value(self, branch: str = "", twin: bool = False) -> str:
        """x, or xᵢ; its twin is x̃, the other of a pair."""

    def f(self, branch: str = "", twin: bool = False) -> str:
        """F(xᵢ)."""

    def probability(self, branch: str = "") -> str:
        """p(xᵢ | parents)."""

    def score(self, branch: str = "") -> str:
        """∂log p(xᵢ | parents)."""

    def log_odds(self) -> str:
        """The logit of a bit."""

    def recorded(self) -> str:
        """μ(x): the probability with which the value was recorded."""

    def ratio(self, of_all: bool = False) -> str:
        """r: the ratio of this policy to the recorded one; of a whole sequence it has no step."""

    def d(self, what: str) -> str: ...
    def sum(self, below: str) -> str: ...
    def product(self, below: str) -> str: ...
    def unequal(self, one: str, other: str) -> str: ...
    def at_least(self, one: str, other: str) -> str: ...
    def fraction(self, above: str | int, below: str | int) -> str: ...
    def bracket(self, inside: str) -> str: ...
    def less(self, one: str, other: str) -> str: ...
    def sigmoid(self, inside: str) -> str: ...
    def absolute(self, inside: str) -> str: ...
    def root(self, inside: str, degree: str) -> str: ...
    def clip(self, what: str, low: float, high: float) -> str: ...
    def where(self, formula: str, condition: str) -> str:
        """A formula that holds under a condition, and is 0 elsewhere."""
