"""The off-policy agents' graphs against exact gradients, tabular solutions and a regulator solved in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

import scg
from scg import Pathwise, ScoreFunction
from scg.agents.ddpg import ddpg
from scg.agents.networks.actors import DeterministicPolicy, SquashedPolicy
from scg.agents.networks.critics import QCritics, Temperature, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.squashed_normal import SquashedNormal
from scg.agents.sac import sac
from scg.agents.td3 import td3
from scg.estimators import LeaveOneOut
from tests.agents.networks.test_networks import BOX
from tests.agents.networks.test_squashed_normal import at_noise, hermite, legendre
from tests.agents.processes import ACTIONS, END, STATES, Process, gradient_of

DIM = 2


def rows(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    g = Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    action = draw(count, DIM).tanh()
    return {
        "obs": draw(count, 3), "action": action, "reward": draw(count),
        "discount": torch.full((count,), 0.9), "next_obs": draw(count, 3),
    }  # fmt: skip


class Nets:
    """Small networks of every kind, from one seed."""

    def __init__(self, count: int = 2) -> None:
        g, encoder = Generator().manual_seed(0), Encoder(BOX)
        self.policy = SquashedPolicy(encoder, DIM, [8], g)
        self.actor = DeterministicPolicy(encoder, DIM, [8], g)
        self.critics = QCritics(encoder, DIM, [8], count, g)
        self.temperature = Temperature(0.3)
        self.target_critics = target_copy(QCritics(encoder, DIM, [8], count, g))
        self.target_actor = target_copy(DeterministicPolicy(encoder, DIM, [8], g))

    def sac(self, **options: Any) -> scg.Graph:
        return sac(self.policy, self.critics, self.target_critics, self.temperature, -2.0, **options)

    def td3(self, **options: Any) -> scg.Graph:
        return td3(self.actor, self.critics, self.target_actor, self.target_critics, **options)

    def modules(self) -> dict[str, nn.Module]:
        return vars(self)


# -- objectives keep to what they train ------------------------------------------------------------------------


@pytest.mark.parametrize("actor", [Pathwise(smooth=True), ScoreFunction(), LeaveOneOut(samples=3)])
@pytest.mark.parametrize(
    ("cost", "trained"), [("bellman", "critics"), ("soft_policy", "policy"), ("entropy_gap", "temperature")]
)
def test_each_objective_of_sac_leaves_a_gradient_in_what_it_trains_alone(cost: str, trained: str, actor: scg.Estimator) -> None:
    nets = Nets()
    nets.sac(actor=actor).sample(**rows()).surrogate(cost).backward()
    reached = {name for name, module in nets.modules().items() if any(p.grad is not None for p in module.parameters())}
    assert reached == {trained}
    assert all(p.grad is not None for p in nets.modules()[trained].parameters())


@pytest.mark.parametrize(("cost", "trained"), [("bellman", "critics"), ("gain", "actor")])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_each_objective_of_td3_leaves_a_gradient_in_what_it_trains_alone(cost: str, trained: str, smoothing: float) -> None:
    nets = Nets()
    nets.td3(smoothing=smoothing).sample(**rows()).surrogate(cost).backward()
    reached = {name for name, module in nets.modules().items() if any(p.grad is not None for p in module.parameters())}
    assert reached == {trained}


# -- the actor's gradient --------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    """Critics that are known: Q(s, a) = −½ (a − g s)² h + c s a, and one that is larger by 1 everywhere or nowhere."""

    def __init__(self, above: float = 1.0) -> None:
        super().__init__()
        self.gain, self.curvature, self.slope = (nn.Parameter(torch.tensor(x)) for x in (0.7, 3.0, 0.4))
        self.above = above

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        q = -0.5 * self.curvature * (action - self.gain * obs).square() + self.slope * obs * action
        return torch.cat([q, q + self.above], -1)

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        return self(obs, action)[..., 0]


class LinearPolicy(nn.Module):
    """tanh of a Gaussian whose location and log-scale are linear in a one-dimensional observation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.8, -0.3]))
        self.bias = nn.Parameter(torch.tensor([0.1, -1.2]))

    def forward(self, obs: Tensor) -> SquashedNormal:
        loc, log_scale = (obs * self.weight + self.bias).chunk(2, -1)
        return SquashedNormal(loc, log_scale)


STATE, ALPHA = 0.6, 0.25


def one_state(count: int) -> dict[str, Tensor]:
    column = torch.full((count, 1), STATE)
    return {
        "obs": column, "action": column, "reward": torch.zeros(count),
        "discount": torch.full((count,), 0.9), "next_obs": column,
    }  # fmt: skip


