"""An on-policy agent from a graph alone: the graph's nodes decide what is recorded, credited and normalised.

    collect `horizon` steps → replay the block: credits, targets → `epochs` × minibatches of rows → a step of every optimiser

The graph's sequence names the block's parts as observed nodes: first, terminated, truncated, obs, next_obs, reward; its
stochastic node is `action`. It may also observe

    cost_to_go    the discounted cost to the end of the episode; where the data are cut, `value`, if given, predicts the rest
    next_value    value(next_obs), for credits that bootstrap
    target        the critic's regression target: credit + value where the credit has the critic subtracted, else the credit

A policy with a memory (`make_policy(…, network="gru")`) reads one more node, which `reads(graph, policy)` declares; the rows are
then sequences of `sequence` steps, and updates are not compiled.

An action that declares no credit gets one: `cost_to_go` where that is observed, GAE(γ, λ) where the graph has `value`,
`next_value` and `terminated`, and else the discounted costs to the end of the episode or block.

Every cost is in the update. A cost that `objectives` does not name is added to the steps of the optimisers that hold the
parameters it trains, so an auxiliary cost is declared in the graph and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.common.agent import Agent, Stateful
from scg.agents.common.callbacks import Callback
from scg.agents.common.on_policy import predicted, standardised
from scg.agents.common.recorder import Recorder, Recording
from scg.agents.common.recurrence import ahead, in_sequences, of_sequences
from scg.agents.execution.options import OptionError
from scg.agents.experience.rollout import Block, Rows, discounted_cost
from scg.agents.networks.normalisers import RewardScale
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics, explained_variance
from scg.agents.updates.minibatches import Shuffle, replayed
from scg.agents.updates.optimiser import Optimiser
from scg.agents.updates.schedules import constant
from scg.estimators.credit import GAE, MonteCarlo
from scg.evaluation.objectives import trained_by

RECORDED = ("first", "terminated", "truncated", "obs", "next_obs", "action", "reward")
COMPUTED = ("cost_to_go", "next_value", "target")


def on_policy(
    graph: scg.Graph,
    *,
    policy: nn.Module,
    objectives: Mapping[str, Optimiser],
    value: nn.Module | None = None,
    horizon: int = 256,
    epochs: int = 1,
    minibatch: int = 0,
    pieces: int = 1,
    sequence: int = 16,
    gamma: float = 0.99,
    lam: float = 0.95,
    scale_reward: bool = False,
    standardise: bool = True,
    schedule: Callable[[float], float] = constant,
    generator: Generator | None = None,
    updates: Updates | None = None,
    state: Mapping[str, Stateful] | None = None,
    callbacks: Sequence[Callback] = (),
    report: int = 1,
) -> Agent:
    """The agent that collects with `policy` and steps on the graph's costs.

    objectives    the optimiser of each cost; its `rate` is the initial learning rate, `schedule` the share left of it at each
                  share of the run (`scg.agents.updates.schedules`)
    value         the critic, in cost units, where there is one
    horizon       time steps of a block, in every environment
    minibatch     rows of a step, of a recurrent policy in whole sequences; 0: the whole block. Other than 0 needs the `generator`
    pieces        a step's gradient is accumulated over so many parts of its rows, to save memory
    sequence      steps that a recurrent policy's gradient goes back
    gamma, lam    discount of `cost_to_go`, of the returns behind `scale_reward` and of a credit that is filled in; its λ
    scale_reward  divide rewards by the running deviation of the return; `standardise`: the credits of each block
    state         other modules and generators that a checkpoint must hold
    report        environment steps behind one row of metrics
    """
    updates = Updates() if updates is None else updates
    _check(graph, policy, value, minibatch, generator)
    if hasattr(policy, "memory"):  # stretches between episodes' starts have no fixed lengths
        updates = Updates(replace(updates.execution, compile=False))
    graph = credited(graph, gamma, lam)
    learned = of_sequences(graph)
    nets = Recorder(policy, value, horizon, updates, RewardScale(gamma) if scale_reward else None)
    groups = _groups(graph, objectives)
    shuffle = Shuffle(generator) if minibatch and generator is not None else None
    saved: dict[str, Stateful] = {**nets.state, **(state or {})}
    _check_saved(groups, saved)
    for optimiser, costs in groups:
        saved[f"{costs[0]}_optimiser"] = optimiser
    if shuffle is not None:
        saved["shuffle"] = shuffle
    rates = [float(optimiser.rate) for optimiser, _ in groups]
    steps = [updates.minibatch(learned, optimiser, costs, minibatch or None, pieces) for optimiser, costs in groups]
    prepare = Preparation(graph, nets, gamma, standardise, sequence)

    def update(block: Block, progress: float) -> Metrics:
        for (optimiser, _), rate in zip(groups, rates, strict=True):
            optimiser.rate.fill_(rate * schedule(progress))
        given = prepare.recording(block)
        rows = prepare.rows(given)
        metrics = prepare.metrics(rows)
        length, count = rows["action"].shape[:2]
        for _ in range(epochs):
            for index in shuffle(count, max(1, minibatch // length)) if shuffle is not None else [torch.arange(count)]:
                for step in steps:
                    step(rows, index)
        nets.absorb(given)
        for (_, costs), step in zip(groups, steps, strict=True):
            metrics["grad_norm" if len(groups) == 1 else f"{costs[0]}_grad_norm"] = step.mean_norm()
        return metrics

    return Agent(graph, policy, nets.collect, update, saved, report=report, callbacks=callbacks)


class Preparation:
    """Turns a block into the rows that minibatches are drawn from."""

    def __init__(self, graph: scg.Graph, nets: Recorder, gamma: float, standardise: bool, sequence: int = 16) -> None:
        self.graph, self.nets, self.gamma, self.standardise, self.sequence = graph, nets, gamma, standardise, sequence

    def recording(self, block: Block) -> Recording:
        """The block's parts, scaled, with `next_value` and `cost_to_go` where the graph observes them."""
        given, asked = self.nets.recording(block), self.graph.nodes
        truncated = block.truncated.to(self.nets.updates.device)
        value = self.nets.critic
        with torch.no_grad():
            if "next_value" in asked and value is not None:
                given["next_value"] = value(ahead(value, given))
            if "cost_to_go" in asked:
                cut = truncated.clone()
                cut[-1] = True
                cut &= ~given["terminated"]
                after = torch.zeros_like(given["reward"]) if value is None else value(ahead(value, given)) * cut
                given["cost_to_go"] = discounted_cost(-given["reward"], given["terminated"], truncated, after, self.gamma)
        return {**given, "truncated": truncated}

    def rows(self, given: Recording) -> Rows:
        """Every (time, batch) pair a row `[1, rows, …]`, with its credits and the critic's target; with a memory, sequences
        `[sequence, rows, …]`."""
        graph = self.graph
        known = {name: x for name, x in given.items() if name.partition(".")[0] in graph.nodes or name == "memory_start"}
        trace = replayed(graph, known)
        credit = trace.credit("action")
        computed = {"action.credit": standardised(credit) if self.standardise else credit}
        if "target" in graph.nodes:
            computed["target"] = credit
            if _has_critic_subtracted(graph):
                assert self.nets.critic is not None
                computed["target"] = credit + predicted(self.nets.critic, given)
        if "memory" in graph.nodes:
            return in_sequences(graph, trace, {**known, **computed}, self.sequence)
        rows = trace.pairs(torch.arange(credit.numel(), device=credit.device))
        return {**rows, **{name: x.flatten().unsqueeze(0) for name, x in computed.items()}}

    def metrics(self, rows: Rows) -> Metrics:
        """The mean of every cost (of a reward: with its own sign), and the critic's explained variance."""
        trace, nodes = replayed(of_sequences(self.graph), rows), self.graph.nodes
        found = {name: nodes[name].sign * float(trace[name].detach().mean()) for name in self.graph.structure.costs}
        target = "target" if "target" in nodes else "cost_to_go"
        if self.nets.critic is not None and target in nodes:
            found["explained_variance"] = explained_variance(predicted(self.nets.critic, rows), rows[target])
        return found


