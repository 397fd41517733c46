"""Second derivatives, and what must not change a gradient: `python -m tests.attack.derivatives --graphs 300`.

The programs of the catalogue's attacker, with estimators of every order. The oracle's value Σ p · c is differentiated twice by
autograd, and its gradient is held against differences of the value, so a cut in it would be found. `scg`'s Hessian is that of
each replicate's surrogate, and its mean is held against the oracle's at six standard errors. An estimator of first order in
the program must refuse instead.

On the same random numbers nothing else may change the gradient, to rounding: `checkpoint=`, a copy of the graph, a thread,
`torch.func.grad`, samples that are handed to a replay.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import threading
import warnings
from typing import Any

import torch
from torch import Tensor

import scg
from tests.attack.catalogue import Program, build, generate, slopes, value
from tests.attack.families import FAMILIES, SINGLE
from tests.attack.tally import tally

SMOOTH = {
    "bit": "ScoreFunction() LeaveOneOut(3) Enumeration() UnorderedSet(2) SumAndSample(2) Pruned(LeaveOneOut(2)) MeasureValued() "
    "Perturbation() Antithetic(2) REBAR() RELAX(SquashedSum()) CommonRandomNumbers(LeaveOneOut(2)) "
    "Pruned(MeasureValued(),share=0.5) Pruned(Enumeration(),share=0.5) MuProp()",
    "bits": "ScoreFunction() LeaveOneOut(2) Enumeration() UnorderedSet(2) PrioritySampling(2) TopK(2) SumAndSample(2) REBAR() "
    "Antithetic(2) Pruned(LeaveOneOut(2)) DisARM()",
    "category": "ScoreFunction() LeaveOneOut(2) Enumeration() UnorderedSet(2) SumAndSample(2) PrioritySampling(2) TopK(1) "
    "MeasureValued() Perturbation() RELAX(SquashedSum()) Pruned(Perturbation(),share=0.5) ARSM()",
    "corner": "ScoreFunction() LeaveOneOut(2) Enumeration() UnorderedSet(2) TopK(1) REBAR() RELAX(SquashedSum()) CARMS()",
    "normal": "ScoreFunction() LeaveOneOut(2) Pathwise() Pathwise(2) Antithetic(2) AntitheticPathwise(2) LAX(SquashedSum()) "
    "CommonRandomNumbersPathwise(2) QuasiRandomPathwise(2) Mixed(0.3)",
    "waiting": "ScoreFunction() LeaveOneOut(2) Pathwise() Pathwise(2) LAX(SquashedSum())",
    "count": "ScoreFunction() LeaveOneOut(2) MeasureValued()",
    "trials": "ScoreFunction() LeaveOneOut(2) Enumeration() SumAndSample(2)",
}
MADE = {name: dataclasses.replace(family, estimators=SMOOTH[name]) for name, family in FAMILIES.items()}
ALONE = (*SINGLE, "Mixed(0.3)")


def drawn(seed: int) -> Program:
    return generate(seed, MADE, ALONE)


def sampled(program: Program, replicates: int, graph: scg.Graph, **options: Any) -> tuple[scg.Trace, list[Tensor], Any]:
    """A trace, the learned inputs, each replicate's own, and the surrogate as a function of them."""
    rank = len(program.batch)
    inputs = {k: x.expand((replicates, *[1] * (rank - x.ndim), *x.shape)).clone() for k, x in program.inputs.items()}
    leaves = [inputs[k].requires_grad_() for k in program.learned]
    call: dict[str, Any] = {"steps": program.steps} if program.steps else {}
    if program.first is not None:
        call["first"] = torch.tensor(program.first)
    reduce: Any = "mean" if program.mean else "sum"

    def again(*values: Tensor, **given: Tensor) -> Tensor:
        now = {**inputs, **dict(zip(program.learned, values, strict=True))}
        trace = graph.replay(given, **call, **now) if given else graph.sample(**call, **now)
        return trace.surrogate(reduce=reduce)

    return graph.sample(**call, **inputs, **options), leaves, again


# -- second derivatives ------------------------------------------------------------------------------------------


def hessians(program: Program, replicates: int, graph: scg.Graph) -> Tensor:
    """Of each replicate, `[replicate, rows, columns]`, over the numbers of all learned inputs."""
    trace, leaves, _ = sampled(program, replicates, graph)
    surrogate = replicates * trace.surrogate(reduce="mean" if program.mean else "sum")
    size = sum(x[0].numel() for x in leaves)
    if not surrogate.requires_grad:
        return torch.zeros(replicates, size, size, dtype=torch.float64)
    slopes = torch.autograd.grad(surrogate, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    flat = torch.cat([g.reshape(replicates, -1) for g in slopes], 1)
    rows = []
    for i in range(size):
        if not flat.requires_grad:
            rows.append(torch.zeros(replicates, size, dtype=torch.float64))
            continue
        row = torch.autograd.grad(flat[:, i].sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.reshape(replicates, -1) for g in row], 1))
    return torch.stack(rows, 1)


