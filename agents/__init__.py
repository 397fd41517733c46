"""Reinforcement-learning agents, each a page: the docstring is the picture, the body is the graph.

    envs ──► rollout ──► agent.update ──► train            the only training loop
             (block)     (graph.replay)   (runs, curves)

An agent is a frozen config dataclass with a `build` method; naming it here gives it a command line, run directories,
checkpoints, evaluation and plots. To add one, write its file and add a line.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from scg.errors import nearest

# name on the command line -> "module:Config"; imported only when asked for
AGENTS = {
    "a2c": "agents.a2c:A2C",
    "a3c": "agents.a3c:A3C",
    "ddpg": "agents.ddpg:DDPG",
    "double-q": "agents.double_q:DoubleQ",
    "dqn": "agents.dqn:DQN",
    "naf": "agents.naf:NAF",
    "npg": "agents.npg:NPG",
    "off-policy-pg": "agents.off_policy_gradient:OffPolicyGradient",
    "ppo": "agents.ppo:PPO",
    "reinforce": "agents.reinforce:Reinforce",
    "sac": "agents.sac:SAC",
    "sac-discrete": "agents.sac_discrete:DiscreteSAC",
    "sac-v1": "agents.sac_v1:SACv1",
    "soft-q": "agents.soft_q:SoftQ",
    "svg": "agents.svg:SVG",
    "td3": "agents.td3:TD3",
    "trpo": "agents.trpo:TRPO",
    "trpo-dual": "agents.trpo_dual:TRPODual",
}


def config_type(name: str) -> Any:
    """The config dataclass of agent `name`. ValueError names the nearest agent otherwise."""
    if name not in AGENTS:
        raise ValueError(f"agent {name!r} is unknown.{nearest(name, AGENTS)} There are: {', '.join(sorted(AGENTS))}.")
    module, _, attribute = AGENTS[name].partition(":")
    return getattr(import_module(module), attribute)
