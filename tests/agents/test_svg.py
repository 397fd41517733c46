"""SVG(0), SAC as first published, and the double-Q actor-critics: gradients and targets against exact ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from scg import Estimator, Graph, Pathwise, ScoreFunction
from scg.agents.double_q import Actors, ddqn_ac, dq_ac
from scg.agents.execution.options import OptionError
from scg.agents.experience import acting
from scg.agents.networks.actors import DeterministicPolicy
from scg.agents.networks.critics import QCritics, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.sac_v1 import StateValue, sac_v1
from scg.agents.svg import SVG, SteadyPolicy, svg
from scg.estimators import LeaveOneOut
from tests.agents.networks.test_networks import BOX
from tests.agents.networks.test_squashed_normal import at_noise, hermite, legendre
from tests.agents.processes import gradient_of
from tests.agents.test_off_policy_graphs import ALPHA, STATE, LinearPolicy, Quadratic, exact_soft_value, one_state, rows

# -- the actors' gradients -------------------------------------------------------------------------------------


class Height(nn.Module):
    """V(s), linear."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.9]))

    def forward(self, obs: Tensor) -> Tensor:
        return obs @ self.weight


def exact_value(policy: nn.Module, critics: nn.Module, entropy: float) -> Tensor:
    """∫ π(a) (min Q(s, a) − entropy · log π(a)) da at `STATE`, differentiable through the density alone."""
    a, w = legendre()
    log_prob = policy(torch.full((600, 1), STATE)).log_prob(a[:, None])
    values = critics(torch.full((600, 1), STATE), a[:, None]).amin(-1)
    return (w * log_prob.exp() * (values - entropy * log_prob)).sum()


def mean_gradient(graph: Graph, cost: str, policy: nn.Module, actor: Estimator, patch: pytest.MonkeyPatch) -> Tensor:
    """Over all draws, as a sum over Gauss–Hermite nodes or over all pairs of them."""
    graph.sample(**one_state(1)).surrogate(cost)  # examined on ordinary draws
    x, w = hermite(24)
    pairs = isinstance(actor, LeaveOneOut)
    nodes = torch.cartesian_prod(x, x)[..., None, None] if pairs else x[:, None, None]
    mass = torch.cartesian_prod(w, w).prod(-1) if pairs else w
    randn, gradient = torch.randn, torch.zeros(4)
    for noise, share in zip(nodes, mass, strict=True):
        with patch.context() as inside:
            draw = lambda shape, noise=noise, **_: noise if shape == noise.shape else randn(shape)  # noqa: E731
            inside.setattr(torch, "randn", draw)
            surrogate = graph.sample(**one_state(1)).surrogate(cost)
        gradient += share * torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, list(policy.parameters()))])
    return gradient


ESTIMATORS = [Pathwise(smooth=True), ScoreFunction(), LeaveOneOut(samples=2)]


