"""Pictures of the helicopter: from above on the left, from behind on the right, with its wind and where it has been.

The rings are 0.5, 1 and 2 m around the target. The arrow at the bottom is the horizontal wind, 0.5 m of picture for 1 m/s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SIDE, METRE = 240, 50.0  # pixels: of each view, and of a metre
INK, TRAIL, RING, AIR, PAPER = (20, 20, 20), (70, 120, 200), (205, 205, 205), (200, 90, 40), (255, 255, 255)


def picture(state: np.ndarray, wind: np.ndarray, trail: Sequence[np.ndarray]) -> np.ndarray:
    """`[SIDE, 2 SIDE, 3]` uint8 for a state `[13]`, the wind `[north, east]` and positions `[3]` before this one."""
    image = Image.new("RGB", (2 * SIDE, SIDE), PAPER)
    draw = ImageDraw.Draw(image)
    nose, right, down = axes(state[9:])
    for view, (across, up) in enumerate([((0, 1, 0), (1, 0, 0)), ((0, 1, 0), (0, 0, -1))]):
        middle = np.array([SIDE / 2 + view * SIDE, SIDE / 2])

        def at(world: np.ndarray, middle: np.ndarray = middle, across: tuple = across, up: tuple = up) -> tuple[float, float]:
            x, y = middle + METRE * np.array([world @ np.array(across), -(world @ np.array(up))])
            return float(x), float(y)

        for radius in (0.5, 1.0, 2.0):
            r = METRE * radius
            draw.ellipse([*(middle - r), *(middle + r)], outline=RING)
        if len(trail) > 1:
            draw.line([at(point) for point in trail], fill=TRAIL)
        here = state[:3]
        draw.line([at(here - 0.45 * nose), at(here + 0.25 * nose)], fill=INK, width=4)
        rotor = here - 0.15 * down
        draw.line([at(rotor - 0.35 * right), at(rotor + 0.35 * right)], fill=INK, width=2)
        draw.line([at(rotor - 0.35 * nose), at(rotor + 0.35 * nose)], fill=INK, width=2)
        draw.line([at(here), at(rotor)], fill=INK, width=2)
    foot = np.array([40.0, SIDE - 40.0])
    tip = foot + METRE / 2 * np.array([wind[1], -wind[0]])
    draw.line([*foot, *tip], fill=AIR, width=3)
    draw.ellipse([*(tip - 3), *(tip + 3)], fill=AIR)
    draw.line([SIDE, 0, SIDE, SIDE], fill=RING)
    return np.asarray(image)


def axes(q: np.ndarray) -> np.ndarray:
    """The body's forward, right and down, along the world's axes: the rows of `[3, 3]`, for a quaternion `[4]`."""
    w, v = q[0], q[1:]
    body = np.eye(3)
    twist = 2 * np.cross(v, body)
    return body + w * twist + np.cross(v, twist)
