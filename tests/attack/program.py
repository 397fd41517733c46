"""A random program as plain data, and its text as code for `scg`.

A program is a list of nodes in an order in which they can be evaluated; each has its edges, and the text of its function.
The same text is run by `scg` (with torch's distributions) and by the oracle (with the oracle's own, of the same names).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Edge:
    """`source → node`; `init` names what a previous value is at the start of an episode."""

    source: str
    lag: bool = False
    init: str | None = None
    detached: bool = False
    dist: bool = False

    @property
    def param(self) -> str:
        return self.source + "_prev" * self.lag + "_dist" * self.dist + "_sg" * self.detached

    def code(self) -> str:
        text = repr(self.source)
        if self.lag:
            text = f"prev({text}, init={self.init!r})" if self.init else f"prev({text})"
        if self.dist:
            text = f"dist({text})"
        return f"detach({text})" if self.detached else text


@dataclass(frozen=True)
class Node:
    """One node. `place` is where it stands to the sequence; `slots` is how many branches its estimator makes."""

    name: str
    kind: str  # stochastic, deterministic, cost, observed
    place: str  # before, inside, after
    edges: tuple[Edge, ...] = ()
    text: str = ""
    family: str = ""  # bernoulli, categorical, normal
    event: int = 0
    classes: int = 0
    estimator: str = ""
    rule: str = ""  # score, loo, enumeration, pathwise: how its branches weigh
    n: int = 1
    plate: int = 0
    credit: str | None = None  # "mc", a number, or a node's name
    baseline: str | None = None  # a number, or a node's name
    out: str = "scalar"  # scalar, event, tuple, dict
    real: bool = False

    def params(self) -> str:
        return ", ".join(e.param for e in self.edges)

    def code(self) -> str:
        if self.kind == "observed":
            parents = f", parents=[{', '.join(e.code() for e in self.edges)}]" if self.edges else ""
            return f"g.observed({self.name!r}{parents})"
        extras = ""
        if self.kind == "stochastic":
            if self.credit is not None:
                extras += f", credit={credit_code(self.credit)}"
            if self.baseline is not None:
                extras += f", baseline={level_code(self.baseline)}"
            if self.plate:
                extras += f", plate={self.plate}"
        first = f"{self.estimator}, " if self.kind == "stochastic" else ""
        parents = ", ".join(e.code() for e in self.edges)
        return f"g.{self.kind}({first}lambda {self.params()}: {self.text}, name={self.name!r}, parents=[{parents}]{extras})"


def credit_code(credit: str) -> str:
    return "MonteCarlo()" if credit == "mc" else level_code(credit)


def level_code(level: str) -> str:
    return level if level.lstrip("-").replace(".", "").isdigit() else repr(level)


@dataclass(frozen=True)
class Program:
    """A graph, what it is called with, and what is given of it. Sizes may coincide."""

    nodes: tuple[Node, ...]
    inputs: dict[str, Any]  # name → nested lists, or a tuple of them
    learned: tuple[str, ...]  # inputs that require a gradient
    observed: dict[str, Any] = field(default_factory=dict)
    steps: int = 0  # 0: no sequence
    batch: int = 0  # 0: no batch axis
    first: Any = None  # [time] or [time, batch] of bools
    given: tuple[str, ...] = ()
    given_log_prob: tuple[str, ...] = ()
    given_values: dict[str, Any] = field(default_factory=dict)
    mean: bool = False
    seed: int = 0

    def node(self, name: str) -> Node:
        return next(n for n in self.nodes if n.name == name)

    def has(self, name: str) -> bool:
        return any(n.name == name for n in self.nodes)

    @property
    def branching(self) -> list[Node]:
        """The nodes with a branch axis, in the order of evaluation; given values have none."""
        order = [n for place in ("before", "inside", "after") for n in self.nodes if n.place == place]
        return [n for n in order if n.kind == "stochastic" and n.n > 1 and n.name not in self.given]

    def but(self, **changes: Any) -> Program:
        return replace(self, **changes)


HEADER = """import torch, scg
from torch import distributions as D
from scg import detach, dist, prev
from scg.estimators import *
from scg.estimators.credit import MonteCarlo
torch.set_default_dtype(torch.float64)
"""


def graph_code(program: Program) -> str:
    """Code that declares the graph as `g`."""
    lines = [f"PLATE = {-2 if program.batch else -1}"] if any(n.plate for n in program.nodes) else []
    lines.append("g = scg.Graph()")
    inside = [n for n in program.nodes if n.place == "inside"]
    lines += [n.code() for n in program.nodes if n.place == "before"]
    if inside:
        lines.append("with g.sequence(first='first'):" if program.first is not None else "with g.sequence():")
        lines += ["    g.observed('first')"] if program.first is not None else []
        lines += ["    " + n.code() for n in inside]
    lines += [n.code() for n in program.nodes if n.place == "after"]
    return "\n".join(lines)


def call_code(program: Program) -> str:
    """Code that calls it: `trace`, and the surrogate and its gradient."""
    lines = []
    for name, value in program.inputs.items():
        grad = ", requires_grad=True" if name in program.learned else ""
        if isinstance(value, tuple):
            lines.append(f"{name} = ({', '.join(f'torch.tensor({v})' for v in value)})")
        elif isinstance(value, dict):
            lines.append(f"{name} = {{{', '.join(f'{k!r}: torch.tensor({v})' for k, v in value.items())}}}")
        else:
            lines.append(f"{name} = torch.tensor({value}{grad})")
    given = [f"{name!r}: torch.tensor({value})" for name, value in program.observed.items()]
    given += [f"'first': torch.tensor({program.first})"] if program.first is not None else []
    given += [f"{name!r}: torch.tensor({program.given_values[name]})" for name in program.given]
    given += [f"'{name}.log_prob': torch.tensor({program.given_values[name + '.log_prob']})" for name in program.given_log_prob]
    keywords = [f"steps={program.steps}"] if program.steps else []
    keywords += [f"{name}={name}" for name in program.inputs]
    if program.given:
        call = f"g.replay({{{', '.join(given)}}}, {', '.join(keywords)})"
    else:
        call = f"g.sample({', '.join(keywords)}, **{{{', '.join(given)}}})"
    lines.append(f"trace = {call}")
    lines.append(f"surrogate = trace.surrogate(reduce={'mean' if program.mean else 'sum'!r})")
    lines.append(f"print(surrogate.item(), torch.autograd.grad(surrogate, [{', '.join(program.learned)}], allow_unused=True))")
    return "\n".join(lines)


def code(program: Program) -> str:
    """The whole program, to run."""
    return "\n".join([HEADER, graph_code(program), call_code(program)])
