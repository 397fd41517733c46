"""The off-policy agents' gradients on a linear-quadratic regulator: the actors' at known action values, the critics' at their goal.

A row is a step of a path: its state, and the noise of its action, have the path's weight. Draws of an action are those of
the grid, so every mean is exact (`scg/testing/lqr.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import scg
from scg import Pathwise, ScoreFunction
from scg.agents.ddpg import ddpg
from scg.agents.networks.critics import Temperature, target_copy
from scg.agents.sac import sac
from scg.agents.svg import svg
from scg.testing.lqr import LQR, Noise, Policy, Quadratic, close

pytestmark = pytest.mark.usefixtures("double")

ALPHA = 0.3
ACTORS = [Pathwise(smooth=True), ScoreFunction()]


class ActionCritics(nn.Module):
    """`−Q_t(s, a)`, in reward units, from observations (s, t); the second critic is larger by 1, so it never counts."""

    def __init__(self, values: list[Quadratic]) -> None:
        super().__init__()
        values = [*values, values[0]]  # after the end it says what it likes
        self.m = nn.Parameter(torch.stack([value.m.detach() for value in values]))
        self.p = nn.Parameter(torch.stack([value.p.detach() for value in values]))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x, t = torch.cat([obs[..., :-1], action], -1), obs[..., -1].round().long()
        q = -torch.einsum("...i,...ij,...j->...", x, self.m[t], x) - self.p[t]
        return torch.stack([q, q + 1], -1)

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        return self(obs, action)[..., 0]


class Actor(nn.Module):
    """a = K s, a copy of K for each row."""

    def __init__(self, gain: Tensor, rows: int) -> None:
        super().__init__()
        self.dim, self.gain = gain.shape[0], nn.Parameter(gain.detach().expand(rows, *gain.shape).clone())

    def forward(self, obs: Tensor) -> Tensor:
        return (self.gain @ obs[..., :-1, None]).squeeze(-1)


class Rows:
    """Every step of every path; actions are drawn from the grid inside `drawn()`."""

    def __init__(self, lqr: LQR, acting: Policy) -> None:
        self.lqr, self.noise = lqr, Noise.grid(lqr, last=(torch.zeros(1), torch.ones(1)))
        with torch.no_grad():
            given = lqr.rollout(acting, self.noise)
        self.inputs = {name: given[name].flatten(0, 1) for name in ("obs", "action", "reward", "next_obs")}
        self.inputs["discount"] = lqr.gamma * (~given["terminated"]).double().flatten()
        self.weight = self.noise.weight.repeat(lqr.horizon)
        self.count = len(self.weight)

    def surrogate(self, graph: scg.Graph, cost: str, monkeypatch: pytest.MonkeyPatch, later: bool = False) -> Tensor:
        """With the noise of each row's own action, or of the `later` one, for whatever is drawn."""
        graph.sample(**self.inputs)  # examined on ordinary draws
        noise = self.noise.action.roll(-1, 0) if later else self.noise.action
        noise = noise.flatten(0, 1)
        with monkeypatch.context() as patch:
            patch.setattr("torch.distributions.normal._standard_normal", lambda shape, dtype, device: noise)
            patch.setattr(torch, "normal", lambda loc, scale: loc + scale * noise)
            return graph.sample(**self.inputs).surrogate(cost)

    def mean(self, gradients: Tensor) -> Tensor:
        """Of gradients `[rows, …]` of a surrogate that is itself the mean over rows; a sum over time."""
        return torch.einsum("r,r...->...", self.weight, gradients) * self.count


def case(seed: int = 0) -> tuple[LQR, Policy, Rows]:
    lqr, policy = LQR.random(seed), Policy.random(seed + 10)
    return lqr, policy, Rows(lqr, policy)


