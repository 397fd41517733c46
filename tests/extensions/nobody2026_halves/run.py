"""Nobody (2026): a fair coin shows heads half of the time."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from scg.papers.report import Claim, Results, Say, collect, with_error


@dataclass(frozen=True)
class Settings:
    draws: int = field(default=10_000, metadata={"help": "throws of the coin"})


def heads(settings: Settings) -> Claim:
    mean = torch.bernoulli(torch.full((settings.draws,), 0.5)).mean()
    error = 0.5 / settings.draws**0.5
    return "Table 1: heads", "0.5", with_error(float(mean), error), abs(float(mean) - 0.5) < 5 * error, {"mean": float(mean)}


def run(settings: Settings, out: Path, say: Say) -> Results:
    return collect("nobody2026_halves", settings, [("heads", lambda: heads(settings))], say)
