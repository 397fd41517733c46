"""Storchastic 0.3.7 (van Krieken et al. 2021): its own methods on the same work, an optional extra, `pip install 'torch-scg[peers]'`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import storch
from storch import method
from torch.distributions import Bernoulli

from benchmarks.vae import Control, Unavailable, Work

# Four evaluations of the cost where the method has a choice; its antithetic methods count pairs, REBAR takes three a sample.
METHODS: dict[str, Callable[[str], Any]] = {
    "score function": lambda name: method.ScoreFunction(name, n_samples=4),
    "score, moving average": lambda name: method.ScoreFunction(name, n_samples=4, baseline_factory="moving_average"),
    "leave-one-out": lambda name: method.ScoreFunction(name, n_samples=4, baseline_factory="batch_average"),
    "ARM": lambda name: method.ARM(name, n_samples=2),
    "DisARM": lambda name: method.DisARM(name, n_samples=2),
    "REBAR": lambda name: method.REBAR(name, n_samples=4),
    "REBAR, learning": lambda name: method.REBAR(name, n_samples=4),
    "RELAX, learning": lambda name: method.RELAX(name, n_samples=4, c_phi=Control()),
    "unordered set": lambda name: method.UnorderedSetEstimator(name, k=4),
    "sum and sample": lambda name: method.RaoBlackwellSF(name, 4),
    "priority": lambda name: method.ScoreFunctionWOR(name, k=5, biased=False),  # the fifth only tells when it rang
    "Gumbel-softmax": lambda name: method.GumbelSoftmax(name, n_samples=4, initial_temperature=0.5, annealing_rate=0.0),
    "straight-through Gumbel": lambda name: method.GumbelSoftmax(
        name, n_samples=4, initial_temperature=0.5, annealing_rate=0.0, straight_through=True
    ),
}


def step(work: Work, estimator: str) -> Callable[[], Any]:
    sys.setrecursionlimit(100_000)  # sampling without replacement over 200 dimensions recurses
    if estimator not in METHODS:
        raise Unavailable("has none")
    methods = [METHODS[estimator](f"b{layer}") for layer in range(work.layers)]

    def run() -> None:
        x = storch.denote_independent(work.data, 0, "data")
        below, logits, bits = x, [], []
        for encode, sample in zip(work.encode, methods, strict=True):
            logits.append(encode(below))
            below = sample(Bernoulli(logits=logits[-1])).float()  # its DisARM draws booleans
            bits.append(below)
        storch.add_cost(work.negative_elbo(x, logits, bits), "negative_elbo")
        storch.backward(update_estimator_params="learning" in estimator)

    return run
