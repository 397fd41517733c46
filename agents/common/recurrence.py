"""What an on-policy agent does about a network with a memory: one more node, and rows that are sequences.

    detach(obs_t), prev(memory_t), first_t → memory_t → action_t, value_t

A recording of `[time, batch]` steps is learned from in sequences of some steps, each of which starts from the memory that the
step before it left (Hausknecht & Stone 2015). Every function here returns what it was given where there is no memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import scg
from scg import conditional, detach, dist, prev
from scg.agents.common.recorder import Recording
from scg.agents.experience.rollout import Rows
from scg.agents.networks.recurrent import seen
from scg.trace import Trace


def reads(graph: scg.Graph, module: nn.Module) -> str:
    """What `module` reads at a step: "obs", or the node "memory", which is declared here and starts at the input "memory_start".

    detach(obs_t), prev(memory_t) → memory_t           no return of earlier actions goes through it: that goes through obs
    """
    memory = getattr(module, "memory", None)
    if memory is None:
        return "obs"
    if "memory" not in graph.nodes:  # policy and critic share one
        before = prev("memory", init="memory_start")
        graph.deterministic(memory, name="memory", parents=[detach("obs"), before, "first"])
    return "memory"


def charged(graph: scg.Graph, action: str) -> Any:
    """The distribution of an action, as a charge at a state reads it: no part of what earlier actions answer for.

    Given a memory, which is trained too: it is a function of detached observations already.
    """
    return dist(action) if "memory" in {e.source for e in graph.nodes[action].parents} else conditional(action)


def of_sequences(graph: scg.Graph) -> scg.Graph:
    """The graph that the rows of a recurrent agent are learned from; the same graph, of any other.

    Credits are recorded, so an action has nothing more to answer for at later steps. Were `obs` still its consequence, losses at
    later steps would be multiplied by the ratios π/μ of all actions before them, as they are not in minibatches of pairs.
    """
    if "memory" not in graph.nodes:
        return graph
    other = graph.with_estimators()
    other.nodes["obs"] = replace(graph.nodes["obs"], parents=())
    return other


def in_sequences(graph: scg.Graph, trace: Trace, recorded: Recording, length: int) -> Rows:
    """The nodes of a recording as sequences `[length, rows, …]`, and the memory that each starts from, `[rows, …]`.

    `length` is the recording's own where it does not divide it. `trace` is the recording replayed.
    """
    steps = len(recorded["first"])
    length = length if steps % length == 0 else steps
    rows = {name: cut(x, length) for name, x in recorded.items() if name.partition(".")[0] in graph.nodes}
    start, states = recorded["memory_start"].unsqueeze(0), trace["memory"].detach()
    return {**rows, "memory_start": torch.cat([start, states[length - 1 : -1 : length]]).flatten(0, 1)}


def cut(x: Tensor, length: int) -> Tensor:
    """`[time, batch, …]` as sequences `[length, time / length · batch, …]`."""
    return x.unflatten(0, (-1, length)).transpose(0, 1).flatten(1, 2)


def ahead(value: nn.Module, given: Recording) -> Tensor:
    """What the critic reads of `next_obs`: with a memory, one step after that of `obs`."""
    memory = getattr(value, "memory", None)
    if memory is None:
        return given["next_obs"]
    return memory(given["next_obs"], seen(value, given), torch.zeros_like(given["first"]))
