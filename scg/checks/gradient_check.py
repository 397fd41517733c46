"""Gradients that are not finite where the values are, found by running each function's backward once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from scg.checks.recording import Call, content
from scg.evaluation.objectives import leaves as reached


def infinite_gradients(calls: Iterable[Call]) -> Iterator[tuple[str, str]]:
    """(node, message) of each function whose result is finite and whose gradient is not: √ and log behind where(), say."""
    for call in calls:
        leaves: list[Tensor] = []

        def leaf(x: Any, leaves: list[Tensor] = leaves) -> Any:
            if not isinstance(x, Tensor) or not x.requires_grad:
                return x
            leaves.append(x.detach().requires_grad_())
            return leaves[-1]

        constant = {key for key, value in call.named.items() if isinstance(value, Tensor) and not value.requires_grad}
        changed = {str(key): tree_map(leaf, value) for key, value in call.named.items() if key not in constant}
        torch.set_rng_state(call.state)
        outputs = [o for o in content(call.again(**changed)) if isinstance(o, Tensor) and o.requires_grad]
        if not outputs or not all(bool(torch.isfinite(o).all()) for o in outputs):
            continue
        sources = {**reached(*outputs), **{id(x): x for x in leaves}}
        gradients = torch.autograd.grad(
            [o.sum() for o in outputs], list(sources.values()), retain_graph=True, allow_unused=True
        )
        for source, gradient in zip(sources, gradients, strict=True):
            if gradient is not None and not torch.isfinite(gradient).all():
                what = "one of its parents" if any(id(x) == source for x in leaves) else "a parameter that it reads"
                yield (
                    call.node.name,
                    f"its value is finite, and the gradient of it for {what} is not. where(…) keeps a bad value out and lets "
                    "its gradient, 0 · ∞, in: clamp what goes into √, log or a division before it, not after.",
                )
                break
