"""Random programs of the whole catalogue against their value: `python -m tests.attack.catalogue --graphs 1000`.

A program has one node function a node, which `scg` calls with tensors `[replicate, batch…]` and the oracle with `[outcome,
plate, batch…]`. The oracle lists all joint outcomes, one node after the other and one step after the other, so the value is
Σ p · c; its derivatives are differences of that number. Nothing is differentiated, and there are no weights, paths or
estimators in it. `scg` draws replicates side by side in the batch, each with parameters of its own: their gradients are
independent, so their mean is held against the oracle's at six standard errors.
"""

from __future__ import annotations

import argparse
import math
import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import scg
from scg import dist, prev
from scg.estimators import *  # noqa: F403
from scg.estimators.catalogue import SquashedSum  # noqa: F401
from tests.attack.families import F64, FAMILIES, JOINTLY, SINGLE, Family
from tests.attack.tally import tally


@dataclass
class Outcomes:
    """What the oracle has in place of a distribution."""

    family: Family
    a: Tensor

    @property
    def mean(self) -> Tensor:
        found = self.family.outcomes(self.a)
        return sum(p.unsqueeze(-1) * x if self.family.event else p * x for x, p in found)  # type: ignore[return-value]


@dataclass
class Node:
    """`terms`: source, how it is read (value, dist, prev), function, factor and, for an event, its weights."""

    name: str
    kind: str  # a family, "value" or "cost"
    place: str  # before, inside, after
    terms: list[tuple[str, str, Callable[[Tensor], Tensor], float, list[float]]]
    curved: bool
    estimator: str = ""
    baseline: float | None = None
    plate: int = 0
    reduces: bool = False
    trains: tuple[str, ...] = ()

    def number(self, plate: int | None, *values: Any) -> Tensor:
        """What its distribution or value is made of; `plate`: the axis that it reduces."""
        parts = []
        for (_, how, f, c, weights), x in zip(self.terms, values, strict=True):
            x = x.mean if how == "dist" else x.to(F64)
            parts.append(f(c * ((x * torch.tensor(weights, dtype=F64)).sum(-1) if weights else x)))
        total = sum(parts[1:], parts[0]) + (0.5 * parts[0] * parts[-1] if self.curved else 0.0)
        if self.reduces and plate is not None:
            total = torch.logsumexp(total, plate, keepdim=True)
        return torch.sin(total) if self.kind == "value" else total


@dataclass
class Program:
    nodes: list[Node]
    inputs: dict[str, Tensor]
    learned: list[str]
    steps: int
    batch: tuple[int, ...]
    first: list[bool] | None
    mean: bool
    plate: int
    on_plate: set[str] = field(default_factory=set)


