"""An examination leaves nothing behind: what it may change is put back when it ends.

The random streams and other registered sources of random numbers, the gradient mode, modules' buffers (batch statistics,
counters) and the plain attributes of their objects. Hooks on saved tensors (activation checkpointing, offloading) see none
of its tensors, and inference mode ends for its duration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from scg.errors import GraphError
from scg.randomness import exclusively, sources_suspended

_PLAIN = (int, float, bool, str, type(None), tuple)
_CONTAINERS = (list, dict, set, deque)


@contextmanager
def untouched(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, run what you like; afterwards the process is as it was, but for what functions keep outside of modules."""
    if transformed():
        raise GraphError(
            "a graph is examined at its first sample, which cannot be done inside a torch.func transform. Evaluate it once "
            "outside, graph.sample(…) on inputs of the same shapes, and then transform it."
        )
    kept = [_Kept(module) for module in modules]
    with (
        exclusively(),
        sources_suspended(),
        torch.random.fork_rng(),
        torch.inference_mode(False),
        torch.enable_grad(),
        _plainly_saved(),
    ):
        try:
            yield
        finally:
            for module in kept:
                module.put_back()


def transformed() -> bool:
    """Whether a `torch.func` transform is under way."""
    return torch._C._functorch.maybe_current_level() is not None


def ordinary(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, without tensors of inference mode: autograd takes none."""
    return {
        name: tree_map(lambda v: v.clone() if isinstance(v, Tensor) and v.is_inference() else v, value)
        for name, value in values.items()
    }


class _Kept:
    """What a module holds besides parameters and submodules."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.buffers = [
            (name, buffer, buffer.detach().clone())
            for name, buffer in module._buffers.items()
            if buffer is not None and not nn.parameter.is_lazy(buffer) and not buffer.is_inference()
        ]
        own = {k: v for k, v in vars(module).items() if k not in _OWN}
        self.plain = {k: v for k, v in own.items() if isinstance(v, _PLAIN)}
        self.containers = [(v, v.copy()) for v in own.values() if isinstance(v, _CONTAINERS)]

    def put_back(self) -> None:
        for name, buffer, content in self.buffers:
            if not torch.equal(buffer, content):  # batch normalisation counts no version
                with torch.no_grad():
                    buffer.copy_(content)
            self.module._buffers[name] = buffer
        vars(self.module).update(self.plain)
        for container, held in self.containers:
            if isinstance(container, (dict, set)):
                container.clear()
                container.update(held)
            else:
                container.clear()
                container.extend(held)


# torch's own bookkeeping: parameters, submodules and hooks are not for us to put back.
_OWN = frozenset(vars(nn.Module()))


@contextmanager
def _plainly_saved() -> Iterator[None]:
    # Detached: an output that is saved as it is would hold itself alive, and with it the whole graph, for ever.
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach(), lambda x: x):
        yield
