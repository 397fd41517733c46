"""One small graph, every outcome of it, and every choice of credit.

    s → ⟨c₁⟩ ← (a) → (x) → (b) → ⟨c₃⟩            s ~ Ber(½),  a ~ Ber(σ(θ₀)),  x ~ N(θ₁ + a, σ²),  b ~ Ber(σ(θ₂ x))
                      x → ⟨c₂⟩                     c₁ = 2(a − s)² + 4s,  c₂ = (x − 1)²/2,  c₃ = 3b

The outcomes are sums over s, a, b and a Gauss–Hermite quadrature over x's noise, so every mean and every variance here is
a finite sum. What is known of the costs to come, in closed form (x's noise by the same quadrature):

    V(x) = c₂ + E[c₃|x]          Q(s, a) = c₁ + E[V(x)|a]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from scg import Graph, detach
from scg.estimators import Pathwise, ScoreFunction
from scg.estimators.credit import QCritic

THETA = torch.tensor([0.4, -0.3, 0.8], dtype=torch.float64)
SCALE = 0.7
NODES = ("a", "x", "b")  # whose distributions θ moves
POINTS = 80


def hermite(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E[f(ε)], ε ~ N(0, 1)."""
    at, mass = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(points))
    return at, mass / mass.sum()


_AT, _MASS = hermite(POINTS)


def c1(s: Tensor, a: Tensor) -> Tensor:
    return 2 * (a - s) ** 2 + 4 * s


def c2(x: Tensor) -> Tensor:
    return (x - 1) ** 2 / 2


def c3(b: Tensor) -> Tensor:
    return 3 * b


def later(x: Tensor) -> Tensor:
    """E[c₃|x]."""
    return 3 * torch.sigmoid(THETA[2] * x)


def value(x: Tensor) -> Tensor:
    """V(x)."""
    return c2(x) + later(x)


def onwards(a: Tensor) -> Tensor:
    """E[V(x)|a]."""
    return (value(THETA[1] + a.unsqueeze(-1) + SCALE * _AT) * _MASS).sum(-1)


def action_value(s: Tensor, a: Tensor) -> Tensor:
    """Q(s, a)."""
    return c1(s, a) + onwards(a)


def before(s: Tensor) -> Tensor:
    """E[Q|s]."""
    p = torch.sigmoid(THETA[0])
    return p * action_value(s, torch.ones_like(s)) + (1 - p) * action_value(s, torch.zeros_like(s))


@dataclass(frozen=True)
class Outcomes:
    """Every outcome `[N]` and its probability."""

    values: dict[str, Tensor]
    p: Tensor

    def mean(self, x: Tensor) -> Tensor:
        return self.p @ x

    def given(self, x: Tensor, names: tuple[str, ...]) -> Tensor:
        """E[x | names], at every outcome."""
        if not names:
            return self.mean(x).expand_as(self.p)
        keys = torch.stack([self.values[n] for n in names], -1)
        _, group = torch.unique(keys, dim=0, return_inverse=True)
        size = int(group.max()) + 1
        mass = torch.zeros(size, dtype=x.dtype).index_add(0, group, self.p)
        return (torch.zeros(size, dtype=x.dtype).index_add(0, group, self.p * x) / mass)[group]


def outcomes(points: int = POINTS) -> Outcomes:
    nodes, mass = hermite(points)
    rows = torch.tensor(list(itertools.product((0.0, 1.0), (0.0, 1.0), range(points), (0.0, 1.0))), dtype=torch.float64)
    s, a, at, b = rows.T
    at = at.long()
    x = THETA[1] + a + SCALE * nodes[at]
    bits = (Bernoulli(logits=THETA[0]).log_prob(a) + Bernoulli(logits=THETA[2] * x).log_prob(b)).exp()
    return Outcomes({"s": s, "a": a, "x": x, "b": b}, 0.5 * bits * mass[at])


def objective(theta: Tensor) -> Tensor:
    """E[c₁ + c₂ + c₃], live."""
    total = torch.zeros((), dtype=theta.dtype)
    for s, a in itertools.product((0.0, 1.0), repeat=2):
        p = 0.5 * (torch.sigmoid(theta[0]) if a else torch.sigmoid(-theta[0]))
        x = theta[1] + a + SCALE * _AT
        total = total + p * (c1(torch.tensor(s), torch.tensor(a)) + _MASS @ (c2(x) + 3 * torch.sigmoid(theta[2] * x)))
    return total


