"""The losses that one would write by hand in PyTorch, formula by formula; for the estimators short enough to be written so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, RelaxedBernoulli
from torch.nn.functional import logsigmoid, softplus

from benchmarks.vae import Control, Unavailable, Work, log_bernoulli

SAMPLES = 4


def step(work: Work, estimator: str) -> Callable[[], Any]:
    if estimator in SCORES:
        loss = SCORES[estimator]
    elif estimator in RELAXED:
        if work.layers > 1:
            raise Unavailable("written for one layer")
        loss = RELAXED[estimator]
    elif estimator == "RELAX, learning" and work.layers == 1:
        return learning(work)
    else:
        raise Unavailable("not written by hand")
    return lambda: loss(work).backward()


def ancestral(work: Work, draw: Callable[[Tensor], tuple[Tensor, Any]]) -> tuple[list[Tensor], list[Tensor], list[Any], Tensor]:
    """logits, samples, noise of each layer, and the cost `[n of the last layer, …, n of the first, batch]`."""
    logits, samples, noises = [], [], []
    below = work.data
    for encode in work.encode:
        logits.append(encode(below))
        below, noise = draw(logits[-1])
        samples.append(below)
        noises.append(noise)
    return logits, samples, noises, work.negative_elbo(work.data, logits, samples)


def own(cost: Tensor, layer: int, layers: int) -> Tensor:
    """The cost as a layer's samples see it: the mean over those of later layers."""
    later = tuple(range(layers - 1 - layer))
    return cost.detach().mean(later) if later else cost.detach()


def score(work: Work, baseline: bool = False) -> Tensor:
    logits, samples, _, cost = ancestral(work, lambda theta: (Bernoulli(logits=theta).sample((SAMPLES,)), None))
    loss = cost.mean()
    for layer, (theta, b) in enumerate(zip(logits, samples, strict=True)):
        advantage = own(cost, layer, work.layers)
        if baseline:
            advantage = advantage - (advantage.sum(0) - advantage) / (SAMPLES - 1)
        loss = loss + (log_bernoulli(theta, b) * advantage).mean()
    return loss


def antithetic(work: Work, coefficient: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    def draw(theta):
        u = torch.rand(SAMPLES // 2, *theta.shape)
        p = theta.detach().sigmoid()
        b, other = (1 - u < p).float(), (u < p).float()
        return torch.cat([b, other]), coefficient(u, b, other, theta.detach())

    logits, _, noises, cost = ancestral(work, draw)
    loss = cost.mean()
    for layer, (theta, gamma) in enumerate(zip(logits, noises, strict=True)):
        one, other = own(cost, layer, work.layers).chunk(2)
        loss = loss + ((gamma * theta).sum(-1) * (one - other)).mean()
    return loss


def logistic(theta: Tensor) -> Tensor:
    return torch.rand(SAMPLES, *theta.shape).clamp(1e-7, 1 - 1e-7).logit() + theta


def conditional(theta: Tensor, z: Tensor) -> Tensor:
    """z̃ | H(z) with the noise of z."""
    sign = torch.where(z > 0, 1.0, -1.0)
    size = z.detach().abs()
    noise = size + (-torch.expm1(-size)).log() + logsigmoid(-sign * theta.detach())
    return sign * softplus(noise + softplus(sign * theta))


def rebar(work: Work, temperature: float = 0.5) -> Tensor:
    theta = work.encode[0](work.data)
    z = logistic(theta)
    hard = (z > 0).float()
    values = torch.cat([hard, (z / temperature).sigmoid(), (conditional(theta, z) / temperature).sigmoid()])
    cost, relaxed, given = work.negative_elbo(work.data, [theta], [values]).chunk(3)
    return (cost + log_bernoulli(theta, hard) * (cost - given).detach() + relaxed - given).mean()


def learning(work: Work) -> Callable[[], None]:
    """RELAX and one step of its control variate."""
    control = Control()
    encoder, decoder = list(work.encode.parameters()), [*work.decode.parameters(), work.prior]
    learned = list(control.parameters())

    def step() -> None:
        theta = work.encode[0](work.data)
        z = logistic(theta)
        hard = (z > 0).float()
        cost = work.negative_elbo(work.data, [theta], [hard])
        c, given = control(z), control(conditional(theta, z))
        log_q = log_bernoulli(theta, hard)
        loss = (cost + log_q * (cost.detach() - given) + c - given + given * log_q.detach()).mean()
        gradients = torch.autograd.grad(loss, encoder, create_graph=True)
        for p, g in zip(decoder, torch.autograd.grad(cost.mean(), decoder, retain_graph=True), strict=True):
            p.grad = g
        for p, g in zip(encoder, gradients, strict=True):
            p.grad = g.detach()
        variance = sum(g.square().sum() for g in gradients)
        for p, g in zip(learned, torch.autograd.grad(variance, learned, allow_unused=True), strict=True):
            p.grad = g

    return step


def gumbel_softmax(work: Work) -> Tensor:
    theta = work.encode[0](work.data)
    return work.negative_elbo(
        work.data, [theta], [RelaxedBernoulli(torch.tensor(0.5), logits=theta).rsample((SAMPLES,))]
    ).mean()


def straight_through(work: Work) -> Tensor:
    theta = work.encode[0](work.data)
    p = theta.sigmoid()
    b = Bernoulli(probs=p.detach()).sample((SAMPLES,)) + p - p.detach()
    return work.negative_elbo(work.data, [theta], [b]).mean()


SCORES: dict[str, Callable[[Work], Tensor]] = {
    "score function": score,
    "leave-one-out": lambda work: score(work, baseline=True),
    "ARM": lambda work: antithetic(work, lambda u, b, other, theta: u - 0.5),
    "DisARM": lambda work: antithetic(work, lambda u, b, other, theta: (b - other) * theta.abs().sigmoid() / 2),
}
RELAXED: dict[str, Callable[[Work], Tensor]] = {
    "REBAR": rebar,
    "Gumbel-softmax": gumbel_softmax,
    "straight-through": straight_through,
}
