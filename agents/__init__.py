"""Reinforcement-learning agents, each a page: the docstring is the picture, the body is the graph.

    envs ──► rollout ──► agent.update ──► train            the only training loop
             (block)     (graph.replay)   (runs, curves)

An agent is a frozen config dataclass with a `build` method; naming it gives it a command line, run directories,
checkpoints, evaluation and plots. Names are those below, those that installed packages offer (entry points of the group
`scg.agents`), those that `register` was told, and targets: `path/to/file.py:Name`, `package.module:Name`.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from scg import targets
from scg.errors import nearest
from scg.targets import TargetError

# name on the command line -> "module:Config"; imported only when asked for
AGENTS = {
    "a2c": "scg.agents.a2c:A2C",
    "a3c": "scg.agents.a3c:A3C",
    "ars": "scg.agents.ars:ARS",
    "bptt": "scg.agents.bptt:BPTT",
    "cem": "scg.agents.cem:CEM",
    "cma-es": "scg.agents.cma_es:CMAES",
    "crossq": "scg.agents.crossq:CrossQ",
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
    "redq": "scg.agents.redq:REDQ",
    "reinforce": "scg.agents.reinforce:Reinforce",
    "rloo": "scg.agents.rloo:RLOO",
    "rwr": "scg.agents.rwr:RWR",
    "sac": "scg.agents.sac:SAC",
    "sac-discrete": "scg.agents.sac_discrete:DiscreteSAC",
    "sac-v1": "scg.agents.sac_v1:SACv1",
    "shac": "scg.agents.shac:SHAC",
    "soft-q": "scg.agents.soft_q:SoftQ",
    "spsa": "scg.agents.spsa:SPSA",
    "svg": "scg.agents.svg:SVG",
    "svg-k": "scg.agents.svg_k:SVGK",
    "td3": "scg.agents.td3:TD3",
    "tqc": "scg.agents.tqc:TQC",
    "trpo": "scg.agents.trpo:TRPO",
    "trpo-dual": "scg.agents.trpo_dual:TRPODual",
}


_registered: dict[str, Any] = {}
_OFFERED = {
    "Adam": "scg.agents.updates.optimiser",
    "Agent": "scg.agents.common.agent",
    "AgentConfig": "scg.agents.common.agent",
    "Callback": "scg.agents.common.callbacks",
    "RMSprop": "scg.agents.updates.optimiser",
    "StopAtReturn": "scg.agents.common.callbacks",
    "WandB": "scg.agents.common.wandb_callback",
    "agent": "scg.agents.common.from_function",
    "make_policy": "scg.agents.networks.policies",
    "on_policy": "scg.agents.common.from_graph",
    "reads": "scg.agents.common.recurrence",
    "value_critic": "scg.agents.networks.critics",
}


def __getattr__(name: str) -> Any:
    """What pages of one's own are written with, imported when it is asked for."""
    if name in _OFFERED:
        return getattr(import_module(_OFFERED[name]), name)
    raise AttributeError(f"module 'scg.agents' has no attribute {name!r}")


def register(name: str, config: Any) -> None:
    """Give an agent's config class, or its target `module:Name`, a name in this process. Runs write the target down.

    Packages that are installed offer theirs to every process: an entry point `name = "module:Name"` of the group
    `scg.agents`.
    """
    if not name or ":" in name or name.startswith("-") or not name.isprintable():
        raise TargetError(f"agents.register: {name!r} is no name. Give a word without a colon.")
    if name in AGENTS:
        raise TargetError(f"agents.register: {name!r} is one of scg's own agents. Choose another name.")
    _registered[name] = config if isinstance(config, str) else _checked(config, name)


def names() -> list[str]:
    """All agents that have a name."""
    return sorted({*AGENTS, *_registered, *(point.name for point in entry_points(group="scg.agents"))})


def is_target(name: str) -> bool:
    """Whether `name` is a place in a file or module."""
    return ":" in name


def target_of(name: str) -> str:
    """What stands for agent `name` in a run's configuration: itself where every process knows it, else its target."""
    if name in _registered:
        kind = _registered[name]
        return targets.absolute(kind, "agent") if isinstance(kind, str) else targets.place_of(kind, "agent")
    return targets.absolute(name, "agent") if is_target(name) else name


def title(name: str) -> str:
    """A short name, for folders and legends: what a target has after the colon."""
    return name.rpartition(":")[2]


def config_type(name: str) -> Any:
    """The config dataclass of agent `name`. TargetError says what is wrong with the name, or with what it names."""
    kind: Any = AGENTS.get(name) or _registered.get(name) or (name if is_target(name) else None)
    if kind is None:
        kind = next((point.value for point in entry_points(group="scg.agents") if point.name == name), None)
    if kind is None:
        raise TargetError(f"agent {name!r} is unknown.{nearest(name, names())} There are: {', '.join(names())}.")
    if not isinstance(kind, str):
        return kind
    if name in AGENTS:
        module, _, attribute = kind.partition(":")
        return getattr(import_module(module), attribute)
    return _checked(targets.found(kind, "agent", is_config), kind)


def is_config(thing: Any) -> bool:
    """Whether it is an agent's config class."""
    from scg.agents.common.agent import AgentConfig

    return isinstance(thing, type) and issubclass(thing, AgentConfig) and is_dataclass(thing)


def _checked(kind: Any, target: str) -> Any:
    if not is_config(kind):
        found = "a function without @scg.agents.agent" if callable(kind) and not isinstance(kind, type) else f"{kind!r}"
        raise TargetError(
            f"{target} is {found}, and no agent. An agent is a dataclass derived from scg.agents.AgentConfig, or a function "
            "with the decorator @scg.agents.agent."
        )
    try:
        kind()
    except TypeError as error:
        raise TargetError(f"{target}: every option of an agent needs a default ({error}).") from error
    return kind
