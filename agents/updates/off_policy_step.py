"""An off-policy step: gradients → the optimisers' steps → the targets' step, on one minibatch.

    g_J = ∇ J(minibatch) for every objective J,   θ_J ← θ_J − rate · Adam(g_J),   θ̄ ← θ̄ + τ (θ − θ̄)

The gradients of all objectives are taken at the same parameters, from one sample of the graph. How these functions are
executed (compiled, on two threads, several steps in one call) is `off_policy_update.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import scg
from scg.agents.execution.presampled_noise import replayed
from scg.agents.updates.optimiser import Optimiser
from scg.trace import Trace

Gradients = list[Tensor]
Noise = Sequence[Tensor] | None  # presampled, or drawn by the graph


def _no_errors(trace: Trace) -> Tensor:
    return torch.zeros(0)


class OffPolicyStep:
    """A step on one minibatch of `graph`.

    objectives   costs and their optimisers
    targets      pairs (target network, what it follows)
    delay        all objectives but the first, and the targets, have their step at every so many calls only
    watched      nodes whose means are metrics
    errors       the critics' absolute error at each row, which priorities follow; from a sample for the first objective
    """

    def __init__(
        self,
        graph: scg.Graph,
        objectives: Mapping[str, Optimiser],
        targets: Sequence[tuple[nn.Module, nn.Module]] = (),
        tau: float = 0.005,
        delay: int = 1,
        watched: Sequence[str] = (),
        errors: Callable[[Trace], Tensor] = _no_errors,
    ) -> None:
        self.graph, self.objectives, self.tau, self.delay = graph, dict(objectives), tau, delay
        self.watched, self.errors = tuple(watched), errors
        self.slow: list[Tensor] = [p for target, _ in targets for p in target.parameters()]
        self.fast: list[Tensor] = [p for _, source in targets for p in source.parameters()]
        self.changed: list[Tensor] = [*self.slow, *(x for optimiser in self.objectives.values() for x in optimiser.tensors)]

    def costs(self, due: bool) -> list[str]:
        """The objectives that have a step."""
        return list(self.objectives) if due else list(self.objectives)[:1]

    def gradients(
        self, rows: dict[str, Any], noise: Noise, costs: Sequence[str], watched: Sequence[str]
    ) -> tuple[Gradients, Tensor, Tensor]:
        """Gradients of `costs`; the means of these and of `watched`; with the first objective, the errors at each row."""
        with replayed(noise):
            trace = self.graph.sample(**rows)
        # Each objective's gradient reaches its own parameters alone, so that of the sum is all of theirs.
        parameters = [p for cost in costs for p in self.objectives[cost].parameters]
        gradients = torch.autograd.grad(trace.surrogate(*costs), parameters)
        with torch.no_grad():
            means = torch.stack([trace[name].mean() for name in (*costs, *watched)])
            errors = self.errors(trace) if costs[0] == next(iter(self.objectives)) else means[:0]
        return list(gradients), means, errors

    def descend(self, gradients: Gradients, costs: Sequence[str], due: bool) -> Tensor:
        """The optimisers' steps, and that of the targets where it is `due`; the gradients' norms."""
        each = iter(gradients)
        norms = [self.objectives[cost].step([next(each) for _ in self.objectives[cost].parameters]) for cost in costs]
        with torch.no_grad():
            if due:
                torch._foreach_lerp_(self.slow, self.fast, self.tau)
            return torch.stack(norms)

    def __call__(self, rows: dict[str, Any], noise: Noise = None, due: bool = True) -> tuple[Tensor, Tensor]:
        """The whole step; its metrics, named by `names(due)`, and the errors at each row."""
        costs = self.costs(due)
        gradients, means, errors = self.gradients(rows, noise, costs, self.watched)
        return torch.cat([means, self.descend(gradients, costs, due)]), errors

    def names(self, due: bool) -> list[str]:
        costs = self.costs(due)
        return [*costs, *self.watched, *[f"{cost}_grad_norm" for cost in costs]]
