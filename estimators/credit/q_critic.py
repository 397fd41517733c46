"""A critic Q(s, a) as the credit of an action. A critic may enter a graph in two ways.

    (obs, action) → q       credit=QCritic("q")         ∇ = E[ Q(s, a) ∇log π(a|s) ]              any action
    (obs, action) → ⟨Q⟩     a cost, action Pathwise()   ∇ = E[ ∇_a Q(s, a) · ∇_θ a(θ, ε) ]        the gradient critic

The second one needs no credit: the critic is the cost of the action.

    @graph.stochastic(Pathwise())                  # a deterministic node is DPG; a recorded action whose noise
    def action(obs):                               # Pathwise infers is SVG(1); reparameterised, SAC's actor
        return policy(obs)

    @graph.cost(trains=policy)                     # the gradient passes through the critic without training it
    def expected_cost(obs, action):
        return critic(obs, action)

Both have the mean of the true gradient when Q is exact: of each step's action, at the states that its policy visits.
A critic of later variables (Weber et al. 2019), of y below x, is a node that reads y: credit=QCritic("of_y").

Sutton et al. (2000); Silver et al. (2014), DPG; Heess et al. (2015), SVG; Weber et al. (2019), sections 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Credit, Downstream
from scg.estimators.credit.bootstrap import read


@dataclass(frozen=True)
class QCritic(Credit):
    """The node `critic`, in cost units. Its inputs are held against the node's Markov set, unlike those of `credit="q"`."""

    critic: str = "q"

    @property
    def q_critics(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.critic,)

    def __call__(self, downstream: Downstream) -> Tensor:
        return read(downstream, self.critic, self)
