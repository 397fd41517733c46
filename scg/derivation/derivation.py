"""A derivation, written: terms, equations, and the two texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Literal

WIDTH = 110


@dataclass(frozen=True)
class Term:
    """One summand of a gradient estimator.

    kind      likelihood-ratio: the score of a sample times what is downstream of it
              pathwise: the derivative of a cost through a sample       direct: one through no sample
    node      the sample's node, or the cost
    costs     the costs downstream that weigh a score; the cost itself otherwise
    paths     the nodes on each path from the parameter, the last one included
    """

    kind: Literal["likelihood-ratio", "pathwise", "direct"]
    node: str
    wrt: str
    costs: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    baseline: str | float | None = None
    credit: str | float | None = None
    unicode: str = field(default="", kw_only=True)
    latex: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        return self.unicode


@dataclass(frozen=True)
class Spelling:
    """One equation in one notation: ∂objective/∂parameter = E[estimator], objective = value. `exact`: there is no E."""

    objective: str
    parameter: str
    value: str
    estimator: str
    terms: tuple[tuple[float, str], ...]
    exact: bool


@dataclass(frozen=True)
class Equation:
    """The gradient of one objective for one parameter."""

    costs: tuple[str, ...]
    wrt: str
    terms: tuple[Term, ...]
    unicode: Spelling
    latex: Spelling

    def __str__(self) -> str:
        spelt = self.unicode
        left = f"∂{spelt.objective}/∂{spelt.parameter} = "
        opens, closes = ("", "") if spelt.exact else ("E[ ", " ]")
        line = left + opens + spelt.estimator + closes
        if len(line) <= WIDTH or len(spelt.terms) < 2:
            return line
        indent = "\n" + " " * (len(left + opens) - 2)
        rows = [f"{'−' if sign < 0 else '+'} {term}" for sign, term in spelt.terms]
        first = rows[0].removeprefix("+ ")
        return left + opens + indent.join([first, *rows[1:]]) + closes

    def aligned(self) -> str:
        """The rows of a LaTeX alignment."""
        spelt = self.latex
        opens, closes = ("", "") if spelt.exact else (r"\mathbb{E}\Big[ ", r" \Big]")
        rows = [f"{'-' if sign < 0 else '+'} {term}" for sign, term in spelt.terms] or ["0"]
        body = " \\\\\n& \\quad ".join([rows[0].removeprefix("+ "), *rows[1:]])
        left = rf"\frac{{\partial {spelt.objective}}}{{\partial {spelt.parameter}}}"
        return f"{left} &= {opens}{body}{closes}"


@dataclass(frozen=True)
class Derivation:
    """The gradient estimator of a graph. Print it, or let a notebook show it."""

    equations: tuple[Equation, ...]
    where_unicode: tuple[tuple[str, str], ...] = ()
    where_latex: tuple[tuple[str, str], ...] = ()

    @property
    def terms(self) -> tuple[Term, ...]:
        return tuple(term for equation in self.equations for term in equation.terms)

    @property
    def unicode(self) -> str:
        """Objectives, their gradients, and what every symbol is."""
        objectives = dict.fromkeys(f"{e.unicode.objective} = {e.unicode.value}" for e in self.equations)
        width = min(48, max((len(formula) for formula, words in self.where_unicode if words), default=0))
        where = [f"  {formula:{width}}  {words}".rstrip() for formula, words in self.where_unicode]
        return "\n".join([*objectives, "", *map(str, self.equations), "", "where", *where])

    @property
    def latex(self) -> str:
        """An `aligned` environment with the objectives and their gradients, without dollars."""
        objectives = dict.fromkeys(f"{e.latex.objective} &= {e.latex.value}" for e in self.equations)
        rows = " \\\\\n".join([*objectives, *(e.aligned() for e in self.equations)])
        return f"\\begin{{aligned}}\n{rows}\n\\end{{aligned}}"

    def __str__(self) -> str:
        return self.unicode

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex}$"

    def _repr_markdown_(self) -> str:
        where = "\n".join(
            f"- ${formula}$" + (f": {escape(words, quote=False)}" if words else "") for formula, words in self.where_latex
        )
        return f"$$\n{self.latex}\n$$\n\nwhere\n\n{where}"
