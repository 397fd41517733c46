"""CrossQ: its losses against hand-written ones, what may mix the batch, and its running moments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

import scg
from scg.agents.crossq import CrossQ, crossq
from scg.agents.networks.actors import SquashedPolicy
from scg.agents.networks.batch_renorm import D_MAX, EPS, R_MAX, RenormalisedCritics
from scg.agents.networks.critics import Temperature, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.sac import sac
from scg.estimators import LeaveOneOut
from tests.agents.networks.test_networks import BOX
from tests.agents.test_off_policy_graphs import DIM, rows

ALPHA = 0.3


class Nets:
    """Small networks, their running moments apart from what any minibatch has."""

    def __init__(self, renorm: bool = True) -> None:
        g, encoder = Generator().manual_seed(0), Encoder(BOX)
        self.policy = SquashedPolicy(encoder, DIM, [8], g)
        self.critics = RenormalisedCritics(encoder, DIM, [8, 6], 2, g, 0 if renorm else None)
        self.temperature = Temperature(ALPHA)
        with torch.no_grad():
            for p in [*self.critics.running.means, *self.critics.body.shifts]:
                p.uniform_(-0.5, 0.5, generator=g)
            for p in [*self.critics.running.variances, *self.critics.body.scales]:
                p.uniform_(0.3, 2.0, generator=g)

    def graph(self, **options: Any) -> scg.Graph:
        return crossq(self.policy, self.critics, self.temperature, -2.0, **options)


def by_hand(critics: RenormalisedCritics, which: int, x: Tensor, training: bool) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """One critic, layer after layer, on rows `[rows, n]`: its values, and the moments of the rows before each layer."""
    found = []
    for i, layer in enumerate(critics.body.layers):
        own = which if i else 0
        mean, variance = critics.running.means[i][own, 0], critics.running.variances[i][own, 0]
        if training:
            m, v = x.mean(0), x.var(0, correction=0)
            found.append((m, v))
            r, d = torch.ones(()), torch.zeros(())
            if critics.renorm_from is not None:
                r = ((v + EPS).sqrt() / (variance + EPS).sqrt()).clamp(1 / R_MAX, R_MAX).detach()
                d = ((m - mean) / (variance + EPS).sqrt()).clamp(-D_MAX, D_MAX).detach()
            x = (x - m) / (v + EPS).sqrt() * r + d
        else:
            x = (x - mean) / (variance + EPS).sqrt()
        x = x * critics.body.scales[i][which, 0] + critics.body.shifts[i][which, 0]
        x = x @ layer.weight[which] + layer.bias[which, 0]  # type: ignore[index,operator]
        if i < len(critics.body.layers) - 1:
            x = x.relu()
    return x[:, 0], found


@pytest.mark.parametrize("renorm", [True, False])
@pytest.mark.parametrize("ahead", ["joint", "separate", "target"])
def test_the_regressions_are_the_hand_written_ones(ahead: Any, renorm: bool, double: None) -> None:
    nets, given = Nets(renorm), rows(7)
    old = target_copy(Nets(renorm).critics)
    with torch.no_grad():
        old.body.layers[0].weight.mul_(1.3)  # type: ignore[union-attr,operator,index]
    trace = nets.graph(ahead=ahead, target_critics=old if ahead == "target" else None).sample(**given)
    action = trace["next_action"]
    here, there = torch.cat([given["obs"], given["action"]], -1), torch.cat([given["next_obs"], action], -1)
    q, following, moments = [], [], []
    for k in range(2):
        if ahead == "joint":
            both, found = by_hand(nets.critics, k, torch.cat([here, there]), True)
            mine, theirs = both[:7], both[7:]
        else:
            mine, found = by_hand(nets.critics, k, here, True)
            theirs = by_hand(old if ahead == "target" else nets.critics, k, there, ahead == "separate")[0]  # type: ignore[arg-type]
        q.append(mine), following.append(theirs), moments.append(found)
    entropy = ALPHA * nets.policy(given["next_obs"]).log_prob(action)
    target = (given["reward"] + given["discount"] * (torch.stack(following).amin(0) - entropy)).detach()
    loss = sum((mine - target).square() for mine in q).mean() / 2
    weights = list(nets.critics.body.parameters())
    expected = torch.autograd.grad(loss, weights)
    gradient = torch.autograd.grad(trace.surrogate("bellman"), weights, retain_graph=True)
    assert torch.allclose(trace["bellman"].mean(), loss)
    for ours, theirs in zip(gradient, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)

    running = list(nets.critics.running.parameters())
    found = torch.autograd.grad(trace.surrogate("moments"), running)
    layers = len(nets.critics.body.layers)
    for i in range(layers):
        for k in range(2 if i else 1):
            m, v = moments[k][i]
            assert torch.allclose(found[i][k, 0], nets.critics.running.means[i][k, 0] - m)
            assert torch.allclose(found[layers + i][k, 0], nets.critics.running.variances[i][k, 0] - v)


def test_the_actors_critics_use_the_running_moments_and_mix_nothing(double: None) -> None:
    nets, given = Nets(), rows(5)
    values = nets.critics(given["obs"], given["action"])
    for k in range(2):
        expected = by_hand(nets.critics, k, torch.cat([given["obs"], given["action"]], -1), False)[0]
        assert torch.allclose(values[:, k], expected)
    assert torch.allclose(nets.critics(given["obs"][2:3], given["action"][2:3])[0], values[2])
    alone = nets.critics.fitted((given["obs"][:2], given["action"][:2]))[0]
    together = nets.critics.fitted((given["obs"], given["action"]))[0][:2]
    assert (alone - together).abs().max() > 0.01


def test_renormalised_values_are_those_of_the_running_moments_where_nothing_is_clipped(
    double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(x − μ_B)/σ_B · σ_B/σ + (μ_B − μ)/σ = (x − μ)/σ. With batch normalisation they are not."""
    given = rows(40)
    for limit in ("R_MAX", "D_MAX"):
        monkeypatch.setattr(f"scg.agents.networks.batch_renorm.{limit}", 1e9)
    for renorm in (True, False):
        nets = Nets(renorm)
        fitted = nets.critics.fitted((given["obs"], given["action"]))[0].squeeze(-2)
        difference = (fitted - nets.critics(given["obs"], given["action"])).abs().max()
        assert difference < 1e-9 if renorm else difference > 0.01