def curvature(program: Program) -> Tensor:
    """The oracle's Hessian: of the costs that train both inputs. Its gradient is held against differences of the value."""
    leaves = {k: program.inputs[k].clone().requires_grad_() for k in program.learned}
    costs, differences = [n for n in program.nodes if n.kind == "cost"], slopes(program)

    def trained(*names: str) -> list[str]:
        return [n.name for n in costs if all(not n.trains or name in n.trains for name in names)]

    blocks = []
    for a in program.learned:
        row = []
        for b in program.learned:
            total = value(program, {**program.inputs, **leaves}, trained(a, b))
            if not total.requires_grad:
                row.append(torch.zeros(leaves[a].numel(), leaves[b].numel(), dtype=torch.float64))
                continue
            (slope,) = torch.autograd.grad(total, leaves[a], create_graph=True, allow_unused=True, materialize_grads=True)
            if a == b:
                torch.testing.assert_close(slope.detach(), differences[a], atol=1e-7, rtol=1e-6)
            flat = slope.flatten()
            found = [
                torch.autograd.grad(g, leaves[b], retain_graph=True, allow_unused=True, materialize_grads=True)[0].flatten()
                if flat.requires_grad
                else torch.zeros(leaves[b].numel(), dtype=torch.float64)
                for g in flat
            ]
            row.append(torch.stack(found))
        blocks.append(torch.cat(row, 1))
    return torch.cat(blocks)


def off(program: Program, truth: Tensor, replicates: int, graph: scg.Graph) -> float:
    """The largest distance of a mean from the truth, in standard errors."""
    x = hessians(program, replicates, graph)
    apart = (x.mean(0) - truth).abs() / (x.std(0) / replicates**0.5 + 1e-6)
    return apart.nan_to_num(math.inf).max().item()


# -- what changes nothing ----------------------------------------------------------------------------------------


def changed(program: Program, graph: scg.Graph, what: str, seed: int) -> bool:
    """Whether something changed a gradient that it must not change."""
    replicates, reduce = 3, "mean" if program.mean else "sum"

    def gradient(surrogate: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        if not surrogate.requires_grad:
            return [surrogate, *map(torch.zeros_like, leaves)]
        return [surrogate.detach(), *torch.autograd.grad(surrogate, leaves, allow_unused=True, materialize_grads=True)]

    def drawn_again(graph: scg.Graph = graph, **options: Any) -> list[Tensor]:
        with scg.examination(again=False):
            sampled(program, replicates, graph)  # examined now, if it was not: below, the same numbers are drawn
            torch.manual_seed(seed)
            trace, leaves, _ = sampled(program, replicates, graph, **options)
        return gradient(trace.surrogate(reduce=reduce), leaves)  # type: ignore[arg-type]

    torch.manual_seed(seed)
    trace, leaves, again = sampled(program, replicates, graph)
    expected = gradient(trace.surrogate(reduce=reduce), leaves)  # type: ignore[arg-type]
    found: list[list[Tensor]] = []
    if what == "copy":
        found.append(drawn_again(copy.deepcopy(graph)))
    elif what == "checkpoint":
        found.append(drawn_again(checkpoint=1 + seed % 2))
    elif what == "thread":
        thread = threading.Thread(target=lambda: found.append(drawn_again()))
        thread.start()
        thread.join()
    elif what == "replay":
        given = {n.name: trace[n.name].detach() for n in program.nodes if n.estimator}
        found.append(gradient(again(*leaves, **given), leaves))
        again(*leaves, **dict(list(given.items())[: 1 + seed % len(given)]))
    else:
        with torch.no_grad():
            again(*[x.detach() for x in leaves])  # what the transform finds is examined
        torch.manual_seed(seed)
        transformed = torch.func.grad(again, argnums=tuple(range(len(leaves))))(*[x.detach() for x in leaves])
        found.append([expected[0], *transformed])
    return not all(torch.allclose(x, y, rtol=1e-9, atol=1e-11) for x, y in zip(found[0], expected, strict=True))


def unchanging(program: Program, seed: int) -> str:
    """What is tried of it, one for each program."""
    ways = ["copy", "thread", "checkpoint"] if program.steps else ["copy", "thread"]
    if not any(n.trains for n in program.nodes):  # an objective's parameters are told by identity, which a transform changes
        ways += ["torch.func.grad"] * 2
    if {n.estimator for n in program.nodes if n.estimator} <= {"ScoreFunction()", "Pathwise()", "Mixed(0.3)"}:
        ways = ["replay"] if any(n.estimator for n in program.nodes) else ways
    return ways[seed % len(ways)]


def attack(seed: int, replicates: int = 400) -> tuple[str, str]:
    """right, refused or wrong; a distance of more than three standard errors is looked at again with 8 and 50 times the draws."""
    program = drawn(seed)
    if not program.learned:
        return "right", ""
    torch.manual_seed(seed)
    graph, what = build(program), unchanging(program, seed)
    with warnings.catch_warnings(), scg.examination(again=False):
        warnings.simplefilter("ignore")
        try:
            sampled(program, 3, graph)
            if changed(program, graph, what, seed):
                return "wrong", f"{what} changes the gradient"
            hessians(program, 3, graph)
            truth = curvature(program)
            for more in (1, 8, 50):
                distance = off(program, truth, more * replicates, graph)
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
