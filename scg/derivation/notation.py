"""Two ways to write the same formula: Unicode for terminals, LaTeX for papers and notebooks.

A name is a base and subscripts: `x1` is x₁, `theta` is θ, `mu_q` is μ_q, and `x1` at step t−1 is x_{1,t−1}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scg.errors import visible

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "kappa": "κ", "lam": "λ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
}  # fmt: skip
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Time:
    """A step: t−1, t', the last one."""

    variable: str = "t"
    offset: int = 0

    def __sub__(self, lag: int) -> Time:
        return replace(self, offset=self.offset - lag)


LAST, ALL = Time("T"), Time("1:T")


@dataclass(frozen=True)
class Symbol:
    """A name at a time, None where time does not matter. `prefix` makes it a quantity of that name: `p_x`, `w_x`; `branch`
    one of its branches: `x_i`."""

    name: str
    time: Time | None = None
    prefix: str = ""
    branch: str = ""


def parse(name: str) -> tuple[str, list[str]]:
    """`theta_policy1` into the base `theta` and the subscripts `policy`, `1`; what cannot be printed is escaped."""
    name = visible(name)
    head, _, tail = name.partition("_")
    if tail and (len(head) == 1 or head in GREEK):
        return head, [tail]
    match = re.fullmatch(r"([A-Za-z]+)_?(\d+)", name)
    return (match[1], [match[2]]) if match else (name, [])


class Unicode:
    """Formulas for a terminal."""

    minus, times, such, semicolon, comma, ellipsis = "−", " ", " | ", "; ", ", ", "…"

    def word(self, base: str) -> str:
        return GREEK.get(base, base)

    def subscripted(self, base: str, subscripts: Sequence[str]) -> str:
        if not subscripts:
            return base
        if len(subscripts) == 1 and subscripts[0].isdigit():
            return base + subscripts[0].translate(SUBSCRIPTS)
        inside = ",".join(subscripts)
        return f"{base}_{inside}" if re.fullmatch(r"\w+", inside) else f"{base}_{{{inside}}}"

    def symbol(self, symbol: Symbol) -> str:
        base, subscripts = parse(symbol.name)
        if symbol.prefix:
            base, subscripts = symbol.prefix, [self.symbol(Symbol(symbol.name))]
        time = [] if symbol.time is None else [self.time(symbol.time)]
        branch = [symbol.branch] if symbol.branch else []
        return self.subscripted(self.word(base), [*map(self.word, subscripts), *time, *branch])

    def time(self, time: Time) -> str:
        if not time.offset:
            return time.variable
        return f"{time.variable}{'+' if time.offset > 0 else self.minus}{abs(time.offset)}"

    def partial(self, of: str, by: str, d: str = "∂") -> str:
        return f"{d}{of}/{d}{by}"

    def total(self, of: str, by: str) -> str:
        return self.partial(of, by, "d")

    def operator(self, by: str) -> str:
        return f"∂/∂{by}"

    def differential(self, of: str) -> str:
        return f"∂{of}"

    def fraction(self, above: str, below: str) -> str:
        return f"{above}/{below}"

    def tilde(self, symbol: str) -> str:
        return f"{symbol[0]}\N{COMBINING TILDE}{symbol[1:]}"

    def unequal(self, one: str, other: str) -> str:
        return f"{one}≠{other}"

    def named(self, word: str) -> str:
        """A function's name."""
        return word

    def indicator(self, condition: str) -> str:
        """1 where the condition holds, else 0."""
        return f"1[{condition}]"

    def log_density(self, of: str, given: str) -> str:
        return f"log p({of}{given})"

    def call(self, function: str, arguments: str) -> str:
        return f"{function}({arguments})"

    def bracket(self, inside: str) -> str:
        return f"({inside})"

    def sum(self, below: str, above: str = "") -> str:
        body = f"{{{below}}}" if len(below) > 1 else below
        return f"Σ_{body}" + (f"^{{{above}}}" if above else "")

    def product(self, below: str) -> str:
        return self.sum(below).replace("Σ", "Π")

    def at_least(self, variable: str, bound: str) -> str:
        return f"{variable}≥{bound}"

    def expectation(self, over: Sequence[str], inside: str) -> str:
        if not over:
            return inside
        return f"{self.subscripted('E', over)}[ {inside} ]"

    def stopped(self, inside: str) -> str:
        return f"sg({inside})"

    def where_first(self, opens: str, time: str) -> str:
        return f"[{time}=1]" if not opens else f"[{opens}]"


