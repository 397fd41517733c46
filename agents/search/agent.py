"""Search agents: their common options, and an agent made from a step of the search distribution.

    generation g:    ξ(seed, g, e) ─► theta_e = members(ξ) ─► returns ─► step(generation) ─► g + 1

`collect` evaluates a whole generation; `update` regenerates the members from their seeds and takes the step. So no member's
parameters are kept in between, or saved. The state of a run is the distribution, its optimiser, the policy with the statistics
of the observations, and the number of the generation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.common.agent import Agent, AgentConfig, Stateful
from scg.agents.environments import envs
from scg.agents.execution.options import OptionError, check_options
from scg.agents.experience.rollout import Episode, Rollout
from scg.agents.search.controllers import HoverPolicy, ScorePolicy
from scg.agents.search.members import Members, evaluated
from scg.agents.search.perturbations import NoiseKind, Perturbations
from scg.agents.search.policies import NetworkPolicy, SearchPolicy
from scg.agents.search.population import Job, Returns
from scg.agents.updates.metrics import Metrics, NotFinite

ENDLESS = 100_000  # steps; an episode longer than this, and than the rest of the run, is taken to be endless


class SearchDistribution(Protocol):
    """A module whose call gives the distribution of theta."""

    mean: nn.Parameter

    @property
    def scale(self) -> Tensor: ...

    def members(self, noise: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SearchConfig(AgentConfig):
    """Options of every search."""

    population: int = 32
    """members of a generation"""
    episodes: int = 1
    """episodes of each member; its return is their mean"""
    scenarios: Literal["fresh", "common", "fixed"] = "common"
    """the seeds of the episodes: fresh for every member, common to a generation's members, or fixed for the whole run (PEGASUS)"""
    scale: float = 0.5
    """initial standard deviation of each parameter"""
    policy: Literal["network", "hover", "scores"] = "network"
    """what is searched: a network, the helicopter's controller of twelve parameters, or a weight for each feature of a choice"""
    hidden: tuple[int, ...] = ()
    """widths of the network's hidden layers; none: a linear policy"""
    normalise_obs: bool = False
    """divide observations by their running standard deviation, after subtracting their mean"""

    family: ClassVar[str] = "search"
    environments: ClassVar[int] = 32  # a slot a member, or nearly
    executes: ClassVar[tuple[str, ...]] = ("threads",)  # nothing is differentiated by autograd
    spreads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self, "population episodes", "scale")
        if self.scale == 0:
            raise OptionError("option scale is 0: all members would be one. Give a positive number.")

    def build_policy(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> SearchPolicy:
        kinds: dict[str, Callable[..., SearchPolicy]] = {"hover": HoverPolicy, "scores": ScorePolicy}
        if self.policy in kinds:
            return kinds[self.policy](obs_space, action_space, generator)
        return NetworkPolicy(obs_space, action_space, self.hidden, generator, self.normalise_obs)

    def search(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator) -> Search:
        """The policy of the run and its seed, drawn from `generator`."""
        try:
            policy = self.build_policy(obs_space, action_space, generator)
        except ValueError as error:
            raise envs.EnvironmentFault(str(error)) from error
        return Search(self, policy, int(torch.randint(2**62, (), generator=generator)))


class Generations:
    """The number of generations done. Members and scenarios are derived from it and the seed."""

    def __init__(self) -> None:
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


@dataclass(frozen=True)
class Generation:
    """What `collect` returns: a generation's returns, and a function that regenerates its members."""

    number: int
    returns: Returns
    make: Callable[[int, Iterable[int]], Tensor]
    noise_of: Callable[[int, Iterable[int]], Tensor]

    @property
    def steps(self) -> int:
        return self.returns.steps

    @property
    def episodes(self) -> list[Episode]:
        return self.returns.episodes

    @cached_property
    def utility(self) -> Tensor:
        """`[members]`, NaN where one failed."""
        return torch.from_numpy(self.returns.utility)

    def theta(self) -> Tensor:
        """All members `[members, d]`."""
        return self.make(self.number, range(len(self.utility)))

    def noise(self) -> Tensor:
        """Their unit noise."""
        return self.noise_of(self.number, range(len(self.utility)))


class Search:
    """One run's policy, seed and generations."""

    def __init__(self, config: SearchConfig, policy: SearchPolicy, seed: int) -> None:
        self.config, self.policy, self.seed = config, policy, seed
        self.generations = Generations()

    @property
    def start(self) -> Tensor:
        return self.policy.start

    def perturbations(self, kind: NoiseKind = "normal", mirrored: bool = False) -> Perturbations:
        return Perturbations(self.seed, len(self.start), kind, mirrored)

    def jobs(self, members: int) -> list[Job]:
        """Every episode of every member of the coming generation, with its seed."""
        each, number = self.config.episodes, self.generations.done
        words = {"fresh": (number, 1), "common": (number, 0), "fixed": (0, 0)}[self.config.scenarios]
        generation, own = words
        seeds = [envs.seeds(self.seed, "scenario", each, generation, own * (1 + m)) for m in (range(members) if own else (0,))]
        return [Job(m, episode, seeds[own * m][episode]) for m in range(members) for episode in range(each)]

    def agent(
        self,
        graph: scg.Graph,
        distribution: Any,
        noise: Perturbations,
        step: Callable[[Generation, float], Metrics],
        state: Mapping[str, Stateful] | None = None,
        members: Callable[[], int] | None = None,
    ) -> Agent:
        """`step(generation, progress)` moves the distribution. `members()` is the size of the next generation, by default
        the option `population`; `state` what must survive besides the distribution."""
        policy, generations = self.policy, self.generations
        size = members or (lambda: self.config.population)

        def make(number: int, which: Iterable[int]) -> Tensor:
            return distribution.members(noise.rows(number, which))

        def collect(rollout: Rollout, steps_left: int) -> Generation:
            number, count = generations.done, size()
            limit = max(ENDLESS, steps_left)
            returns = evaluated(rollout, policy, Members(distribution, noise, number), count, self.jobs(count), limit)
            return Generation(number, returns, make, noise.rows)

        def update(generation: Generation, progress: float) -> Metrics:
            report(generation)
            utility = generation.utility
            kept = utility[torch.isfinite(utility)]
            metrics = {"population_mean": float(kept.mean()), "population_best": float(kept.max())} if len(kept) else {}
            metrics |= step(generation, progress)
            self.observe(generation.returns)
            policy.hold(distribution.mean)
            generations.done += 1
            failed = float(len(generation.returns.failures))
            return {**metrics, "scale": float(distribution.scale.mean()), "failed": failed}

        kept: dict[str, Stateful] = {"policy": policy, "distribution": distribution, "generations": generations}
        return Agent(graph, policy, collect, update, {**kept, **(state or {})})

    def observe(self, returns: Returns) -> None:
        """The observations' statistics move between generations only, all members' episodes together."""
        encoder = self.policy.encoder
        if encoder is not None and encoder.normaliser is not None:
            encoder.normaliser.absorb_sums(*returns.seen)


def report(generation: Generation) -> None:
    """Say which members failed; NotFinite if all have."""
    failures, count = generation.returns.failures, len(generation.utility)
    if not failures:
        return
    member = min(failures)
    text = f"generation {generation.number}: {len(failures)} of {count} members failed; member {member}: {failures[member]}"
    if len(failures) == count:
        raise NotFinite(text)
    warnings.warn(text, stacklevel=2)


def grad_norm(distribution: nn.Module) -> float:
    """The norm of the gradients of its parameters. NotFinite names one that is not finite."""
    norms = []
    for name, parameter in distribution.named_parameters():
        if parameter.grad is not None:
            norms.append(float(parameter.grad.norm()))
            if not np.isfinite(norms[-1]):
                raise NotFinite(f"the gradient of {name} has norm {norms[-1]}.")
    return float(np.linalg.norm(norms))


def check_pairs(config: SearchConfig) -> None:
    """OptionError unless the population can be mirrored pairs."""
    if config.population % 2:
        raise OptionError(f"option population is {config.population}. Mirrored pairs need an even number.")