def generate(seed: int, families: Mapping[str, Family] = FAMILIES, single: tuple[str, ...] = SINGLE) -> Program:
    """`single`: estimators that may stand where nothing may branch, beside those of `Pruned`."""
    r = random.Random(seed)
    steps, batch = r.choice([0, 0, 1, 2, 2, 3]), r.choice([(), (), (2,), (3,), (1,), (2, 2), (2, 3)])
    plate = r.choice([0, 0, 2]) if not steps else 0
    names = ["theta", "phi", "data"][: r.choice([1, 2, 3])]
    recurrent, size = bool(steps) and r.random() < 0.6, 1
    nodes: list[Node] = []

    def node(place: str, cost: bool = False) -> None:
        nonlocal size
        times = steps if place == "inside" else 1
        on = 2 if plate and r.random() < 0.5 and not cost else 1
        kinds = [k for k, f in families.items() if size * f.size ** (times * on) <= 1000]
        kind = "cost" if cost else r.choice(kinds) if kinds and r.random() < 0.85 else "value"
        if kind not in ("bit", "normal", "category"):
            on = 1
        terms = []

        def read(source: str, how: str, kind: str) -> None:
            family = families.get(kind)
            weights = [0.9, -0.5, 0.4][: family.event] if family else []
            f = r.choice([torch.sin, torch.tanh, torch.cos]) if kind else torch.clone
            terms.append((source, how, f, r.choice([1.0, -0.8, 0.6]), weights))

        seen = [n for n in nodes if n.kind != "cost" and (place == "after" or n.place == "before" or n.place == place)]
        for n in r.sample(seen, min(len(seen), r.choice([1, 2]) if cost else r.choice([0, 1, 1, 2]))):
            read(n.name, "dist" if n.kind in families and n.kind != "category" and r.random() < 0.12 else "value", n.kind)
        for name in r.sample(names, min(len(names), 0 if terms and r.random() < 0.4 else r.choice([1, 2]))):
            read(name, "value", "")
        name = f"x{len(nodes)}"
        loops = recurrent and place == "inside" and not cost and not (kind in families and families[kind].event)
        if loops:
            read(name, "prev", kind)
        made = Node(name, kind, place, terms, r.random() < 0.5)
        if kind in families:
            size *= families[kind].size ** (times * on)
            suited = families[kind].estimators.split()
            one = [e for e in suited if e in single or e.startswith("Pruned")]
            made.estimator = r.choice(one if loops or (recurrent and place == "inside") else suited)
            if on > 1:
                made.plate, made.estimator = plate, r.choice([e for e in suited if e in JOINTLY])
            made.baseline = 0.7 if r.random() < 0.15 else None
        nodes.append(made)

    for _ in range(r.choice([0, 1, 1, 2]) if steps else r.choice([1, 2, 2, 3])):
        node("before")
    if steps:
        for _ in range(r.choice([1, 1, 2])):
            node("inside")
        terminal = r.random() < 0.6
        if not terminal or r.random() < 0.6:
            node("inside", cost=True)
        if terminal and r.random() < 0.3:
            node("after")
        if terminal:
            node("after", cost=True)
    else:
        for _ in range(r.choice([1, 1, 2])):
            node("before", cost=True)
    on_plate: set[str] = set()
    for n in nodes:
        below = any(s in on_plate and how != "dist" for s, how, *_ in n.terms)
        n.reduces = below and not n.plate and (n.kind == "cost" or (n.kind == "value" and r.random() < 0.3))
        if n.plate or (below and not n.reduces):
            on_plate.add(n.name)
    read_ = {s for n in nodes for s, *_ in n.terms} | (
        {"start"} if any(t[1] == "prev" for n in nodes for t in n.terms) else set()
    )
    inputs = {}
    for name in (*names, "start"):
        if name in read_:
            shape = () if name != "data" and r.random() < 0.6 else tuple(1 if r.random() < 0.2 else b for b in batch)
            inputs[name] = torch.tensor([round(r.uniform(-1, 1), 2) for _ in range(math.prod(shape))], dtype=F64).reshape(shape)
    learned = [name for name in inputs if name != "data"]
    if r.random() < 0.4:
        for n in nodes:
            n.trains = (r.choice(learned),) if n.kind == "cost" and learned and r.random() < 0.8 else ()
    first = [True, *(r.random() < 0.4 for _ in range(steps - 1))] if steps and r.random() < 0.3 else None
    return Program(nodes, inputs, learned, steps, batch, first, bool(steps) and r.random() < 0.2, plate, on_plate)


# -- the oracle --------------------------------------------------------------------------------------------------


def value(program: Program, inputs: dict[str, Tensor], counted: list[str]) -> Tensor:
    """Σ p · c of the counted costs, the mean over the batch."""
    rank, ones = len(program.batch), (1,) * len(program.batch)
    probability = torch.ones((1, 1, *program.batch), dtype=F64)
    held: list[dict[str, Any]] = [{k: x.reshape((1, 1, *ones[x.ndim :], *x.shape)) for k, x in inputs.items()}]
    total = torch.zeros((), dtype=F64)

    def repeated(x: Any, m: int) -> Any:
        if isinstance(x, Outcomes):
            return Outcomes(x.family, repeated(x.a, m))
        return x if len(x) == 1 else x.repeat_interleave(m, 0)

    def run(n: Node, values: dict[str, Any], share: float) -> None:
        nonlocal probability, total
        a = n.number(1, *(values[s + {"value": "", "dist": ".dist", "prev": ".prev"}[how]] for s, how, *_ in n.terms))
        if n.kind not in FAMILIES:
            values[n.name] = a
            if n.name in counted:
                total = total + share * (probability * a).sum(0).mean()
            return
        family, drawn = FAMILIES[n.kind], []
        for j in range(program.plate if n.name in program.on_plate else 1):
            own = a[:, j : j + 1] if a.shape[1] > 1 else a
            xs, ps = zip(*family.outcomes(own.expand((len(probability), *own.shape[1:]))), strict=True)
            m = len(xs)
            probability = torch.stack([probability * p for p in ps], 1).flatten(0, 1)
            for d in held:
                d.update({k: repeated(x, m) for k, x in d.items()})
            a = repeated(a, m)
            drawn = [x.repeat_interleave(m, 0) for x in drawn] + [torch.stack(xs, 1).flatten(0, 1)]
        values[n.name], values[n.name + ".dist"] = torch.cat(drawn, 1), Outcomes(family, a)

    assert all(x.ndim == 2 + rank for x in held[0].values())
    for n in program.nodes:
        if n.place == "before":
            run(n, held[0], 1.0)
    for t in range(program.steps):
        now, last = dict(held[0]), held[-1]
        opening = t == 0 or (program.first is not None and program.first[t])
        for n in program.nodes:
            if any(how == "prev" for _, how, *_ in n.terms):
                now[n.name + ".prev"] = now["start"] if opening else last[n.name]
        held[1:] = [now]
        for n in program.nodes:
            if n.place == "inside":
                run(n, now, 1 / program.steps if program.mean else 1.0)
    for n in program.nodes:
        if n.place == "after":
            run(n, held[-1], 1.0)
    return total


