"""True values and derivatives of the battery's graphs, computed once and kept.

    python -m scg.testing.battery.write_truths            computes them again and writes truths.json; two minutes

Integrals over real axes and their Hessians, held against differences, take up to ten seconds a distribution and depend on no
estimator: without the table a check of one estimator takes 101 processor seconds, with it 20. Kept are those of the continuous
distributions in `trial_distributions.KINDS` at the battery's own θs; for counts and categories, other θs and distributions of one's
own they are computed when they are asked for. An entry is the oracle's kind, its numbers and their errors, or why there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scg.testing.oracle import NoOracle, Oracle
from scg.testing.trial_distributions import KINDS, Make

PATH = Path(__file__).with_name("truths.json")


@cache
def table() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return kept


def key(kind: str, place: str, at: tuple[float, ...], order: int) -> str:
    return f"{kind}, {place}, {at}, order {order}"


def kept(place: str, make: Make, at: tuple[float, ...], order: int, unseen: Callable[[float], Tensor]) -> Oracle | None:
    """The oracle of the table, None where it has no such entry; NoOracle where there is none. `unseen`: of a gradient's oracle."""
    kind = next((name for name, known in KINDS.items() if known is make), None)
    entry = None if kind is None else table().get(key(kind, place, at, order))
    if entry is None:
        return None
    if isinstance(entry, str):
        raise NoOracle(entry)
    exact, error = (torch.tensor(entry[part], dtype=torch.float64) for part in ("exact", "error"))
    return Oracle(
        entry["kind"], exact, error, torch.zeros_like(exact), unseen=unseen if order == 1 and place != "alone" else None
    )
