"""Networks: from the environment's observation to features, on which policies and critics put their heads. By name:

    mlp        the observation itself, flattened: the heads' own hidden layers are the network                 (`Encoder`)
    residual   x + W₂ relu(W₁ norm(x)), twice, between two linear layers, a layer norm behind
    cnn        three strided convolutions of an image, or of a stack of images, and a linear layer; bytes are divided by 255
    gru, lstm  a memory, see `recurrent`; behind another network: cnn+gru, residual+lstm, path/to/file.py:name+gru
    path/to/file.py:name       one's own: `name(obs_space, features)` returns a module from the environment's observation
                               [batch…, obs…] (a dictionary or tuple of tensors where the space is one) to [batch…, n] features;
                               with `along_time` and `size` (as `Recurrent` has them) it is a recurrent one

Policy and critic have a network each, with weights of its own. Acting runs in numpy, but for those networks that only torch
can compute: `TorchNetwork.numpy` calls it, without gradient, and the heads go on in numpy.

He et al. (2016) and Ba, Kiros & Hinton (2016) for the residual network, in the form of Lee et al. (2025), "SimBa"; Mnih et al.
(2015) for the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.nn.functional import relu

from scg import targets
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.environments.flat_space import FlatSpace, original
from scg.agents.execution.options import OptionError
from scg.agents.networks.encoder import Encoder, obs_normaliser
from scg.agents.networks.mlp import float_type
from scg.agents.networks.normalisers import ObsNormaliser
from scg.agents.networks.recurrent import Recurrent, is_recurrent
from scg.randomness import randomness

NAMED = ("mlp", "residual", "cnn")
CELLS = ("gru", "lstm")


def make_network(
    name: str,
    space: gym.Space,
    features: int = 128,
    generator: Generator | None = None,
    normaliser: ObsNormaliser | None = None,
) -> nn.Module:
    """The network `name` for an observation space, its initial weights drawn from `generator`.

    The `normaliser` comes before an mlp and a residual network; images and one's own networks see observations as they are.
    """
    base, plus, cell = name.rpartition("+")
    if not plus:
        base, cell = ("mlp", name) if name in CELLS else (name, "")
    elif cell not in CELLS:
        raise OptionError(f"option network is {name!r}: after + comes a memory, {' or '.join(CELLS)}.")
    with randomness(generator):
        match base:
            case "mlp":
                network: nn.Module = Encoder(space, normaliser)
            case "residual":
                network = Residual(Encoder(space, normaliser), features)
            case "cnn":
                network = Convolutional(space, features)
            case _ if ":" in base:
                network = Own(targets.found(base, "network"), base, space, features)
            case _:
                known = ", ".join((*NAMED, *CELLS))
                raise OptionError(f"option network is {name!r}. Give one of {known}, or path/to/file.py:name.")
    if not cell:
        return network.module if isinstance(network, Own) and is_recurrent(network.module) else network
    return Recurrent(network, features, cell, generator)  # type: ignore[arg-type]


def encoders(
    name: str, space: gym.Space, features: int, generator: Generator, normalise: bool, agent: str
) -> Callable[[], Any]:
    """Makes networks `name` without a memory, which `agent` could not train.

    All have the same normaliser of observations if `normalise`, and target networks, copies of them, share its statistics.
    """
    normaliser = obs_normaliser(space) if normalise and takes_normaliser(name) else None

    def make() -> nn.Module:
        network = make_network(name, space, features, generator, normaliser)
        if is_recurrent(network):
            raise OptionError(refused(name, agent))
        return network

    return make


def target_in(name: str) -> str:
    """The target `file.py:name` or `module:name` that a network's name has; "" where it has none."""
    base, plus, cell = name.rpartition("+")
    base = base if plus and cell in CELLS else name
    return base if ":" in base else ""


def with_whole_path(name: str) -> str:
    """A network's name for other working directories: its file by the whole path. Nothing is imported."""
    target = target_in(name)
    place, _, what = target.rpartition(":")
    if not place or not targets.is_file(place):
        return name
    return f"{Path(place).resolve()}:{what}{name.removeprefix(target)}"


def refused(name: str, agent: str) -> str:
    """What an agent without recurrent updates says of a network with a memory."""
    return f"option network is {name!r}: {agent} does not train recurrent networks, ppo and a2c do."


def takes_normaliser(name: str) -> bool:
    """Whether the network is one that a normaliser of observations comes before."""
    return name.partition("+")[0] in ("mlp", "residual", *CELLS)


class TorchNetwork(nn.Module):
    """A network that is computed by torch while acting, too."""

    features: int

    def numpy(self) -> Callable[[np.ndarray], np.ndarray]:
        def encode(obs: np.ndarray) -> np.ndarray:
            kind = float_type() if obs.dtype.kind == "f" else None
            with torch.no_grad():
                return self(torch.from_numpy(np.ascontiguousarray(obs, kind))).numpy()

        return encode


