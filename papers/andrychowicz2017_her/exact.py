"""Hindsight before anything is learned: how rare rewards are, how common it makes them, and that what it replays is true.

On n bits a uniformly random action is a step of the simple random walk on the hypercube, which returns after m steps with

    r(m) = 2⁻ⁿ Σ_k (n choose k) (1 − 2k/n)^m

so that of rows whose goal was achieved after step j of an episode, drawn by a strategy, the share with reward 0 is a mean
of r(|j − t|): over j = n (final), j ≥ t (future), all j (episode).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple, get_args

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor

from scg.agents.environments import envs
from scg.agents.experience.exploration import uniform_policy
from scg.agents.experience.hindsight import Hindsight, Strategy
from scg.agents.experience.replay import Multistep
from scg.agents.experience.rollout import Rollout
from scg.papers.report import Claim

GAMMA = 0.98


# -- chance ----------------------------------------------------------------------------------------------------------


def chance(bits: int) -> float:
    """That a random episode of `bits` steps meets its goal, which is uniform over the other states: by distance."""
    distance = np.array([math.comb(bits, d) for d in range(bits + 1)], float)
    distance[0] = 0.0
    distance /= distance.sum()
    met = 0.0
    for _ in range(bits):
        ahead = np.zeros(bits + 1)
        for d in range(1, bits + 1):
            ahead[d - 1] += distance[d] * d / bits
            if d < bits:
                ahead[d + 1] += distance[d] * (bits - d) / bits
        met, ahead[0] = met + ahead[0], 0.0
        distance = ahead
    return float(met)


def returns(bits: int, steps: int) -> float:
    """r(steps)."""
    return sum(math.comb(bits, k) * (1 - 2 * k / bits) ** steps for k in range(bits + 1)) / 2**bits


def share(bits: int, strategy: str, episodes: int) -> float:
    """Of rows with goals by `strategy` in a buffer of `episodes` random episodes, those with reward 0; own goals never met."""
    every = range(bits)
    match strategy:
        case "final":
            return float(np.mean([returns(bits, bits - 1 - t) for t in every]))
        case "future":
            return float(np.mean([np.mean([returns(bits, j - t) for j in range(t, bits)]) for t in every]))
        case "episode":
            return float(np.mean([[returns(bits, abs(j - t)) for j in every] for t in every]))
        case _:
            own = share(bits, "episode", episodes)
            return own / episodes + (1 - 1 / episodes) * 2.0**-bits


def rarity(bits: tuple[int, ...]) -> Claim:
    found = {n: chance(n) for n in (*bits, 13, 40)}
    text = ", ".join(f"{n} bits: {p:.1e}" for n, p in sorted(found.items()))
    claim = (
        "Section 3.1: a random episode practically never meets its goal, so that without it no reward but −1 is seen (exact)"
    )
    right = found[40] < 1e-9 and all(found[a] > found[b] for a, b in pairwise(sorted(found)))
    return claim, "never, for n > 40", f"probability: {text}", right, {str(n): p for n, p in found.items()}


# -- replay ----------------------------------------------------------------------------------------------------------


class Collected(NamedTuple):
    """A buffer of random episodes whose rows can be given goals; the number of each row's episode, and of those that ended."""

    memory: Hindsight
    episode: Tensor
    ended: int

    def goals(self, index: Tensor, generator: Generator) -> Tensor:
        """What the strategy gives to rows."""
        return self.memory.rows(self.memory.sources(index, generator))["next_obs"][:, self.memory.space.achieved]


def collected(env_id: str, strategy: Strategy, episodes: int, seed: int = 0) -> Collected:
    with envs.make(env_id, 1) as vector:
        space = vector.obs_space
        memory = Hindsight(100_000, Multistep(GAMMA), space=space, strategy=strategy)
        rollout = Rollout(vector, envs.seeds(seed, "environments", 1), Generator().manual_seed(seed))
        random, first, ended = uniform_policy(vector.action_space), list[Tensor](), 0
        while ended < episodes:
            block = rollout.collect(random, 50, log_prob=False)  # type: ignore[arg-type]
            memory.add(block)
            first.append(block.first[:, 0])
            ended += len(block.episodes)
    return Collected(memory, torch.cat(first).cumsum(0), ended)


