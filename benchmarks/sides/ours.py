"""The library's side: one graph for each work; the estimator is the only thing that changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch.distributions import Bernoulli, Independent

import scg
from benchmarks.vae import BATCH, Control, Unavailable, Work
from scg import estimators as e
from scg.errors import GraphError
from scg.estimators.baselines import MovingAverage

ESTIMATORS: dict[str, Callable[[], scg.Estimator]] = {
    "score function": lambda: e.ScoreFunction(samples=4),
    "score, moving average": lambda: e.ScoreFunction(samples=4),
    "leave-one-out": lambda: e.LeaveOneOut(samples=4),
    "antithetic": lambda: e.Antithetic(samples=4),
    "quasi-random": lambda: e.QuasiRandom(samples=4),
    "ARM": lambda: e.ARM(pairs=2),
    "DisARM": lambda: e.DisARM(pairs=2),
    "ARMS": lambda: e.ARMS(samples=4),
    "REBAR": lambda: e.REBAR(samples=4),
    "REBAR, learning": lambda: e.LearnedREBAR(samples=4),
    "RELAX, learning": lambda: e.RELAX(Control(), samples=4),
    "MuProp": lambda: e.MuProp(samples=2),
    "double control": lambda: e.DoubleControl(samples=4),
    "unordered set": lambda: e.UnorderedSet(samples=4),
    "sum and sample": lambda: e.SumAndSample(samples=4),
    "priority": lambda: e.PrioritySampling(samples=4),
    "top-k": lambda: e.TopK(k=3, samples=1),
    "enumeration": e.Enumeration,
    "measure-valued": e.MeasureValued,
    "perturbation": e.Perturbation,
    "Gumbel-softmax": lambda: e.GumbelSoftmax(samples=4, allow_bias=True),
    "straight-through": lambda: e.StraightThrough(samples=4, allow_bias=True),
    "straight-through Gumbel": lambda: e.StraightThroughGumbel(samples=4, allow_bias=True),
    "Rao-Gumbel": lambda: e.RaoGumbel(samples=4, allow_bias=True),
    "ReinMax": lambda: e.ReinMax(samples=4, allow_bias=True),
    "reference": lambda: e.DisARM(pairs=8),
}
WIDE = {"measure-valued": 401, "perturbation": 201}
BUDGET = 4096


def step(work: Work, estimator: str) -> Callable[[], Any]:
    if estimator not in ESTIMATORS:
        raise Unavailable("no such estimator")
    evaluations = WIDE.get(estimator, 4) ** work.layers
    if evaluations > BUDGET:
        raise Unavailable(f"would evaluate the cost {evaluations:,} times for a data point, the budget here is {BUDGET:,}")
    average = MovingAverage(shape=[BATCH]) if estimator == "score, moving average" else None
    graph = scg.Graph()
    for layer, encode in enumerate(work.encode):
        parents = ["x"] if layer == 0 else [f"b{layer - 1}"]
        graph.deterministic(encode, name=f"logits{layer}", parents=parents)
        graph.stochastic(ESTIMATORS[estimator](), bits, name=f"b{layer}", parents=[f"logits{layer}"], baseline=average)
    both = [f"{name}{layer}" for name in ("logits", "b") for layer in range(work.layers)]

    def negative_elbo(x, *values):
        return work.negative_elbo(x, values[: work.layers], values[work.layers :])

    graph.cost(negative_elbo, name="negative_elbo", parents=["x", *both])
    try:
        graph.surrogate(x=work.data)
    except GraphError as error:
        said = " ".join(str(error).partition("\n")[0].split()[2:])
        raise Unavailable(re.sub(r"\d{10,}", lambda digits: f"{float(digits[0]):.1e}", said)) from error

    def plain():
        graph.surrogate(x=work.data).backward()

    def averaging():
        trace = graph.sample(x=work.data)
        trace.surrogate().backward()
        average.update(trace["negative_elbo"].detach())

    def learning():
        trace = graph.sample(x=work.data)
        trace.surrogate().backward()
        trace.variance(work.encode).backward()

    return averaging if average is not None else learning if "learning" in estimator else plain


def bits(logits):
    return Independent(Bernoulli(logits=logits), 1)