class Residual(TorchNetwork):
    """Two residual blocks on `features` units, twice as wide inside."""

    def __init__(self, encoder: Encoder, features: int) -> None:
        super().__init__()
        self.encoder, self.features = encoder, features
        self.first = nn.Linear(encoder.features, features)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(features), nn.Linear(features, 2 * features), nn.ReLU(), nn.Linear(2 * features, features)
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(features)

    def forward(self, obs: Tensor) -> Tensor:
        x = self.first(self.encoder(obs))
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


class Convolutional(TorchNetwork):
    """Images `[*batch, height, width(, channels)]` or `[*batch, channels, height, width]`, or stacks of them on a further axis."""

    def __init__(self, space: gym.Space, features: int) -> None:
        super().__init__()
        shape = original(space).shape
        if not isinstance(original(space), spaces.Box) or shape is None or not 2 <= len(shape) <= 4 or min(shape[-3:-1]) < 3:
            raise EnvironmentFault(f"observation space {original(space)}: the network cnn is for images. Use --network mlp.")
        self.view, self.features = ImageView(shape), features
        self.scale = 1 / 255 if original(space).dtype == np.uint8 else 1.0
        self.space = space
        channels, height, width = self.view.result
        large = [(8, 4, 32), (4, 2, 64), (3, 1, 64)]  # kernel, stride, channels: Mnih et al. (2015), for 84 × 84
        small = [(6, 3, 16), (3, 2, 32), (3, 1, 32)]  # a tenth of the work, for half the size
        layers: list[nn.Module] = []
        for kernel, stride, out in large if min(height, width) >= 64 else small:
            kernel = min(kernel, height, width)
            layers += [orthogonal(nn.Conv2d(channels, out, kernel, stride)), nn.ReLU()]
            channels, height, width = out, (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.last = orthogonal(nn.Linear(channels * height * width, features))

    def forward(self, obs: Tensor) -> Tensor:
        if isinstance(self.space, FlatSpace):
            obs = self.space.restored(obs)
        images, batch = self.view(obs)
        x = self.layers(images.to(self.last.weight.dtype) * self.scale)
        return relu(self.last(x)).reshape(*batch, self.features)


def orthogonal(layer: Any) -> Any:
    """The layer with orthogonal weights of gain √2, which keep a signal's size through rectified layers, and no bias. Torch's own
    weights shrink it by three at each: what little of a picture moves is then lost beside the biases."""
    nn.init.orthogonal_(layer.weight, math.sqrt(2))
    nn.init.zeros_(layer.bias)
    return layer


class ImageView:
    """Observations as `[n, channels, height, width]`: the smaller of first and last axis has the channels, a stack joins them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        *stack, a, b, c = (1, *shape) if len(shape) == 2 else shape
        self.last = c < a  # channels last
        height, width, channels = (a, b, c) if self.last else (b, c, a)
        self.result = (channels * (stack[0] if stack else 1), height, width)

    def __call__(self, obs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        batch = tuple(obs.shape[: obs.ndim - len(self.shape)])
        x = obs.reshape(-1, *((1, *self.shape) if len(self.shape) == 2 else self.shape))
        if self.last:
            x = x.movedim(-1, -3)
        return x.reshape(-1, *self.result), batch


class Own(TorchNetwork):
    """A user's module, called with what the environment gave."""

    def __init__(self, factory: Callable[..., Any], name: str, space: gym.Space, features: int) -> None:
        super().__init__()
        self.space, seen = space, original(space)
        made = targets.called(lambda: factory(seen, features), name)
        if not isinstance(made, nn.Module):
            raise OptionError(f"network {name}: it returned {made!r}. Return a torch.nn.Module from observations to features.")
        self.module = made
        if is_recurrent(made):
            return
        obs = torch.from_numpy(np.stack([sampled(space, i) for i in range(3)]))
        with torch.no_grad():
            out = targets.called(lambda: self(obs), f"{name}, on three observations")
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != 3 or not out.is_floating_point():
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise OptionError(f"network {name}: of three observations it made {found}. It must make features [3, n].")
        self.features = out.shape[-1]

    def forward(self, obs: Tensor) -> Tensor:
        given: Any = self.space.restored(obs) if isinstance(self.space, FlatSpace) else obs
        return self.module(given)


def sampled(space: gym.Space, seed: int) -> np.ndarray:
    """An observation of the space as blocks hold it, whatever its bounds; the space's own generator is left alone."""
    random = np.random.default_rng(seed)
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8:
            return random.integers(0, 256, space.shape, np.uint8)
        if isinstance(space, FlatSpace):
            return space.drawn(random).astype(float_type())
        return random.standard_normal(space.shape).astype(float_type())
    assert isinstance(space, spaces.Discrete)
    return np.asarray(int(space.start) + random.integers(int(space.n)))
