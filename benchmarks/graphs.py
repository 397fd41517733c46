"""Time and memory against the size of a graph, and against the length of a sequence.

    python -m benchmarks.graphs                 # up to 10,000 nodes, each measurement within --seconds
    python -m benchmarks.graphs --sizes 10 100 --steps 10 100

Families of n stochastic nodes:

    chain    x_i reads x_{i-1}; one cost at the end
    costs    a chain with a cost at every node
    wide     n independent nodes, read by one cost
    dense    x_i reads all earlier nodes, with a cost at every node

The last column of a family is the growth exponent between its two largest sizes: time ∝ n^exponent. A dense graph has n²/2
edges, so its exponent is 2 where the work is linear in the size of the graph. One thread; a row is left out where the row
before it says that it would take longer than --seconds.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Normal

import scg
from scg.estimators import ScoreFunction

BATCH = 8


def chain(n: int) -> scg.Graph:
    graph = scg.Graph()
    for i in range(n):
        graph.stochastic(ScoreFunction(), shifted, name=f"x{i}", parents=[f"x{i - 1}" if i else "theta"])
    graph.cost(square, name="cost", parents=[f"x{n - 1}"])
    return graph


def costs(n: int) -> scg.Graph:
    graph = scg.Graph()
    for i in range(n):
        graph.stochastic(ScoreFunction(), shifted, name=f"x{i}", parents=[f"x{i - 1}" if i else "theta"])
        graph.cost(square, name=f"cost{i}", parents=[f"x{i}"])
    return graph


def wide(n: int) -> scg.Graph:
    graph = scg.Graph()
    for i in range(n):
        graph.stochastic(ScoreFunction(), shifted, name=f"x{i}", parents=["theta"])
    graph.cost(squared_mean, name="cost", parents=[f"x{i}" for i in range(n)])
    return graph


def dense(n: int) -> scg.Graph:
    graph = scg.Graph()
    for i in range(n):
        graph.stochastic(ScoreFunction(), shifted_mean, name=f"x{i}", parents=["theta", *(f"x{j}" for j in range(i))])
        graph.cost(square, name=f"cost{i}", parents=[f"x{i}"])
    return graph


FAMILIES: dict[str, Callable[[int], scg.Graph]] = {"chain": chain, "costs": costs, "wide": wide, "dense": dense}


def shifted(x: Tensor) -> Normal:
    return Normal(0.5 * x, 1.0, validate_args=False)


def shifted_mean(*xs: Tensor) -> Normal:
    return Normal(0.5 * torch.stack(xs).mean(0), 1.0, validate_args=False)


def square(x: Tensor) -> Tensor:
    return (x - 1.0) ** 2


def squared_mean(*xs: Tensor) -> Tensor:
    return (torch.stack(xs).mean(0) - 1.0) ** 2


def process() -> scg.Graph:
    """A random walk with a cost at every step."""
    graph = scg.Graph()
    with graph.sequence():

        @graph.stochastic(ScoreFunction())
        def x(theta, before=scg.prev("x", init="start")):
            return Normal(0.9 * before + theta, 1.0, validate_args=False)

        @graph.cost
        def cost(x):
            return x**2

    return graph


@dataclass
class Row:
    """What was measured at one size; `seconds` by what was done."""

    family: str
    size: int
    seconds: dict[str, float] = field(default_factory=dict)
    megabytes: float = 0.0


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak() -> float:
    """The process's greatest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(family: str, size: int, skip: frozenset[str] = frozenset()) -> Row:
    """One graph: its analysis, first sample with surrogate and backward, the same again, and its derivation."""
    row, graph = Row(family, size), FAMILIES[family](size)
    theta = torch.zeros(BATCH, requires_grad=True)
    before = peak()
    work: dict[str, Callable[[], object]] = {
        "analysis": lambda: [graph.structure.groups(c) for c in graph.structure.costs],
        "first": lambda: graph.surrogate(theta=theta).backward(),
        "later": lambda: graph.surrogate(theta=theta).backward(),
        "derivation": lambda: str(graph.derivation()),
    }
    for name, run in work.items():
        if name not in skip:
            row.seconds[name] = seconds(run)
    row.megabytes = peak() - before
    return row


def stepped(steps: int, skip: frozenset[str] = frozenset()) -> Row:
    """One sequence: sampled step by step, and replayed at once."""
    row, graph = Row("sequence", steps), process()
    theta = torch.zeros((), requires_grad=True)
    start, recorded, before = torch.zeros(BATCH), torch.randn(steps, BATCH), peak()
    graph.surrogate(theta=theta, start=start, steps=2)
    graph.replay({"x": recorded[:2]}, theta=theta, start=start).surrogate()
    work: dict[str, Callable[[], object]] = {
        "sample": lambda: graph.surrogate(theta=theta, start=start, steps=steps).backward(),
        "replay": lambda: graph.replay({"x": recorded}, theta=theta, start=start).surrogate().backward(),
    }
    for name, run in work.items():
        if name not in skip:
            row.seconds[name] = seconds(run)
    row.megabytes = peak() - before
    return row


def rows(measured: Callable[[int, frozenset[str]], Row], sizes: list[int], limit: float) -> list[Row]:
    """A family from small to large, without what would take too long: as long as growth by the cube allows."""
    found: list[Row] = []
    for size in sizes:
        last = found[-1] if found else None
        growth = (size / last.size) ** 2 if last else 1.0
        skip = frozenset(name for name, taken in last.seconds.items() if taken * growth > limit) if last else frozenset()
        skip |= frozenset(name for earlier in found for name in earlier.seconds if last and name not in last.seconds)
        if "first" in skip:  # a later sample would be the first one
            skip |= {"later"}
        if last and skip >= last.seconds.keys():
            break
        found.append(measured(size, skip))
    return found


def exponent(found: list[Row], what: str) -> float | None:
    """The growth of time between the two largest sizes at which something was measured."""
    points = [(row.size, row.seconds[what]) for row in found if what in row.seconds][-2:]
    if len(points) < 2:
        return None
    (n0, t0), (n1, t1) = points
    return math.log(t1 / t0) / math.log(n1 / n0)


def table(found: list[Row]) -> str:
    """Sizes down, work across, growth exponents last."""
    names = list(dict.fromkeys(name for row in found for name in row.seconds))
    lines = [f"{found[0].family:10}" + "".join(f"{name:>12}" for name in names) + f"{'peak MB':>12}"]
    for row in found:
        cells = [f"{row.seconds[name]:11.3f}s" if name in row.seconds else f"{'—':>12}" for name in names]
        lines.append(f"{row.size:<10}" + "".join(cells) + f"{row.megabytes:12.0f}")
    grown = [exponent(found, name) for name in names]
    lines.append(f"{'exponent':10}" + "".join(f"{'—':>12}" if g is None else f"{g:12.2f}" for g in grown))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=[*FAMILIES, "sequence"], default=[*FAMILIES, "sequence"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 100, 1_000, 10_000])
    parser.add_argument("--steps", nargs="+", type=int, default=[10, 100, 1_000, 10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=60.0, help="the longest that one measurement may be expected to take")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for family in options.family:
        if family == "sequence":
            print(table(rows(stepped, options.steps, options.seconds)), end="\n\n", flush=True)
        else:
            measured = lambda size, skip, family=family: measure(family, size, skip)  # noqa: E731
            print(table(rows(measured, options.sizes, options.seconds)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
