"""A failing program made small: nodes, edges, steps, branches and texts are taken away while it still fails alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.attack.attack import Verdict, attack
from tests.attack.program import Edge, Node, Program

BAD = ("wrong", "unproven", "internal", "oracle")


def cut(value: Any, size: int) -> Any:
    """The first `size` entries along the last axis of nested lists."""
    if isinstance(value, tuple):
        return tuple(cut(v, size) for v in value)
    if isinstance(value, dict):
        return {k: cut(v, size) for k, v in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [cut(v, size) for v in value]
    return value[:size] if isinstance(value, list) else value


def tidy(program: Program) -> Program | None:
    """Without what nothing reads; None where what is left is no program."""
    nodes = program.nodes
    names = {n.name for n in nodes}
    for n in nodes:
        for level in (n.credit, n.baseline):
            if level is not None and level != "mc" and level not in names and not re.fullmatch(r"-?[\d.]+", level):
                return None
    if not any(n.kind == "cost" for n in nodes) or (not any(n.place == "inside" for n in nodes) and program.steps):
        return None
    read = {x for n in nodes for e in n.edges for x in (e.source, e.init)}
    if any(e.source not in names and e.source not in program.inputs for n in nodes for e in n.edges):
        return None
    if any(e.init and e.init not in names and e.init not in program.inputs for n in nodes for e in n.edges):
        return None
    learned = tuple(x for x in program.learned if x in read)
    if not learned:
        return None
    return program.but(
        inputs={k: v for k, v in program.inputs.items() if k in read},
        learned=learned,
        observed={k: v for k, v in program.observed.items() if k in names},
        given=tuple(x for x in program.given if x in names),
        given_log_prob=tuple(x for x in program.given_log_prob if x in names and x in program.given),
        first=program.first if program.steps else None,
    )


def without_terms(text: str) -> Iterator[str]:
    """Texts with one term of a sum less."""
    for match in re.finditer(r" [+-] -?[\d.]+ \* [^+\-,()]+(\([^()]*\))?[^+\-,()]*(?=[+\-,)]|$)", text):
        yield text[: match.start()] + text[match.end() :]


def smaller(program: Program) -> Iterator[Program]:
    nodes = program.nodes
    for i in range(len(nodes)):
        yield program.but(nodes=(*nodes[:i], *nodes[i + 1 :]))
    if program.first is not None:
        yield program.but(first=None)
    if program.mean:
        yield program.but(mean=False)
    for name in program.given_log_prob:
        yield program.but(given_log_prob=tuple(x for x in program.given_log_prob if x != name))
    for name in program.given:
        yield program.but(given=tuple(x for x in program.given if x != name))
    if program.steps > 1:
        first = program.first[:-1] if program.first is not None else None
        yield program.but(steps=program.steps - 1, first=first, observed={k: v[:-1] for k, v in program.observed.items()})
    if program.batch > 1:
        size = program.batch - 1
        first = program.first
        if first is not None and isinstance(first[0], list):
            first = cut(first, size)
        observed = {k: cut(v, size) if isinstance(v[0], list) else v for k, v in program.observed.items()}
        inputs = {k: cut(v, size) if k != "i4" else v for k, v in program.inputs.items()}
        yield program.but(batch=size, inputs=inputs, observed=observed, first=first)

    def changed(i: int, node: Node) -> Program:
        return program.but(nodes=(*nodes[:i], node, *nodes[i + 1 :]))

    for i, n in enumerate(nodes):
        for attribute in ("credit", "baseline"):
            if getattr(n, attribute) is not None:
                yield changed(i, replace(n, **{attribute: None}))
        if n.kind == "stochastic" and n.n > 1:
            simple = "Pathwise()" if n.rule == "pathwise" else "ScoreFunction()"
            yield changed(i, replace(n, estimator=simple, rule="pathwise" if n.rule == "pathwise" else "score", n=1))
            if n.n > 2 and n.rule != "enumeration":
                yield changed(i, replace(n, estimator=n.estimator.replace(str(n.n), "2"), n=2))
        for k, e in enumerate(n.edges):
            used = re.search(rf"\b{e.param}\b", n.text)
            if not used and len(n.edges) > 1:
                yield changed(i, replace(n, edges=n.edges[:k] + n.edges[k + 1 :]))
            if e.detached:
                edge = replace(e, detached=False)
                if all(edge.param != x.param for x in n.edges):
                    yield changed(i, renamed(n, e, edge))
        for text in without_terms(n.text):
            if n.kind != "cost" and not any(re.search(rf"\b{e.param}\b", text) for e in n.edges):
                continue  # a number, no tensor
            yield changed(i, replace(n, text=text))


def renamed(node: Node, old: Edge, new: Edge) -> Node:
    text = re.sub(rf"\b{old.param}\b", new.param, node.text)
    return replace(node, text=text, edges=tuple(new if e is old else e for e in node.edges))


def shrink(program: Program, judge: Callable[[Program], Verdict] = attack, tries: int = 1500) -> tuple[Program, Verdict]:
    """The smallest failing program that one change after another leads to."""
    verdict = judge(program)
    wanted = ("wrong", "unproven") if verdict.kind in ("wrong", "unproven") else (verdict.kind,)
    best = "wrong" if verdict.kind == "wrong" else None
    changing = True
    while changing and tries > 0:
        changing = False
        for candidate in smaller(program):
            tries -= 1
            neat = tidy(candidate)
            if neat is None or neat == program:
                continue
            try:
                found = judge(neat)
            except Exception:
                continue
            if found.kind in wanted and (best is None or found.kind == best):
                if found.kind == "wrong":
                    best = "wrong"
                program, verdict, changing = neat, found, True
                break
    return program, verdict
