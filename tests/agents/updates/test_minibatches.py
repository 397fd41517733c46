"""Minibatch updates: a step on chosen rows, the mean norm of several, and a gradient that is not finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import scg
from scg.agents.updates.metrics import NotFinite
from scg.agents.updates.minibatches import MinibatchUpdate
from scg.agents.updates.optimiser import Optimiser


class GradientDescent(Optimiser):
    """θ ← θ − rate · g."""

    def change(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self.rate * g for g in gradients)


def linear(w: Tensor) -> scg.Graph:
    """⟨w · x⟩ at each row, whose gradient is the rows' mean."""
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("x")
        graph.cost(lambda x: x @ w, name="product", parents=["x"])
    return graph


def test_a_step_is_on_the_chosen_rows_and_shortened_and_norms_are_averaged(double: None) -> None:
    w, x = torch.ones(3, requires_grad=True), torch.arange(12.0).view(1, 4, 3)
    optimiser = GradientDescent([w], max_norm=2.0)
    optimiser.rate.fill_(1.0)
    step = MinibatchUpdate(linear(w), optimiser, ["product"])
    expected, norms = torch.ones(3), []
    for rows in ([0], [1, 3]):
        gradient = x[0, rows].mean(0)
        norms.append(float(gradient.norm()))
        expected = expected - gradient * min(1.0, 2.0 / norms[-1])
        step({"x": x}, torch.tensor(rows))
    assert torch.allclose(w, expected)
    assert step.mean_norm() == pytest.approx(sum(norms) / 2)
    assert step.mean_norm() == 0.0  # of no steps


def test_a_gradient_that_is_not_finite_is_an_error_with_its_objective(double: None) -> None:
    """√(w · x) at x = 0 has a value, and no slope."""
    w, graph = torch.ones(3, requires_grad=True), scg.Graph()
    with graph.sequence():
        graph.observed("x")
        graph.cost(lambda x: (x @ w).sqrt(), name="root", parents=["x"])
    step = MinibatchUpdate(graph, GradientDescent([w]), ["root"])
    for x in (torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.zeros(1, 2, 3)):  # the graph's own checks look at the first two
        step({"x": x}, torch.arange(2))
    with pytest.raises(NotFinite, match="objective 'root': gradient norm nan"):
        step.mean_norm()
