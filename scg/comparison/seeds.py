"""Seeds for many independent streams, from one."""

from __future__ import annotations

from hashlib import blake2b

import torch

from scg.randomness import _default


def seed_of(*parts: int | str) -> int:
    """A seed for the stream that `parts` name. Hashed: torch's CPU generator takes the low 32 bits of a seed, and no others."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=4).digest())


def reseed(seed: int, device: torch.device) -> None:
    """Start the device's default stream anew. `torch.manual_seed` would do so on all devices, a hundred times slower."""
    _default(device).manual_seed(seed)
