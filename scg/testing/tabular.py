"""Small decision processes whose every number is known: values by linear solves, gradients by summing over trajectories.

    V = (I − γ P_π)⁻¹ R_π      Q = R + γ P V      A = Q − V      ρ = (I − γ P_πᵀ)⁻¹ d      η = d · V

    L_π(π̃) = η(π) + Σ_s ρ_π(s) Σ_a π̃(a|s) A_π(s, a)

ρ(s) = Σ_t γ^t P(s_t = s), which sums to 1/(1 − γ). A policy is a table `[state, action]`; everything is differentiable in
it, and in reward units, as in the papers. `episodes` is the same process as a graph, in cost units as every graph is.

An agent's graph, whose nodes are obs, action, reward and so on, is proved on all paths of a few steps:

    process, table = Process.random(0), Table.random(1)
    paths = every_path(process, table.pi, steps=3)
    copies = table.copies(len(paths.p))                               # each path has its own parameters
    graph = my_graph(copies)
    assert close(expected_gradient(graph, paths.block(), copies, paths.p), process.gradient(table, steps=3))

Sutton et al. (2000) for the gradient; Kakade & Langford (2002) and Schulman et al. (2015) for L.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical

from scg.estimator import ScoreFunction
from scg.graph import Graph
from scg.node import prev
from scg.testing.per_path import close as close
from scg.testing.per_path import expected_gradient as expected_gradient
from scg.trace import Trace


@dataclass(frozen=True)
class Process:
    """`transition [state, action, next state]`, `reward [state, action]`, the distribution `start [state]`, and γ."""

    transition: Tensor
    reward: Tensor
    start: Tensor
    gamma: float

    @classmethod
    def random(cls, seed: int, states: int = 3, actions: int = 2, gamma: float = 0.9) -> Process:
        """Normal rewards; next states that are spread unevenly, about as Dirichlet(½) would."""
        g = Generator().manual_seed(seed)
        kinds: Any = {"generator": g, "dtype": torch.float64}
        transition = (2 * torch.randn(states, actions, states, **kinds)).softmax(-1)
        return cls(transition, torch.randn(states, actions, **kinds), torch.randn(states, **kinds).softmax(-1), gamma)

    @property
    def states(self) -> int:
        return self.reward.shape[0]

    @property
    def actions(self) -> int:
        return self.reward.shape[1]

    def step(self, pi: Tensor) -> Tensor:
        """P_π, from each state to the next."""
        return torch.einsum("sa,sax->sx", pi, self.transition)

    def value(self, pi: Tensor) -> Tensor:
        return torch.linalg.solve(self._resolvent(pi), (pi * self.reward).sum(-1))

    def action_value(self, pi: Tensor) -> Tensor:
        return self.reward + self.gamma * self.transition @ self.value(pi)

    def advantage(self, pi: Tensor) -> Tensor:
        return self.action_value(pi) - self.value(pi).unsqueeze(-1)

    def visits(self, pi: Tensor) -> Tensor:
        """ρ_π."""
        return torch.linalg.solve(self._resolvent(pi).T, self.start)

    def objective(self, pi: Tensor) -> Tensor:
        """η(π)."""
        return self.start @ self.value(pi)

    def local(self, pi: Tensor, new: Tensor) -> Tensor:
        """L_π(π̃): what `new` would gain if it met the states that `pi` meets."""
        return self.objective(pi) + (self.visits(pi).unsqueeze(-1) * new * self.advantage(pi)).sum()

    def penalty(self, pi: Tensor) -> Tensor:
        """C = 4εγ/(1 − γ)², ε = max |A_π|."""
        return 4 * self.advantage(pi).abs().max() * self.gamma / (1 - self.gamma) ** 2

    def minorant(self, pi: Tensor, new: Tensor) -> Tensor:
        """M_π(π̃) = L_π(π̃) − C max_s KL(π(·|s) ‖ π̃(·|s)), which is η(π) at π and nowhere above η."""
        return self.local(pi, new) - self.penalty(pi) * divergence(pi, new).max()

    # -- episodes of a few steps, in cost units ------------------------------------------------------------------

    def values(self, pi: Tensor, steps: int) -> list[Tensor]:
        """The costs-to-go `V_0 … V_steps [state]` of episodes of so many steps, the last one zero."""
        found = [torch.zeros(self.states, dtype=pi.dtype)]
        for _ in range(steps):
            found.append((pi * self._action_cost(found[-1])).sum(-1))
        return found[::-1]

    def cost(self, pi: Tensor, steps: int) -> Tensor:
        """`E Σ_t γ^t c_t`, differentiable as often as one likes."""
        return self.start @ self.values(pi, steps)[0]

    def gradient(self, table: Table, steps: int, leading: bool = True) -> Tensor:
        """`∇ E Σ_t γ^t c_t` for the logits, flat; without `leading` the γ^t of each step is left out, as agents do."""
        live = table.theta.detach().requires_grad_()
        pi, values = live.softmax(-1), self.values(table.pi, steps)
        seen, total = self.start, torch.zeros(())
        for t in range(steps):
            q = self._action_cost(values[t + 1])
            total = total + (self.gamma**t if leading else 1.0) * (seen.unsqueeze(-1) * pi * q).sum()
            seen = seen @ self.step(table.pi)
        return torch.autograd.grad(total, live)[0].flatten()

    def hessian(self, table: Table, steps: int) -> Tensor:
        """`∇² E Σ_t γ^t c_t` for the logits, `[parameters, parameters]`."""
        flat, shape = table.theta.detach().flatten(), table.theta.shape
        return torch.autograd.functional.hessian(lambda theta: self.cost(theta.view(shape).softmax(-1), steps), flat)

    def _action_cost(self, value: Tensor) -> Tensor:
        return -self.reward + self.gamma * self.transition @ value

    def _resolvent(self, pi: Tensor) -> Tensor:
        return torch.eye(self.states, dtype=pi.dtype) - self.gamma * self.step(pi)


class Table(nn.Module):
    """A softmax policy: logits `theta [*paths, state, action]`, for one-hot observations `[…, *paths, state]`."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.clone())

    @classmethod
    def random(cls, seed: int, states: int = 3, actions: int = 2) -> Table:
        return cls(torch.randn(states, actions, generator=Generator().manual_seed(seed), dtype=torch.float64))

    @property
    def pi(self) -> Tensor:
        """`[state, action]`, without gradient."""
        return self.theta.detach().softmax(-1)

    def forward(self, obs: Tensor) -> Categorical:
        return Categorical(logits=(obs.unsqueeze(-1) * self.theta).sum(-2))

    def copies(self, count: int) -> Table:
        """As many copies of the logits, one a path."""
        return Table(self.theta.detach().expand(count, *self.theta.shape))


