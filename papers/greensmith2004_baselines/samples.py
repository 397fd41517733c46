"""What a policy gradient is estimated from: independent samples, whose every outcome is listed, and whole episodes.

    s ~ (1 − γ) ρ_π,  a ~ π(·|s),  then on with π:        g = ∇log π(a|s),   L = Σ_{t<T} γ^t c_t + γ^T V(s_T)

E[g (L − b(s))] = (1 − γ) ∇E[cost] for every b. Costs, as everywhere but in `scg.testing.tabular.Process`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Categorical

from scg import Graph
from scg.estimators import ScoreFunction
from scg.estimators.baselines import optimal_level
from scg.testing.tabular import Process, every_path, one_hot, policy_gradient

NONE, MEAN, BEST, VALUE, BEST_OF_STATE = "none", "mean cost", "optimal constant", "value V(s)", "optimal b*(s)"
EACH, EACH_OF_STATE = "optimal constant of each parameter", "optimal b*(s) of each parameter"


def bandit() -> Graph:
    """One action, its cost-to-go, and a baseline of its state."""
    graph = Graph()
    graph.observed("state")
    graph.observed("level", parents=["state"])

    @graph.stochastic(ScoreFunction(), baseline="level")
    def action(state: Tensor, theta: Tensor) -> Categorical:
        return Categorical(logits=(state.unsqueeze(-1) * theta).sum(-2))

    graph.observed("cost_to_go", parents=["state", "action"])
    graph.cost(lambda cost_to_go: cost_to_go, name="cost")
    return graph


@dataclass(frozen=True)
class Samples:
    """Outcomes `[n]` of one sample with their probabilities; `theta [state, action]` are the policy's logits."""

    process: Process
    theta: Tensor
    states: Tensor
    actions: Tensor
    costs: Tensor
    p: Tensor

    @classmethod
    def listed(cls, process: Process, theta: Tensor, steps: int = 3) -> Samples:
        pi = theta.softmax(-1)
        met = replace(process, start=(1 - process.gamma) * process.visits(pi))
        paths = every_path(met, pi, steps)
        discounts = process.gamma ** torch.arange(steps, dtype=theta.dtype)
        costs = -(discounts @ paths.rewards) - process.gamma**steps * process.value(pi)[paths.following[-1]]
        return cls(process, theta, paths.states[0], paths.actions[0], costs, paths.p)

    @property
    def pi(self) -> Tensor:
        return self.theta.softmax(-1)

    @cached_property
    def scores(self) -> Tensor:
        """g of each outcome, `[n, parameters]`."""
        at = one_hot(self.states, self.process.states).unsqueeze(-1)
        return (at * (one_hot(self.actions, self.process.actions) - self.pi[self.states]).unsqueeze(-2)).flatten(1)

    @property
    def exact(self) -> Tensor:
        """What every mean must be."""
        found = policy_gradient(self.process, lambda theta: theta.softmax(-1), self.theta)
        return -(1 - self.process.gamma) * found.flatten()

    def levels(self) -> dict[str, Tensor]:
        """The baselines, one for each state or one for all, `[n]`."""
        best = torch.zeros(self.process.states, dtype=self.p.dtype)
        for s in range(self.process.states):
            here = self.states == s
            best[s] = optimal_level(self.scores[here], self.costs[here], p=self.p[here])
        constants = {NONE: torch.zeros(()), MEAN: self.p @ self.costs, BEST: optimal_level(self.scores, self.costs, p=self.p)}
        found = {name: level.to(self.p.dtype).expand_as(self.p) for name, level in constants.items()}
        return {**found, VALUE: -self.process.value(self.pi)[self.states], BEST_OF_STATE: best[self.states]}

    def each(self, level: Tensor) -> Tensor:
        """The surrogate's gradient at each outcome, `[n, parameters]`."""
        count = self.p.numel()
        own = self.theta.detach().expand(count, *self.theta.shape).clone().requires_grad_()
        state = one_hot(self.states, self.process.states)
        given = {"state": state, "level": level, "action": self.actions, "cost_to_go": self.costs}
        surrogate = count * bandit().replay(given, theta=own).surrogate()
        return torch.autograd.grad(surrogate, own)[0].flatten(1)

    def by_parameter(self) -> dict[str, Tensor]:
        """Gradients whose every parameter has a level of its own: no surrogate has them."""
        one = optimal_level(self.scores, self.costs, per_parameter=True, p=self.p)
        levels = torch.zeros_like(self.scores)
        for s in range(self.process.states):
            here = self.states == s
            levels[here] = optimal_level(self.scores[here], self.costs[here], per_parameter=True, p=self.p[here])
        costs = self.costs.unsqueeze(-1)
        return {EACH: self.scores * (costs - one), EACH_OF_STATE: self.scores * (costs - levels)}

    def gradients(self) -> dict[str, Tensor]:
        return {**{name: self.each(level) for name, level in self.levels().items()}, **self.by_parameter()}

    def moments(self, each: Tensor) -> tuple[Tensor, float]:
        """Mean and total variance."""
        mean = self.p @ each
        return mean, float(self.p @ (each - mean).square().sum(-1))

    def variance_at(self, level: Tensor) -> float:
        """The same variance from the scores alone: for many processes, where a graph for each would take long."""
        return self.moments(self.scores * (self.costs - level).unsqueeze(-1))[1]
