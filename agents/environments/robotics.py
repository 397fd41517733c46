"""gymnasium-robotics (FetchReach and its kin): registered when one is asked for, and made to run on newer MuJoCo.

From MuJoCo 3.12 on `mjtJoint.mjJNT_SLIDE == np.int32(2)` is False, and gymnasium-robotics 1.4.2 compares a model's joint
types that way: its environments fail with a bare AssertionError. `prepare` gives that one module of theirs the joint types
as plain integers, which compare; MuJoCo itself, and everybody else who uses it, is left as it is.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np

FAMILIES = ("Fetch", "Hand", "AdroitHand", "PointMaze", "AntMaze", "FrankaKitchen")
JOINTS = ("mjJNT_FREE", "mjJNT_BALL", "mjJNT_SLIDE", "mjJNT_HINGE")


def prepare(env_id: str) -> bool:
    """Register gymnasium-robotics if `env_id` looks like one of its own. False where it does and the package is missing."""
    if env_id in gym.registry or not env_id.startswith(FAMILIES):
        return True
    if find_spec("gymnasium_robotics") is None:
        return False
    import_module("gymnasium_robotics")  # registers
    repair(import_module("gymnasium_robotics.utils.mujoco_utils"), import_module("mujoco"))
    return True


def repair(module: Any, mujoco: Any) -> None:
    """Let `module` see joint types as integers, if those of `mujoco` do not compare with numpy's."""
    joints = mujoco.mjtJoint
    if joints.mjJNT_SLIDE == np.int32(int(joints.mjJNT_SLIDE)):
        return
    integers = SimpleNamespace(**{name: int(getattr(joints, name)) for name in JOINTS})
    module.mujoco = SimpleNamespace(**{**vars(mujoco), "mjtJoint": integers})
