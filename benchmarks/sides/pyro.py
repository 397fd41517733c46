"""Pyro 1.9.2 (Bingham et al. 2019): `TraceGraph_ELBO`, and its relaxed samples; an optional extra, `pip install 'torch-scg[peers]'`.

Pyro's objective is an ELBO and leaves E[∇ log q] = 0 out of the gradient, so its variance is a little lower than that
of the same estimator on the cost as it stands. Its relaxed guide has a relaxed density, so that its objective there is another
one. Its particles are joint samples: where ours nest four below each of four, it takes sixteen, as many evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO

from benchmarks.vae import Unavailable, Work

PARTICLES = 4


def step(work: Work, estimator: str) -> Callable[[], Any]:
    relaxed = {"Gumbel-softmax": dist.RelaxedBernoulli, "straight-through Gumbel": dist.RelaxedBernoulliStraightThrough}
    if estimator not in ("score function", "score, moving average", *relaxed):
        raise Unavailable("has none")
    pyro.clear_param_store()
    averaged = estimator == "score, moving average"
    infer = {"baseline": {"use_decaying_avg_baseline": True, "baseline_beta": 0.95}} if averaged else {}
    temperature = torch.tensor(0.5)
    batch = len(work.data)

    def bits(logits: Any) -> Any:
        """How the guide draws."""
        if estimator in relaxed:
            return relaxed[estimator](temperature, logits=logits).to_event(1)
        return dist.Bernoulli(logits=logits).to_event(1)

    def linear(logits: Any) -> Any:
        """What the model says of a sample; a relaxed one is no value of a Bernoulli, and is not held against its support."""
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(1)

    def model(x):
        with pyro.plate("data", batch):
            prior = linear(work.prior.expand(batch, -1))
            above = pyro.sample(f"b{work.layers - 1}", prior)
            for layer in reversed(range(1, work.layers)):
                above = pyro.sample(f"b{layer - 1}", linear(work.decode[layer](above)))
            pyro.sample("x", linear(work.decode[0](above)), obs=x)

    def guide(x):
        with pyro.plate("data", batch):
            below = x
            for layer, encode in enumerate(work.encode):
                below = pyro.sample(f"b{layer}", bits(encode(below)), infer=infer)

    kind = Trace_ELBO if estimator in relaxed else TraceGraph_ELBO
    elbo = kind(num_particles=PARTICLES**work.layers, vectorize_particles=True, max_plate_nesting=1)

    def run() -> None:
        loss = elbo.differentiable_loss(model, guide, work.data) if estimator in relaxed else None
        if loss is not None:
            (loss / batch).backward()
            return
        elbo.loss_and_grads(model, guide, work.data)
        for parameter in work.parameters():
            if parameter.grad is not None:
                parameter.grad /= batch

    return run
