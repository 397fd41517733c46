"""The actor-critics' gradients: exact on a small decision process where they should be, as documented where they are biased.

Every path of the process is enumerated. Observations are one-hot in (time, state), so that a critic can be exact.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Distribution

import scg
from scg.agents.a2c import a2c
from scg.agents.common.on_policy import advantages, standardised
from scg.agents.ppo import ppo
from scg.estimators import Clipped
from scg.estimators.credit import GAE
from tests.agents.processes import ACTIONS, END, HORIZON, STATES, Process, gradient_of

pytestmark = pytest.mark.usefixtures("double")

GAMMA = 0.9
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Policy(nn.Module):
    """Softmax in the state, whatever the time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(STATES, ACTIONS, generator=Generator().manual_seed(seed)))

    def forward(self, obs: Tensor) -> Distribution:
        return Categorical(logits=obs.unflatten(-1, (HORIZON + 1, STATES)).sum(-2) @ self.weight)


class Critic(nn.Module):
    """A table over (time, state)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())

    def forward(self, obs: Tensor) -> Tensor:
        return obs @ self.table.flatten()


def one_hot(t: Tensor, s: Tensor) -> Tensor:
    return torch.eye((HORIZON + 1) * STATES)[t * STATES + s]


def probabilities(policy: nn.Module) -> Tensor:
    """`[state, action]`, with gradient."""
    return policy(one_hot(torch.zeros(STATES, dtype=torch.long), torch.arange(STATES))).probs


def expected_gradient(
    process: Process, graph: scg.Graph, policy: Policy, value: Critic, behaviour: Policy | None = None, change: Change = dict
) -> Tensor:
    """E[∇ surrogate("gain")] over every path of the policy that acts: `behaviour`, or the policy itself."""
    acting = policy if behaviour is None else behaviour
    mu = probabilities(acting).detach()
    total = torch.zeros_like(gradient_of(policy))
    for states, actions, last in process.paths(HORIZON):
        s, a, t = torch.tensor(states), torch.tensor(actions), torch.arange(len(actions))
        following = torch.tensor([*states[1:], last])
        probability = (mu[s, a] * process.transition[s, a, following]).prod()
        obs, next_obs = one_hot(t, s)[:, None], one_hot(t + 1, following)[:, None]
        given = {
            "first": (t == 0)[:, None],
            "terminated": (t == len(t) - 1)[:, None],
            "obs": obs,
            "next_obs": next_obs,
            "action": a[:, None],
            "reward": process.reward[s, a][:, None],
            "target": torch.zeros(len(t), 1),
            "next_value": value(next_obs).detach(),
        }
        if behaviour is not None:
            given["action.log_prob"] = mu[s, a].log()[:, None]
        policy.zero_grad()
        graph.replay(change(given)).surrogate("gain").backward()
        total += probability * gradient_of(policy)
    return total


def exact_gradient(process: Process, policy: Policy) -> Tensor:
    policy.zero_grad()
    pi = probabilities(policy)
    _, q = process.cost_to_go(pi.detach(), GAMMA)
    return weighed_by(process, pi, policy, lambda t: pi * q[t])


def weighed_by(process: Process, acting: Tensor, policy: Policy, term: Callable[[int], Tensor]) -> Tensor:
    """∇ Σ_t Σ_s P(s_t = s) Σ_a term_t(s, a), with the states met by `acting`."""
    policy.zero_grad()
    occupied, total, alive = torch.eye(STATES)[0], torch.zeros(()), torch.arange(STATES) != END
    for t in range(HORIZON):
        total = total + (occupied[:, None] * term(t)).sum()
        occupied = torch.where(alive, torch.einsum("s,sa,sax->x", occupied, acting.detach(), process.transition), 0.0)
    total.backward()
    return gradient_of(policy)


def exact_critic(process: Process, policy: Policy) -> Critic:
    table, _ = process.cost_to_go(probabilities(policy).detach(), GAMMA)
    return Critic(table)


def wrong_critic(seed: int = 0) -> Critic:
    return Critic(torch.randn(HORIZON + 1, STATES, generator=Generator().manual_seed(seed)))


@pytest.mark.parametrize("seed", range(2))
def test_monte_carlo_advantages_give_the_exact_gradient_with_any_critic(seed: int) -> None:
    process, policy, value = Process.random(seed), Policy(seed), wrong_critic(seed)
    found = expected_gradient(process, a2c(policy, value, GAE(discount=GAMMA, lam=1.0)), policy, value)
    exact = exact_gradient(process, policy)
    assert exact.norm() > 0.05
    assert torch.allclose(found, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_an_exact_critic_gives_the_exact_gradient_at_any_lambda(lam: float) -> None:
    process, policy = Process.random(1), Policy(1)
    value = exact_critic(process, policy)
    found = expected_gradient(process, a2c(policy, value, GAE(discount=GAMMA, lam=lam)), policy, value)
    assert torch.allclose(found, exact_gradient(process, policy), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_a_wrong_critic_gives_the_documented_bias(lam: float) -> None:
    """The mean advantage obeys A_t(s, a) = E[δ_t] + γλ E[Σ_a' π A_{t+1}(s', a')], by dynamic programming."""
    process, policy, value = Process.random(1), Policy(1), wrong_critic()
    pi = probabilities(policy).detach()
    table, alive = value.table.detach(), (torch.arange(STATES) != END).double()
    advantage, after = [], torch.zeros(STATES)
    for t in reversed(range(HORIZON)):
        follows = alive * table[t + 1] if t + 1 < HORIZON else torch.zeros(STATES)
        delta = -process.reward + GAMMA * process.transition @ follows - table[t][:, None]
        now = delta + GAMMA * lam * process.transition @ after
        advantage.insert(0, now)
        after = alive * (pi * now).sum(-1)
    live = probabilities(policy)
    documented = weighed_by(process, pi, policy, lambda t: live * advantage[t])
    found = expected_gradient(process, a2c(policy, value, GAE(discount=GAMMA, lam=lam)), policy, value)
    assert torch.allclose(found, documented, rtol=1e-10, atol=1e-12)
    exact = exact_gradient(process, policy)
    assert (found - exact).norm() > 1e-3 * exact.norm()  # it is a bias


def test_ppo_at_ratio_one_follows_the_policy_gradient() -> None:
    process, policy = Process.random(1), Policy(1)
    value = exact_critic(process, policy)
    same = Policy(1)
    found = expected_gradient(process, ppo(policy, value, GAE(discount=GAMMA, lam=0.6)), policy, value, same)
    assert torch.allclose(found, exact_gradient(process, policy), rtol=1e-10, atol=1e-12)


class Optimistic(Clipped):
    """The twin with the sign wrong: the minimum, as in reward units, on costs."""

    def combine(self, weight: Tensor, credit: Tensor) -> Tensor:
        return torch.minimum(weight * credit, weight.clamp(1 - self.clip, 1 + self.clip) * credit)


def test_ppo_away_from_ratio_one_has_the_clipped_gradient_and_no_other() -> None:
    """Σ_t P_μ(s_t) Σ_a μ Σ_s' P ∇ max(r δ, clip(r) δ) with λ = 0, summed by hand."""
    process, policy, behaviour = Process.random(1), Policy(1), Policy(5)
    value, mu = exact_critic(process, behaviour), probabilities(behaviour).detach()
    table, alive = value.table.detach(), (torch.arange(STATES) != END).double()
    ratio = probabilities(policy) / mu
    assert ((ratio - 1).abs() > 0.2).any() and ((ratio - 1).abs() < 0.2).any()

    def term(t: int) -> Tensor:
        follows = alive * table[t + 1] if t + 1 < HORIZON else torch.zeros(STATES)
        delta = -process.reward[..., None] + GAMMA * follows - table[t][:, None, None]  # [state, action, next state]
        pessimistic = torch.maximum(ratio[..., None] * delta, ratio.clamp(0.8, 1.2)[..., None] * delta)
        return (mu[..., None] * process.transition * pessimistic).sum(-1)

    documented = weighed_by(process, mu, policy, term)
    graph = ppo(policy, value, GAE(discount=GAMMA, lam=0.0))
    found = expected_gradient(process, graph, policy, value, behaviour)
    assert torch.allclose(found, documented, rtol=1e-10, atol=1e-12)
    twin = expected_gradient(process, graph.with_estimators(action=Optimistic(0.2)), policy, value, behaviour)
    assert (twin - documented).norm() > 0.05 * documented.norm()


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(lambda g: {**g, "terminated": torch.zeros_like(g["terminated"])}, id="termination bootstrapped"),
        pytest.param(lambda g: {**g, "next_value": g["next_value"].roll(1, 0)}, id="value of the step before"),
        pytest.param(lambda g: {**g, "reward": -g["reward"]}, id="cost taken for reward"),
        pytest.param(lambda g: {**g, "first": torch.ones_like(g["first"])}, id="every step an episode"),
    ],
)
def test_a_biased_twin_is_caught(mistake: Change) -> None:
    process, policy, value = Process.random(1), Policy(1), wrong_critic()
    graph = a2c(policy, value, GAE(discount=GAMMA, lam=1.0))
    exact = exact_gradient(process, policy)
    found = expected_gradient(process, graph, policy, value, change=mistake)
    assert (found - exact).norm() > 1e-3 * exact.norm()  # the tests above hold to 1e-10


