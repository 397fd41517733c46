"""Compute the battery's true values and derivatives again, and write them to `truths.json`.

python -m scg.testing.battery.write_truths
"""

from __future__ import annotations

import json
from typing import Any

import torch

from scg.testing.battery.subject import THETAS, Place, compute_truth
from scg.testing.battery.truths import PATH, key
from scg.testing.oracle import NoOracle
from scg.testing.trial_distributions import KINDS

WHERE: tuple[tuple[Place, int, Any], ...] = (
    ("alone", 1, THETAS), ("alone", 2, THETAS),
    ("composed", 1, THETAS[:1]), ("composed", 2, THETAS[:1]), ("chained", 1, THETAS[:1]), ("driven", 1, THETAS[:1]),
)  # fmt: skip


def computed(kind: str, place: Place, at: tuple[float, ...], order: int) -> Any:
    """An entry of the table; None for what is a sum over a finite support."""
    try:
        found = compute_truth(place, KINDS[kind], at, order)
    except NoOracle as reason:
        return str(reason)
    if found.kind == "enumeration" or found.note:
        return None
    return {"kind": found.kind, "exact": found.exact.tolist(), "error": found.error.tolist()}


def main() -> None:
    found: dict[str, Any] = {}
    torch.set_default_dtype(torch.float64)  # as the battery has it: a distribution's own constants are of the default type
    for kind, make in KINDS.items():
        if make(torch.zeros(3, dtype=torch.float64)).support.is_discrete:  # type: ignore[union-attr]
            continue
        for place, order, thetas in WHERE:
            for at in thetas:
                entry = computed(kind, place, at, order)
                if entry is not None:
                    found[key(kind, place, at, order)] = entry
        print(f"{kind}: {len(found)} entries so far", flush=True)
    PATH.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
