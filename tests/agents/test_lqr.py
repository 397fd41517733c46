"""The agents' gradients on a linear-quadratic regulator: exact where they should be, as documented where they are biased.

Expectations are sums over grids of noise, exact to rounding where the integrand is a polynomial (`scg/testing/lqr.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import scg
from scg.agents.a2c import a2c
from scg.agents.common import trust_region
from scg.agents.common.on_policy import advantages
from scg.agents.experience.rollout import discounted_cost
from scg.agents.reinforce import reinforce
from scg.agents.trpo import line_search
from scg.estimators.baselines import MovingAverage
from scg.estimators.credit import GAE
from scg.testing import check_unbiased
from scg.testing.lqr import LQR, Critic, Noise, Policy, close, even, expected_gradient, hermite

pytestmark = pytest.mark.usefixtures("double")

Recorded = dict[str, Tensor]
Change = Callable[[Recorded], Recorded]


def case(seed: int = 0, **sizes: int) -> tuple[LQR, Policy, Noise]:
    lqr = LQR.random(seed, **sizes)
    return lqr, Policy.random(seed + 10, lqr.states, lqr.actions), Noise.grid(lqr)


# -- the closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_the_closed_forms_are_the_derivatives_of_the_simulated_return(seed: int) -> None:
    """The simulated cost is differentiated through the dynamics, with no score and no recursion in common."""
    lqr, policy, noise = case(seed, horizon=2, actions=2)
    power = lqr.gamma ** torch.arange(2.0)[:, None]

    def simulated(flat: Tensor) -> Tensor:
        return (noise.weight * power * -lqr.rollout(policy.at(flat), noise)["reward"]).sum()

    def closed(flat: Tensor) -> Tensor:
        return lqr.cost(policy.at(flat))

    flat = policy.flat().detach()
    assert simulated(flat).item() == pytest.approx(closed(flat).item(), rel=1e-12)
    (slope,) = torch.autograd.grad(simulated(flat.requires_grad_()), flat)
    assert close(lqr.gradient(policy, leading=True), slope)
    curvature = torch.autograd.functional.hessian(simulated, flat.detach())
    assert close(torch.autograd.functional.hessian(closed, flat.detach()), curvature)
    assert close(lqr.hessian(policy), curvature)


def test_the_values_are_the_mean_costs_to_go() -> None:
    lqr, policy, noise = case(3)
    given = lqr.rollout(policy, noise)
    critic = Critic(lqr.values(policy))
    residual = -given["reward"] + lqr.gamma * critic(given["next_obs"]) - critic(given["obs"])
    assert (noise.weight * residual).sum(-1).abs().max() < 1e-12 * given["reward"].abs().max()
    q = torch.stack([q(torch.cat([s[:, :-1], a], -1)) for q, s, a in zip(lqr.q_values(policy), given["obs"], given["action"])])
    mean_q = (noise.weight * q).sum(-1)
    assert torch.allclose(mean_q, (noise.weight * critic(given["obs"])).sum(-1), rtol=1e-12)


def test_the_fisher_matrix_is_the_mean_outer_product_of_scores_and_the_hessian_of_the_divergence() -> None:
    lqr, policy, noise = case(1, actions=2, horizon=2)
    copies, total = policy.copies(len(noise.weight)), torch.zeros(6, 6)
    given = {name: x.detach() for name, x in lqr.rollout(policy, noise).items()}
    for obs, action in zip(given["obs"], given["action"], strict=True):
        copies.zero_grad()
        copies(obs).log_prob(action).sum().backward()
        score = copies.gradients()
        total += torch.einsum("p,pi,pj->ij", noise.weight, score, score) / lqr.horizon
    assert close(lqr.fisher(policy), total)
    divergence = lambda flat: lqr.divergence(policy.at(flat), policy) / lqr.horizon  # noqa: E731
    assert close(torch.autograd.functional.hessian(divergence, policy.flat().detach()), total)


# -- REINFORCE -------------------------------------------------------------------------------------------------


def reinforced(
    lqr: LQR, policy: Policy, noise: Noise, value: Critic, baseline: str | nn.Module | None = "value", steps: int | None = None
) -> Tensor:
    copies = policy.copies(len(noise.weight))
    given = lqr.recorded(policy, noise, value, steps)
    cut = torch.zeros_like(given["terminated"])
    cut[-1] = ~given["terminated"][-1]
    after = torch.where(cut, given["next_value"], 0.0)
    cost_to_go = discounted_cost(-given["reward"], given["terminated"], cut, after, lqr.gamma)
    given = {name: given[name] for name in ("first", "obs", "action", "reward")} | {"cost_to_go": cost_to_go}
    return expected_gradient(reinforce(copies, value, baseline), given, copies, noise.weight)


@pytest.mark.parametrize("seed", range(2))
def test_reinforce_has_the_exact_gradient_whatever_its_baseline(seed: int) -> None:
    lqr, policy, noise = case(seed)
    level = MovingAverage()
    level.update(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 0.5]))  # of an earlier block
    for baseline in (None, level, "value"):
        assert close(reinforced(lqr, policy, noise, Critic.wrong(lqr, 1), baseline), lqr.gradient(policy))


def test_reinforce_on_a_block_cut_short_is_exact_with_an_exact_critic_and_with_no_other() -> None:
    lqr, policy, noise = case(2)
    exact = lqr.gradient(policy, steps=2)
    assert close(reinforced(lqr, policy, noise, Critic(lqr.values(policy)), steps=2), exact)
    assert not close(reinforced(lqr, policy, noise, Critic.wrong(lqr), steps=2), exact, to=0.01)


# -- A2C -------------------------------------------------------------------------------------------------------


def on_policy(
    lqr: LQR, policy: Policy, noise: Noise, value: Critic, lam: float, steps: int | None = None, change: Change = dict
) -> Tensor:
    copies = policy.copies(len(noise.weight))
    given = lqr.recorded(policy, noise, value, steps)
    del given["action.log_prob"]
    graph = a2c(copies, value, GAE(discount=lqr.gamma, lam=lam))
    return expected_gradient(graph, change(given), copies, noise.weight)


@pytest.mark.parametrize("sizes", [{}, {"actions": 2, "horizon": 2}])
def test_a2c_with_monte_carlo_advantages_has_the_exact_gradient_whatever_its_critic(sizes: dict[str, int]) -> None:
    lqr, policy, noise = case(0, **sizes)
    assert close(on_policy(lqr, policy, noise, Critic.wrong(lqr), lam=1.0), lqr.gradient(policy))


@pytest.mark.parametrize("steps", [3, 2])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_a2c_with_an_exact_critic_has_the_exact_gradient_at_any_lambda(lam: float, steps: int) -> None:
    lqr, policy, noise = case(1)
    found = on_policy(lqr, policy, noise, Critic(lqr.values(policy)), lam, steps)
    assert close(found, lqr.gradient(policy, steps=steps))


@pytest.mark.parametrize("lam", [0.0, 0.6])
def test_a2c_with_a_wrong_critic_has_the_documented_bias(lam: float) -> None:
    lqr, policy, noise = case(1)
    value = Critic.wrong(lqr)
    found = on_policy(lqr, policy, noise, value, lam)
    assert close(found, lqr.policy_gradient(policy, lqr.lambda_advantages(policy, value.quadratics(), lam)))
    assert not close(found, lqr.gradient(policy), to=0.01)  # it is a bias


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
    lqr, policy, noise = case(1)
    found = on_policy(lqr, policy, noise, Critic.wrong(lqr), lam=1.0, change=mistake)
    assert not close(found, lqr.gradient(policy), to=0.01)  # the tests above hold to 1e-10


# -- natural gradients -----------------------------------------------------------------------------------------


def rows_of(lqr: LQR, policy: Policy, value: Critic) -> tuple[scg.Graph, Recorded]:
    """A block that holds every path as often as it weighs, as the agents hand it to their steps: rows with advantages."""
    graph = a2c(policy, value, GAE(discount=lqr.gamma, lam=1.0))
    given = lqr.recorded(policy, Noise.grid(lqr, action=even(), last=hermite(1)), value)
    return graph, advantages(graph, value, given, standardise=False)


@pytest.mark.parametrize("sizes", [{"horizon": 3}, {"horizon": 2, "actions": 2}])
def test_the_natural_step_is_the_exact_one_of_the_return(sizes: dict[str, int]) -> None:
    lqr, policy, _ = case(0, **sizes)
    graph, rows = rows_of(lqr, policy, Critic.wrong(lqr))
    trace, parameters = graph.replay(rows), [policy.gain, policy.log_scale]
    gradient = trust_region.flat(torch.autograd.grad(trace.surrogate("gain", reduce="mean"), parameters, retain_graph=True))
    step = trust_region.natural_step(
        trust_region.fisher_product(trust_region.distribution(trace, "action"), parameters), gradient, 1e-3, 50
    )
    exact = lqr.gradient(policy) / lqr.horizon
    assert close(gradient, exact)
    direction = torch.linalg.solve(lqr.fisher(policy), exact)
    assert close(step, (2e-3 / (exact @ direction)).sqrt() * direction)
    plain = (2e-3 / (exact @ lqr.fisher(policy) @ exact)).sqrt() * exact
    assert not close(step, plain, to=0.1)


def test_trpos_search_measures_the_divergence_of_the_closed_form() -> None:
    lqr, policy, _ = case(0)
    graph, rows = rows_of(lqr, policy, Critic(lqr.values(policy)))
    trace, parameters, start = graph.replay(rows), [policy.gain, policy.log_scale], policy.flat().detach()
    now = trust_region.distribution(trace, "action")
    gradient = trust_region.flat(torch.autograd.grad(trace.surrogate("gain", reduce="mean"), parameters, retain_graph=True))
    change = trust_region.natural_step(trust_region.fisher_product(now, parameters), gradient, 0.02, 50)
    found = line_search(parameters, change, trust_region.detached(now), lambda: graph.replay(rows), kl=0.01, tries=20)
    moved, before = policy.at(policy.flat().detach()), policy.at(start)
    assert 0.005 < found["kl"] <= 0.01
    assert found["kl"] == pytest.approx(lqr.divergence(moved, before).item() / lqr.horizon, rel=1e-10)
    assert lqr.cost(moved) < lqr.cost(before)  # so near, what is better by the recording is better


# -- statistics, by the harness of the estimators --------------------------------------------------------------

EPISODES = 128  # behind each draw


def sequential(lqr: LQR, policy: Policy, value: Critic, lam: float) -> str:
    """The verdict on fresh random episodes: wrong with probability 1e-3 either way, on a bias of 5 % of the gradient."""
    given = lambda: lqr.recorded(policy, Noise.random(lqr, EPISODES), value)  # noqa: E731
    exact = policy.at(lqr.gradient(policy))
    report = check_unbiased(
        a2c(policy, value, GAE(discount=lqr.gamma, lam=lam)),
        {},
        policy,
        given=given,
        oracle={"policy.gain": exact.gain, "policy.log_scale": exact.log_scale},
        false_alarm=1e-3,
        detectable=0.05,
    )
    return report.verdict


def test_sampled_episodes_have_the_exact_gradient_on_average() -> None:
    lqr, policy, _ = case(1)
    assert sequential(lqr, policy, Critic(lqr.values(policy)), lam=0.95) == "unbiased"


def test_and_the_same_test_finds_the_bias_of_a_wrong_critic() -> None:
    lqr, policy, _ = case(1)
    value = Critic.wrong(lqr)
    bias = lqr.policy_gradient(policy, lqr.lambda_advantages(policy, value.quadratics(), 0.6)) - lqr.gradient(policy)
    assert bias.abs().max() > 0.05 * lqr.gradient(policy).abs().max()  # of a size that must not be missed
    assert sequential(lqr, policy, value, lam=0.6) == "biased"
