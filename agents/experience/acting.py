"""Acting: a policy as a plain function from numpy observations to numpy actions.

    act = sampler(policy, generator, steps, batch)        obs [batch, …] ↦ action [batch, …]

Why: a forward pass of a small network takes ten times as long in torch as in numpy. All random numbers come from `generator`,
so that equal seeds give equal bits and the default generator is untouched. A policy that acts in numpy draws its noise for the
whole block at once; any other module is called without gradient, with the default generator's state swapped around the call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Generator, Tensor, nn

from scg.agents.networks.policy import is_fast
from scg.randomness import randomness

Act = Callable[[np.ndarray], np.ndarray]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, numpy's matrix products use one thread: for the few rows of a step, synchronising two threads takes longer than
    the second one saves, and on a busy machine ten times longer. Torch's threads have a setting of their own."""
    with _blas().limit(limits=1):
        yield


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")


def sampler(policy: nn.Module, generator: Generator, steps: int, batch: int) -> Act:
    """A function to call at most `steps` times, before the policy's parameters change."""
    if is_fast(policy):
        noise, actor = iter(policy.noise((steps, batch), generator)), _on_cpu(policy).numpy_actor()
        return lambda obs: actor(obs, next(noise))

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad(), randomness(generator):
            return policy(_tensor(obs, policy)).sample().cpu().numpy()

    return act


def mode(policy: nn.Module) -> Act:
    """The most probable action: what `scg eval` runs by default."""
    if is_fast(policy):
        actor = _on_cpu(policy).numpy_actor()
        return lambda obs: actor(obs, None)

    def act(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return policy(_tensor(obs, policy)).mode.cpu().numpy()

    return act


def _on_cpu(policy: Any) -> Any:
    """The policy, or a copy on the CPU if it lies on a GPU: a copy per block costs less than a transfer per step."""
    first = next(policy.parameters(), None)
    return policy if first is None or first.device.type == "cpu" else copy.deepcopy(policy).cpu()


def _tensor(obs: np.ndarray, policy: nn.Module) -> Tensor:
    like = next(policy.parameters(), torch.zeros(()))
    dtype = like.dtype if obs.dtype.kind == "f" else None
    return torch.as_tensor(obs, dtype=dtype, device=like.device)