def slopes(program: Program, h: float = 1e-3) -> dict[str, Tensor]:
    """Differences of the value: for each input those of the costs that train it."""
    found = {}
    for name in program.learned:
        counted = [n.name for n in program.nodes if n.kind == "cost" and (not n.trains or name in n.trains)]
        x = program.inputs[name]
        slope = torch.zeros(x.numel(), dtype=F64)
        for i in range(x.numel()):
            moved = (x + s * h * (torch.arange(x.numel()) == i).reshape(x.shape) for s in (-2, -1, 1, 2))
            far, near, near_, far_ = (value(program, {**program.inputs, name: y}, counted) for y in moved)
            slope[i] = (far - 8 * near + 8 * near_ - far_) / (12 * h)
        found[name] = slope.reshape(x.shape)
    return found


# -- scg ---------------------------------------------------------------------------------------------------------


def build(program: Program) -> scg.Graph:
    graph = scg.Graph()
    plate = -2 - len(program.batch)

    def declare(n: Node) -> None:
        wrapped = {"value": lambda s: s, "dist": dist, "prev": lambda s: prev(s, init="start")}
        parents = [wrapped[how](s) for s, how, *_ in n.terms]

        def fn(*values: Any) -> Any:
            a = n.number(plate if n.reduces else None, *values)
            a = a.squeeze(plate) if n.reduces else a
            return FAMILIES[n.kind].made(a) if n.kind in FAMILIES else a

        if n.kind in FAMILIES:
            options: Any = {"baseline": n.baseline, "plate": n.plate or None, "name": n.name, "parents": parents}
            graph.stochastic(eval(n.estimator), fn, **options)
        elif n.kind == "cost":
            graph.cost(fn, name=n.name, parents=parents, trains=n.trains or None)
        else:
            graph.deterministic(fn, name=n.name, parents=parents)

    for place in ("before", "inside", "after"):
        if place == "inside" and program.steps:
            with graph.sequence(first=None if program.first is None else "first"):
                if program.first is not None:
                    graph.observed("first")
                for n in (n for n in program.nodes if n.place == place):
                    declare(n)
        else:
            for n in (n for n in program.nodes if n.place == place):
                declare(n)
    return graph


def gradients(program: Program, replicates: int) -> dict[str, Tensor]:
    """The gradient of each replicate."""
    rank = len(program.batch)
    inputs = {k: x.expand((replicates, *[1] * (rank - x.ndim), *x.shape)).clone() for k, x in program.inputs.items()}
    leaves = [inputs[k].requires_grad_() for k in program.learned]
    call: dict[str, Any] = {"steps": program.steps} if program.steps else {}
    if program.first is not None:
        call["first"] = torch.tensor(program.first)
    surrogate = build(program).sample(**call, **inputs).surrogate(reduce="mean" if program.mean else "sum")
    if not surrogate.requires_grad:
        return {k: torch.zeros_like(x) for k, x in zip(program.learned, leaves, strict=True)}
    found = torch.autograd.grad(surrogate, leaves, allow_unused=True, materialize_grads=True)
    return {k: replicates * x for k, x in zip(program.learned, found, strict=True)}


def off(program: Program, truth: dict[str, Tensor], replicates: int) -> float:
    """The largest distance of a mean from the truth, in standard errors."""
    worst = 0.0
    for name, x in gradients(program, replicates).items():
        apart = (x.mean(0) - truth[name]).abs() / (x.std(0) / replicates**0.5 + 1e-6)
        worst = max(worst, apart.nan_to_num(math.inf).max().item())
    return worst


def attack(seed: int, replicates: int = 700) -> tuple[str, str]:
    """right, refused or wrong; a distance of more than three standard errors is looked at again with 8 and 50 times the draws."""
    program = generate(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            gradients(program, 3)
            truth = slopes(program)
            for more in (1, 8, 50):
                distance = off(program, truth, more * replicates)
                if distance < 3:
                    return "right", ""
        except (scg.GraphError, ValueError) as error:
            return "refused", str(error)
    return ("wrong", f"{distance:.1f} standard errors") if distance > 6 else ("right", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tally(attack, args.start, args.graphs)


if __name__ == "__main__":
    main()
