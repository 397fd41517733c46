"""python -m tests.attack --graphs 10000: how many graphs are right, refused (by reason), or wrong."""

from __future__ import annotations

import argparse

import torch

from tests.attack.attack import attack
from tests.attack.generate import generate
from tests.attack.program import code
from tests.attack.tally import tally

KINDS = {"right", "refused", "internal", "wrong", "unproven", "oracle"}


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

    def verdict(seed: int) -> tuple[str, str]:
        found = attack(generate(seed))
        return found.kind, found.detail

    tally(verdict, args.start, args.graphs, KINDS - set(args.kinds.split(",")))


if __name__ == "__main__":
    main()
