"""The mean of an estimator's draws, by the sequential test.

Draws are made many at a time: rows of θ that are leaves of their own, each with a batch of draws, so that one call of
autograd gives as many independent mean gradients as there are rows. A row that is as near to the truth as `RESOLUTION`
counts as the truth: so near, what is left is rounding, or waits for something that happens once in a hundred thousand draws.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scg.randomness import randomness
from scg.testing.battery.report import Broken, Undecided
from scg.testing.battery.subject import Subject
from scg.testing.oracle import Oracle
from scg.testing.parameters import Block
from scg.testing.sequential import judge

DRAWS = 256  # in a row
AT_ONCE = 32  # rows
FLOOR = 0.5  # of one draw's root mean square: what counts as the size of a gradient that is smaller

RESOLUTION = 1e-4  # of the size of a cost
UPPER = [(i, j) for i in range(3) for j in range(i, 3)]

Estimates = Callable[[Tensor], Tensor]  # θ [rows, draws, …, 3] → estimates [rows, draws, …], or their mean over rows and draws


def rows(estimates: Estimates, thetas: Tensor, order: int, count: int) -> Tensor:
    """`[count, …]`: mean value and gradient (order 1), or upper triangles of Hessians (order 2), at `thetas [k, 3]`."""
    leaf = thetas.unsqueeze(0).unsqueeze(1).repeat(count, 1, 1, 1).requires_grad_()  # [rows, 1, k, 3]
    found = estimates(leaf.expand(count, DRAWS, *thetas.shape))
    if found.ndim:  # [rows, draws, k]
        value, total = found.detach().mean(1).unsqueeze(-1), found.mean(1).sum()
    else:
        value, total = None, found * (count * len(thetas))
    if not total.requires_grad:
        gradient = torch.zeros_like(leaf)
    else:
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=order > 1)
    if order == 1:
        gradient = gradient.squeeze(1)
        both = gradient if value is None else torch.cat([value.to(gradient.dtype), gradient], -1)
        return both.reshape(count, -1).to(torch.float64)
    seconds = []
    for i in range(3):
        entry = gradient[..., i].sum()
        if entry.requires_grad:
            (second,) = torch.autograd.grad(entry, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)
        else:
            second = torch.zeros_like(leaf)
        seconds.append(second.squeeze(1)[..., i:])
    return torch.cat(seconds, -1).detach().reshape(count, -1).to(torch.float64)


def hold(
    subject: Subject,
    estimates: Estimates,
    truths: list[Oracle],
    order: int,
    dtype: torch.dtype = torch.float64,
    valued: bool = True,
) -> None:
    """Hold the means against `truths`, one for each of the first θs; raises Broken or Undecided."""
    thetas = torch.tensor(subject.thetas[: len(truths)], dtype=dtype)
    generator = torch.Generator().manual_seed(subject.seed)

    def draw(count: int) -> Tensor:
        with randomness(generator):
            parts = [rows(estimates, thetas, order, min(AT_ONCE, count - done)) for done in range(0, count, AT_ONCE)]
        found = torch.cat(parts)
        return torch.where((found - oracle.exact).abs() < RESOLUTION, oracle.exact, found)

    exact, error, se = (torch.cat([getattr(t, part) for t in truths]) for part in ("exact", "error", "se"))
    oracle = Oracle("truth", exact, error, se)
    blocks = _blocks(len(truths), order, valued)
    outcome = judge(
        draw, DRAWS, oracle, blocks, false_alarm=subject.false_alarm, detectable=subject.detectable, floor=FLOOR,
        max_draws=subject.max_draws, epsilon=torch.finfo(dtype).eps,
    )  # fmt: skip
    if outcome.verdict == "unbiased":
        return
    bad = next(
        b for v in ("not finite", "biased", "undecided") for b in blocks for i in b.index.tolist() if outcome.verdicts[i] == v
    )
    worst = outcome.worst(bad.index, oracle.exact)
    mean, true, spread = float(outcome.mean[worst]), float(oracle.exact[worst]), float(outcome.se[worst])
    found = f"{bad.names[0]}{_entry(worst, bad)} is {mean:.4g} ± {spread:.2g} over {outcome.draws:,} draws, and should be {true:.4g}"
    if outcome.verdict == "undecided":
        raise Undecided(found + f"; a bias of {float(outcome.allowed[worst]):.2g} could not be excluded")
    raise Broken(found)


def _blocks(k: int, order: int, valued: bool) -> list[Block]:
    """One for each derivative at each θ, and for each value."""
    if order == 2:
        return [Block(("the Hessian",), (6,), torch.arange(6 * j, 6 * j + 6)) for j in range(k)]
    width = 4 if valued else 3
    found = []
    for j in range(k):
        if valued:
            found.append(Block((f"the value{_at(j)}",), (), torch.tensor([width * j])))
        found.append(Block((f"the gradient{_at(j)}",), (3,), torch.arange(width * j + valued, width * (j + 1))))
    return found


def _at(j: int) -> str:
    return "" if j == 0 else f" of batch element {j}"


def _entry(flat: int, block: Block) -> str:
    """Where in its block an entry stands: that of the upper triangle, for a Hessian."""
    if not block.shape:
        return ""
    place = block.index.tolist().index(flat)
    return f"[{place}]" if block.shape == (3,) else f"[{UPPER[place][0]}, {UPPER[place][1]}]"
