"""What an estimator learns from: the variance of the gradient that it makes.

    ∂/∂φ E‖g_φ‖² = E[ ∂‖g_φ‖²/∂φ ]        and E[g_φ] does not depend on φ, so this is the variance's gradient

Grathwohl et al. (2018), "Backpropagation through the void"; Tucker et al. (2017) for REBAR's η.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scg.analysis.structure import Structure
from scg.errors import GraphError
from scg.evaluation.objectives import restored
from scg.evaluation.record import Record
from scg.surrogate.surrogate import assemble


def variance(
    structure: Structure,
    run: Callable[[], Record],
    state: Tensor | None,
    wrt: Any,
    costs: Sequence[str],
    reduce: Literal["sum", "mean"],
) -> Tensor:
    """‖g‖² with a gradient for the estimators' parameters alone. `run`: evaluates once more; `state`: on these numbers."""
    learned = [p for n in structure.nodes.values() if isinstance(n.estimator, nn.Module) for p in n.estimator.parameters()]
    learned = [p for p in dict.fromkeys(learned) if p.requires_grad]
    if not learned:
        raise GraphError("trace.variance: no estimator of this graph has parameters to learn")
    if state is None:
        raise GraphError("trace.variance: a compiled evaluation keeps no random state; evaluate eagerly where estimators learn")
    with restored(state), torch.enable_grad():
        surrogate = assemble(run(), costs, reduce)
    targets = [t for t in _tensors(wrt) if t.requires_grad]
    if not targets:
        raise GraphError("trace.variance: nothing in wrt= requires a gradient")
    gradients = torch.autograd.grad(surrogate, targets, create_graph=True, allow_unused=True)
    square = sum((g.square().sum() for g in gradients if g is not None), torch.zeros(()))
    slopes = torch.autograd.grad(square, learned, allow_unused=True)
    value = square.detach()
    for parameter, slope in zip(learned, slopes, strict=True):
        if slope is not None:  # its value is ‖g‖², its gradient that for φ; θ gets none
            value = value + ((parameter - parameter.detach()) * slope).sum()
    return value


def _tensors(wrt: Any) -> list[Tensor]:
    if isinstance(wrt, Tensor):
        return [wrt]
    if isinstance(wrt, nn.Module):
        return list(wrt.parameters())
    return [t for part in wrt for t in _tensors(part)]
