"""Multilayer perceptrons, and their forward pass on numpy arrays.

    MLP            tanh between layers; orthogonal weights, gain √2 inside, chosen in the last layer       on-policy networks
    ReLUNetwork    rectified between layers; weights and biases uniform within ±1/√(inputs)                 off-policy networks

Orthogonal: Saxe et al. (2014); Engstrom et al. (2020) and Andrychowicz et al. (2021) on why it matters in policy gradients.
Uniform: He et al. (2015), with the constant that published results of SAC and TD3 rest on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

from scg.agents.execution import memory
from scg.agents.networks.finite_check import checked_output
from scg.agents.networks.linear import linear, weights_and_biases

SMALL = 0.01  # gain of a policy's last layer
COPIES = 4  # of every weight in training: itself, its gradient, and Adam's two moments
ROWS = 256  # of a minibatch, whose activations are kept for the gradient


def float_type() -> np.dtype:
    """numpy's name for torch's default float type, in which nets and blocks are made."""
    return np.dtype(str(torch.get_default_dtype()).removeprefix("torch."))


class _Network(nn.Module):
    """`sizes[0] → … → sizes[-1]`, an activation between layers; `[*batch, sizes[0]] → [*batch, sizes[-1]]`."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        weights = sum(n * m for n, m in pairwise(sizes))
        memory.require(
            (COPIES * weights + ROWS * sum(sizes)) * float_type().itemsize,
            f"training a network of layers {' → '.join(f'{size:,}' for size in sizes)}",
            "Give smaller --hidden.",
        )
        # skip_init: Linear's own initialisation would draw from the global stream only to be overwritten.
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, n, m) for n, m in pairwise(sizes))

    @staticmethod
    def activation(x: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def activate(x: np.ndarray) -> None:
        """`activation` in place."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = weights_and_biases(self.layers)
        for weight, bias in hidden:
            x = self.activation(linear(x, weight, bias))
        return linear(x, *last)

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """`(weightᵀ, bias)` of each layer as numpy views of the same memory."""
        return [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in weights_and_biases(self.layers)]

    def numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        """`forward` on arrays: for a handful of rows a step of acting costs 10 µs in place of 100.

        It reads views of the parameters' memory, so an optimiser's step shows in it.
        """
        *hidden, (last, last_bias) = self.weights()
        activate = self.activate

        def forward(x: np.ndarray) -> np.ndarray:
            for weight, bias in hidden:
                x = np.dot(x, weight)  # half of what `@` costs on rows this few
                np.add(x, bias, out=x)
                activate(x)
            return checked_output(np.dot(x, last) + last_bias)

        return forward


class MLP(_Network):
    """tanh between layers; orthogonal weights of gain √2, and `last_gain` in the last layer."""

    def __init__(self, sizes: Sequence[int], last_gain: float = 1.0, generator: Generator | None = None) -> None:
        super().__init__(sizes)
        for i, layer in enumerate(self.layers):
            gain = last_gain if i == len(self.layers) - 1 else math.sqrt(2)
            nn.init.orthogonal_(cast(Tensor, layer.weight), gain, generator=generator)
            nn.init.zeros_(cast(Tensor, layer.bias))

    @staticmethod
    def activation(x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    def activate(x: np.ndarray) -> None:
        np.tanh(x, out=x)


class ReLUNetwork(_Network):
    """Rectified between layers; weights and biases uniform within ±1/√(inputs), times `last_gain` in the last layer."""

    def __init__(self, sizes: Sequence[int], generator: Generator | None = None, last_gain: float = 1.0) -> None:
        super().__init__(sizes)
        for layer, (n, _) in zip(self.layers, pairwise(sizes), strict=True):
            for parameter in layer.parameters():
                uniform_within(parameter, n, generator, last_gain if layer is self.layers[-1] else 1.0)

    @staticmethod
    def activation(x: Tensor) -> Tensor:
        return relu(x)

    @staticmethod
    def activate(x: np.ndarray) -> None:
        np.maximum(x, 0.0, out=x)


def uniform_within(parameter: Tensor, inputs: int, generator: Generator | None, gain: float = 1.0) -> None:
    """Fill `parameter` uniformly within ±gain/√inputs."""
    nn.init.uniform_(parameter, -gain / math.sqrt(inputs), gain / math.sqrt(inputs), generator=generator)
