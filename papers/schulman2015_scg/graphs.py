"""The five graphs of the paper's Figure 1, and three built from them, with distributions whose gradients are known.

    (1)  θ → [x] → (y) → ⟨f⟩                    (4)  θ → (x) → ⟨f⟩ ← [y] ← θ
    (2)  θ → (x) → [y] → ⟨f⟩                    (5)  θ, x₀ → (x₁) → (x₂) ← θ,  x₁ → ⟨f₁⟩,  x₂ → ⟨f₂⟩
    (3)  θ → (x) → (y) → ⟨f⟩

Each comes with its objective as a sum over outcomes or a Gauss–Hermite quadrature, and with the paper's estimator
worked out by hand for a draw. Neither uses the library. The paper leaves the distributions open; these are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from scg import Estimator, Graph
from scg.estimators import Enumeration, LeaveOneOut, Pathwise, ScoreFunction

THETA, X0 = 0.4, 0.3
Draw = Mapping[str, Tensor]
Variant = dict[str, Estimator]


@dataclass(frozen=True)
class Case:
    """One graph.

    objective   E[Σ c] at a scalar θ, live, by summation or quadrature
    formula     the paper's estimator, as it stands in Figure 1
    by_hand     that estimator at draws, worked out with pen and paper
    variants    the estimators that are valid on this graph, by name
    """

    name: str
    title: str
    graph: Graph
    objective: Callable[[Tensor], Tensor]
    variants: dict[str, Variant]
    formula: str | None = None
    by_hand: Callable[[Tensor, Draw], Tensor] | None = None
    inputs: Mapping[str, float] = field(default_factory=dict)


def expected_normal(f: Callable[[Tensor], Tensor], mean: Tensor, scale: float = 1.0) -> Tensor:
    """E[f(y)], y ~ N(mean, scale²), by 80-point Gauss–Hermite quadrature along a new first axis."""
    at, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(80))
    y = mean + scale * at.reshape(-1, *[1] * mean.ndim)
    return (weights.reshape(-1, *[1] * mean.ndim) * f(y)).sum(0) / (2 * torch.pi) ** 0.5


def expected_bernoulli(f: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """E[f(x)], x ~ Bernoulli."""
    p = torch.sigmoid(logits)
    return p * f(torch.ones_like(p)) + (1 - p) * f(torch.zeros_like(p))


def first() -> Case:
    def cost(y: Tensor) -> Tensor:
        return torch.sin(2 * y) + y**2 / 4

    graph = Graph()

    @graph.deterministic
    def x(theta: Tensor) -> Tensor:
        return theta**2

    @graph.stochastic(ScoreFunction())
    def y(x: Tensor) -> Normal:
        return Normal(x, 1.0)

    graph.cost(cost, name="f")

    def by_hand(theta: Tensor, draw: Draw) -> Tensor:
        return 2 * theta * (draw["y"] - theta**2) * cost(draw["y"])

    return Case(
        "graph1",
        "Figure 1 (1)",
        graph,
        lambda theta: expected_normal(cost, theta**2),
        {
            "score": {"y": ScoreFunction()},
            "leave-one-out, 4": {"y": LeaveOneOut(samples=4)},
            "pathwise": {"y": Pathwise()},
        },
        "∂x/∂θ ∂/∂x log p(y | x) f(y)",
        by_hand,
    )


def second() -> Case:
    slopes = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)

    def moved(x: Tensor) -> Tensor:
        return (x.double() - 0.7) ** 2

    graph = Graph()

    @graph.stochastic(ScoreFunction())
    def x(theta: Tensor) -> Categorical:
        return Categorical(logits=theta.unsqueeze(-1) * slopes)

    graph.deterministic(moved, name="y")

    @graph.cost
    def f(y: Tensor) -> Tensor:
        return torch.exp(-y)

    def objective(theta: Tensor) -> Tensor:
        return (torch.softmax(theta * slopes, -1) * torch.exp(-moved(torch.arange(3)))).sum()

    def by_hand(theta: Tensor, draw: Draw) -> Tensor:
        p = torch.softmax(theta.unsqueeze(-1) * slopes, -1)
        return (slopes[draw["x"]] - (p * slopes).sum(-1)) * torch.exp(-moved(draw["x"]))

    variants: dict[str, Variant] = {
        "score": {"x": ScoreFunction()},
        "leave-one-out, 4": {"x": LeaveOneOut(samples=4)},
        "enumeration": {"x": Enumeration()},
    }
    return Case("graph2", "Figure 1 (2)", graph, objective, variants, "∂/∂θ log p(x; θ) f(y(x))", by_hand)


def third() -> Case:
    def cost(y: Tensor) -> Tensor:
        return y**2 + 2 * torch.cos(y - 1)

    graph = Graph()

    @graph.stochastic(ScoreFunction())
    def x(theta: Tensor) -> Bernoulli:
        return Bernoulli(logits=theta)

    @graph.stochastic(ScoreFunction())
    def y(x: Tensor) -> Normal:
        return Normal(2 * x - 1, 0.5)

    graph.cost(cost, name="f")

    def objective(theta: Tensor) -> Tensor:
        return expected_bernoulli(lambda x: expected_normal(cost, 2 * x - 1, 0.5), theta)

    def by_hand(theta: Tensor, draw: Draw) -> Tensor:
        return (draw["x"] - torch.sigmoid(theta)) * cost(draw["y"])

    variants: dict[str, Variant] = {
        "score": {"x": ScoreFunction(), "y": ScoreFunction()},
        "score x, pathwise y": {"x": ScoreFunction(), "y": Pathwise()},
        "leave-one-out x, 4": {"x": LeaveOneOut(samples=4), "y": ScoreFunction()},
        "enumeration x": {"x": Enumeration(), "y": ScoreFunction()},
    }
    return Case("graph3", "Figure 1 (3)", graph, objective, variants, "∂/∂θ log p(x; θ) f(y)", by_hand)


def fourth() -> Case:
    def cost(x: Tensor, y: Tensor) -> Tensor:
        return (x - y) ** 2 + x * y

    graph = Graph()

    @graph.stochastic(ScoreFunction())
    def x(theta: Tensor) -> Bernoulli:
        return Bernoulli(logits=theta)

    @graph.deterministic
    def y(theta: Tensor) -> Tensor:
        return theta**2

    graph.cost(cost, name="f")

    def by_hand(theta: Tensor, draw: Draw) -> Tensor:
        x, y = draw["x"], theta**2
        return (x - torch.sigmoid(theta)) * cost(x, y) + 2 * theta * (2 * (y - x) + x)

    return Case(
        "graph4",
        "Figure 1 (4)",
        graph,
        lambda theta: expected_bernoulli(lambda x: cost(x, theta**2), theta),
        {
            "score": {"x": ScoreFunction()},
            "leave-one-out, 4": {"x": LeaveOneOut(samples=4)},
            "enumeration": {"x": Enumeration()},
        },
        "∂/∂θ log p(x; θ) f(x, y(θ)) + ∂y/∂θ ∂f/∂y",
        by_hand,
    )


def cost1(x1: Tensor) -> Tensor:
    return (x1 - 1) ** 2


def cost2(x2: Tensor) -> Tensor:
    return 2 * (x2 - 0.3) ** 2


def chain(x1: Estimator, baselines: tuple[float, float] | None = None) -> Graph:
    """Graph (5); `baselines` of x₁ and x₂ are constants, which no sample influences."""
    graph = Graph()
    first, second = baselines or (None, None)

    def drift(theta: Tensor, x0: Tensor) -> Normal:
        return Normal(theta * x0, 1.0)

    def choice(theta: Tensor, x1: Tensor) -> Bernoulli:
        return Bernoulli(logits=theta + x1)

    graph.stochastic(x1, drift, name="x1", baseline=first)
    graph.stochastic(ScoreFunction(), choice, name="x2", baseline=second)
    graph.cost(cost1, name="f1")
    graph.cost(cost2, name="f2")
    return graph


def chain_objective(theta: Tensor) -> Tensor:
    return expected_normal(lambda x1: cost1(x1) + expected_bernoulli(cost2, theta + x1), theta * X0)


def fifth() -> Case:
    def by_hand(theta: Tensor, draw: Draw) -> Tensor:
        x1, x2 = draw["x1"], draw["x2"]
        return (x1 - theta * X0) * X0 * (cost1(x1) + cost2(x2)) + (x2 - torch.sigmoid(theta + x1)) * cost2(x2)

    variants: dict[str, Variant] = {
        "score": {"x1": ScoreFunction(), "x2": ScoreFunction()},
        "leave-one-out x₂, 4": {"x1": ScoreFunction(), "x2": LeaveOneOut(samples=4)},
        "enumeration x₂": {"x1": ScoreFunction(), "x2": Enumeration()},
    }
    return Case(
        "graph5",
        "Figure 1 (5)",
        chain(ScoreFunction()),
        chain_objective,
        variants,
        "∂/∂θ log p(x₁; θ, x₀) (f₁(x₁) + f₂(x₂)) + ∂/∂θ log p(x₂; θ, x₁) f₂(x₂)",
        by_hand,
        {"x0": X0},
    )


def mixed() -> Case:
    def by_hand(theta: Tensor, draw: Draw) -> Tensor:
        x1, x2 = draw["x1"], draw["x2"]
        return (1 + X0) * (x2 - torch.sigmoid(theta + x1)) * cost2(x2) + X0 * 2 * (x1 - 1)

    variants: dict[str, Variant] = {
        "pathwise x₁, score x₂": {"x1": Pathwise(), "x2": ScoreFunction()},
        "pathwise x₁, leave-one-out x₂, 4": {"x1": Pathwise(), "x2": LeaveOneOut(samples=4)},
        "pathwise x₁, enumeration x₂": {"x1": Pathwise(), "x2": Enumeration()},
    }
    title = "graph (5) with x₁ pathwise"
    return Case("mixed", title, chain(Pathwise()), chain_objective, variants, None, by_hand, {"x0": X0})


def nested() -> Case:
    def cost(x: Tensor, y: Tensor) -> Tensor:
        return y**2 + 2 * x * torch.sin(y)

    graph = Graph()

    @graph.stochastic(ScoreFunction(samples=3))
    def x(theta: Tensor) -> Bernoulli:
        return Bernoulli(logits=theta)

    @graph.stochastic(ScoreFunction(samples=4))
    def y(theta: Tensor, x: Tensor) -> Normal:
        return Normal(theta + x, 0.5)

    graph.cost(cost, name="f")

    def objective(theta: Tensor) -> Tensor:
        return expected_bernoulli(lambda x: expected_normal(lambda y: cost(x, y), theta + x, 0.5), theta)

    variants: dict[str, Variant] = {
        "score, 3 × 4": {},
        "leave-one-out, 3 × 4": {"x": LeaveOneOut(samples=3), "y": LeaveOneOut(samples=4)},
        "score 3 × pathwise 4": {"y": Pathwise(samples=4)},
        "enumeration × pathwise": {"x": Enumeration(), "y": Pathwise()},
    }
    return Case("nested", "graph (3), branches in both layers, θ → y", graph, objective, variants)


def sibling() -> Case:
    def cost(y: Tensor, z: Tensor) -> Tensor:
        return (1 + y) * z**2

    graph = Graph()

    @graph.stochastic(ScoreFunction(samples=2))
    def x(theta: Tensor) -> Bernoulli:
        return Bernoulli(logits=theta)

    @graph.stochastic(ScoreFunction(samples=2))
    def y(theta: Tensor, x: Tensor) -> Bernoulli:
        return Bernoulli(logits=x - theta)

    @graph.stochastic(Pathwise(samples=3))
    def z(theta: Tensor, x: Tensor) -> Normal:
        return Normal(theta - x, 1.0)

    graph.cost(cost, name="f")

    def objective(theta: Tensor) -> Tensor:
        def given(x: Tensor) -> Tensor:
            return expected_bernoulli(lambda y: expected_normal(lambda z: cost(y, z), theta - x), x - theta)

        return expected_bernoulli(given, theta)

    variants: dict[str, Variant] = {
        "score 2 × (score 2, pathwise 3)": {},
        "score 2 × (leave-one-out 2, score 3)": {"y": LeaveOneOut(samples=2), "z": ScoreFunction(samples=3)},
        "enumeration × (enumeration, pathwise 3)": {"x": Enumeration(), "y": Enumeration()},
    }
    return Case("sibling", "two branching children of one branching parent", graph, objective, variants)


def figure() -> list[Case]:
    """The five graphs of Figure 1."""
    return [first(), second(), third(), fourth(), fifth()]


def built() -> list[Case]:
    """Mixed, nested and sibling graphs made from them."""
    return [mixed(), nested(), sibling()]
