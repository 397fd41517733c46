"""Differentiable dynamics by name: those whose equations are known, MuJoCo's, and models that are learned.

pendulum, cartpole, double-integrator, wall, push        the equations, in torch
mujoco:InvertedPendulum-v5                               the simulator, with its own derivatives
path/to/file.py:Name                                     a `Dynamics` of one's own
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scg import targets
from scg.agents.dynamics.base import Dynamics
from scg.agents.dynamics.classic import CartPole, DoubleIntegrator, Pendulum
from scg.agents.dynamics.contact import Push, Wall
from scg.agents.execution.options import OptionError
from scg.errors import nearest

KNOWN: dict[str, Callable[[], Dynamics]] = {
    "cartpole": CartPole,
    "double-integrator": DoubleIntegrator,
    "pendulum": Pendulum,
    "push": Push,
    "wall": Wall,
}
LEARNED, MUJOCO = "learned", "mujoco:"


def known(name: str) -> Dynamics:
    """The dynamics of this name. OptionError for a name that leads to none."""
    if name in KNOWN:
        return KNOWN[name]()
    if name.startswith(MUJOCO):
        from scg.agents.dynamics.mujoco import simulator

        return simulator(name.removeprefix(MUJOCO))
    if ":" not in name:
        raise OptionError(
            f"option dynamics: {name!r} is unknown.{nearest(name, KNOWN)} Give {LEARNED}, {MUJOCO}<environment>, "
            f"path/to/file.py:Name, or one of {', '.join(KNOWN)}."
        )
    place, _, title = name.rpartition(":")
    found: Any = targets.attribute(targets.module(place), place, title, "dynamics")
    made = found() if isinstance(found, type) else found
    if not isinstance(made, Dynamics):
        raise OptionError(
            f"option dynamics: {name} is of type {type(made).__name__}, and no scg.agents.dynamics.base.Dynamics."
        )
    return made
