"""PPO's minibatch step with a recurrent network and with a convolutional one, beside what one would write by hand.

    python -m benchmarks.networks                ratios, ours over by hand: below 1 the graph is faster

By hand: the same modules (torch's GRU over whole sequences, torch's convolutions), PPO's losses written out, `loss.backward()`,
`clip_grad_norm_` and `torch.optim.Adam`, eager. Ours is the update of `scg train ppo`, eager too. Both step on the same rows from
the same weights, in turn; printed are the median processor times and the median of the ratios of neighbours.

    gru      16 sequences of 16 steps, 128 units, observations of 17 numbers, episodes that begin inside (`starts`) or none
    cnn      64 pictures of 42 × 42 bytes
    entropy  with a bonus, which PPO's page computes from the distribution of the recorded actions: its network runs once
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from scg.agents.common.on_policy import ActorCritic
from scg.agents.common.recurrence import of_sequences
from scg.agents.ppo import PPO
from scg.agents.updates.optimiser import Adam

RATE, NORM = 3e-4, 0.5
CASES = ("gru", "gru, starts", "gru, entropy", "cnn", "cnn, entropy")


def bonus(case: str) -> float:
    return 0.01 if "entropy" in case else 0.0


def settings(case: str) -> PPO:
    network = case.partition(",")[0]
    return PPO(network=network, features=128, hidden=(64,), normalise_obs=False, entropy_bonus=bonus(case))


def networks(case: str) -> ActorCritic:
    vector, picture = spaces.Box(-1.0, 1.0, (17,)), spaces.Box(0, 255, (42, 42, 1), np.uint8)
    return ActorCritic(settings(case), picture if "cnn" in case else vector, spaces.Discrete(6), Generator().manual_seed(0))


def rows_of(case: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    shape = (1, 64) if "cnn" in case else (16, 16)
    obs = torch.randint(256, (*shape, 42, 42, 1), dtype=torch.uint8) if "cnn" in case else torch.randn(*shape, 17)
    rows = {
        "first": torch.zeros(shape, dtype=torch.bool),
        "terminated": torch.zeros(shape, dtype=torch.bool),
        "obs": obs,
        "next_obs": obs,
        "action": torch.randint(6, shape),
        "reward": torch.randn(shape),
        "next_value": torch.randn(shape),
        "target": torch.randn(shape),
        "action.log_prob": -1.8 + 0.1 * torch.randn(shape),
        "action.credit": torch.randn(shape),
    }
    if "cnn" not in case:
        rows["memory_start"] = 0.1 * torch.randn(16, 128)
    if "starts" in case:
        rows["first"][5, 3] = rows["first"][9, 11] = True
    return rows


def ours(case: str, nets: ActorCritic) -> Callable[[dict[str, Tensor]], Any]:
    adam = Adam(nets.parameters, NORM, rate=RATE)
    step = nets.updates.minibatch(of_sequences(settings(case).graph(nets)), adam)
    everything = torch.arange(rows_of(case)["reward"].shape[1])
    return lambda rows: step(rows, everything)


def by_hand(case: str, nets: ActorCritic) -> Callable[[dict[str, Tensor]], Any]:
    policy, value = nets.policy, nets.value
    adam = torch.optim.Adam(nets.parameters, RATE, eps=1e-5)
    memory: Any = getattr(policy, "memory", None)
    everything = torch.arange(rows_of(case)["reward"].shape[1])

    def features(rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        if memory is None:
            return policy.encoder(rows["obs"]), value.encoder(rows["obs"])  # type: ignore[operator]
        state, first = rows["memory_start"], rows["first"]
        if not first.any():
            out = memory.cell(rows["obs"], state.unsqueeze(0))[0]
            return out, out
        steps = []
        for x, begins in zip(rows["obs"], first, strict=True):  # as CleanRL does
            state = state * (1.0 - begins.float()).unsqueeze(-1)
            state = memory.cell(x.unsqueeze(0), state.unsqueeze(0))[1][0]
            steps.append(state)
        out = torch.stack(steps)
        return out, out

    def update(rows: dict[str, Tensor]) -> Tensor:
        rows = {name: x[everything] if name == "memory_start" else x[:, everything] for name, x in rows.items()}
        one, two = features(rows)
        logits, v = policy.logits(one), value.mlp(two).squeeze(-1)  # type: ignore[operator]
        pi = torch.distributions.Categorical(logits=logits)
        ratio = (pi.log_prob(rows["action"]) - rows["action.log_prob"]).exp()
        advantage = rows["action.credit"]
        clipped = torch.maximum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        loss = clipped + 0.25 * (v - rows["target"]).square().mean()
        if bonus(case):
            loss = loss - bonus(case) * pi.entropy().mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters, NORM)
        adam.step()
        return loss.detach()

    return update


def alike(case: str) -> float:
    """The largest difference between the parameters of both sides after one step."""
    mine = networks(case)
    theirs = copy.deepcopy(mine)
    rows = rows_of(case)
    ours(case, mine)(rows), by_hand(case, theirs)(rows)
    return max(float((a - b).detach().abs().max()) for a, b in zip(mine.parameters, theirs.parameters, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| network | ours, ms | by hand, ms | ours / by hand |\n|---|---|---|---|")
    for case in CASES:
        rows, nets = rows_of(case), networks(case)
        sides = [ours(case, nets), by_hand(case, copy.deepcopy(nets))]
        times: list[list[float]] = [[], []]
        for turn in range(options.rounds + 10):
            for side, update in enumerate(sides):
                start = time.process_time()
                update(rows)
                if turn >= 10:  # the first ones examine the graph
                    times[side].append(time.process_time() - start)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        mine, theirs = (1000 * statistics.median(taken) for taken in times)
        print(f"| {case} | {mine:.2f} | {theirs:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
