"""Costs, baselines, credits and samples have as many batch axes as each other.

A log-density with more axes than the cost, or fewer, would broadcast against it from the right, and the surrogate would be a
sum over pairs that do not belong together. `batch_sizes.py` compares the sizes of the axes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from scg.checks.recording import Recording
from scg.distributions.laws import kind


def ranks(recording: Recording) -> Iterator[tuple[str, str, str]]:
    """(node, what, message) of each that has another number of axes, on one plain draw without branches."""
    plan, structure, distributions = recording.plan, recording.structure, recording.distributions
    ranks_of_costs = set(plan.cost_ranks.values())
    for name in structure.stochastic:
        for what in ("baseline", "credit"):
            source = getattr(structure.nodes[name], what)
            rank = plan.value_ranks.get(source, 0) if isinstance(source, str) else 0
            if rank - (source in structure.on_plate) > plan.batch_rank:
                yield (
                    name,
                    what,
                    f"its {what} {source!r} has {rank} axes, the costs have {plan.batch_rank}; one would broadcast against "
                    "the other. Return one value per batch element (squeeze a trailing axis of size 1).",
                )
        node, rank = structure.nodes[name], plan.ranks[name] - (name in structure.on_plate)
        if node.plate is not None and rank != plan.batch_rank:
            yield (
                name,
                "batch",
                f"its plate stands left of batch shape {list(distributions[name].batch_shape)}, while the costs have rank "
                f"{plan.batch_rank}. Give the distribution the batch axes of the costs (expand it), and have each cost "
                "reduce the plate's axis, dim=-(batch axes + 1).",
            )
        if not node.estimator.weighs and name not in recording.given:
            continue  # no likelihood ratio: nothing broadcasts
        batch = distributions[name].batch_shape
        if not ranks_of_costs - {rank} and not (batch and batch[-1] == 1):
            continue
        for cost in structure.costs:
            window = structure.window(name, cost, live=True)
            if window is not None and rank == plan.cost_ranks[cost]:
                yield from _crossed(recording, name, cost)
            if window is None or rank in (0, plan.cost_ranks[cost]):
                continue
            shape = list(distributions[name].batch_shape)
            if rank < plan.cost_ranks[cost] and torch.Size(shape).numel() > 1:
                yield (
                    name,
                    "batch",
                    f"its {kind(distributions[name])} has batch shape {shape}, fewer axes than the cost {cost!r} (rank "
                    f"{plan.cost_ranks[cost]}), so its log-density would broadcast from the right.\nSum the cost over what "
                    "belongs to one sample, or give the distribution axes of size 1 where it is shared.",
                )
            if rank < plan.cost_ranks[cost]:
                continue
            yield (
                name,
                "batch",
                f"its {kind(distributions[name])} has batch shape {shape}, more axes than the cost {cost!r} "
                f"(rank {plan.cost_ranks[cost]}), so its log-density would broadcast against the cost.\n"
                f"Wrap it in Independent(…, {rank - plan.cost_ranks[cost]}) where those axes belong to one sample, "
                "or return one cost per batch element.",
            )


def _crossed(recording: Recording, name: str, cost: str) -> Iterator[tuple[str, str, str]]:
    """`[n, 1]` beside `[n]` makes a cost `[n, n]`: each sample meets the data of all others."""
    batch, value = recording.distributions[name].batch_shape, recording.trace[cost]
    shape = value.shape[value.ndim - len(batch) :]
    if not batch or batch[-1] != 1 or shape[-1] < 2 or shape[-1] not in batch[:-1]:
        return
    parents = next(call.named for call in recording.calls if call.node.name == cost).values()
    if any(p.shape == shape[-1:] for p in parents if isinstance(p, Tensor)):
        yield (
            cost,
            "batch",
            f"its batch shape is {list(shape)}, that of its ancestor {name!r} {list(batch)}: a parent of shape "
            f"{list(shape[-1:])} met it and became a row. Squeeze the trailing axis of {name!r}; where every sample is meant "
            "to meet all of that parent, give the parent a leading axis of size 1.",
        )
