"""Wrappers that learn: running statistics inside an environment, which no other instance of it shares.

An evaluation has environments of its own, so it would show the policy observations on another scale than those it was
trained on, and report rewards that are no returns; checkpoints would not hold the statistics either. Agents have
normalisers of their own, which are part of the networks: evaluation, checkpoints and films use the same numbers.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

REMEDIES = {
    "NormalizeObservation": "use the agent's own --normalise-obs",
    "NormalizeReward": "use the agent's own --scale-reward (on-policy agents)",
}


def learning(env: gym.Env) -> str:
    """What is wrong with an environment under a wrapper whose statistics still move, and what to do; "" where none is."""
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        for kind in type(layer).__mro__:  # by name: other packages have copies of gymnasium's
            if kind.__name__ in REMEDIES and getattr(layer, "update_running_mean", True):
                return (
                    f"is wrapped in {kind.__name__}, whose running statistics the environments of an evaluation would not "
                    f"share. Take it off and {REMEDIES[kind.__name__]}, or fix statistics that you know: "
                    "wrapper.update_running_mean = False."
                )
        layer = layer.env
    return ""