@pytest.mark.parametrize("actor", ACTORS)
def test_svg_has_the_gradient_of_the_return(actor: scg.Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    lqr, policy, rows = case()
    copies, critics = policy.copies(rows.count), ActionCritics(lqr.q_values(policy))
    rows.surrogate(svg(copies, critics, target_copy(critics), actor), "gain", monkeypatch).backward()
    assert close(rows.mean(copies.gradients()), lqr.gradient(policy))


@pytest.mark.parametrize("actor", ACTORS)
def test_sac_has_the_gradient_of_the_return_and_of_the_entropy_where_it_acts(
    actor: scg.Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Gaussian's entropy grows by 1 with each log σ, at each step."""
    lqr, policy, rows = case(1)
    copies, critics = policy.copies(rows.count), ActionCritics(lqr.q_values(policy))
    graph = sac(copies, critics, target_copy(critics), Temperature(ALPHA), actor=actor)
    rows.surrogate(graph, "soft_policy", monkeypatch).backward()
    entropy = torch.cat([torch.zeros(lqr.states * lqr.actions), torch.full((lqr.actions,), float(lqr.horizon))])
    assert close(rows.mean(copies.gradients()), lqr.gradient(policy) - ALPHA * entropy)


def test_ddpg_sees_the_states_of_the_behaviour_and_the_values_of_the_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Σ_t E_{s_t ∼ β}[∇K s · ∇_a Q^μ_t(s, a)], a = K s: not the gradient of the return, whose states are μ's."""
    lqr, exploring, rows = case(0)
    deterministic = Policy(torch.tensor([[0.3, -0.2]]), torch.tensor([-torch.inf]))
    critics = ActionCritics(lqr.q_values(deterministic))
    actor = Actor(deterministic.gain, rows.count)
    graph = ddpg(actor, critics, target_copy(actor), target_copy(critics))  # type: ignore[arg-type]
    rows.surrogate(graph, "gain", monkeypatch).backward()
    assert actor.gain.grad is not None
    found, gains = rows.mean(actor.gain.grad).flatten(), slice(lqr.states * lqr.actions)
    assert close(found, lqr.policy_gradient(deterministic, lqr.q_values(deterministic), acting=exploring)[gains])
    assert not close(found, lqr.gradient(deterministic)[gains], to=1.0)


def bellman(lqr: LQR, policy: Policy, rows: Rows, critics: ActionCritics, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The mean gradient of SVG's regression for the first critic: ½ Σ_t E ∇(q − target)², rows weighed by `importance`."""
    rows.inputs["importance"] = rows.weight * rows.count
    surrogate = rows.surrogate(svg(policy, critics, target_copy(critics)), "bellman", monkeypatch, later=True)
    return torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, [critics.m, critics.p])])


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def test_the_true_action_values_are_where_the_critics_regression_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    lqr, policy, rows = case(3)
    here, elsewhere = ActionCritics(lqr.q_values(policy)), ActionCritics(lqr.q_values(Policy.random(5)))
    rest = bellman(lqr, policy, rows, Single(here), monkeypatch)
    assert rest.norm() < 1e-10 * bellman(lqr, policy, rows, Single(elsewhere), monkeypatch).norm()


class Single(ActionCritics):
    """The first critic alone: the second one's goal is another."""

    def __init__(self, both: ActionCritics) -> None:
        nn.Module.__init__(self)
        self.m, self.p = both.m, both.p

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return super().forward(obs, action)[..., :1]


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda x: {**x, "discount": torch.full_like(x["discount"], 0.9)}, id="termination bootstrapped"),
        pytest.param(lambda x: {**x, "reward": -x["reward"]}, id="cost taken for reward"),
        pytest.param(lambda x: {**x, "next_obs": x["obs"]}, id="value of the step before"),
    ],
)
def test_a_biased_twin_moves_away_from_the_true_action_values(mistake: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    lqr, policy, rows = case(3)
    rows.inputs = mistake(rows.inputs)
    critics = Single(ActionCritics(lqr.q_values(policy)))
    assert bellman(lqr, policy, rows, critics, monkeypatch).norm() > 0.01  # the test above holds to rounding
