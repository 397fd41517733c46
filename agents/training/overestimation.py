"""Overestimation: the critics' estimates of the policy's value against its true discounted return.

    estimate   mean over visited states of  min Q(obs_t, action_t)
    truth      mean over the same of        G_t = reward_t + γ (1 − terminated_t) (G_{t+1} − α log π(action_{t+1} | obs_{t+1}))
    bias       estimate − truth

Both are means over paths of the current policy, with actions as the critics assume them: without noise for a deterministic
actor, sampled for a stochastic policy; the return includes the entropy where the critics do (α > 0). Critics bootstrap at time
limits, so the paths have none; they are continued until the rest of the return has weight γ^m ≤ `tolerance`. A state that is
followed by neither a termination nor so many steps is not counted. `error` is the standard error of the bias over
environments: these are independent, while the states of one path are not.

Fujimoto, van Hoof & Meger (2018), section 4.1 and figure 1; van Hasselt, Guez & Silver (2016). Fujimoto et al. start from
states of the replay buffer; here they are the current policy's, or (`states="start"`) its first ones alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

import scg
from scg.agents.common.agent import Agent
from scg.agents.environments import envs
from scg.agents.environments.envs import Environments
from scg.agents.environments.origin import origin
from scg.agents.experience import tensor_files
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Block, Rollout, discounted_cost
from scg.agents.experience.tensor_files import CheckpointError
from scg.agents.training.loop import build
from scg.agents.training.run_directory import RunDirectory, RunError, write_table

States = Literal["visited", "start"]
Estimate = Callable[[Block], Tensor]  # block [time, batch, …] → Q(obs, action) [time, batch]
ROWS = 4096  # evaluated at once
NO_LIMIT = 10**9  # steps: a time limit that no path reaches, for vectors that expect one
ENDLESS = 1000  # states to visit in an environment without a time limit


class Measured(NamedTuple):
    estimate: float
    truth: float
    bias: float
    error: float
    states: int


class Paths(NamedTuple):
    """Each `[time, batch]`; where a state is not counted, estimate and truth are 0."""

    estimate: Tensor
    truth: Tensor
    counted: Tensor

    def measured(self) -> Measured:
        estimate, truth, count = self.estimate.sum(), self.truth.sum(), self.counted.sum()
        bias = (estimate - truth) / count
        # Each environment's share of the bias: their sum is the ratio estimator's, so that paths weigh as their states do.
        paths = self.counted.shape[1]
        share = ((self.estimate - self.truth).sum(0) - bias * self.counted.sum(0)) / count * paths
        error = share.std() / paths**0.5
        return Measured(float(estimate / count), float(truth / count), float(bias), float(error), int(count))


@dataclass(frozen=True)
class Measurement:
    """How to measure: on `envs` paths, counting the states the unseen rest of whose return has weight ≤ `tolerance`."""

    envs: int = 8
    """independent paths"""
    states: States = "visited"
    """every state on them, or the first ones of their episodes"""
    tolerance: float = 0.01
    """greatest weight γ^m of what is left out of a return"""
    seed: int = 0
    """of the paths"""

    def __post_init__(self) -> None:
        if self.envs < 2:
            raise RunError(f"option envs is {self.envs}. Give at least 2: the standard error is over environments.")
        if not 0 < self.tolerance < 1:
            raise RunError(f"option tolerance is {self.tolerance}. Give a number between 0 and 1.")


def returns(block: Block, gamma: float, alpha: float = 0.0) -> tuple[Tensor, Tensor]:
    """`G [time, batch]` as far as the block goes, and the weight γ^m of the unseen rest: 0 where a termination follows."""
    over = block.terminated | block.truncated
    reward = block.reward
    if alpha:
        assert block.log_prob is not None
        ahead = torch.cat([block.log_prob[1:], torch.zeros_like(block.log_prob[:1])])
        reward = reward - gamma * alpha * torch.where(over, 0.0, ahead)
    cut = block.truncated & ~block.terminated
    cut[-1] = ~block.terminated[-1]
    zeros = torch.zeros_like(reward)
    total = -discounted_cost(-reward, block.terminated, block.truncated, zeros, gamma)
    unseen = discounted_cost(zeros, block.terminated, block.truncated, cut.to(reward.dtype), gamma)
    return total, unseen


def follow(
    policy: nn.Module,
    estimate: Estimate,
    vector: Environments,
    gamma: float,
    how: Measurement,
    visit: int,
    alpha: float = 0.0,
) -> Paths:
    """Step `vector`, whose environments have no time limit, and measure at the states of the first `visit` steps.

    RunError if no state can be counted: γ too close to 1 for episodes that do not end.
    """
    tail = math.ceil(math.log(how.tolerance) / math.log(gamma)) if 0 < gamma < 1 else 0
    generator = Generator().manual_seed(envs.seeds(how.seed, "overestimation-actions", 1)[0])
    rollout = Rollout(vector, envs.seeds(how.seed, "overestimation", vector.batch), generator)
    with one_blas_thread():
        block = rollout.collect(policy, visit + tail, log_prob=alpha > 0)
    truth, unseen = returns(block, gamma, alpha)
    counted = unseen <= how.tolerance * (1 + 1e-3)  # γ^m in single precision
    counted[visit:] = False
    if how.states == "start":
        counted &= block.first
    if not counted.any():
        raise RunError(
            f"overestimation: none of {counted.numel()} states is followed by a termination, or by steps enough to see its "
            f"return (γ = {gamma}). Raise --tolerance."
        )
    return Paths(torch.where(counted, estimate(block), 0.0).double(), torch.where(counted, truth, 0.0).double(), counted)


def critics_of(agent: Agent, space: gym.Space, generator: Generator, device: str = "cpu") -> Estimate:
    """Q from node `q` of an off-policy agent's graph: the minimum of several critics; the mean over several heads."""

    def estimate(block: Block) -> Tensor:
        names = ("obs", "action", "reward", "next_obs")
        rows = {name: value.flatten(0, 1).to(device) for name, value in block.given(*names).items()}
        rows["discount"] = torch.ones_like(rows["reward"])
        pieces = []
        with torch.no_grad(), scg.randomness(generator):
            for i in range(0, len(rows["reward"]), ROWS):
                piece: dict[str, Any] = {name: value[i : i + ROWS] for name, value in sorted(rows.items())}
                q = agent.graph.sample(**piece)["q"]
                pieces.append(q.mean(-1) if isinstance(space, spaces.MultiDiscrete) else q.amin(-1))
        return torch.cat(pieces).cpu().unflatten(0, block.reward.shape)

    return estimate