class Latex(Unicode):
    """Formulas for a paper, without the surrounding dollars."""

    minus, times, such, semicolon, comma, ellipsis = "-", r" \, ", r" \mid ", r";\, ", ", ", r"\ldots"
    _GREEK = {v: rf"\{'lambda' if k == 'lam' else k}" for k, v in GREEK.items()} | {"ε": r"\varepsilon"}

    def word(self, base: str) -> str:
        base = GREEK.get(base, base)
        if base in self._GREEK:
            return self._GREEK[base]
        if len(base) == 1 or base.isdigit():
            return self.escaped(base)
        return rf"\mathrm{{{self.escaped(base)}}}"

    @staticmethod
    def escaped(text: str) -> str:
        special = {"\\": r"\backslash ", "^": r"\hat{}", "~": r"\tilde{}", " ": r"\ "}
        return "".join(special.get(c, rf"\{c}" if c in "_#$%&{}" else c) for c in text)

    def symbol(self, symbol: Symbol) -> str:
        base, subscripts = parse(symbol.name)
        if symbol.prefix:
            base, subscripts = symbol.prefix, [symbol.name]
            inner = [super().symbol(Symbol(symbol.name))]
        else:
            inner = [self.word(s) for s in subscripts]
        time = [] if symbol.time is None else [self.time(symbol.time)]
        branch = [symbol.branch] if symbol.branch else []
        return self.subscripted(self.word(base), [*inner, *time, *branch])

    def subscripted(self, base: str, subscripts: Sequence[str]) -> str:
        return f"{base}_{{{','.join(subscripts)}}}" if subscripts else base

    def partial(self, of: str, by: str, d: str = r"\partial") -> str:
        return rf"\frac{{{d} {of}}}{{{d} {by}}}"

    def total(self, of: str, by: str) -> str:
        return self.partial(of, by, r"\mathrm{d}")

    def operator(self, by: str) -> str:
        return rf"\frac{{\partial}}{{\partial {by}}}"

    def differential(self, of: str) -> str:
        return rf"\partial {of}"

    def fraction(self, above: str, below: str) -> str:
        return rf"\frac{{{above}}}{{{below}}}"

    def tilde(self, symbol: str) -> str:
        return rf"\tilde{{{symbol}}}"

    def unequal(self, one: str, other: str) -> str:
        return rf"{one} \ne {other}"

    def named(self, word: str) -> str:
        return rf"\operatorname{{{word}}}"

    def indicator(self, condition: str) -> str:
        return rf"\mathbb{{1}}[{condition}]"

    def log_density(self, of: str, given: str) -> str:
        return rf"\log p({of}{given})"

    def bracket(self, inside: str) -> str:
        return rf"\left({inside}\right)"

    def sum(self, below: str, above: str = "") -> str:
        return rf"\sum_{{{below}}}" + (f"^{{{above}}}" if above else "")

    def product(self, below: str) -> str:
        return rf"\prod_{{{below}}}"

    def at_least(self, variable: str, bound: str) -> str:
        return rf"{variable} \ge {bound}"

    def expectation(self, over: Sequence[str], inside: str) -> str:
        return rf"\mathbb{{E}}_{{{','.join(over)}}}\left[ {inside} \right]" if over else inside

    def stopped(self, inside: str) -> str:
        return rf"\operatorname{{sg}}({inside})"

    def where_first(self, opens: str, time: str) -> str:
        return rf"[{opens or f'{time} = 1'}]"
