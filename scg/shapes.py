"""Joining tensors whose branch and batch axes differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cat(tensors: Sequence[Tensor], dim: int = -1) -> Tensor:
    """`torch.cat` along a trailing `dim`, with all other axes broadcast against each other first."""
    if dim >= 0:
        raise ValueError(f"scg.cat(dim={dim}): count from the right (dim=-1); branch axes come first and may grow")
    heads = torch.broadcast_shapes(*[t.shape[:dim] for t in tensors])
    tails = torch.broadcast_shapes(*[t.shape[t.ndim + dim + 1 :] for t in tensors])
    return torch.cat([t.expand(*heads, t.shape[dim], *tails) for t in tensors], dim)