def credited(graph: scg.Graph, gamma: float, lam: float) -> scg.Graph:
    """The graph, with a default credit for an action that declares none."""
    node, known = graph.nodes["action"], graph.nodes
    if node.credit is not None:
        return graph
    credit: Any = MonteCarlo(gamma)
    if "cost_to_go" in known:
        credit = "cost_to_go"
    elif {"value", "next_value", "terminated"} <= known.keys() and node.baseline is None:
        credit = GAE(discount=gamma, lam=lam)
    other = graph.with_estimators()
    other.nodes["action"] = replace(node, credit=credit)
    return other


def _has_critic_subtracted(graph: scg.Graph) -> bool:
    node = graph.nodes["action"]
    if node.baseline is None:
        return isinstance(node.credit, GAE)
    if node.baseline == "value":
        return True
    raise OptionError(
        f"on_policy: the action's baseline is {node.baseline!r}, so its credit does not say what the critic should predict. "
        "Observe cost_to_go in place of target."
    )


def _check(graph: scg.Graph, policy: nn.Module, value: nn.Module | None, minibatch: int, generator: Generator | None) -> None:
    """OptionError for a graph that blocks of experience cannot be replayed on."""
    observed = [name for name, node in graph.nodes.items() if node.kind == "observed"]
    action = graph.nodes.get("action")
    if action is None or action.kind != "stochastic" or not action.in_sequence:
        raise OptionError("on_policy: the graph has no stochastic node 'action' in its sequence. Call the policy's node so.")
    if graph.first != "first":
        raise OptionError(
            'on_policy: a block holds parts of several episodes. Open the sequence with `graph.sequence(first="first")`, and '
            'declare `graph.observed("first")` in it.'
        )
    if hasattr(policy, "memory") and "memory" not in graph.nodes:
        raise OptionError(
            "on_policy: the policy has a memory, and the graph no node that computes it. Declare it in the sequence, as what the "
            'policy reads: `parents=[reads(graph, policy)]` of the node "action", with `reads` of scg.agents.'
        )
    for name in observed:
        if name not in (*RECORDED, *COMPUTED):
            known = ", ".join((*RECORDED, *COMPUTED))
            raise OptionError(f"on_policy: the graph observes {name!r}, which a block does not have. It has {known}.")
        if name in ("next_value", "target") and value is None:
            raise OptionError(f"on_policy: the graph observes {name!r}, which needs a critic. Give value=.")
    if minibatch and generator is None:
        raise OptionError("on_policy: minibatches are drawn in a random order. Give generator=.")


