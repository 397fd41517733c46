"""One program under attack: what `scg` says of it, against what the oracle says.

`scg` draws; the oracle takes those values, and computes the surrogate at them from its definition on the unrolled
program. Both must agree to rounding, in value, gradient and second derivative, so no comparison has sampling noise.
That the oracle's surrogate has the objective's derivatives is enumerated besides, over all outcomes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import scg
from tests.attack.oracle import (
    F64,
    Enumerated,
    Paths,
    TooMany,
    Unrolled,
    Weight,
    behaviour,
    conventions,
    paths_by_element,
    widened,
    with_gradient,
)
from tests.attack.program import HEADER, Node, Program, graph_code
from tests.attack.script import expectation, sampled

TOLERANCE = 1e-9


@dataclass
class Verdict:
    """right, refused (by a GraphError or ValueError), internal (any other error), wrong, layout, oracle (we disagree with ourselves)."""

    kind: str
    detail: str = ""


class LayoutError(Exception):
    """A trace's value does not have the axes that its node has."""


# -- inputs and given values -----------------------------------------------------------------------------------


def tensor(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(tensor(y) for y in x)
    if isinstance(x, dict):
        return {k: tensor(y) for k, y in x.items()}
    t = torch.tensor(x)
    return t.to(F64) if t.is_floating_point() else t


def tensors(program: Program) -> dict[str, Any]:
    inputs = {name: tensor(value) for name, value in program.inputs.items()}
    for name in program.learned:
        inputs[name].requires_grad_(True)
    return inputs


def stretched(program: Program) -> Program:
    """A batch of one as a batch of two, so that what is batched shows."""
    if program.batch != 1:
        return program

    def twice(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(twice(y) for y in x)
        if isinstance(x, dict):
            return {k: twice(y) for k, y in x.items()}
        return x * 2 if isinstance(x, list) and len(x) == 1 else x

    inputs = {k: twice(v) for k, v in program.inputs.items()}
    observed = {k: [twice(r) for r in v] for k, v in program.observed.items()}
    first = program.first and [twice(r) for r in program.first]
    return program.but(batch=2, inputs=inputs, observed=observed, first=first)


def ancestral(program: Program) -> Unrolled:
    """One ancestral sample, one branch a slot-bearing node; for shapes, and for values to be given."""

    def draw(run: Unrolled, node: Node, t: int, dist: Any) -> tuple[Tensor, Weight]:
        plate = (max(m.plate for m in program.nodes), 1) if node.name in run.plated else (1, 1)
        slots = [node_n if name == node.name else 1 for name, node_n in sizes]
        base = run.full_rank(dist.entropy().detach())
        shape = torch.broadcast_shapes(base.shape, (*slots, *plate))
        if node.family == "normal":
            value = dist.loc.detach() + dist.scale.detach() * torch.randn(shape, dtype=F64)
        elif node.family == "categorical":
            probs = dist.probs.detach().expand(*shape, node.classes)
            value = torch.multinomial(probs.reshape(-1, node.classes), 1).reshape(shape).to(F64)
        else:
            event = (node.event,) if node.event else ()
            value = (torch.rand((*shape, *event), dtype=F64) < dist.probs.detach()).to(F64)
        return value, Weight()

    sizes = [(n.name, n.n) for n in reversed(program.branching)]
    return Unrolled(program, {k: detached(v) for k, v in tensors(program).items()}, [s for s, _ in sizes], set(), draw)


def detached(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(detached(y) for y in x)
    if isinstance(x, dict):
        return {k: detached(y) for k, y in x.items()}
    return x.detach()


def completed(program: Program) -> Program:
    """With values for the nodes that are given: drawn once, and written down."""
    if not program.given:
        return program
    torch.manual_seed(program.seed)
    wide = stretched(program)
    run = ancestral(wide)
    values: dict[str, Any] = {}
    for name in program.given:
        node = program.node(name)
        per_step = [run.values[name, t] for t in range(program.steps if node.place == "inside" else 1)]
        event = 1 if node.event else 0
        shape = torch.broadcast_shapes(*[v.shape for v in per_step])
        batched = shape[len(shape) - 1 - event] > 1
        rows = []
        for v in per_step:
            v = v.expand(shape)
            v = v.reshape(-1, *shape[len(shape) - 1 - event :])[0]  # one branch
            v = v[: program.batch] if batched else v[0]
            rows.append(v)
        value = torch.stack(rows) if node.place == "inside" else rows[0]
        if node.family == "normal":
            value = (value * 100).round() / 100
        values[name] = value.tolist()
        if name in program.given_log_prob:
            values[name + ".log_prob"] = behaviour(node, value).tolist()
    return program.but(given_values=values)


# -- what the library does -------------------------------------------------------------------------------------


def build(program: Program) -> scg.Graph:
    names: dict[str, Any] = {}
    exec(HEADER + graph_code(program), names)
    return names["g"]


def evaluate(graph: scg.Graph, program: Program, inputs: dict[str, Any]) -> scg.Trace:
    given = {name: tensor(value) for name, value in program.observed.items()}
    if program.first is not None:
        given["first"] = torch.tensor(program.first)
    steps = {"steps": program.steps} if program.steps else {}
    if program.given:
        given |= {name: tensor(value) for name, value in program.given_values.items()}
        return graph.replay(given, **steps, **inputs)
    return graph.sample(**steps, **inputs, **given)


# -- the oracle at the library's draws -------------------------------------------------------------------------


def layouts(program: Program) -> dict[str, tuple[tuple[int, ...], int]]:
    """For each stochastic node the sizes of its value, `[slot…, plate, batch]`, over all steps together."""
    batched = program.batch == 1
    run = ancestral(stretched(program))
    found = {}
    for node in program.nodes:
        if node.kind == "stochastic":
            event = 1 if node.event else 0
            shapes = [v.shape[: v.ndim - event] for (n, _), v in run.values.items() if n == node.name]
            shape = torch.broadcast_shapes(*shapes)
            found[node.name] = (*shape[:-1], 1) if batched else tuple(shape)
    return found


def counting(program: Program) -> set[str]:
    """Nodes whose values a cost, a baseline or a credit depends on."""
    above = with_gradient(program, detached=True)
    found: set[str] = set()
    for node in program.nodes:
        if node.kind == "cost":
            found |= above[node.name]
        for level in (node.baseline, node.credit):
            if level in above:
                found |= above[level] | {level}
    return found


def recorded(trace: scg.Trace, program: Program, node: Node, layout: tuple[int, ...], counts: bool) -> Tensor:
    """A node's values in the trace as `[step, slot…, plate, batch, event…]`; a trace has them as `[slot…, plate, step, batch, event…]`."""
    if node.name in program.given:
        value = torch.tensor(program.given_values[node.name], dtype=F64)
        layout = (*[1] * (len(layout) - 1), layout[-1])  # what is given has no branches
    else:
        value = trace[node.name].detach().to(F64)
    steps = (program.steps,) if node.place == "inside" else (1,)
    event = (node.event,) if node.event else ()
    sizes = (*layout[:-1], *steps, layout[-1], *event)
    if [d for d in value.shape if d > 1] != [d for d in sizes if d > 1]:
        if not counts:  # nothing of the surrogate depends on it
            return torch.zeros(sizes, dtype=F64).movedim(len(layout) - 1, 0)
        raise LayoutError(f"node {node.name!r}: trace has shape {tuple(value.shape)}, its axes are {sizes}")
    return value.reshape(sizes).movedim(len(layout) - 1, 0)


def reference(program: Program, inputs: dict[str, Any], values: dict[str, Tensor]) -> Unrolled:
    """The oracle's evaluation at given values, with all weights."""
    slots = [n.name for n in reversed(program.branching)]
    summed = {n.name for n in program.branching if n.rule in ("loo", "enumeration")}

    def draw(run: Unrolled, node: Node, t: int, dist: Any) -> tuple[Tensor, Weight]:
        value = values[node.name][t]
        given = node.name in program.given
        if node.rule == "pathwise":
            moved = dist.loc + dist.scale * ((value - dist.loc) / dist.scale).detach()
            return moved, Weight()
        log = run.full_rank(dist.log_prob(value))
        if given and node.name in program.given_log_prob:
            return value, Weight(factor=(log - behaviour(node, value)).exp())
        z = log - log.detach()
        if given or node.rule == "score" or node.n == 1:
            return value, Weight(z=z)
        dim = slots.index(node.name)
        if node.rule == "enumeration":
            return value, Weight(factor=log.exp())
        n = log.shape[dim]
        others = (z.exp().sum(dim, keepdim=True) - z.exp() - (n - 1)) / (n - 1)
        return value, Weight(factor=(z.exp() - others) / n)

    return Unrolled(program, inputs, slots, summed, draw)


def derivatives(value: Tensor, wrt: list[Tensor], second: bool) -> list[Tensor]:
    if not value.requires_grad:
        return [value.detach(), torch.zeros(sum(x.numel() for x in wrt), dtype=F64)]
    grads = torch.autograd.grad(value, wrt, create_graph=second, allow_unused=True, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in grads])
    found = [value.detach(), flat.detach()]
    if second and flat.requires_grad:
        direction = torch.linspace(0.5, 1.5, flat.numel(), dtype=F64)
        again = torch.autograd.grad((flat * direction).sum(), wrt, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([g.reshape(-1) for g in again]).detach())
    return found


WHAT = ("value", "gradient", "second derivative")


def compare(ours: list[Tensor], theirs: list[Tensor]) -> str | None:
    for what, mine, truth in zip(WHAT, ours, theirs, strict=False):
        if not torch.allclose(mine, truth, rtol=TOLERANCE, atol=TOLERANCE):
            return f"{what}: oracle {mine.reshape(-1).tolist()}, scg {truth.reshape(-1).tolist()}"
    return None


def reason(message: str) -> str:
    """A refusal without its names and numbers."""
    message = message.splitlines()[0]
    message = re.sub(r"^node '[^']*': ", "", message)
    message = re.sub(r"'[^']*'", "…", message)
    message = re.sub(r"[\[(][\d, ]*[\])]", "[]", message)
    return re.sub(r"-?\d+(\.\d+)?", "#", message)[:110]


def attack(program: Program, draws: int = 2, most: int = 1024) -> Verdict:
    """`most` is how many outcomes may be enumerated where one draw differs, to tell a wrong mean from another right surrogate."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = completed(program)
            exact = paths_by_element(program)
            wide = widened(program, exact)
            trouble = consistent(program, exact, wide)
            if trouble:
                return Verdict("oracle", trouble)
            return confront(program, conventions(program, exact, wide), draws, most)
    finally:
        torch.set_default_dtype(default)


def consistent(program: Program, exact: list[Paths], wide: list[Paths]) -> str | None:
    """The oracle against itself: the mean of its surrogate over all outcomes has the objective's gradient."""
    if any(n.credit not in (None, "mc") for n in program.nodes):
        return None
    try:
        inputs = tensors(program)
        runs = [Enumerated(program, inputs) for _ in range(3)]
    except TooMany:
        return None
    wrt = [inputs[name] for name in program.learned]
    found = [derivatives(run.surrogate(p, program.mean), wrt, False) for run, p in zip(runs, (exact, wide), strict=False)]
    trouble = compare(found[0], found[1])
    if trouble:
        return "paths and windows: " + trouble
    if any(e.detached for n in program.nodes for e in n.edges):
        return None
    truth = derivatives(runs[2].objective(program.mean), wrt, False)
    trouble = compare(truth, found[0])
    if trouble:
        return "surrogate and objective: " + trouble
    return None


def proved(program: Program, graph: scg.Graph, right: list[list[Paths]], trouble: str, most: int) -> Verdict:
    """A draw that differs is no proof: its mean over all outcomes is. Given values stay as they are."""

    def draw() -> list[Tensor]:
        inputs = tensors(program)
        trace = evaluate(graph, program, inputs)
        value = trace.surrogate(reduce="mean" if program.mean else "sum")
        return derivatives(value, [inputs[name] for name in program.learned], False)

    def exact(convention: list[Paths]) -> list[Tensor]:
        inputs = tensors(program)
        with mock.patch("tests.attack.oracle.LARGEST", 2**17):  # of the few that come here
            mine = Enumerated(program, inputs, fixed=True).surrogate(convention, program.mean)
        return derivatives(mine, [inputs[name] for name in program.learned], False)

    try:
        truths = [exact(convention) for convention in right]
    except TooMany:
        return Verdict("unproven", trouble)
    try:
        theirs = expectation(draw, most)
    except TooMany:
        return measured(draw, truths, trouble) if most > 1 else Verdict("unproven", trouble)
    found = [compare(truth, theirs) for truth in truths]
    if None in found:
        return Verdict("right", "in the mean")
    # Needless weights have mean one over samples, but given values stay as they are, and not every set of them is among those of `right`.
    return Verdict("unproven" if program.given else "wrong", f"mean of the {found[0]}")


DRAWS, SIGMAS, SHARP = 8192, 6.0, 0.05


def measured(draw: Callable[[], list[Tensor]], truths: list[list[Tensor]], trouble: str) -> Verdict:
    """By statistics where outcomes are too many: a right mean is called wrong once in 10⁸ entries; what is off by more than
    SIGMAS + 6 standard errors is found. Unproven where that is more than a share SHARP of the largest entry, or of 1."""
    (mean,), (error,) = sampled(draw, DRAWS)
    for truth in truths:
        flat = torch.cat([x.reshape(-1) for x in truth])
        if bool(((mean - flat).abs() <= SIGMAS * error + TOLERANCE).all()):
            sharp = float(error.max()) <= SHARP * max(1.0, float(flat.abs().max()))
            return Verdict("right", f"in the mean of {DRAWS:,} draws") if sharp else Verdict("unproven", trouble)
    return Verdict("wrong", f"mean of {DRAWS:,} draws: oracle {truths[0]}, scg {mean.tolist()} ± {error.tolist()}")


def confront(program: Program, right: list[list[Paths]], draws: int, most: int) -> Verdict:
    second = not any(n.credit for n in program.nodes)
    torch.manual_seed(program.seed)
    layout = layouts(program)
    counts = counting(program)
    try:
        graph = build(program)
        for _ in range(draws):
            inputs = tensors(program)
            wrt = [inputs[name] for name in program.learned]
            trace = evaluate(graph, program, inputs)
            theirs = derivatives(trace.surrogate(reduce="mean" if program.mean else "sum"), wrt, second)
            values = {}
            for node in program.nodes:
                if node.kind == "stochastic":
                    values[node.name] = recorded(trace, program, node, layout[node.name], node.name in counts)
            trouble = ""
            for convention in right:
                mine = tensors(program)
                run = reference(program, mine, values)
                ours = derivatives(run.surrogate(convention, program.mean), [mine[n] for n in program.learned], second)
                found = compare(ours, theirs)
                if found is None:
                    trouble = ""
                    break
                trouble = trouble or found
            if trouble:
                return proved(program, graph, right, trouble, most)
    except LayoutError as error:
        return proved(program, graph, right, str(error), most)
    except ValueError as error:
        return Verdict("refused", str(error))
    except Exception as error:
        return Verdict("internal", f"{type(error).__name__}: {error}")
    return Verdict("right")
