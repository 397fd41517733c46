"""One look for all figures: colours that those who see few of them can tell apart, no frame above and at the right.

    with figures.style(8):                      # font size in points; no pyplot, whose backend is the user's
        figure = Figure(…)

The colours are those of Okabe & Ito (2008), "Color universal design", without their yellow, which white paper swallows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
PLATE = {
    "facecolor": "white",
    "edgecolor": "none",
    "pad": 0.4,
}  # below a label, so that it can be read where it lies over a line


def colour(place: int) -> str:
    """The colour of the curve, bar or point at that place; they begin again after the last."""
    return COLOURS[place % len(COLOURS)]


@contextmanager
def style(size: float) -> Iterator[None]:
    """matplotlib's settings for a figure; all that is drawn inside keeps them, also where it is saved later."""
    import matplotlib
    from cycler import cycler

    settings: Any = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=COLOURS),
        "font.size": size,
        "legend.frameon": False,
        "svg.fonttype": "none",  # words that can be searched and read aloud, not outlines
    }
    with matplotlib.rc_context(settings):
        yield