def _groups(graph: scg.Graph, objectives: Mapping[str, Optimiser]) -> list[tuple[Optimiser, list[str]]]:
    """Every optimiser once, with its costs."""
    costs = graph.structure.costs
    for name in objectives:
        if name not in costs:
            raise OptionError(f"on_policy: objective {name!r} is no cost of the graph, which has {', '.join(costs)}.")
    found: dict[int, tuple[Optimiser, list[str]]] = {}
    for name, optimiser in objectives.items():
        found.setdefault(id(optimiser), (optimiser, []))[1].append(name)
    for name in costs:
        if name in objectives:
            continue
        node = graph.nodes[name]
        trained = None if node.trains is None else trained_by(node, graph.nodes)[0]
        holders = [group for group in found.values() if trained is None or any(id(p) in trained for p in group[0].parameters)]
        if not holders:
            raise OptionError(f"on_policy: no optimiser holds what cost {name!r} trains. Name it in objectives=.")
        for _, names in holders:
            names.append(name)
    return list(found.values())


def _check_saved(groups: Sequence[tuple[Optimiser, list[str]]], saved: Mapping[str, Any]) -> None:
    """OptionError for trained parameters that no part of the checkpoint holds."""
    kept: list[Tensor] = [p for part in saved.values() if isinstance(part, nn.Module) for p in part.parameters()]
    known = {id(p) for p in kept}
    for optimiser, costs in groups:
        if any(id(p) not in known for p in optimiser.parameters):
            raise OptionError(
                f"on_policy: the optimiser of {costs[0]!r} trains parameters that no checkpoint would hold. "
                'Give their module in state={"name": module}.'
            )