def half(bits: int) -> Claim:
    """Each episode once more with the state that it ended in for its goal."""
    memory, episode, ended = found = collected(f"BitFlip{bits}-v0", "final", 500)
    every = torch.arange(len(memory))
    rewards = memory.relabelled(every, found.goals(every, Generator()))["reward"], memory.rows(every)["reward"]
    met, own = (len(set(episode[(reward == 0) & (episode <= ended)].tolist())) for reward in rewards)
    text = (
        f"{bits} bits, {ended} random episodes: replayed with their last state {met / ended:.0%} do, with their own goal "
        f"{own / ended:.1%}; together {(met + own) / (2 * ended):.1%}"
    )
    claim = "Section 3.1: at least half of the replayed trajectories contain rewards different from −1"
    return claim, "at least half", text, met == ended, {"hindsight": met, "own": own, "episodes": ended}


def shares(bits: int, rows: int = 20_000, episodes: int = 400) -> Claim:
    """The formula against what the buffer draws."""
    lines, numbers, within = [], dict[str, Any](), True
    for strategy in get_args(Strategy):
        memory, _, _ = made = collected(f"BitFlip{bits}-v0", strategy, episodes)
        generator = Generator().manual_seed(1)
        index = torch.randint(len(memory), (rows,), generator=generator)
        reward = memory.relabelled(index, made.goals(index, generator))["reward"]
        found = float((reward == 0).double().mean())
        exact = share(bits, strategy, episodes)
        error = (max(exact, 1 / rows) / rows) ** 0.5  # of the draws; that of which episodes there are is of the same size
        within &= abs(found - exact) < 6 * error
        lines.append(f"{strategy} {exact:.4f}, drawn {found:.4f}")
        numbers[strategy] = {"exact": exact, "drawn": found, "error": error}
    text = f"rows with reward 0 among those with another goal, {bits} bits, random actions: " + "; ".join(lines)
    text += f"; without hindsight {chance(bits) / bits:.1e}"
    ordered = numbers["future"]["exact"] > numbers["episode"]["exact"] > numbers["random"]["exact"]
    claim = "Section 4.5: goals of the same episode's future are reached often, random ones never (formula, and as drawn)"
    return claim, "not told in numbers", text, within and ordered, numbers


def true_rows(env_id: str, rows: int = 300) -> tuple[int, int]:
    """Relabelled rows of which all entries are what the environment gives from that state with that goal; how many there are."""
    memory, _, _ = made = collected(env_id, "future", 40)
    generator = Generator().manual_seed(2)
    index = torch.randint(len(memory), (rows,), generator=generator)
    found, action = memory.relabelled(index, made.goals(index, generator)), memory.rows(index)["action"]
    base: Any = gym.make(env_id).unwrapped
    base.reset(seed=0)
    same = 0
    for i in range(rows):
        before = found["obs"][i].numpy()
        state, wanted = before[memory.space.achieved], before[memory.space.desired]
        if env_id.startswith("BitFlip"):
            base.state, base.goal = state.astype(np.int8), wanted.astype(np.int8)
        else:
            base.point, base.goal = state.copy(), wanted.copy()
        obs, reward, terminated, _, _ = base.step(action[i].numpy())
        after = np.concatenate([obs["observation"], obs["desired_goal"], obs["achieved_goal"]]).astype(np.float32)
        right = np.allclose(after, found["next_obs"][i].numpy(), atol=1e-6) and reward == float(found["reward"][i])
        same += bool(right and np.isclose(float(found["discount"][i]), GAMMA * (not terminated)))
    return same, rows


def truth() -> Claim:
    found = {env_id: true_rows(env_id) for env_id in ("BitFlip8-v0", "PointReach-v0")}
    text = "; ".join(f"{env_id}: {same} of {rows} rows" for env_id, (same, rows) in found.items())
    claim = "Section 3.3: a replayed step with another goal is one that the environment would have given (its next state, reward, ending)"
    return claim, "off-policy, so allowed", text, all(same == rows for same, rows in found.values()), dict(found)
