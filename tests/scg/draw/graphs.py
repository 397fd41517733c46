"""Graphs to draw and derive: the paper's five, a mixed one, objectives, and sequences."""

from __future__ import annotations

from torch import nn
from torch.distributions import Bernoulli, Normal

import scg
from scg import Graph, Pathwise, ScoreFunction, detach, dist, prev
from scg.estimators import LeaveOneOut, NoGradient
from scg.estimators.credit import GAE


def first() -> Graph:
    graph = Graph()
    graph.deterministic(lambda theta: theta**2, name="x")
    graph.stochastic(ScoreFunction(), lambda x: Normal(x, 1.0), name="y")
    graph.cost(lambda y: y**2, name="f")
    return graph


def second() -> Graph:
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.deterministic(lambda x: x**2, name="y")
    graph.cost(lambda y: y, name="f")
    return graph


def third() -> Graph:
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.stochastic(ScoreFunction(), lambda x: Normal(x, 1.0), name="y")
    graph.cost(lambda y: y**2, name="f")
    return graph


def fourth() -> Graph:
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.deterministic(lambda theta: theta**2, name="y")
    graph.cost(lambda x, y: x * y, name="f")
    return graph


def fifth() -> Graph:
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta, x0: Normal(theta + x0, 1.0), name="x1")
    graph.stochastic(ScoreFunction(), lambda theta, x1: Normal(theta + x1, 1.0), name="x2")
    graph.cost(lambda x1: x1**2, name="f1")
    graph.cost(lambda x2: x2**2, name="f2")
    return graph


FIVE = (
    (first, "E_y[ f(y) ]", "∂x/∂θ ∂/∂x log p(y | x) f(y)"),
    (second, "E_x[ f(y(x)) ]", "∂/∂θ log p(x; θ) f(y(x))"),
    (third, "E_{x,y}[ f(y) ]", "∂/∂θ log p(x; θ) f(y)"),
    (fourth, "E_x[ f(x, y(θ)) ]", "∂/∂θ log p(x; θ) f(x, y(θ)) + ∂y/∂θ ∂f/∂y"),
    (
        fifth,
        "E_{x₁,x₂}[ f₁(x₁) + f₂(x₂) ]",
        "∂/∂θ log p(x₁; θ, x₀) (f₁(x₁) + f₂(x₂)) + ∂/∂θ log p(x₂; θ, x₁) f₂(x₂)",
    ),
)


def mixed() -> Graph:
    """θ → a → b, a and b → z (pathwise) → y (score); two costs and a reward."""
    graph = Graph()

    @graph.deterministic
    def a(theta):
        return theta.sin()

    @graph.deterministic
    def b(theta, a):
        return theta * a

    @graph.stochastic(Pathwise())
    def z(a, b):
        return Normal(a - b, 0.5 + a**2)

    @graph.stochastic(ScoreFunction(), baseline=0.5)
    def y(z, a):
        return Bernoulli(logits=z + a)

    @graph.cost
    def f(y, z):
        return (1 + y) * z**2

    @graph.reward
    def r(z, q=detach("y")):
        return z * q

    return graph


def sac() -> Graph:
    """Two objectives that train different modules."""
    actor, critics, target_critics = nn.Linear(2, 2), nn.Linear(4, 1), nn.Linear(4, 1).requires_grad_(False)
    graph = scg.Graph()

    @graph.stochastic(NoGradient())
    def next_action(next_obs):
        return Normal(actor(next_obs), 1.0)

    @graph.deterministic
    def target(reward, next_obs, next_action, pi=dist("next_action")):
        return reward + target_critics(scg.cat([next_obs, next_action])) - pi.log_prob(next_action)

    @graph.cost(trains=critics)
    def bellman(obs, action, y=detach("target")):
        return (critics(scg.cat([obs, action])) - y).square().sum(-1)

    @graph.stochastic(Pathwise())
    def new_action(obs):
        return Normal(actor(obs), 1.0)

    @graph.cost(trains=actor)
    def soft_policy(obs, new_action, pi=dist("new_action")):
        return pi.log_prob(new_action).sum(-1) - critics(scg.cat([obs, new_action])).sum(-1)

    return graph


def actor_critic() -> Graph:
    """A sequence with an observed environment, a credit with a critic, and a baseline function elsewhere."""
    policy, value = nn.Linear(2, 2), nn.Linear(2, 1)
    graph = Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs", parents=[prev("obs"), prev("action")])
        graph.deterministic(value, name="value", parents=["obs"])
        graph.deterministic(value, name="next_value", parents=["obs"])
        graph.observed("terminated", parents=["obs", "action"])

        @graph.stochastic(ScoreFunction(), credit=GAE(lam=0.9))
        def action(obs):
            return Normal(policy(obs), 1.0)

        graph.observed("reward", parents=["obs", "action"])
        graph.reward(lambda reward: reward, name="gain", trains=policy)
    return graph


def recurrent() -> Graph:
    """A recurrent state, pathwise dynamics, a scored action; a cost at each step and one at the end."""
    graph = Graph()
    graph.deterministic(lambda theta: theta / 2, name="h0")
    with graph.sequence():

        @graph.deterministic
        def h(theta, h=prev("h", init="h0"), a=prev("action", init="a0")):
            return theta * h + a

        @graph.stochastic(Pathwise())
        def s(h):
            return Normal(h, 1.0)

        @graph.stochastic(LeaveOneOut(samples=2), baseline=lambda s: s)
        def action(s, phi):
            return Bernoulli(logits=s + phi)

        @graph.cost
        def step(s, a=prev("action", init="a0")):
            return s * a

    graph.cost(lambda s: s, name="final")
    return graph


def odd_names() -> Graph:
    """Every character that a drawing language could stumble over."""
    graph = Graph()
    strange = 'x "q" <b>&\\'
    graph.stochastic(ScoreFunction(), lambda a: Normal(a, 1.0), name=strange, parents=["in->put|{}"])
    graph.deterministic(lambda a: a, name="end; graph [x]\n#1", parents=[strange])
    graph.deterministic(lambda a: a, name="$\\alpha_$ %", parents=[strange])
    graph.cost(lambda a: a, name="end", parents=["end; graph [x]\n#1"])
    graph.cost(lambda a: a, name="tail\\", parents=["$\\alpha_$ %"])
    return graph


EVERY = (first, second, third, fourth, fifth, mixed, sac, actor_critic, recurrent, odd_names)