def temperature(agent: Agent, config: Any) -> float:
    """The weight of entropy in what the critics predict."""
    learned: Any = agent.state.get("temperature")
    return learned().item() if learned is not None else float(getattr(config, "alpha", 0.0))


def over_training(run: RunDirectory, how: Measurement, say: Callable[[str], None] = print) -> list[dict[str, float]]:
    """A row of `Measured` for each checkpoint that the run has kept, also written to its `overestimation.csv`.

    RunError for an agent without action values; CheckpointError if no checkpoint can be read.
    """
    rows = []
    for step, paths in each_checkpoint(run, how, say):
        measured = paths.measured()
        rows.append({"step": step, **measured._asdict()})
        say(f"step {step:>9,}   estimate {measured.estimate:9.2f}   truth {measured.truth:9.2f}   bias {measured.bias:+.2f}")
    if not rows:
        raise CheckpointError(f"run {run.path}: no checkpoint that can be read. Train it again.")
    write_table(run.path / "overestimation.csv", rows)
    return rows


def each_checkpoint(run: RunDirectory, how: Measurement, say: Callable[[str], None] = print) -> Iterator[tuple[int, Paths]]:
    """The step of every checkpoint that can be read, and the paths of its policy."""
    options, config = run.run, run.agent
    gamma = getattr(config, "gamma", 1.0)
    with envs.make(options.recipe, how.envs, bins=options.action_bins, max_episode_steps=NO_LIMIT) as vector:
        agent = build(run, vector)
        if "q" not in agent.graph.nodes:
            raise RunError(f"run {run.path}: agent {run.name} has no action values Q(obs, action). Choose an off-policy agent.")
        generator = Generator().manual_seed(how.seed)
        estimate = critics_of(agent, vector.action_space, generator, run.execution.device)
        visit = origin(options.env).described()["max_episode_steps"] or ENDLESS
        for path in run.checkpoints.paths():
            try:
                state = tensor_files.load(path)
            except CheckpointError as error:
                say(f"warning: {error}")
                continue
            agent.load_state_dict(state["agent"])
            alpha = temperature(agent, config)
            if alpha and not isinstance(agent.policy(_look(vector)), Distribution):
                raise RunError(f"run {run.path}: {run.name}'s policy has no density, so its entropy cannot be measured.")
            yield state["counters"]["step"], follow(agent.policy, estimate, vector, gamma, how, visit, alpha)


def _look(vector: Environments) -> Tensor:
    return torch.as_tensor(vector.reset([0] * vector.batch), dtype=torch.get_default_dtype())
