"""Answers of a transformer: replayed surrogate and backward beside a loss written by hand, sampling beside a loop with a cache.

    python -m benchmarks.tokens                                       a small shape
    python -m benchmarks.tokens --prompts 256 --answers 8 --length 128 --width 256 --layers 4

Both sides have the same module, in the same process, in turns; ratios of medians are printed, ours over by hand. The first call
of each graph, with its examination, is not timed: it is printed by itself.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical

import scg
from scg import ScoreFunction, prefix
from scg.agents.networks.transformer import Transformer
from scg.estimators.credit import BatchLeaveOneOut


def graphs(model: Transformer) -> tuple[scg.Graph, scg.Graph]:
    """One that is sampled, one that learns from recorded scores."""
    made = []
    for learns in (False, True):
        graph = scg.Graph()
        with graph.sequence():
            graph.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])
            graph.stochastic(
                ScoreFunction(), lambda logits: Categorical(logits=logits), name="token", credit=BatchLeaveOneOut()
            )
        if learns:
            graph.observed("score", parents=[prefix("token")])
            graph.reward(lambda score: score, name="gain")
        made.append(graph)
    return made[0], made[1]


def by_hand(model: Transformer, prompt: Tensor, token: Tensor, score: Tensor) -> Tensor:
    """The same loss: `token [time, prompt, answer]`."""
    answer = token.movedim(0, -1)
    logits = model(torch.cat([prompt, answer[..., :-1]], -1))[..., prompt.shape[-1] - 1 :, :]
    log_prob = Categorical(logits=logits).log_prob(answer).sum(-1)
    count = score.shape[-1]
    advantage = (score - score.mean(-1, keepdim=True)) * count / (count - 1)
    return -(advantage * log_prob).mean()


@torch.no_grad()
def sampled_by_hand(model: Transformer, prompt: Tensor, length: int) -> Tensor:
    state, tokens, found = None, prompt, []
    for _ in range(length):
        logits, state = model.extend(state, tokens)
        drawn = Categorical(logits=logits[..., -1, :]).sample()
        found.append(drawn)
        tokens = drawn.unsqueeze(-1)
    return torch.stack(found)


def alternated(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> tuple[float, float]:
    """Median seconds of each, of processor time: other work on the machine counts for less."""
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(times):
        for k in (0, 1) if i % 2 else (1, 0):
            begun = time.process_time()
            (ours, theirs)[k]()
            found[k].append(time.process_time() - begun)
    return statistics.median(found[0]), statistics.median(found[1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokens")
    for name, default in (
        ("prompts", 16), ("answers", 8), ("length", 32), ("prompt", 8), ("width", 128), ("layers", 2), ("heads", 4),
        ("vocabulary", 128), ("times", 5), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    wish = parser.parse_args(sys.argv[1:] if argv is None else argv)
    torch.set_num_threads(1)
    torch.manual_seed(wish.seed)
    model = Transformer(wish.vocabulary, wish.width, wish.layers, wish.heads, wish.prompt + wish.length)
    prompt = torch.randint(wish.vocabulary, (wish.prompts, 1, wish.prompt)).expand(-1, wish.answers, -1)
    sampler, learner = graphs(model)

    def sample() -> Tensor:
        with torch.no_grad():
            return sampler.sample(steps=wish.length, prompt=prompt)["token"]

    begun = time.perf_counter()
    token = sample()
    first = time.perf_counter() - begun
    score = torch.randn(wish.prompts, wish.answers)

    def ours() -> list[Tensor]:
        loss = learner.replay({"token": token, "score": score}, prompt=prompt).surrogate()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    def theirs() -> list[Tensor]:
        return list(torch.autograd.grad(by_hand(model, prompt, token, score), list(model.parameters())))

    begun = time.perf_counter()
    found = ours()
    second = time.perf_counter() - begun
    gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, theirs(), strict=True))
    with scg.examination(again=False):
        mine, hand = alternated(ours, theirs, wish.times)
        drawn, loop = alternated(sample, lambda: sampled_by_hand(model, prompt, wish.length), wish.times)
    shape = f"{wish.prompts} × {wish.answers} answers of {wish.length} tokens, {wish.layers} layers × {wish.width}"
    print(f"{shape}; largest difference of a gradient {gap:.1g} of its parameter's largest entry")
    print(f"replayed surrogate and backward    {mine / hand:.3f}×   ({mine:.3f} s, by hand {hand:.3f} s)")
    print(f"sampling                           {drawn / loop:.3f}×   ({drawn:.3f} s, by hand {loop:.3f} s)")
    print(f"first calls, examinations included: sampling {first:.2f} s, replay {second:.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
