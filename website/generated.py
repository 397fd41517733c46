"""Pages that are written from the code: the catalogue with its identities, the credits, the glossary, the list of decisions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from torch import distributions as D

import scg
from scg.estimator import Estimator
from scg.estimators.catalogue import ENTRIES, catalogue
from scg.estimators.credit import catalogue as credits


def pages(root: Path) -> dict[str, str]:
    """Each page by its name on the site."""
    return {
        "derive/catalogue.md": "\n".join(_estimators()) + "\n",
        "derive/credits.md": "\n".join(_credits()) + "\n",
        "glossary.md": "\n".join(_glossary(root)) + "\n",
        "decisions/index.md": "\n".join(_decisions(root)) + "\n",
    }


def _estimators() -> Iterator[str]:
    yield "# The catalogue, with each identity\n"
    yield (
        "Each estimator of the catalogue as its file states it: the identity, when it holds, the paper. Where the gradient of a graph "
        "can be written out for it, that is below, for one node x ~ p(x; θ) with the cost f(x). "
        "[Estimators](../estimators.md) has the same as one table, and how to choose.\n"
    )
    rows = {row.estimator: row for row in catalogue()}
    for name, entry in ENTRIES.items():
        row, estimator = rows[name], entry.estimator
        module = type(estimator).__module__
        yield f"## {name}\n"
        yield f"{_prose(inspect.getdoc(type(estimator)) or '')}\n"
        yield "| takes | needs | unbiased | order | evaluations | paper |\n|---|---|---|---|---|---|"
        cells = (row.supports, row.needs, row.unbiased, row.order, row.evaluations, row.paper)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
        identity = _identity(module)
        if identity:
            yield f"```text\n{identity}\n```\n"
        written = _derived(estimator)
        if written:
            yield f"{written}\n"
        if module.startswith("scg.estimators."):
            yield f"Module: [`{module}`](../reference/estimators/{module.rpartition('.')[2]}.md)\n"


def _identity(module: str) -> str:
    """The formulas at the head of a module: the indented paragraphs of its docstring."""
    docstring = inspect.getdoc(__import__(module, fromlist=["_"])) or ""
    blocks = re.findall(r"(?:^(?: {3,}[^\n]*)?\n)*(?:^ {3,}[^\n]*(?:\n|$))+", docstring, re.M)
    return "\n\n".join(inspect.cleandoc("\n" + block).rstrip() for block in blocks)


def _derived(estimator: Estimator) -> str:
    """The gradient of one node with this estimator, in formulas; nothing where a graph of one node does not show it."""
    if estimator.identity.__func__ is Estimator.identity and not isinstance(estimator, scg.ScoreFunction | scg.Pathwise):  # type: ignore[attr-defined]
        return ""
    graph = scg.Graph()
    bends = type(estimator).combine is not Estimator.combine
    credit = "Q" if bends else None
    if bends:
        graph.deterministic(lambda s: s, name="Q")
    graph.stochastic(estimator, lambda theta: D.Bernoulli(logits=theta), name="x", credit=credit)
    graph.cost(lambda x: x, name="f")
    derivation = graph.derivation("theta")
    (equation,) = derivation.equations
    rows = [equation.aligned(), *(f.replace("=", "&=", 1) for f, words in derivation.where_latex if not words)]
    return "$$\n\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}\n$$"


def _credits() -> Iterator[str]:
    yield "# Credits, with each formula\n"
    yield (
        "A credit multiplies a node's score in place of the costs downstream of it. The table says what is promised of each; below it is "
        "the head of each file. How to read the table, and how to write your own: [Estimators](../estimators.md#credits).\n"
    )
    yield credits.as_markdown() + "\n"
    seen = dict.fromkeys(type(entry.credit).__module__ for entry in credits.ENTRIES.values())
    for module in seen:
        docstring = inspect.getdoc(__import__(module, fromlist=["_"])) or ""
        yield f"## {module.rpartition('.')[2]}\n"
        yield f"{_prose(docstring)}\n"
        if identity := _identity(module):
            yield f"```text\n{identity}\n```\n"


def _prose(docstring: str) -> str:
    """The first paragraph, with brackets and stars as they are."""
    first = docstring.split("\n\n")[0].replace("\n", " ")
    parts = re.split(r"(`[^`]*`)", first)
    return "".join(part if i % 2 else re.sub(r"([\[\]*<>_|])", r"\\\1", part) for i, part in enumerate(parts))


def _glossary(root: Path) -> Iterator[str]:
    """The glossary of ARCHITECTURE.md, on a page of its own."""
    found = re.search(r"^## Glossary\n(.*?)(?=^## |\Z)", (root / "ARCHITECTURE.md").read_text(), re.S | re.M)
    if found is None:
        raise ValueError("ARCHITECTURE.md has no section 'Glossary'")
    yield "# Glossary\n"
    yield "The symbols of the papers, the names in the code, and the shapes.\n"
    yield found[1].strip()


def _decisions(root: Path) -> Iterator[str]:
    yield "# Decisions\n"
    yield "Choices that were hard: context, choice, consequence.\n"
    for path in sorted((root / "docs" / "decisions").glob("[0-9]*.md")):
        yield f"* [{path.read_text().splitlines()[0].removeprefix('# ')}]({path.name})"