@pytest.mark.parametrize("actor", ESTIMATORS)
def test_svgs_actor_gradient_is_the_exact_one_on_a_quadratic(
    actor: Estimator, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, critics = LinearPolicy(), Quadratic()
    gradient = mean_gradient(svg(policy, critics, target_copy(critics), actor), "gain", policy, actor, monkeypatch)
    (-exact_value(policy, critics, 0.0)).backward()
    assert torch.allclose(gradient, gradient_of(policy), atol=1e-7)


@pytest.mark.parametrize("actor", ESTIMATORS)
def test_the_first_sacs_actor_gradient_is_the_exact_one(
    actor: Estimator, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, critics, value = LinearPolicy(), Quadratic(), Height()
    graph = sac_v1(policy, critics, value, target_copy(value), ALPHA, actor)
    gradient = mean_gradient(graph, "soft_gain", policy, actor, monkeypatch)
    (-exact_soft_value(policy, critics)).backward()
    assert torch.allclose(gradient, gradient_of(policy), atol=1e-7)


def test_an_entropy_too_many_or_the_deterministic_gradient_would_be_noticed(double: None) -> None:
    """The biased twins: SAC's gradient for SVG's, and DDPG's at the policy's middle."""
    found = []
    for twin in ("exact", "entropy", "deterministic"):
        policy, critics = LinearPolicy(), Quadratic()
        if twin == "deterministic":
            obs = torch.full((1, 1), STATE)
            value = critics(obs, policy(obs).mode).amin(-1).sum()
        else:
            value = exact_value(policy, critics, ALPHA if twin == "entropy" else 0.0)
        (-value).backward()
        found.append(gradient_of(policy))
    assert (found[1] - found[0]).abs().max() > 0.05
    assert (found[2] - found[0]).abs().max() > 0.05


# -- targets ---------------------------------------------------------------------------------------------------


def test_svgs_target_is_the_exact_value_of_the_next_state(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, critics = LinearPolicy(), Quadratic(above=-0.3)  # here the second critic is the smaller one
    graph = svg(policy, critics, target_copy(critics))
    x, w = hermite(64)
    graph.sample(**one_state(64))
    at_noise(monkeypatch, x[:, None])
    mean = (w * graph.sample(**{**one_state(64), "reward": torch.full((64,), 1.5)})["target"]).sum()
    assert float(mean) == pytest.approx(1.5 + 0.9 * float(exact_value(policy, critics, 0.0).detach()), abs=1e-8)


def test_the_first_sac_regresses_its_value_on_the_exact_soft_value(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean gradient over draws is V − ∫ π (min Q − α log π), and vanishes where V is that."""
    policy, critics, value = LinearPolicy(), Quadratic(), Height()
    graph = sac_v1(policy, critics, value, target_copy(value), ALPHA)
    x, w = hermite(64)
    graph.sample(**one_state(64))
    at_noise(monkeypatch, x[:, None])
    soft = float(exact_soft_value(policy, critics).detach())
    trace = graph.sample(**one_state(64))
    assert float((w * trace["soft_value"]).sum().detach()) == pytest.approx(soft, abs=1e-8)
    (slope,) = torch.autograd.grad((w * trace["regression"]).sum(), value.weight)
    assert float(slope) == pytest.approx((STATE * 0.9 - soft) * STATE, abs=1e-8)


def test_the_first_sacs_target_is_the_slow_values(double: None) -> None:
    g, encoder, given = Generator().manual_seed(0), Encoder(BOX), rows()
    given["discount"] = torch.tensor([0.9, 0.0] * 3)
    policy, critics = SteadyPolicy(encoder, 2, [8], 0.3, g), QCritics(encoder, 2, [8], 2, g)
    value, slow = StateValue(encoder, [8], g), StateValue(encoder, [8], g)
    trace = sac_v1(policy, critics, value, slow, ALPHA).sample(**given)
    assert torch.allclose(trace["target"], given["reward"] + given["discount"] * slow(given["next_obs"]))
    assert not torch.allclose(trace["target"], given["reward"] + given["discount"] * value(given["next_obs"]))


class Pairs:
    def __init__(self) -> None:
        g, encoder = Generator().manual_seed(0), Encoder(BOX)
        self.actors = Actors(*(DeterministicPolicy(encoder, 2, [8], g) for _ in range(2)))
        self.old_actors = Actors(*(DeterministicPolicy(encoder, 2, [8], g) for _ in range(2)))
        self.critics, self.old_critics = (QCritics(encoder, 2, [8], 2, g) for _ in range(2))

    def graph(self) -> Graph:
        return dq_ac(self.actors, self.critics, self.old_actors, self.old_critics)


def test_each_actors_choice_is_judged_by_the_other_ones_critic(double: None) -> None:
    nets, given = Pairs(), rows()
    given["discount"] = torch.tensor([0.9, 0.0] * 3)
    trace = nets.graph().sample(**given)
    own = []
    for i in range(6):
        following = given["next_obs"][i : i + 1]
        for k, actor in enumerate((nets.old_actors.first, nets.old_actors.second)):
            q = nets.old_critics(following, actor(following))[0].detach()
            expected = float(given["reward"][i] + given["discount"][i] * q[1 - k])
            assert float(trace["target"][i, k]) == pytest.approx(expected)
            own.append(float(given["reward"][i] + given["discount"][i] * q[k]) - expected)
    assert max(map(abs, own)) > 0.01  # the actor's own critic would be noticed


def test_each_actor_climbs_its_own_critic(double: None) -> None:
    nets, given = Pairs(), rows()
    nets.graph().sample(**given).surrogate("gain").backward()
    for k, actor in enumerate((nets.actors.first, nets.actors.second)):
        other = target_copy(actor).requires_grad_()
        (-nets.critics(given["obs"], other(given["obs"]))[..., k].mean()).backward()
        assert torch.allclose(gradient_of(actor), gradient_of(other), atol=1e-12)


def test_double_dqns_actor_critic_asks_the_actor_as_it_is_and_the_old_critic(double: None) -> None:
    nets, given = Pairs(), rows()
    actor = nets.actors.first
    trace = ddqn_ac(actor, nets.critics, nets.old_critics).sample(**given)  # type: ignore[arg-type]
    following = given["next_obs"]
    expected = given["reward"] + 0.9 * nets.old_critics(following, actor(following)).amin(-1)
    assert torch.allclose(trace["target"], expected)
    old = given["reward"] + 0.9 * nets.old_critics(following, nets.old_actors.first(following)).amin(-1)
    assert not torch.allclose(trace["target"], old)


# -- the policy ------------------------------------------------------------------------------------------------


def test_acting_in_numpy_is_what_the_module_says() -> None:
    policy = SteadyPolicy(Encoder(BOX), 2, [8], 0.3, Generator().manual_seed(0))
    obs = torch.randn(5, 3)
    out = policy(obs)
    assert torch.allclose(out.log_scale, torch.full((5, 2), math.log(0.3)))
    assert np.allclose(acting.mode(policy)(obs.numpy()), out.mode.detach(), atol=1e-6)
    noise = torch.randn(1, 5, 2, generator=Generator().manual_seed(1))[0]
    drawn = acting.sampler(policy, Generator().manual_seed(1), 1, 5)(obs.numpy())
    assert np.allclose(drawn, (out.loc + 0.3 * noise).tanh().detach(), atol=1e-6)


def test_a_policy_without_noise_is_another_agents() -> None:
    with pytest.raises(OptionError, match=r"option noise is 0\. Give a number above 0; without noise it is ddpg"):
        SVG(noise=0)
