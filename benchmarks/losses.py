"""What `check_gradient` finds in losses written by hand, right ones and twins with a planted bug.

python -m benchmarks.losses               the table of docs/guides/your-loss.md; about four minutes of processor time
python -m benchmarks.losses 0 5 8         some of the cases
python -m benchmarks.losses held-out      ten others, which the catalogue of causes was not written with (held_out_losses.py)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import torch

from benchmarks import held_out_losses
from benchmarks.hand_losses import Case, cases
from scg.testing import GradientReport, check_gradient

DETECTABLE = 0.1


def checked(case: Case, wrong: bool) -> GradientReport:
    return check_gradient(
        case.wrong if wrong else case.right, case.objective, case.wrt, given=case.given, detectable=DETECTABLE, causes=30.0
    )


def rows(chosen: list[Case]) -> Iterator[str]:
    yield f"| loss | planted bug | right loss | s | wrong loss | scale | cause named first | s |\n|{'---|' * 8}"
    for case in chosen:
        start = time.process_time()
        right = checked(case, False)
        between = time.process_time()
        wrong = checked(case, True)
        end = time.process_time()
        named, wanted = wrong.causes[0].cause if wrong.causes else "none", case.cause or "none"
        scale = f"{wrong.scale.value:.2f}" if wrong.scale is not None else ""
        yield (
            f"| {case.name} | {case.bug} | {right.verdict} | {between - start:.1f} | {wrong.verdict} | {scale} | "
            f"{named}{'' if named == wanted else f' (✗ {wanted})'} | {end - between:.1f} |"
        )


def main(argv: list[str] | None = None) -> int:
    wish = sys.argv[1:] if argv is None else argv
    torch.set_num_threads(1)
    held_out = wish[:1] == ["held-out"]
    every, wish = held_out_losses.cases() if held_out else cases(), wish[held_out:]
    for row in rows([every[int(i)] for i in wish] if wish else every):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