# -- the graph, with a credit and a baseline at each node ----------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """`credits` and `baselines` by node; `nodes` are what they read, by name."""

    name: str
    credits: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)


def graph(choice: Choice) -> Graph:
    built = Graph()

    def settings(name: str) -> dict[str, Any]:
        return {"credit": choice.credits.get(name), "baseline": choice.baselines.get(name)}

    built.stochastic(ScoreFunction(), lambda theta: Bernoulli(probs=torch.full_like(theta[..., 0], 0.5)), name="s")
    built.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta[..., 0]), name="a", **settings("a"))
    built.stochastic(ScoreFunction(), lambda theta, a: Normal(theta[..., 1] + a, SCALE), name="x", **settings("x"))
    built.stochastic(ScoreFunction(), lambda theta, x: Bernoulli(logits=theta[..., 2] * x), name="b", **settings("b"))
    for name, function in choice.nodes.items():
        built.deterministic(function, name=name)
    for cost in (c1, c2, c3):
        built.cost(cost, name=cost.__name__)
    return built


def gradient_critic(critic: Callable[[Tensor], Tensor] = value, name: str = "gradient critic") -> tuple[str, Graph]:
    """x pathwise, and a critic as its cost: ∂V/∂x stands for all that comes after x. What θ₂ moves is b alone, so b reads
    x detached, and c₃ trains nothing above it."""
    built = Graph()
    built.stochastic(ScoreFunction(), lambda theta: Bernoulli(probs=torch.full_like(theta[..., 0], 0.5)), name="s")
    built.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta[..., 0]), name="a", baseline=mean_of("a"))
    built.stochastic(Pathwise(), lambda theta, a: Normal(theta[..., 1] + a, SCALE), name="x")
    built.stochastic(
        ScoreFunction(),
        lambda theta, x=detach("x"): Bernoulli(logits=theta[..., 2] * x),
        name="b",
        baseline=lambda x: later(x),
    )
    built.cost(c1, name="c1")
    built.cost(lambda x: critic(x), name="expected")
    built.cost(c3, name="c3")
    return name, built


def cost_to_go(name: str, of: Outcomes) -> Tensor:
    """L: the costs that a node influences, at every outcome."""
    v = of.values
    return {"a": c1(v["s"], v["a"]), "x": torch.zeros_like(of.p), "b": torch.zeros_like(of.p)}[name] + (
        c3(v["b"]) + (c2(v["x"]) if name != "b" else 0.0)
    )


def mean_of(name: str) -> float:
    of = outcomes()
    return float(of.mean(cost_to_go(name, of)))


def choices() -> dict[str, Choice]:
    """Everything that is right, in the order of the paper."""
    conditional: dict[str, Callable[..., Tensor]] = {
        "base_a": before,
        "base_x": lambda a: onwards(a),
        "base_b": lambda x: later(x),
    }
    critics: dict[str, Callable[..., Tensor]] = {"q_a": action_value, "q_x": lambda x: value(x), "q_b": lambda b: c3(b)}
    by_name = {n: f"base_{n}" for n in NODES}
    q = {n: QCritic(f"q_{n}") for n in NODES}
    partly = {"a": lambda s, a, x: c1(s, a) + value(x), "x": lambda x: value(x), "b": lambda b: c3(b)}
    everything = {"all": lambda s, a, x, b: c1(s, a) + c2(x) + c3(b)}
    found = [
        Choice("all costs", dict.fromkeys(NODES, "all"), nodes=everything),
        Choice("costs downstream"),
        Choice("… less a constant", baselines={n: mean_of(n) for n in NODES}),
        Choice("… less E[L | what it does not influence]", baselines=by_name, nodes=conditional),
        Choice("bootstrap: costs up to x, then V(x)", partly),
        Choice("bootstrap, less the baseline", partly, by_name, conditional),
        Choice("critics Q", q, nodes=critics),
        Choice("critics, less the baseline", q, by_name, {**critics, **conditional}),
    ]
    return {choice.name: choice for choice in found}