def exact_soft_value(policy: nn.Module, critics: nn.Module) -> Tensor:
    """∫ π(a) (min Q(s, a) − α log π(a)) da at `STATE`, on a grid of actions: differentiable through the density alone."""
    a, w = legendre()
    obs = torch.full((600, 1), STATE)
    log_prob = policy(obs).log_prob(a[:, None])
    return (w * log_prob.exp() * (critics(obs, a[:, None]).amin(-1) - ALPHA * log_prob)).sum()


@pytest.mark.parametrize("actor", [Pathwise(smooth=True), ScoreFunction(), LeaveOneOut(samples=2)])
def test_sacs_actor_gradient_is_the_exact_one_whatever_its_estimator(
    actor: scg.Estimator, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over draws as a sum over Gauss–Hermite nodes, or over all pairs of them: no sampling noise."""
    policy, critics, temperature = LinearPolicy(), Quadratic(), Temperature(ALPHA)
    graph = sac(policy, critics, target_copy(critics), temperature, actor=actor)
    graph.sample(**one_state(1)).surrogate("soft_policy")  # examined on ordinary draws
    x, w = hermite(24)
    pairs = isinstance(actor, LeaveOneOut)
    nodes = torch.cartesian_prod(x, x)[..., None, None] if pairs else x[:, None, None]
    mass = torch.cartesian_prod(w, w).prod(-1) if pairs else w
    gradient = torch.zeros(4)
    for noise, share in zip(nodes, mass, strict=True):
        randn = torch.randn
        with monkeypatch.context() as patch:
            draw = lambda shape, noise=noise, **_: noise if shape == noise.shape else randn(shape)  # noqa: E731
            patch.setattr(torch, "randn", draw)
            with scg.examination(again=False):  # these draws are far in the tails
                surrogate = graph.sample(**one_state(1)).surrogate("soft_policy")
        found = torch.autograd.grad(surrogate, list(policy.parameters()))
        gradient += share * torch.cat([g.flatten() for g in found])
    (-exact_soft_value(policy, critics)).backward()
    assert torch.allclose(gradient, gradient_of(policy), atol=1e-7)


def test_a_soft_policy_without_its_entropy_would_be_noticed(double: None) -> None:
    """The biased twin: the gradient without α log π lies 0.05 away, half a million tolerances."""
    policy, critics = LinearPolicy(), Quadratic()
    (-exact_soft_value(policy, critics)).backward()
    full = gradient_of(policy)
    policy.zero_grad()
    a, w = legendre()
    obs = torch.full((600, 1), STATE)
    (-(w * policy(obs).log_prob(a[:, None]).exp() * critics(obs, a[:, None]).amin(-1)).sum()).backward()
    assert (gradient_of(policy) - full).abs().max() > 0.05


class Gain(nn.Module):
    """a = −k s, unsquashed: the regulator's policy."""

    dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor([[0.5, 0.9]]))

    def forward(self, obs: Tensor) -> Tensor:
        return -obs @ self.k.T


class Regulator(nn.Module):
    """s' = A s + B a, reward −(sᵀ s + a² / 2), discount γ: the action value of a linear policy is −(s, a)ᵀ M (s, a)."""

    gamma = 0.9

    def __init__(self, actor: Gain) -> None:
        super().__init__()
        self.a, self.b = torch.tensor([[1.0, 0.3], [0.0, 0.9]]), torch.tensor([[0.0], [0.5]])
        p = self.value(actor.k.detach())
        both = torch.cat([self.a, self.b], 1)  # s' = both (s, a)
        self.m = nn.Parameter(torch.diag(torch.tensor([1.0, 1.0, 0.5])) + self.gamma * both.T @ p @ both)

    def value(self, k: Tensor) -> Tensor:
        """P with V(s) = −sᵀ P s under a = −k s: the solution of a linear equation (a discrete Lyapunov equation)."""
        closed = self.a - self.b @ k
        cost = torch.eye(2) + 0.5 * k.T @ k
        square = torch.eye(4) - self.gamma * torch.kron(closed.T, closed.T)
        return torch.linalg.solve(square, cost.flatten()).reshape(2, 2)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.first(obs, action)[..., None]

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([obs, action], -1)
        return -torch.einsum("...i,ij,...j->...", x, self.m, x)

    def states(self, k: Tensor, start: Tensor, steps: int) -> Tensor:
        """The states that the policy visits from `start`, one row a step."""
        visited = [start]
        for _ in range(steps - 1):
            visited.append(visited[-1] @ (self.a - self.b @ k).T)
        return torch.stack(visited)


