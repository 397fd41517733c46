"""A loss as a source of gradients: what it is called with, what it must return, and one gradient after another.

    loss()                       draws for itself, and reads its parameters where they are
    loss(theta)                  parameters named as the objective's inputs get those
    loss(batch), given=draw      one more parameter gets a fresh recording, `draw()`, at each call

Every call draws anew from generators of the check's own (torch's, numpy's and Python's global ones), so that the same seed
gives the same verdict. A generator that the loss keeps to itself is left alone.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scg.randomness import randomness
from scg.testing.losses.changes import Change
from scg.testing.parameters import Parameters

Loss = Callable[..., Tensor]
Given = Callable[[], Any]


class LossError(ValueError):
    """The loss cannot be checked: what it returned, or lacks, and what to do."""


class Stream:
    """The global sources of random numbers, as one stream that is set aside between uses."""

    def __init__(self, seed: int) -> None:
        self.torch = torch.Generator().manual_seed(seed)
        self.numpy = np.random.RandomState(seed % 2**32).get_state()
        self.python = random.Random(seed).getstate()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        outer = np.random.get_state(), random.getstate()  # noqa: NPY002
        np.random.set_state(self.numpy), random.setstate(self.python)  # noqa: NPY002
        try:
            with randomness(self.torch):
                yield
        finally:
            self.numpy, self.python = np.random.get_state(), random.getstate()  # noqa: NPY002
            np.random.set_state(outer[0]), random.setstate(outer[1])  # noqa: NPY002


class Calls:
    """Gradients of a loss, one a call."""

    def __init__(self, loss: Loss, parameters: Parameters, given: Given | None, seed: int) -> None:
        self.loss, self.parameters, self.given, self.seed = loss, parameters, given, seed
        self.name = getattr(loss, "__name__", type(loss).__name__)
        self.named, self.recording = _arguments(self.name, loss, parameters.inputs, given)
        self.count = 0

    def value(self, change: Change | None = None) -> Tensor:
        """One call, its result checked. `change`: what is done differently."""
        self.count += 1
        arguments = dict(self.named)
        if self.given is not None and self.recording is not None:
            given = self.given()
            arguments[self.recording] = given if change is None else change.recording(given)
        with change or nullcontext(), torch.enable_grad():
            value = called(self.loss, arguments)
            if change is not None and isinstance(value, Tensor):
                value = change.result(value)
        return self._checked(value)

    def gradient(self, change: Change | None = None) -> Tensor:
        return self.parameters.derivative(self.value(change))

    def rows(self, count: int, each: int, stream: Stream, change: Change | None = None) -> Tensor:
        """`count` means of `each` gradients."""
        with stream():
            return torch.stack([torch.stack([self.gradient(change) for _ in range(each)]).mean(0) for _ in range(count)])

    def first(self) -> None:
        """What is wrong with the loss, said at its first call."""
        with Stream(self.seed)():
            value = self.value()
        tensors = list(self.parameters.tensors.values())
        if not bool(torch.isfinite(value)):
            raise LossError(
                f"{self.name} returned {value.item()}: no gradient of it is right. Look for log or a division at 0 in its functions."
            )
        gradients = torch.autograd.grad(value, tensors, allow_unused=True, retain_graph=True)
        if all(g is None for g in gradients):
            raise LossError(
                f"{self.name} does not depend on {', '.join(self.parameters.tensors)}: parameters are matched by identity, and its "
                f"gradient reaches {_reached(value)}. Let loss and objective read the same tensors, or say wrt=…."
            )
        bad = [
            n for n, g in zip(self.parameters.tensors, gradients, strict=True) if g is not None and not torch.isfinite(g).all()
        ]
        if bad:
            raise LossError(
                f"{self.name}: the gradient for {', '.join(bad)} is nan or infinite. Look for √, log or a division at 0 in the "
                "functions that it goes through: torch.where passes a nan on from the branch that was not taken."
            )

    def _checked(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            found = f"a {type(value).__name__}" if value is not None else "None"
            raise LossError(f"{self.name} returned {found}: return the scalar tensor whose gradient is meant (`return loss`).")
        if value.is_complex():
            raise LossError(f"{self.name} returned a complex number ({value.dtype}): return a real one, its .real or .abs().")
        if value.numel() != 1 or value.ndim > 1:
            raise LossError(
                f"{self.name} returned a tensor of shape {tuple(value.shape)}: return one number, as in `return loss.mean()`. Which "
                "reduction is part of what is checked."
            )
        if not value.requires_grad:
            raise LossError(
                f"{self.name} has no gradient: every way from its parameters to its result is cut. Look for .detach(), .item(), "
                "no_grad() and sample() without a log_prob()."
            )
        return value.reshape(())


def called(loss: Loss, arguments: Mapping[str, Any]) -> Any:
    """The call below which expressions are the loss's own (`places.above` stops here)."""
    return loss(**arguments)


def _arguments(name: str, loss: Loss, inputs: Mapping[str, Any], given: Given | None) -> tuple[dict[str, Any], str | None]:
    """Arguments by name, and the parameter that takes the recording."""
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    named, recording = {}, None
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.name in inputs:
            named[p.name] = inputs[p.name]
        elif given is not None and recording is None:
            recording = p.name
        elif p.default is p.empty:
            known = f"the objective's inputs are {', '.join(inputs)}" if inputs else "the objective has no inputs"
            raise LossError(
                f"{name} takes {p.name!r}, and nothing has that name: {known}. A recording comes from given=, a function of no "
                "arguments that returns a fresh one; what is fixed belongs into a closure or functools.partial."
            )
    if given is not None and recording is None:
        raise LossError(
            f"given= makes recordings, and {name} has no parameter to take them: let it take one, as in `def {name}(batch)`."
        )
    return named, recording


def leaves(value: Tensor) -> list[Tensor]:
    """The tensors that a gradient of `value` reaches."""
    found: dict[int, Tensor] = {}
    seen, left = set(), [value.grad_fn]
    if value.grad_fn is None and value.requires_grad:
        return [value]
    while left:
        node: Any = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            found[id(leaf)] = leaf
        left += [parent for parent, _ in node.next_functions]
    return list(found.values())


def _reached(value: Tensor) -> str:
    shapes = [f"a tensor of shape {tuple(t.shape)}" for t in leaves(value)]
    return ", ".join(shapes[:4]) + (f" and {len(shapes) - 4} more" if len(shapes) > 4 else "") if shapes else "no leaf"
