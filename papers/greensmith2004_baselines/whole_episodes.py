"""Whole episodes of T undiscounted steps, whose gradients add up:  Σ_t g_t (L_t − b_t(s_t)),  L_t = Σ_{t' ≥ t} c_t'.

The terms of one episode are correlated, so the baseline that is best for each of them is not best for their sum. That one
solves  E[H Hᵀ] b = E[H · G],  H the gradients of one unit of baseline at each (t, s), G the gradient without any.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from scg.papers.greensmith2004_baselines.samples import BEST_OF_STATE, MEAN, NONE, VALUE
from scg.testing.tabular import Paths, Process, drawn_paths, each_gradient, episodes, one_hot

JOINT = "optimal of whole episodes"
LEARNING = (NONE, MEAN, VALUE, BEST_OF_STATE)


def costs_to_go(process: Process, pi: Tensor, steps: int) -> Tensor:
    """Q_t(s, a) of policies `pi [run, state, action]`: `[run, time, state, action]`."""
    value, found = torch.zeros_like(pi[..., 0]), []
    for _ in range(steps):
        found.append(-process.reward + torch.einsum("sax,rx->rsa", process.transition, value))
        value = (pi * found[-1]).sum(-1)
    return torch.stack(found[::-1], 1)


def met(process: Process, pi: Tensor, steps: int) -> Tensor:
    """P(s_t = s), `[run, time, state]`."""
    found = [process.start.expand(pi.shape[0], -1)]
    for _ in range(steps - 1):
        found.append(torch.einsum("rs,rsa,sax->rx", found[-1], pi, process.transition))
    return torch.stack(found, 1)


def levels(kind: str, process: Process, pi: Tensor, steps: int) -> Tensor:
    """b_t(s), `[run, time, state]`, exact for each run's policy. A softmax's ‖g‖² is 1 − 2π(a) + Σ π²."""
    q, pi_t = costs_to_go(process, pi, steps), pi.unsqueeze(1)
    value = (pi_t * q).sum(-1)
    if kind == NONE:
        return torch.zeros_like(value)
    if kind == MEAN:
        return (met(process, pi, steps) * value).sum(-1, keepdim=True).expand_as(value)
    if kind == VALUE:
        return value
    mass = pi_t * (1 - 2 * pi_t + pi_t.square().sum(-1, keepdim=True))
    return (mass * q).sum(-1) / mass.sum(-1)


def at_paths(level: Tensor, paths: Paths) -> Tensor:
    """The level of the state that each path is in, `[time, path]`."""
    each = level.expand(paths.p.numel(), -1, -1)
    return each.gather(2, paths.states.T.unsqueeze(-1)).squeeze(-1).T


def each(paths: Paths, theta: Tensor, level: Tensor) -> Tensor:
    """The surrogate's gradient on every path, `[path, parameters]`."""
    return each_gradient(episodes(baseline="value"), paths, theta, value=at_paths(level, paths)).flatten(1)


def joint(paths: Paths, theta: Tensor) -> Tensor:
    """The level `[1, time, state]` that is best for the sum."""
    process, steps = paths.process, paths.states.shape[0]
    pi = theta.softmax(-1)
    state = one_hot(paths.states, process.states)  # [time, path, state]
    score = state.unsqueeze(-1) * (one_hot(paths.actions, process.actions) - pi[paths.states]).unsqueeze(-2)
    units = torch.einsum("tns,tnp->ntsp", state, score.flatten(2)).flatten(1, 2)  # [path, (time, state), parameters]
    to_go = -paths.rewards.flip(0).cumsum(0).flip(0)
    without = torch.einsum("tn,tnp->np", to_go, score.flatten(2))
    gram = torch.einsum("n,nip,njp->ij", paths.p, units, units)
    found = torch.linalg.lstsq(gram, torch.einsum("n,nip,np->i", paths.p, units, without), driver="gelsd").solution
    return found.reshape(1, steps, process.states)


@dataclass(frozen=True)
class Ascent:
    """η of every run after each step, `[step, run]`."""

    returns: Tensor


def ascend(process: Process, kind: str, steps: int, horizon: int, runs: int, rate: float, seed: int) -> Ascent:
    """Stochastic gradient ascent from the uniform policy, one episode a step, runs side by side."""
    generator = Generator().manual_seed(seed)
    theta = torch.zeros(runs, process.states, process.actions, dtype=torch.float64)
    graph, returns = episodes(baseline="value"), []
    for _ in range(steps + 1):
        pi = theta.softmax(-1)
        value = (pi.unsqueeze(1) * costs_to_go(process, pi, horizon)).sum(-1)[:, 0]
        returns.append(-(value @ process.start))
        paths = drawn_paths(process, pi, horizon, generator)
        level = at_paths(levels(kind, process, pi, horizon), paths)
        theta = theta - rate * each_gradient(graph, paths, theta, value=level)
    return Ascent(torch.stack(returns))
