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
    "a2c": "scg.agents.a2c:A2C",
    "a3c": "scg.agents.a3c:A3C",
    "ars": "scg.agents.ars:ARS",
    "cem": "scg.agents.cem:CEM",
    "cma-es": "scg.agents.cma_es:CMAES",
    "ddpg": "scg.agents.ddpg:DDPG",
    "double-q": "scg.agents.double_q:DoubleQ",
    "dqn": "scg.agents.dqn:DQN",
    "es": "scg.agents.es:ES",
    "fd": "scg.agents.fd:FD",
    "naf": "scg.agents.naf:NAF",
    "npg": "scg.agents.npg:NPG",
    "off-policy-pg": "scg.agents.off_policy_gradient:OffPolicyGradient",
    "pes": "scg.agents.pes:PES",
    "pgpe": "scg.agents.pgpe:PGPE",
    "pi2": "scg.agents.pi2:PI2",
    "power": "scg.agents.power:PoWER",
    "ppo": "scg.agents.ppo:PPO",
    "reinforce": "scg.agents.reinforce:Reinforce",
    "rwr": "scg.agents.rwr:RWR",
    "sac": "scg.agents.sac:SAC",
    "sac-discrete": "scg.agents.sac_discrete:DiscreteSAC",
    "sac-v1": "scg.agents.sac_v1:SACv1",
    "soft-q": "scg.agents.soft_q:SoftQ",
    "spsa": "scg.agents.spsa:SPSA",
    "svg": "scg.agents.svg:SVG",
    "td3": "scg.agents.td3:TD3",
    "trpo": "scg.agents.trpo:TRPO",
    "trpo-dual": "scg.agents.trpo_dual:TRPODual",
}


def config_type(name: str) -> Any:
    """The config dataclass of agent `name`. ValueError names the nearest agent otherwise."""
    if name not in AGENTS:
        raise ValueError(f"agent {name!r} is unknown.{nearest(name, AGENTS)} There are: {', '.join(sorted(AGENTS))}.")
    module, _, attribute = AGENTS[name].partition(":")
    return getattr(import_module(module), attribute)
