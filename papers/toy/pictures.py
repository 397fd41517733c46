"""Loss and variance along the descent: the mean over toys, and the band that holds the middle 80 % of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from scg.papers.figures import panels, save
from scg.papers.toy.descent import Curves

NOTHING = 1e-12


def draw(curves: Mapping[str, Curves], targets: list[float], path: Path) -> None:
    """A row for each target, whose toys are the columns of `curves` with that t."""
    figure, axes = panels(len(targets), 2)
    for row, target in zip(axes, targets, strict=True):
        for i, (name, found) in enumerate(curves.items()):
            own = found.t == target
            colour = f"C{i % 10}"
            for axis, values in zip(row, (found.loss[:, own], found.variance[:, own].clamp_min(NOTHING)), strict=True):
                low, high = torch.quantile(values, torch.tensor([0.1, 0.9], dtype=values.dtype), 1)
                middle = values.mean(1) if axis is row[0] else values.log().mean(1).exp()
                axis.plot(found.step, middle, color=colour, label=name, linewidth=1.2)
                axis.fill_between(found.step, low, high, color=colour, alpha=0.15, linewidth=0)
        row[0].axhline(min(target, 1 - target) ** 2, color="black", linewidth=0.6, linestyle=":")
        row[0].set_title(f"t = {target}: expected loss", fontsize=9)
        row[1].set(yscale="log", ylim=(10 * NOTHING, None))
        row[1].set_title(f"t = {target}: variance of the gradient", fontsize=9)
        for axis in row:
            axis.set_xlabel("step", fontsize=8)
    save(figure, path, axes[0, 0])