START = torch.tensor([1.0, -0.4], dtype=torch.float64)


def regulated() -> tuple[Gain, Regulator]:
    actor = Gain()
    return actor, Regulator(actor)


def fed(obs: Tensor) -> dict[str, Tensor]:
    nothing = torch.zeros(len(obs))
    return {"obs": obs, "action": nothing[:, None], "reward": nothing, "discount": nothing, "next_obs": obs}


def test_ddpgs_actor_gradient_is_that_of_a_regulators_return(double: None) -> None:
    """∇J = Σ_t γ^t ∇μ(s_t) ∇_a Q(s_t, a): summed over the visited states, against the derivative of −s₀ᵀ P(k) s₀."""
    actor, critic = regulated()
    graph = ddpg(actor, critic, target_copy(actor), target_copy(critic))  # type: ignore[arg-type]
    obs = critic.states(actor.k.detach(), START, 400)
    (expected,) = torch.autograd.grad(-START @ critic.value(actor.k) @ START, actor.k)
    gradient = torch.zeros(1, 2)
    for t, state in enumerate(obs):
        surrogate = graph.sample(**fed(state[None])).surrogate("gain")
        gradient -= critic.gamma**t * torch.autograd.grad(surrogate, actor.k)[0]  # a reward: its cost is negated
    assert torch.allclose(gradient, expected, rtol=1e-9)


def test_at_the_regulators_best_gain_the_actor_stands_still(double: None) -> None:
    """Riccati's gain, found by iterating the policy improvement that the critic's maximum is; then ∇ = 0 in every state."""
    actor, critic = regulated()
    for _ in range(50):
        m = Regulator(actor).m.detach()
        with torch.no_grad():
            actor.k.copy_(m[2:, :2] / m[2, 2])
    critic = Regulator(actor)
    graph = ddpg(actor, critic, target_copy(actor), target_copy(critic))  # type: ignore[arg-type]
    obs = torch.randn(32, 2, generator=Generator().manual_seed(0))
    graph.sample(**fed(obs)).surrogate("gain").backward()
    assert actor.k.grad is not None and actor.k.grad.abs().max() < 1e-10


# -- targets ---------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """Action values by (state, action): the observation is one-hot, the action −1 or 1."""

    def __init__(self, *tables: Tensor) -> None:
        super().__init__()
        self.tables = nn.Parameter(torch.stack(tables, -1))  # [states, actions, critics]

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.tables[obs.argmax(-1), ((action[..., 0] + 1) / 2).round().long()]

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        return self(obs, action)[..., 0] + 0.0 * action.sum(-1)


class Chooses(nn.Module):
    """A deterministic tabular policy."""

    dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.actions = nn.Parameter(torch.tensor([1.0, -1.0, 1.0]))

    def forward(self, obs: Tensor) -> Tensor:
        return self.actions[obs.argmax(-1)][..., None]


GAMMA = 0.8


def every_transition(process: Process) -> tuple[dict[str, Tensor], Tensor]:
    """All (s, a, s') as rows, and their probabilities given (s, a)."""
    s, a, x = torch.cartesian_prod(torch.arange(STATES), torch.arange(ACTIONS), torch.arange(STATES)).T
    eye = torch.eye(STATES)
    return {
        "obs": eye[s], "action": (2.0 * a - 1)[:, None], "reward": process.reward[s, a],
        "discount": GAMMA * (x != END).to(eye.dtype), "next_obs": eye[x],
    }, process.transition[s, a, x]  # fmt: skip


def solved(process: Process) -> Tensor:
    """Q of the policy `Chooses` by a linear solve: `END` is terminal, so nothing follows it."""
    choice = ((Chooses().actions.detach() + 1) / 2).long()
    alive = (torch.arange(STATES) != END).to(process.reward.dtype)
    chosen = torch.zeros(STATES * ACTIONS, STATES * ACTIONS)
    for s in range(STATES):
        for a in range(ACTIONS):
            for x in range(STATES):
                chosen[s * ACTIONS + a, x * ACTIONS + choice[x]] += process.transition[s, a, x] * alive[x]
    eye = torch.eye(STATES * ACTIONS)
    return torch.linalg.solve(eye - GAMMA * chosen, process.reward.flatten()).reshape(STATES, ACTIONS)


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_the_tabular_solution_and_the_regression_stands_still_there(seed: int, double: None) -> None:
    process = Process.random(seed)
    q, (given, probability) = solved(process), every_transition(process)
    critics, actor = Table(q, q + 0.5), Chooses()
    trace = ddpg(actor, critics, target_copy(actor), target_copy(critics)).sample(**given)  # type: ignore[arg-type]
    mean = (probability * trace["target"]).reshape(STATES, ACTIONS, STATES).sum(-1)
    assert torch.allclose(mean, q)  # the smaller of the two critics is the true one
    scaled = {**given, "importance": probability}
    ddpg(actor, critics, target_copy(actor), target_copy(critics)).sample(**scaled).surrogate("bellman").backward()  # type: ignore[arg-type]
    assert critics.tables.grad is not None
    assert critics.tables.grad[..., 0].abs().max() < 1e-12
    assert torch.allclose(critics.tables.grad[..., 1], torch.full((STATES, ACTIONS), 2 * 0.5 / (STATES * ACTIONS * STATES)))


