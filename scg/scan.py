"""Scans along time, on blocks `[time, batch…]` cut into episodes.

`first[t]` marks the first step of an episode: nothing before it reaches it. Four facts:

    window sum       S_t = Σ_{s = max(t-hi, start_t)}^{t-lo} x_s
    window product   P_t = Π_{s = max(t-hi, start_t)}^{t-lo} w_s
    affine scan      y_t = b_t + a_t y_{t+1},   y_T = last                 (discounted sums, GAE, λ-returns)
    shift            x_{t-1}, or `init` where an episode starts

Sums run as one cumulative sum; products and affine scans double their span log₂(T) times, so they are exact at
zeros and nothing is ever divided. All of it is vectorised, differentiable, and O(T) or O(T log T).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INFINITE = math.inf


def starts(first: Tensor) -> Tensor:
    """The index of the step that opened each step's episode, `[time, batch…]`, from the flags of the same shape."""
    steps = torch.arange(first.shape[0], device=first.device).view(-1, *[1] * (first.ndim - 1))
    return torch.where(first.bool(), steps, torch.zeros_like(steps)).cummax(0).values


def shift(x: Tensor, by: int, dim: int, fill: float) -> Tensor:
    """`x_{t-by}` along `dim`, `fill` where there is none."""
    if by == 0:
        return x
    length = x.shape[dim]
    by = min(by, length)
    pad = torch.full_like(x.narrow(dim, 0, by), fill)
    return torch.cat([pad, x.narrow(dim, 0, length - by)], dim)


def _reaches(start: Tensor | None, by: int) -> Tensor | None:
    """Whether step t-by lies in the episode of step t; None when it always does (up to the block's own start)."""
    if start is None or by == 0:
        return None
    steps = torch.arange(start.shape[0], device=start.device).view(-1, *[1] * (start.ndim - 1))
    return steps - by >= start


def window_sum(x: Tensor, lo: int, hi: float, start: Tensor | None, dim: int) -> Tensor:
    """`S_t`. `x [branch…, time, batch…]`; `start` from `starts`, or None for one long episode; `dim < 0` is time's."""
    if hi == INFINITE:
        total = x.cumsum(dim)
        if start is not None:  # take away what was summed before the episode began
            shape = torch.broadcast_shapes(total.shape, start.shape)
            before = shift(total, 1, dim, 0.0).expand(shape)
            total = total - before.gather(dim, start.expand(shape))
        return _cut(shift(total, lo, dim, 0.0), _reaches(start, lo), 0.0)
    terms = [_cut(shift(x, lag, dim, 0.0), _reaches(start, lag), 0.0) for lag in range(lo, int(hi) + 1)]
    return sum(terms[1:], terms[0])


def window_product(w: Tensor, lo: int, hi: float, start: Tensor | None, dim: int) -> Tensor:
    """`P_t`, for weights of any value. Arguments as in `window_sum`."""
    if hi == INFINITE:
        span = 1
        while span < w.shape[dim]:
            w = w * _cut(shift(w, span, dim, 1.0), _reaches(start, span), 1.0)
            span *= 2
        return _cut(shift(w, lo, dim, 1.0), _reaches(start, lo), 1.0)
    product = _cut(shift(w, lo, dim, 1.0), _reaches(start, lo), 1.0)
    for lag in range(lo + 1, int(hi) + 1):
        product = product * _cut(shift(w, lag, dim, 1.0), _reaches(start, lag), 1.0)
    return product


def affine(a: Tensor, b: Tensor, last: Tensor | float = 0.0) -> Tensor:
    """`y_t = b_t + a_t y_{t+1}` with `y_T = last`, for `a, b [time, batch…]`. Doubling: log₂(T) vectorised steps.

    Composing two steps of the map y ↦ b + a y gives another one: (a, b) ∘ (a', b') = (a a', b + a b').
    """
    a = a.expand_as(b)
    b = torch.cat([b[:-1], (b[-1] + a[-1] * last).unsqueeze(0)])
    a = torch.cat([a[:-1], torch.zeros_like(a[:1])])  # `last` is in b now; beyond it lies nothing
    span = 1
    while span < b.shape[0]:
        # Step t absorbs step t+span; a_t is 0 wherever the chain has already ended.
        ahead_a = torch.cat([a[span:], torch.zeros_like(a[:span])])
        ahead_b = torch.cat([b[span:], torch.zeros_like(b[:span])])
        b = b + a * ahead_b
        a = a * ahead_a
        span *= 2
    return b


def _cut(x: Tensor, keep: Tensor | None, fill: float) -> Tensor:
    return x if keep is None else torch.where(keep, x, torch.full((), fill, dtype=x.dtype, device=x.device))
