"""Formulas as MathML: browsers draw it by themselves, so that a page needs no script and no network."""

from __future__ import annotations

import re
from html import escape, unescape

from latex2mathml.converter import convert

ARITHMATEX = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)
# What latex2mathml does not know, in words that it does: sizes of delimiters, an alignment inside a formula, letters of a style
# that MathML Core has no attribute for.
KNOWN = [
    (re.compile(r"\\[Bb]ig+[lr]?\s*(?=[\[\]()|.{}\\])"), ""),
    (re.compile(r"\{aligned\}"), "{split}"),
    (re.compile(r"\\mathbb\{1\}"), "𝟙"),
    (re.compile(r"\\mathrm\{((?:[A-Za-z ]|\\_){2,})\}"), lambda m: rf"\text{{{m[1].replace(chr(92) + '_', '_')}}}"),
]


def mathml(latex: str, display: bool) -> str:
    """MathML of a formula."""
    for pattern, known in KNOWN:
        latex = pattern.sub(known, latex)
    return convert(latex, display="block" if display else "inline")


def rendered(html: str) -> str:
    """A page whose `arithmatex` elements are replaced by MathML."""

    def one(match: re.Match[str]) -> str:
        display = match[1] == "div"
        inside = unescape(match[2]).strip()
        latex = inside.removeprefix(r"\(").removeprefix(r"\[").removesuffix(r"\)").removesuffix(r"\]").strip()
        return f'<{match[1]} class="formula" title="{escape(latex)}">{mathml(latex, display)}</{match[1]}>'

    return ARITHMATEX.sub(one, html)
