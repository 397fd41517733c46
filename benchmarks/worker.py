"""One side of a comparison in a process of its own: `python -m benchmarks.worker SIDE`, told what to do on stdin.

A line is a JSON request, and answered with a line of JSON:

    {"do": "open", "work": …, "estimator": …}        the step to measure; answers {"why": …} where there is none
    {"do": "time", "repeats": n}                     processor seconds a step
    {"do": "variance", "draws": n, "seconds": s}     the encoder's gradient: variance, and share of the true gradient
    {"do": "reference", "draws": n, "path": …}       writes two independent means of that gradient

Time is the process's own, not the clock's: other load on the machine does not count. With g, g' independent draws,
½‖g − g'‖² is an unbiased estimate of the trace of the variance; pairs give its mean and standard error. The share is
E[g]·∇/‖∇‖², 1 for an unbiased estimator; ∇ comes from the reference.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.vae import Unavailable, Work


class Bench:
    def __init__(self, side: str) -> None:
        self.side = importlib.import_module(f"benchmarks.sides.{side}")
        self.step: Callable[[], Any] = lambda: None
        self.work: Work | None = None

    def open(self, work: str, estimator: str) -> dict[str, Any]:
        self.work = Work(work)
        torch.manual_seed(2)
        try:
            self.step = self.side.step(self.work, estimator)
            self.once()
        except Unavailable as reason:
            return {"why": str(reason)}
        except Exception as error:  # a peer that fails is a result
            return {"why": f"fails: {type(error).__name__}: {error}".splitlines()[0][:160]}
        return {}

    def once(self) -> None:
        assert self.work is not None
        for parameter in self.work.parameters():
            parameter.grad = None
        self.step()

    def time(self, repeats: int) -> dict[str, Any]:
        began = time.process_time()
        for _ in range(repeats):
            self.once()
        return {"seconds": (time.process_time() - began) / repeats}

    def gradient(self) -> Tensor:
        assert self.work is not None
        self.once()
        return torch.cat([p.grad.reshape(-1) for p in self.work.encode.parameters() if p.grad is not None])

    def variance(self, draws: int, seconds: float, path: str) -> dict[str, Any]:
        one, other = torch.load(path)
        truth, square = (one + other) / 2, (one @ other).item()
        halves, shares = [], []
        until = time.process_time() + seconds
        while len(halves) < max(8, draws // 2) and (len(halves) < 8 or time.process_time() < until):
            g, h = self.gradient(), self.gradient()
            halves.append(((g - h).square().sum(dtype=torch.float64) / 2).item())
            shares.append(((g + h) @ truth).item() / 2 / square)
        root = len(halves) ** 0.5
        return {
            "draws": 2 * len(halves),
            "variance": statistics.mean(halves),
            "variance_error": statistics.stdev(halves) / root,
            "share": statistics.mean(shares),
            "share_error": statistics.stdev(shares) / root,
        }

    def reference(self, draws: int, path: str) -> dict[str, Any]:
        means = [torch.stack([self.gradient() for _ in range(8)]).mean(0) for _ in range(2)]
        for k in range(1, draws // 16):
            for mean in means:
                mean += (torch.stack([self.gradient() for _ in range(8)]).mean(0) - mean) / (k + 1)
        torch.save(means, path)
        return {}


def main() -> None:
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    bench: Bench | None = None
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        if what == "hello":
            try:
                bench, answer = Bench(sys.argv[1]), {}
            except ImportError as error:
                answer = {"why": str(error)}
        else:
            answer = getattr(bench, what)(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
