"""The command of every attacker: so many programs, and how many are right, refused (by reason), or neither."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Container

from tests.attack.attack import reason


def tally(
    attack: Callable[[int], tuple[str, str]], start: int, graphs: int, unlisted: Container[str] = ("right", "refused")
) -> None:
    """`attack(seed)` is (kind, detail). Print each program whose kind is not among the `unlisted`, then the counts."""
    began, example = time.perf_counter(), dict[str, int]()
    counts, reasons = collections.Counter[str](), collections.Counter[str]()
    for seed in range(start, start + graphs):
        try:
            kind, detail = attack(seed)
        except Exception as error:
            kind, detail = "internal", f"{type(error).__name__}: {error}"
        counts[kind] += 1
        if kind == "refused":
            reasons[reason(detail)] += 1
            example.setdefault(reason(detail), seed)
        if kind not in unlisted:
            print(f"{seed} {kind}: {detail[:300]}", flush=True)
    print(f"{graphs} graphs in {time.perf_counter() - began:.1f} s: {dict(counts)}")
    for text, count in reasons.most_common():
        print(f"{count:6d}  {text}   (seed {example[text]})")