def divergence(pi: Tensor, new: Tensor) -> Tensor:
    """KL(π(·|s) ‖ π̃(·|s)) of every state; an action that π never takes counts 0."""
    return (torch.xlogy(pi, pi) - torch.xlogy(pi, new)).sum(-1)


def policy_gradient(process: Process, policy: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """Σ_s ρ_π(s) Σ_a ∇π(a|s) Q_π(s, a): the policy-gradient theorem's right-hand side, π = `policy(theta)`."""
    live = theta.detach().requires_grad_()
    pi = policy(live)
    fixed = pi.detach()
    total = (process.visits(fixed).unsqueeze(-1) * pi * process.action_value(fixed)).sum()
    return torch.autograd.grad(total, live)[0]


def gradient(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    live = theta.detach().requires_grad_()
    return torch.autograd.grad(function(live), live)[0]


# -- trajectories ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paths:
    """Trajectories of one length, `[time, path]`, each with its probability `p [path]`; `following` are the next states."""

    process: Process
    states: Tensor
    actions: Tensor
    following: Tensor
    p: Tensor

    @property
    def rewards(self) -> Tensor:
        return self.process.reward[self.states, self.actions]

    def recording(self, **given: Tensor) -> dict[str, Tensor]:
        """What `episodes` replays: one-hot states, actions, rewards, and where an episode starts and ends."""
        first = torch.zeros(self.states.shape, dtype=torch.bool)
        first[0] = True
        ends = first.flip(0)
        return {
            "first": first,
            "terminated": ends,
            "state": one_hot(self.states, self.process.states),
            "next_state": one_hot(self.following, self.process.states),
            "action": self.actions,
            "reward": self.rewards,
            **given,
        }

    def block(self, **given: Tensor) -> dict[str, Tensor]:
        """The same as agents' graphs name it: obs, next_obs, action, reward, first, terminated."""
        recorded = self.recording(**given)
        return {{"state": "obs", "next_state": "next_obs"}.get(name, name): x for name, x in recorded.items()}

    def mean(self, x: Tensor) -> Tensor:
        """Over the paths, which are x's first axis."""
        return torch.tensordot(self.p, x, 1)

    def variance(self, x: Tensor) -> Tensor:
        """The trace of x's covariance."""
        return (self.p @ (x - self.mean(x)).flatten(1).square()).sum()


@torch.no_grad()
def every_path(process: Process, pi: Tensor, steps: int) -> Paths:
    """All trajectories of positive probability: `steps` actions, then the episode is over."""
    states, actions = process.start.nonzero().T, torch.empty(0, int((process.start > 0).sum()), dtype=torch.long)
    p = process.start[states[0]]
    for _ in range(steps):
        onwards = p[:, None, None] * pi[states[-1], :, None] * process.transition[states[-1]]  # [path, action, next state]
        path, action, following = onwards.nonzero().T
        states = torch.cat([states[:, path], following.unsqueeze(0)])
        actions = torch.cat([actions[:, path], action.unsqueeze(0)])
        p = onwards[path, action, following]
    return Paths(process, states[:-1], actions, states[1:], p)


@torch.no_grad()
def drawn_paths(process: Process, pi: Tensor, steps: int, generator: Generator) -> Paths:
    """One trajectory of each policy, `pi [path, state, action]`; they count alike."""
    count, each = pi.shape[0], torch.arange(pi.shape[0])

    def draw(p: Tensor) -> Tensor:
        return torch.multinomial(p, 1, generator=generator).squeeze(-1)

    states, actions = [draw(process.start.expand(count, -1))], []
    for _ in range(steps):
        actions.append(draw(pi[each, states[-1]]))
        states.append(draw(process.transition[states[-1], actions[-1]]))
    p = torch.full((count,), 1 / count, dtype=pi.dtype)
    return Paths(process, torch.stack(states[:-1]), torch.stack(actions), torch.stack(states[1:]), p)


def episodes(credit: Any = None, baseline: Any = None) -> Graph:
    """The process as a graph. Input `theta [path, state, action]` are each path's logits, so each has its own gradient.

    A credit's or baseline's critics are the observed nodes `level` (of this step) and `next_value`, where it reads them.
    """
    graph = Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("terminated")
        graph.observed("state", parents=[prev("state"), prev("action")])
        graph.observed("next_state", parents=["state", "action"])
        graph.observed("value", parents=["state"])
        graph.observed("next_value", parents=["next_state"])

        @graph.stochastic(ScoreFunction(), credit=credit, baseline=baseline)
        def action(state: Tensor, theta: Tensor) -> Categorical:
            return Categorical(logits=(state.unsqueeze(-1) * theta).sum(-2))

        graph.observed("reward", parents=["state", "action"])

        @graph.reward
        def gain(reward: Tensor) -> Tensor:
            return reward

    return graph


def each_gradient(graph: Graph, paths: Paths, theta: Tensor, **given: Tensor) -> Tensor:
    """The surrogate's gradient on every path, of cost, `[path, *theta]`; its mean over the paths is the estimator's."""
    count = paths.p.numel()
    own = theta.detach().expand(count, *theta.shape[-2:]).clone().requires_grad_()
    surrogate = count * replay(graph, paths, own, **given).surrogate()
    return torch.autograd.grad(surrogate, own)[0]


def replay(graph: Graph, paths: Paths, theta: Tensor, **given: Tensor) -> Trace:
    """The graph on the paths; critics that nobody gave are 0."""
    nothing = torch.zeros(paths.states.shape, dtype=theta.dtype)
    return graph.replay(paths.recording(**{"value": nothing, "next_value": nothing, **given}), theta=theta)


def one_hot(index: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)[index]
