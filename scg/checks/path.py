"""One edge, or the parameters of one function: its differences along a segment, held against its slopes (`slopes.py`).

    Path    the argument of an edge is moved from one draw's value to another's, or at random where it is no sample
    Held    what the function reads from modules and closures is moved at random; only jumps count

Where a function computes in float32 it is tried in float64 first. An end of the segment outside the function's domain makes it
shorter. What was seen at several draws is put together, and `trouble` says it in words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scg.checks.recording import Call
from scg.checks.slopes import PANELS, Found, Segment, listening, look
from scg.node import Edge
from scg.tree import lawful, rebuilt, tensors

SEVERAL, ENOUGH, FEW = 16, 2, 6  # outputs from which on two draws are enough, and how many are without


class Path:
    """One edge: what was seen of it so far."""

    def __init__(self, node: str, edge: Edge, roots: tuple[str, ...], biased: bool, support: Any = None) -> None:
        self.node, self.edge, self.source, self.roots = node, edge, edge.source, roots
        self.biased, self.support = biased, support
        self.law = False  # a sampler or a log-density: no other gradient than the slope can be meant
        self.own_slope = False  # a black box: only a slope of zero where the value moves is held against it
        self.looked, self.enough, self.smooth, self.panels = 0, FEW, False, PANELS
        self.flat, self.moved, self.kink = True, False, False
        self.jump: float | None = None
        self.missing: tuple[float, float] | None = None

    @property
    def settled(self) -> bool:
        if self.smooth and self.looked:
            return True
        if self.flat and not self.moved and self.enough == FEW:
            return False  # nothing was seen yet; few outputs, of which one may still move
        return self.looked >= self.enough or (not self.flat and (self.jump or self.missing) is not None)

    def look(self, call: Call, target: Call, outputs: Callable[[Any], list[Tensor]]) -> None:
        self.looked += 1
        with listening() as told:
            self._look(call, target, outputs)
        self.own_slope |= bool(told)

    def _look(self, call: Call, target: Call, outputs: Callable[[Any], list[Tensor]]) -> None:
        key: Any = int(self.edge.param) if call.node.positional else self.edge.param
        here, there = call.named[key], target.named[key]
        spans = self._spans(here, there)
        for double in (True, False):
            for scale in (1.0, 0.1, 0.01):
                for lo, hi in spans:
                    try:
                        found = self._along(call, here, there, outputs, scale, lo, hi, double)
                    except Exception:
                        continue
                    if found is not None:
                        self._add(found)
                    return

    def _spans(self, here: Any, there: Any) -> list[tuple[float, float]]:
        """How far beyond the two draws to look: within the support of the sample."""
        if not self.roots:
            return [(-1.0, 1.0), (0.0, 1.0)]
        beyond = []
        if self.support is not None and isinstance(here, Tensor) and here.shape == there.shape:
            for reach in (1.0, 0.3, 0.1):
                ends = torch.stack([here - reach * (there - here), there + reach * (there - here)]).detach()
                if bool(self.support.check(ends).all()):
                    beyond.append((-reach, 1.0 + reach))
        return [*beyond, (0.0, 1.0)]

    def _along(
        self, call: Call, here: Any, there: Any, outputs: Any, scale: float, lo: float, hi: float, double: bool
    ) -> Found | None:
        before, after = _floating(here), _floating(there)
        if len(before) != len(after) or any(x.shape != y.shape for x, y in zip(before, after, strict=True)):
            return None
        along = [_direction(x, y, scale) for x, y in zip(before, after, strict=True)]
        chosen = [(x, v) for x, v in zip(before, along, strict=True) if v is not None]
        if not chosen:
            return None
        single = not all(t.dtype == torch.float64 for a in call.named.values() for t in _floating(a))
        if double and not single:
            double = False
        param, others = self.edge.param, {}
        if double:
            others = {str(k): rebuilt(a, _doubled, self.node) for k, a in call.named.items() if str(k) != param}
        change = _doubled if double else torch.Tensor.detach

        def f(moved: list[Tensor]) -> list[Tensor]:
            new = {id(x): m for (x, _), m in zip(chosen, moved, strict=True)}
            argument = (
                moved[0]
                if isinstance(here, Tensor)
                else rebuilt(here, lambda t: new[id(t)] if id(t) in new else change(t), self.node)
            )
            if not lawful(argument):
                raise ValueError("a parameter is moved to where there is no such distribution")
            torch.set_rng_state(call.state)
            found = outputs(call.again(**{**others, param: argument}))
            if double and any(o.dtype == torch.float32 for o in found):
                raise TypeError("computes in float32")
            return found

        at = [x.detach().double() if double else x.detach() for x, _ in chosen]
        segment = Segment(f, at, [v.double() if double else v for _, v in chosen], seed=self.looked)
        found = look(segment, lo, hi, single and not double, self.panels)
        self.enough = ENOUGH if sum(u.numel() for u in segment.signs) >= SEVERAL else FEW
        return found

    def _add(self, found: Found) -> None:
        self.flat &= found.flat
        self.moved |= found.moved
        self.kink |= found.kink
        self.jump = self.jump or found.jump
        self.missing = self.missing or found.missing

    def trouble(self) -> str | None:
        if self.jump is None and (self.missing is None or not (self.roots or self.law)):
            return None  # what autograd says of a parameter may be meant to differ: doubly reparameterised gradients do
        way_out = f"detach({self.source!r}) if no gradient is meant"
        way_out = (
            f"Use ScoreFunction() at {', '.join(map(repr, self.roots))}, or {way_out}." if self.roots else f"Say {way_out}."
        )
        if self.flat:
            begins = "the pathwise gradient" if self.roots else "the gradient"
            return (
                f"{begins} of {self.source!r} ends here: the value of {self.node!r} moves with it, and the "
                f"gradient is zero wherever it was looked at (round, a comparison, .item() and integer casts do this).\n{way_out}"
            )
        if self.biased or self.own_slope:
            return None
        if self.jump is not None:
            return _jumps(self.node, repr(self.source), self.jump, way_out)
        assert self.missing is not None
        return (
            f"its gradient with respect to {self.source!r} is not the slope of its value: along a random direction the value moves by "
            f"{self.missing[0]:.3g} per step, autograd says {self.missing[1]:.3g} (a detach() or no_grad inside, a straight-through "
            f"value, a backward of its own do this).\n{way_out}"
        )


class Held(Path):
    """The parameters that a function reads from outside its arguments: only jumps are held against it."""

    def __init__(self, node: str, held: list[Tensor]) -> None:
        super().__init__(node, Edge("its parameters"), (), False)
        self.held = held

    def look(self, call: Call, target: Call, outputs: Callable[[Any], list[Tensor]]) -> None:
        self.looked += 1
        kept = [p.data for p in self.held]

        def f(moved: list[Tensor]) -> list[Tensor]:
            for p, m in zip(self.held, moved, strict=True):
                p.data = m.detach()
            torch.set_rng_state(call.state)
            return outputs(call.again())

        single = not all(p.dtype == torch.float64 for p in kept)
        try:
            for scale in (1.0, 0.1, 0.01):
                along = [_random(p, scale) for p in kept]
                segment = Segment(f, kept, along, self.held, self.looked)
                try:
                    found = look(segment, -1.0, 1.0, single)
                except Exception:
                    continue
                self.jump = self.jump or found.jump
                self.enough = ENOUGH if sum(u.numel() for u in segment.signs) >= SEVERAL else FEW
                return
        finally:
            for p, data in zip(self.held, kept, strict=True):
                p.data = data

    def trouble(self) -> str | None:
        return None if self.jump is None else _jumps(self.node, "a parameter of a module or closure", self.jump, "")


def _jumps(node: str, what: str, size: float, way_out: str) -> str:
    return (
        f"its value jumps (by {size:.3g}) as {what} moves. The expectation moves with the place of the jump, which no gradient of the "
        "value at a sample sees.\nLet it enter a distribution that is scored, in place of a comparison or rounding; or smooth the step. "
        + way_out
    ).rstrip()


def _direction(x: Tensor, y: Tensor, scale: float) -> Tensor | None:
    """To the other draw's value; at random for what is no sample and has a gradient."""
    if torch.equal(torch.nan_to_num(x.detach()), torch.nan_to_num(y.detach())):
        return _random(x.detach(), scale) if x.requires_grad else None
    return (y - x).detach() if scale == 1.0 else scale * (y - x).detach()


def _random(x: Tensor, scale: float) -> Tensor:
    size = x.abs() + 0.1 * x.square().mean().sqrt() if x.numel() else x
    return scale * torch.where(size > 0, size, torch.ones_like(size)) * torch.randn_like(x)


def _floating(thing: Any) -> list[Tensor]:
    return list({id(t): t for t in tensors(thing) if t.is_floating_point()}.values())


def _doubled(t: Tensor) -> Tensor:
    return t.detach().double() if t.is_floating_point() else t.detach()
