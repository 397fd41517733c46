"""Backpropagation through 1,000 steps of 256 pendulums, beside a loop that one would write by hand: time and peak memory.

    python -m benchmarks.dynamics                        ratios over the loop by hand: below 1 ours takes less
    python -m benchmarks.dynamics --steps 200 --rounds 5

By hand: the same policy and the same equations in a Python loop, the reparameterised action written out, `loss.backward()`.
`checkpoint` is our graph with `checkpoint=√steps`; `by hand, checkpointed` the loop with `torch.utils.checkpoint` around as many
steps. All sides are eager, from the same parameters, start and noise; they are timed in turn, and the median of the ratios of
neighbours is printed. Memory is the peak of what torch's allocations hold during one gradient.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import gymnasium as gym
import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from scg.agents.bptt import bptt
from scg.agents.dynamics.classic import Pendulum
from scg.agents.networks.policies import make_policy
from scg.comparison.memory import peak_bytes

Gradient = Callable[[], list[Tensor]]


def sides(steps: int, batch: int, hidden: int = 64) -> dict[str, Gradient]:
    """What takes the gradient of the mean cost of a roll-out, by name; all draw the same noise."""
    env, g = gym.make("Pendulum-v1"), Generator().manual_seed(0)
    policy = make_policy(env.observation_space, env.action_space, (hidden, hidden), g, kind="squashed")
    pendulum, parameters = Pendulum(), list(policy.parameters())
    start, weight, graph = pendulum.start(batch, g), torch.ones(steps, 1), bptt(policy, pendulum)
    every = max(1, round(math.sqrt(steps)))

    def ours(stretch: int | None = None) -> list[Tensor]:
        noise = Generator().manual_seed(1)
        loss = graph.surrogate(start=start, weight=weight, generator=noise, checkpoint=stretch)
        return list(torch.autograd.grad(loss, parameters))

    def loop(state: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return looped(policy, pendulum, state, count)

    def hand(stretch: int | None = None) -> list[Tensor]:
        torch.manual_seed(1)
        state, total = start, torch.zeros(batch)
        for begin in range(0, steps, stretch or steps):
            count = min(stretch or steps, steps - begin)
            if stretch is None:
                state, cost = loop(state, count)
            else:
                state, cost = checkpoint(loop, state, count, use_reentrant=False)
            total = total + cost
        return list(torch.autograd.grad(total.mean(), parameters))

    return {
        "by hand": hand,
        "ours": ours,
        "ours, checkpoint": lambda: ours(every),
        "by hand, checkpointed": lambda: hand(every),
    }


def looped(policy: nn.Module, pendulum: Pendulum, state: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The state after `count` steps, and their cost `[batch]`."""
    costs = []
    for _ in range(count):
        out = policy.heads(pendulum.observe(state))  # type: ignore[operator]
        loc, log_scale = out.chunk(2, -1)
        action = (loc + log_scale.clamp(-5.0, 2.0).exp() * torch.randn(loc.shape)).tanh()
        after = pendulum.transition(state, action)
        costs.append(-pendulum.reward(state, action, after))
        state = after
    return state, torch.stack(costs).sum(0)


def measured(steps: int, batch: int, rounds: int) -> dict[str, tuple[float, float, float, float]]:
    """By side: milliseconds, ratio of times, MiB, ratio of memory; ratios over the loop by hand."""
    found = sides(steps, batch)
    for gradient in found.values():
        gradient()  # the first one of ours examines the graph
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, gradient in found.items():
            began = time.process_time()
            gradient()
            times[name].append(time.process_time() - began)
    memory = {name: peak_bytes(gradient, torch.device("cpu")) for name, gradient in found.items()}
    rows = {}
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["by hand"], strict=True))
        rows[name] = (1e3 * statistics.median(taken), ratio, memory[name] / 2**20, memory[name] / memory["by hand"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.steps:,} steps × {options.batch:,} pendulums, {options.rounds} rounds, processor time of one thread")
    print("| side | ms | time / by hand | MiB | memory / by hand |\n|---|---|---|---|---|")
    for name, (ms, ratio, mib, share) in measured(options.steps, options.batch, options.rounds).items():
        print(f"| {name} | {ms:.0f} | {ratio:.2f} | {mib:.0f} | {share:.2f} |")


if __name__ == "__main__":
    main()
