"""Compilation: turns a function, with its gradients and in-place updates, into one compiled call.

Why: a minibatch update works on 64 rows of small networks, so kernel launches cost more than arithmetic; one compiled call is
1.5 to 2.5 times as fast. Cost: 13 to 30 seconds of compilation the first time on a machine, about 3 from the cache. Compiled
code rounds in another order than eager code: equal seeds give equal bits within each of the two, not between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from types import FunctionType
from typing import Any

import torch
from torch import Tensor


def compile_function(step: Callable[..., Any], kept: Sequence[Tensor] | None = None) -> Callable[..., Any]:
    """`step`, gradient and in-place updates included, as one compiled function of its tensors' shapes.

    On a GPU, `kept` asks for CUDA graphs. It lists the tensors that `step` writes in place; their addresses must not change.
    The tensors that such a call returns are overwritten by the next call.

    Only the values of tensors and the shapes of the arguments may change between calls. Other guards are left out: to check
    some hundred objects at every call would take a fifth of a small update's time.
    """
    from torch._dynamo.exc import Unsupported  # here: importing the compiler takes seconds

    # A copy of the code object: the compiler keeps its cache, and the limit on the number of entries, per code object.
    step = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, step.__defaults__, step.__closure__)
    arguments = step.__code__.co_varnames[: step.__code__.co_argcount]

    def worth_a_look(guards: Sequence[Any]) -> list[bool]:
        return [g.guard_type in ("TENSOR_MATCH", "DICT_KEYS_MATCH") and g.name.split("[")[0] in arguments for g in guards]

    options: dict[str, Any] = {
        "cpp_wrapper": not torch.cuda.is_available(),
        "guard_filter_fn": worth_a_look,
        "fallback_random": True,
    }
    if kept is not None:
        options["triton.cudagraphs"] = True
        for tensor in kept:
            torch._dynamo.mark_static_address(tensor)
    compiled, ready = torch.compile(step, fullgraph=True, dynamic=False, options=options), False

    def call(*given: Any) -> Any:
        nonlocal ready
        if ready:  # without the setting, which takes 30 µs
            try:
                return compiled(*given)
            except Unsupported:  # arguments of other shapes: they are compiled now
                pass
        with _gradients_traced():
            found = compiled(*given)
        ready = True
        return found

    return call


_lock, _inside = Lock(), 0


@contextmanager
def _gradients_traced() -> Iterator[None]:
    """Inside, the compiler traces `torch.autograd.grad`. The setting is one for all threads, so the last to leave resets it."""
    global _inside
    config: Any = torch._dynamo.config
    with _lock:
        _inside += 1
        config.trace_autograd_ops = True
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                config.trace_autograd_ops = False
