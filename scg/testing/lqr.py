"""A linear-quadratic regulator whose return, gradients, Fisher matrix and values are known in closed form.

    s_0 ~ N(m, diag(σ_0²))     s_{t+1} = A s_t + B a_t + σ_w w_t     c_t = s_tᵀ Q s_t + a_tᵀ R a_t,     t < horizon
    a_t ~ N(K s_t, diag(σ²)),  parameters K and log σ

    V_t(s) = sᵀ P_t s + p_t,    Q_t(s, a) = c(s, a) + γ E[V_{t+1}(s')],    E[s_t s_tᵀ] = M_t       by recursion, in cost units

Expectations over rollouts are sums over a grid of noise. A return times a score is a polynomial in the noise, of degree
4 at most in an action's and 3 in a state's, so that 3 and 2 Gauss–Hermite nodes integrate it to rounding; ratios
π/μ are exponentials, for which more nodes converge. Each path has its own copy of the policy's parameters: one backward
pass leaves every path's gradient in its own copy, to be weighed.

Observations are (s, t), so that a critic can be exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Independent, Normal

from scg.testing.per_path import close as close
from scg.testing.per_path import expected_gradient as expected_gradient


@dataclass(frozen=True)
class Quadratic:
    """`xᵀ m x + p`."""

    m: Tensor
    p: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,ij,...j->...", x, self.m, x) + self.p

    def __add__(self, other: Quadratic) -> Quadratic:
        return Quadratic(self.m + other.m, self.p + other.p)

    def __rmul__(self, factor: float) -> Quadratic:
        return Quadratic(factor * self.m, factor * self.p)

    def after(self, matrix: Tensor, scale: Tensor) -> Quadratic:
        """`x ↦ E[q(matrix x + N(0, diag(scale²)))]`."""
        return Quadratic(matrix.mT @ self.m @ matrix, self.p + (self.m.diagonal() * scale.square()).sum())


class Policy(nn.Module):
    """`a ~ N(K s, diag(σ²))`; K `[*paths, actions, states]`, log σ `[*paths, actions]`."""

    def __init__(self, gain: Tensor, log_scale: Tensor) -> None:
        super().__init__()
        self.gain, self.log_scale = nn.Parameter(gain.clone()), nn.Parameter(log_scale.clone())

    @classmethod
    def random(cls, seed: int, states: int = 2, actions: int = 1) -> Policy:
        g = Generator().manual_seed(seed)
        return cls(0.4 * torch.randn(actions, states, generator=g), 0.3 * torch.randn(actions, generator=g) - 0.3)

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()

    def forward(self, obs: Tensor) -> Independent:
        loc = (self.gain @ obs[..., : self.gain.shape[-1], None]).squeeze(-1)
        return Independent(Normal(loc, self.scale.expand_as(loc)), 1)

    def copies(self, count: int) -> Policy:
        """As many copies of the parameters, one a path."""
        return Policy(*(p.detach().expand(count, *p.shape) for p in (self.gain, self.log_scale)))

    def at(self, flat: Tensor) -> Policy:
        """The policy whose parameters are the parts of `flat`, differentiable in it."""
        other, size = Policy(self.gain.detach(), self.log_scale.detach()), self.gain.numel()
        del other.gain, other.log_scale
        other.gain, other.log_scale = flat[:size].view_as(self.gain), flat[size:]  # type: ignore[assignment]
        return other

    def flat(self) -> Tensor:
        return torch.cat([self.gain.flatten(-2), self.log_scale], -1)

    def gradients(self) -> Tensor:
        """`[*paths, parameters]`; 0 where a path has none."""
        gain, log_scale = (torch.zeros_like(p) if p.grad is None else p.grad for p in (self.gain, self.log_scale))
        return torch.cat([gain.flatten(-2), log_scale], -1)


class Critic(nn.Module):
    """`V_t(s)` from observations (s, t): a quadratic of its own at each time."""

    def __init__(self, values: list[Quadratic]) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.stack([value.m.detach() for value in values]))
        self.p = nn.Parameter(torch.stack([torch.as_tensor(value.p).detach() for value in values]))

    @classmethod
    def wrong(cls, lqr: LQR, seed: int = 0) -> Critic:
        g, n = Generator().manual_seed(seed), lqr.states
        return cls([Quadratic(torch.randn(n, n, generator=g), torch.randn((), generator=g)) for _ in range(lqr.horizon + 1)])

    def quadratics(self) -> list[Quadratic]:
        return [Quadratic(m, p) for m, p in zip(self.m.detach(), self.p.detach(), strict=True)]

    def forward(self, obs: Tensor) -> Tensor:
        s, t = obs[..., :-1], obs[..., -1].round().long()
        return torch.einsum("...i,...ij,...j->...", s, self.m[t], s) + self.p[t]


@dataclass(frozen=True)
class LQR:
    a: Tensor  # [states, states]
    b: Tensor  # [states, actions]
    q: Tensor  # [states, states], symmetric
    r: Tensor  # [actions, actions], symmetric
    noise: Tensor  # [states], σ_w
    start: Tensor  # [states], m
    spread: Tensor  # [states], σ_0
    horizon: int = 3
    gamma: float = 0.9

    @classmethod
    def random(cls, seed: int, states: int = 2, actions: int = 1, horizon: int = 3, gamma: float = 0.9) -> LQR:
        g = Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g)

        roots = draw(states, states), draw(actions, actions)
        q, r = (root @ root.mT / len(root) + 0.2 * torch.eye(len(root)) for root in roots)
        scales = 0.3 + 0.3 * torch.rand(2, states, generator=g)
        return cls(0.6 * draw(states, states), draw(states, actions), q, r, scales[0], draw(states), scales[1], horizon, gamma)

    @property
    def states(self) -> int:
        return len(self.a)

    @property
    def actions(self) -> int:
        return len(self.r)

    # -- closed forms ------------------------------------------------------------------------------------------

    def q_value(self, value: Quadratic) -> Quadratic:
        """`(s, a) ↦ c(s, a) + γ E[value(s')]`, of the stacked vector."""
        return Quadratic(torch.block_diag(self.q, self.r), torch.zeros(())) + self.gamma * self.ahead(value)

    def ahead(self, value: Quadratic) -> Quadratic:
        """`(s, a) ↦ E[value(s')]`."""
        return value.after(torch.cat([self.a, self.b], -1), self.noise)

    def under(self, q: Quadratic, policy: Policy) -> Quadratic:
        """`s ↦ E[q(s, a)]`."""
        stacked = torch.cat([torch.eye(self.states), policy.gain])
        return q.after(stacked, torch.cat([torch.zeros(self.states), policy.scale]))

    def values(self, policy: Policy) -> list[Quadratic]:
        """`V_0 … V_horizon`, the last one zero."""
        found = [Quadratic(torch.zeros(self.states, self.states), torch.zeros(()))]
        for _ in range(self.horizon):
            found.append(self.under(self.q_value(found[-1]), policy))
        return found[::-1]

    def q_values(self, policy: Policy) -> list[Quadratic]:
        """`Q_0 … Q_{horizon-1}`, of (s, a)."""
        return [self.q_value(value) for value in self.values(policy)[1:]]

    def moments(self, policy: Policy) -> list[Tensor]:
        """`E[s_t s_tᵀ]` for t < horizon."""
        m = [torch.outer(self.start, self.start) + self.spread.square().diag()]
        for _ in range(1, self.horizon):
            acted = self.b @ policy.scale.square().diag() @ self.b.mT
            closed = self.a + self.b @ policy.gain
            m.append(closed @ m[-1] @ closed.mT + acted + self.noise.square().diag())
        return m

    def cost(self, policy: Policy) -> Tensor:
        """`E Σ_t γ^t c_t`, differentiable as often as one likes."""
        value = self.values(policy)[0]
        return (value.m * self.moments(policy)[0]).sum() + value.p

    def gradient(self, policy: Policy, leading: bool = False, steps: int | None = None) -> Tensor:
        """`Σ_t E[∇_θ E_{a∼π} Q_t(s_t, a)]`, flat: the policy-gradient theorem, without or with the leading γ^t."""
        q = self.q_values(policy)
        terms = [self.gamma**t * x for t, x in enumerate(q)] if leading else q
        return self.policy_gradient(policy, terms[:steps])

    def hessian(self, policy: Policy) -> Tensor:
        """`∇² E Σ_t γ^t c_t`, `[parameters, parameters]`."""
        flat = policy.flat().detach()
        return torch.autograd.functional.hessian(lambda theta: self.cost(policy.at(theta)), flat)

    def policy_gradient(self, policy: Policy, advantages: list[Quadratic], acting: Policy | None = None) -> Tensor:
        """`Σ_t E_{s_t ∼ acting}[∇_θ E_{a∼π} advantage_t(s_t, a)]` for quadratics of (s, a)."""
        n, moments = self.states, self.moments(policy if acting is None else acting)
        gain, log_scale = torch.zeros_like(policy.gain), torch.zeros_like(policy.log_scale)
        for moment, advantage in zip(moments, advantages, strict=False):  # a block may be shorter than the process
            m = (advantage.m + advantage.m.mT).detach() / 2
            gain = gain + 2 * (m[n:, :n] + m[n:, n:] @ policy.gain) @ moment
            log_scale = log_scale + 2 * m[n:, n:].diagonal() * policy.scale.square()
        return torch.cat([gain.flatten(), log_scale]).detach()

    def lambda_advantages(self, policy: Policy, critic: list[Quadratic], lam: float) -> list[Quadratic]:
        """What GAE(γ, λ) is on average, by (s, a): `A_t = δ_t + γλ E[A_{t+1}(s', a')]`, a' ~ π; nothing after the end."""
        nothing = 0.0 * critic[-1]
        after: Quadratic = nothing
        found: list[Quadratic] = []
        for t in reversed(range(self.horizon)):
            following = critic[t + 1] if t + 1 < self.horizon else nothing
            here = Quadratic(torch.block_diag(critic[t].m, torch.zeros_like(self.r)), critic[t].p)
            advantage = self.q_value(following) + -1.0 * here + self.gamma * lam * self.ahead(after)
            found.insert(0, advantage)
            after = self.under(advantage, policy)
        return found

    def fisher(self, policy: Policy) -> Tensor:
        """The mean over steps of the policy's Fisher matrix: `σ⁻² ⊗ E[s sᵀ]` for K, 2 for every log σ."""
        moment = torch.stack(self.moments(policy)).mean(0)
        return torch.block_diag(
            torch.kron(policy.scale.square().reciprocal().diag(), moment), 2 * torch.eye(self.actions)
        ).detach()

    def divergence(self, policy: Policy, before: Policy) -> Tensor:
        """`Σ_t E_{s_t ∼ before} KL(before ‖ policy)`, differentiable in `policy`."""
        moved = policy.gain - before.gain.detach()
        total = torch.zeros(())
        for moment in self.moments(before):
            ratio = (before.scale.detach() / policy.scale).square()
            off = (moved @ moment.detach() @ moved.mT).diagonal() / policy.scale.square()
            total = total + ((ratio - ratio.log() - 1 + off) / 2).sum()
        return total

    # -- rollouts ----------------------------------------------------------------------------------------------

    def rollout(self, policy: Policy, noise: Noise, steps: int | None = None) -> dict[str, Tensor]:
        """What graphs replay, `[steps, paths, …]`, differentiable in the policy's parameters.

        A block of fewer steps than the horizon ends in a truncation.
        """
        steps = self.horizon if steps is None else steps
        s, rows = self.start + self.spread * noise.start, []
        for t in range(steps):
            a = s @ policy.gain.mT + policy.scale * noise.action[t]
            cost = ((s @ self.q) * s).sum(-1) + ((a @ self.r) * a).sum(-1)
            s_tp1 = s @ self.a.mT + a @ self.b.mT + self.noise * noise.state[t]
            rows.append((observation(s, t), a, -cost, observation(s_tp1, t + 1), policy(observation(s, t)).log_prob(a)))
            s = s_tp1
        names = ("obs", "action", "reward", "next_obs", "action.log_prob")
        given = {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
        step = torch.arange(steps)[:, None].expand(given["reward"].shape)
        return {**given, "first": step == 0, "terminated": step == self.horizon - 1}

    def recorded(self, policy: Policy, noise: Noise, value: nn.Module, steps: int | None = None) -> dict[str, Tensor]:
        """A rollout as the actor-critics' graphs take it: constants, with what the critic says of next states."""
        with torch.no_grad():
            given = self.rollout(policy, noise, steps)
            return {**given, "target": torch.zeros_like(given["reward"]), "next_value": value(given["next_obs"])}


def observation(s: Tensor, t: int) -> Tensor:
    return torch.cat([s, torch.full_like(s[..., :1], t)], -1)


# -- noise -----------------------------------------------------------------------------------------------------

Rule = tuple[Tensor, Tensor]  # nodes, weights


def hermite(nodes: int) -> Rule:
    """Gauss–Hermite for N(0, 1): exact for polynomials of degree 2 · nodes − 1."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    kind = torch.get_default_dtype()
    return torch.from_numpy(x).to(kind), torch.from_numpy(w / w.sum()).to(kind)


def even() -> Rule:
    """The three Gauss–Hermite nodes as six of equal weight, for what takes plain means."""
    return torch.tensor([-math.sqrt(3.0), 0.0, 0.0, 0.0, 0.0, math.sqrt(3.0)]), torch.full((6,), 1 / 6)


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers behind rollouts, or nodes in their place with the weights of their paths."""

    start: Tensor  # [paths, states]
    action: Tensor  # [horizon, paths, actions]
    state: Tensor  # [horizon, paths, states]
    weight: Tensor  # [paths], sum 1

    @classmethod
    def grid(cls, lqr: LQR, action: Rule | None = None, state: Rule | None = None, last: Rule | None = None) -> Noise:
        """Every combination of nodes; `last` is for the last step's state noise, which matters to a bootstrap alone."""
        action, state = action or hermite(3), state or hermite(2)
        t, n, m = lqr.horizon, lqr.states, lqr.actions
        rules = [state] * n + [action] * (t * m) + [state] * ((t - 1) * n) + [last or state] * n
        nodes = torch.cartesian_prod(*(rule[0] for rule in rules))
        weight = torch.cartesian_prod(*(rule[1] for rule in rules)).prod(-1)
        start, actions, states = nodes.split([n, t * m, t * n], -1)
        return cls(start, actions.unflatten(-1, (t, m)).movedim(1, 0), states.unflatten(-1, (t, n)).movedim(1, 0), weight)

    @classmethod
    def random(cls, lqr: LQR, paths: int, generator: Generator | None = None) -> Noise:
        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        t, n, m = lqr.horizon, lqr.states, lqr.actions
        return cls(draw(paths, n), draw(t, paths, m), draw(t, paths, n), torch.full((paths,), 1 / paths))
