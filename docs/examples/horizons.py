"""A pendulum pushed at random, and the gradient of its cost for one gain: scg compare docs/examples/horizons.py:graph

    scg compare docs/examples/horizons.py:graph --node action --horizon 1,3,10,30,100,300 \
        --estimators "ScoreFunction,Pathwise,Mixed,TotalPropagation,AlphaOrder" --plot horizons.png

Upright the pendulum is unstable, so that a path's derivative grows exponentially with its length.
"""

import torch
from torch.distributions import Independent, Normal

import scg
from scg import prev
from scg.agents.dynamics.classic import Pendulum
from scg.estimators import ScoreFunction

pendulum = Pendulum()
graph = scg.Graph()
with graph.sequence():

    @graph.stochastic(ScoreFunction())
    def action(gain, state=prev("state", init="start")):
        return Independent(Normal(gain * state[..., :1].sin(), 0.3), 1)

    @graph.deterministic
    def state(action, before=prev("state", init="start")):
        return pendulum.transition(before, action.clamp(-3.0, 3.0))

    @graph.cost
    def cost(action, state):
        return 1.0 - state[..., 0].cos() + 0.01 * action.squeeze(-1) ** 2


inputs = {"gain": torch.tensor(-0.3, requires_grad=True), "start": 0.1 * torch.ones(64, 2)}
