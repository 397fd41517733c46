"""The figure: test bounds and gradients' variances along training, as the paper's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

COLOURS = {"DisARM": "tab:red", "leave-one-out": "tab:orange", "ARM": "tab:green", "score": "tab:gray"}


def draw(studies: Mapping[str, Any], path: Path) -> None:
    """One row a VAE: the bound of each estimator's trainings; the variance of each at the weights of one of them."""
    figure = Figure(figsize=(9, 3.2 * len(studies)), layout="constrained")
    rows = figure.subplots(len(studies), 2, squeeze=False)
    for (left, right), (name, study) in zip(rows, studies.items(), strict=True):
        for key, curves in study.curves.items():
            bound = torch.tensor([curve.elbo for curve in curves])
            steps, middle = curves[0].steps, bound.mean(0)
            error = bound.std(0) / len(bound) ** 0.5
            left.plot(steps, middle, color=COLOURS[key], label=key)
            left.fill_between(steps, middle - error, middle + error, color=COLOURS[key], alpha=0.25, linewidth=0)
        for key, along in study.scatters.items():
            right.plot(steps, [s.variance for s in along], color=COLOURS[key], marker=".", label=key)
        left.set_title(f"{name}: test ELBO, {len(curves)} seeds ± s.e.", fontsize=10)
        left.set_ylim(bottom=torch.tensor([c.elbo[1] for c in study.curves["DisARM"]]).mean().item() - 5)
        right.set_title(f"{name}: trace of the variance of the encoder's gradient", fontsize=10)
        right.set_yscale("log")
        for axis in (left, right):
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
        left.legend(fontsize=8)
    figure.savefig(path, dpi=110)