def recording(steps: int = 5, batch: int = 3) -> dict[str, Tensor]:
    g = Generator().manual_seed(3)
    obs = torch.randn(steps, batch, (HORIZON + 1) * STATES, generator=g)
    return {
        "first": torch.rand(steps, batch, generator=g) < 0.3,
        "terminated": torch.rand(steps, batch, generator=g) < 0.2,
        "obs": obs,
        "next_obs": torch.randn(obs.shape, generator=g),
        "action": torch.randint(ACTIONS, (steps, batch), generator=g),
        "reward": torch.randn(steps, batch, generator=g),
        "target": torch.zeros(steps, batch),
        "action.log_prob": -torch.rand(steps, batch, generator=g),
    }


def test_the_minibatch_loss_is_the_hand_written_one() -> None:
    """Clip, entropy bonus, KL penalty and regression, in reward units as the papers write them."""
    policy, value, before, beta = Policy(0), wrong_critic(), Policy(1).requires_grad_(False), torch.tensor(0.7)
    graph = ppo(policy, value, GAE(discount=GAMMA, lam=0.6), 0.2, 0.01, (before, beta), 0.5)
    rows = advantages(graph, value, recording())
    index = torch.tensor([3, 14, 0, 7])
    chosen = {name: x[:, index] for name, x in rows.items()}
    loss = graph.replay(chosen).surrogate("gain", "regression", "entropy", "nearness", reduce="mean")
    parameters = [*policy.parameters(), *value.parameters()]
    found = torch.autograd.grad(loss, parameters)

    pi, mu = policy(chosen["obs"]), before(chosen["obs"])
    ratio, gain = (pi.log_prob(chosen["action"]) - chosen["action.log_prob"]).exp(), -chosen["action.credit"]
    surrogate = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
    regression = 0.5 * (value(chosen["obs"]) - chosen["target"]).square().mean()
    kl = (mu.probs * (mu.probs / pi.probs).log()).sum(-1).mean()
    by_hand = -surrogate + regression - 0.01 * pi.entropy().mean() + 0.7 * kl
    for ours, theirs in zip(found, torch.autograd.grad(by_hand, parameters), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-13)


def test_the_entropy_bonus_is_no_part_of_the_return() -> None:
    """An action does not answer for the entropy of later states: the advantages are the rewards' alone."""
    policy, value, given = Policy(0), wrong_critic(), recording()
    plain, bonus = (a2c(policy, value, GAE(), weight) for weight in (0.0, 5.0))
    assert torch.equal(*(advantages(graph, value, given)["action.credit"] for graph in (plain, bonus)))


def test_standardising_keeps_the_direction_but_for_a_constant_baseline() -> None:
    credit = torch.randn(50, 4, generator=Generator().manual_seed(0)) * 3 + 1
    scaled = standardised(credit)
    assert scaled.mean().abs() < 1e-12
    assert scaled.std().item() == pytest.approx(1.0)
    assert torch.allclose(scaled * credit.std() + credit.mean(), credit)
    assert standardised(torch.ones(1, 1)).item() == 1.0
    assert not standardised(torch.ones(3, 1)).any()