@pytest.mark.parametrize("actor", [None, LeaveOneOut(samples=3)])
def test_the_check_lets_the_critics_mix_where_no_weight_multiplies(actor: scg.Estimator | None, double: None) -> None:
    torch.manual_seed(0)
    nets = Nets()
    assert [f for f in nets.graph(actor=actor).check(**rows(16)) if f.severity == "error"] == []


class Training(nn.Module):
    """The critics as a normalisation in training mode: by the moments of whatever rows they get."""

    def __init__(self, critics: RenormalisedCritics) -> None:
        super().__init__()
        self.critics = critics

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        flat = obs.expand(*action.shape[:-1], obs.shape[-1]).flatten(0, -2), action.flatten(0, -2)
        return self.critics.fitted(flat)[0].reshape(*action.shape[:-1], 2)


@pytest.mark.parametrize("actor", [None, LeaveOneOut(samples=3)])
def test_critics_that_mix_are_refused_below_a_likelihood_ratio_alone(actor: scg.Estimator | None, double: None) -> None:
    torch.manual_seed(0)
    nets = Nets(renorm=False)
    critics, old = Training(nets.critics), Training(target_copy(nets.critics))  # type: ignore[arg-type]
    graph = sac(nets.policy, critics, old, nets.temperature, actor=actor)
    errors = [f.node for f in graph.check(**rows(16)) if f.severity == "error"]
    assert errors == ([] if actor is None else ["soft_policy"])


def test_running_moments_follow_the_minibatches_and_only_their_objective(double: None) -> None:
    """A step of the agent: μ goes 1 % of the way to the minibatch's, at every step, whatever the actor's delay."""
    config = CrossQ(hidden=(4,), critic_hidden=(4,), warmup=8, batch=8, delay=3)
    agent = config.build(BOX, _actions(), Generator().manual_seed(0))
    step = agent.state["learner"]
    critics: Any = agent.state["critics"]
    obs = torch.randn(8, 3)
    given = {**rows(8), "obs": obs, "next_obs": obs}
    for count in range(1, 5):
        before = critics.running.means[0].detach().clone()
        step(given)  # type: ignore[operator]
        after = critics.running.means[0].detach()
        assert torch.allclose(after[0, 0, :3] - before[0, 0, :3], 0.01 * (obs.mean(0) - before[0, 0, :3]), atol=1e-12)
        assert float(agent.state["soft_policy_optimiser"].count) == -(-count // 3)  # type: ignore[attr-defined]


def test_renormalisation_begins_after_so_many_updates(double: None) -> None:
    config = CrossQ(hidden=(4,), critic_hidden=(4,), warmup=8, batch=8, renorm_from=2)
    algorithm = config.algorithm(BOX, _actions(), Generator().manual_seed(0))
    critics: Any = algorithm.state["critics"]
    with torch.no_grad():
        critics.running.means[0].fill_(0.5)
    given, seen = rows(8), []
    for _ in range(4):
        algorithm.schedule(0.0)
        seen.append(critics.fitted((given["obs"], given["action"]))[0])
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert (seen[1] - seen[2]).abs().max() > 0.01
    restored: Any = config.algorithm(BOX, _actions(), Generator().manual_seed(1)).state["critics"]
    restored.load_state_dict(critics.state_dict())
    assert torch.equal(restored.fitted((given["obs"], given["action"]))[0], seen[3])


def _actions() -> Any:
    import numpy as np
    from gymnasium import spaces

    return spaces.Box(-1.0, 1.0, (DIM,), np.float32)
