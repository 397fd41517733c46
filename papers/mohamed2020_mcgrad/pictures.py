"""The survey's figures: variance against k on logarithmic axes; lines are closed forms, dots what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.ticker import NullLocator
from torch import Tensor

from scg.papers.figures import panels, save
from scg.papers.mohamed2020_mcgrad.closed_forms import ESTIMATORS, FAMILIES, Array, spaced

NOTHING = 1e-12
COLOURS = dict(zip(ESTIMATORS, ("#d62728", "#ff9896", "#1f77b4", "#98df8a", "#2ca02c"), strict=True))


def draw_families(measured: Mapping[str, Mapping[tuple[str, str], Any]], at: Mapping[str, Array], path: Path) -> None:
    figure, axes = panels(len(FAMILIES), 2)
    for row, name in zip(axes, FAMILIES, strict=True):
        linear = name == "(x − k)²"
        k = spaced(name, 300)
        law = FAMILIES[name](1.0, 1.0, k)
        for axis, (parameter, symbol) in zip(row, (("mu", "μ"), ("sigma", "σ")), strict=True):
            for estimator in ESTIMATORS:
                variance = np.broadcast_to(law.variance(estimator, parameter), k.shape)
                axis.plot(k, variance, color=COLOURS[estimator], label=estimator, linewidth=1.2)
                dots = measured[name][estimator, parameter].variance
                axis.plot(at[name], np.where(dots > NOTHING, dots, np.nan), ".", color=COLOURS[estimator])
            axis.set(yscale="log", xscale="linear" if linear else "log")
            if not linear:
                axis.set_xticks([x for x in (0.1, 0.2, 0.5, 1, 2, 5, 10) if k[0] <= x <= k[-1]], minor=False)
                axis.xaxis.set_major_formatter("{x:g}")
                axis.xaxis.set_minor_locator(NullLocator())
            axis.set_title(f"{name}, gradient for {symbol}", fontsize=9)
            axis.set_xlabel("k", fontsize=8)
            axis.set_ylabel("variance", fontsize=8)
    save(figure, path, axes[0, 0])


def draw_bits(
    logits: Tensor,
    targets: Sequence[float],
    measured: Mapping[tuple[str, float], Any],
    closed: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    path: Path,
) -> None:
    figure, axes = panels(1, len(targets))
    theta = torch.linspace(float(logits[0]), float(logits[-1]), 301, dtype=torch.float64)
    for axis, target in zip(axes[0], targets, strict=True):
        for i, (name, variance) in enumerate(closed.items()):
            curve = variance(theta, torch.tensor(target, dtype=torch.float64))
            axis.plot(theta, curve.where(curve > NOTHING, float("nan")), color=f"C{i}", label=name, linewidth=1.2)
            dots = measured[name, target].variance
            axis.plot(logits, np.where(dots > NOTHING, dots, np.nan), ".", color=f"C{i}")
        axis.set(yscale="log")
        axis.set_title(f"(b − {target})²", fontsize=9)
        axis.set_xlabel("logit θ", fontsize=8)
        axis.set_ylabel("variance", fontsize=8)
    save(figure, path, axes[0, 0])