def test_the_regression_finds_the_tabular_solution(double: None) -> None:
    """From zero, the targets following at once: value iteration for this policy."""
    process = Process.random(7)
    given, probability = every_transition(process)
    critics, actor = Table(torch.zeros(STATES, ACTIONS)), Chooses()
    targets = target_copy(critics)
    graph = ddpg(actor, critics, target_copy(actor), targets)  # type: ignore[arg-type]
    rate = STATES * ACTIONS * STATES / 2  # undoes the mean over rows and the square's 2
    for _ in range(200):
        critics.zero_grad()
        graph.sample(**given, importance=probability).surrogate("bellman").backward()
        with torch.no_grad():
            critics.tables -= rate * critics.tables.grad  # type: ignore[operator]
        targets.load_state_dict(critics.state_dict())
    assert torch.allclose(critics.tables[..., 0], solved(process), atol=1e-9)


def test_sacs_target_is_the_exact_soft_value(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """reward + discount · ∫ π (min Q̄ − α log π): the mean over next actions as a sum over Gauss–Hermite nodes."""
    policy, critics = LinearPolicy(), Quadratic(above=-0.3)  # here the second critic is the smaller one
    graph = sac(policy, critics, target_copy(critics), Temperature(ALPHA), -1.0)
    x, w = hermite(64)
    graph.sample(**one_state(64))
    at_noise(monkeypatch, x[:, None])
    given = {**one_state(64), "reward": torch.full((64,), 1.5)}
    mean = (w * graph.sample(**given)["target"]).sum()
    assert float(mean) == pytest.approx(1.5 + 0.9 * float(exact_soft_value(policy, critics).detach()), abs=1e-8)


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_after_a_termination_nothing_is_added_to_the_reward(name: str) -> None:
    nets, given = Nets(), rows()
    given["discount"] = torch.tensor([0.9, 0.0] * 3)
    trace = getattr(nets, name)().sample(**given)
    assert torch.equal(trace["target"][1::2], given["reward"][1::2])
    assert (trace["target"][::2] != given["reward"][::2]).all()


def test_smoothing_noise_is_clipped_and_stays_in_the_box() -> None:
    nets, given = Nets(), rows(500)
    trace = nets.td3(smoothing=0.5, clip=0.1).sample(**given)
    moved = trace["next_action"] - nets.target_actor(given["next_obs"])
    assert moved.abs().max() <= 0.1 + 1e-6
    assert moved.abs().median() > 0.09  # of N(0, 0.5²), 84 % lie outside ±0.1
    assert trace["next_action"].abs().max() <= 1.0
    assert torch.equal(nets.td3(smoothing=0.0).sample(**given)["next_action"], nets.target_actor(given["next_obs"]))


def test_the_temperature_falls_where_the_entropy_is_above_its_target() -> None:
    nets = Nets()
    trace = nets.sac().sample(**rows(200))
    surplus = float(-trace["log_prob"].mean()) + 2.0
    trace.surrogate("entropy_gap").backward()
    assert nets.temperature.log.grad is not None
    assert float(nets.temperature.log.grad) == pytest.approx(surplus, rel=1e-5)  # descending, log α falls with a surplus


def test_without_a_target_entropy_the_temperature_is_no_objective() -> None:
    nets = Nets()
    graph = sac(nets.policy, nets.critics, nets.target_critics, nets.temperature)
    assert "entropy_gap" not in graph.nodes


def test_importance_weighs_the_regression_alone() -> None:
    nets, given = Nets(), rows()
    share = torch.rand(6, generator=Generator().manual_seed(1))
    trace = nets.td3(smoothing=0.0).sample(**given, importance=share)
    plain = nets.td3(smoothing=0.0).sample(**given)
    assert torch.allclose(trace["bellman"], share * plain["bellman"])
    assert torch.equal(trace["gain"], plain["gain"])
