"""python -m tests.attack --graphs 10000: how many graphs are right, refused (by reason), or wrong."""

from __future__ import annotations

import argparse
import collections
import time

import torch

from tests.attack.attack import attack, reason
from tests.attack.generate import generate
from tests.attack.program import code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=300)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=None, help="show one graph, and what is said of it")
    parser.add_argument("--shrink", action="store_true", help="make it small first")
    parser.add_argument("--kinds", default="wrong,unproven,internal,oracle", help="which to list")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.seed is not None:
        from tests.attack.attack import completed

        program = generate(args.seed)
        if args.shrink:
            from tests.attack.shrink import shrink

            program, _ = shrink(program)
        print(code(completed(program)))
        print(attack(program))
        return
    began = time.perf_counter()
    counts: collections.Counter[str] = collections.Counter()
    refusals: collections.Counter[str] = collections.Counter()
    example: dict[str, int] = {}
    for seed in range(args.start, args.start + args.graphs):
        verdict = attack(generate(seed))
        counts[verdict.kind] += 1
        if verdict.kind == "refused":
            refusals[reason(verdict.detail)] += 1
            example.setdefault(reason(verdict.detail), seed)
        if verdict.kind in args.kinds.split(","):
            print(f"{seed} {verdict.kind}: {verdict.detail[:200]}")
    print(f"{args.graphs} graphs in {time.perf_counter() - began:.1f} s: {dict(counts)}")
    for text, count in refusals.most_common():
        print(f"{count:6d}  {text}   (seed {example[text]})")


if __name__ == "__main__":
    main()
