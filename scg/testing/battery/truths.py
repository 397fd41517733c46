"""True values and derivatives of the battery's graphs, computed once and kept.

    python -m scg.testing.battery.truths                  computes them again and writes truths.json; three minutes

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
Compute = Callable[[Any, Make, tuple[float, ...], int], Oracle]


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


def computed(compute: Compute, kind: str, place: str, at: tuple[float, ...], order: int) -> Any:
    """An entry of the table; None for what is a sum over a finite support."""
    try:
        found = compute(place, KINDS[kind], at, order)
    except NoOracle as reason:
        return str(reason)
    if found.kind == "enumeration" or found.note:
        return None
    return {"kind": found.kind, "exact": found.exact.tolist(), "error": found.error.tolist()}


def main() -> None:
    from scg.testing.battery.subject import THETAS, compute_truth

    found: dict[str, Any] = {}
    torch.set_default_dtype(torch.float64)  # as the battery has it: a distribution's own constants are of the default type
    for kind, make in KINDS.items():
        if make(torch.zeros(3, dtype=torch.float64)).support.is_discrete:  # type: ignore[union-attr]
            continue
        for place, order, thetas in (
            ("alone", 1, THETAS), ("alone", 2, THETAS),
            ("composed", 1, THETAS[:1]), ("composed", 2, THETAS[:1]), ("chained", 1, THETAS[:1]), ("driven", 1, THETAS[:1]),
        ):  # fmt: skip
            for at in thetas:
                entry = computed(compute_truth, kind, place, at, order)
                if entry is not None:
                    found[key(kind, place, at, order)] = entry
        print(f"{kind}: {len(found)} entries so far", flush=True)
    PATH.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
