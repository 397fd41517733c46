"""TQC: its losses against hand-written ones, and the quantiles that the regression finds."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

import scg
from scg.agents.common.agent import OptionError
from scg.agents.networks.actors import SquashedPolicy
from scg.agents.networks.critics import Temperature, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.quantiles import QuantileCritics, quantile_loss
from scg.agents.tqc import TQC, tqc
from scg.estimators import LeaveOneOut
from tests.agents.networks.test_networks import BOX
from tests.agents.test_off_policy_graphs import DIM, rows

ALPHA, CRITICS, QUANTILES = 0.3, 3, 4


class Nets:
    def __init__(self) -> None:
        g, encoder = Generator().manual_seed(0), Encoder(BOX)
        self.policy = SquashedPolicy(encoder, DIM, [8], g)
        self.critics = QuantileCritics(encoder, DIM, [8], CRITICS, QUANTILES, g)
        self.old = target_copy(QuantileCritics(encoder, DIM, [8], CRITICS, QUANTILES, g))
        self.temperature = Temperature(ALPHA)

    def graph(self, drop: int, actor: scg.Estimator | None = None) -> scg.Graph:
        return tqc(self.policy, self.critics, self.old, self.temperature, -2.0, actor, drop)


@pytest.mark.parametrize("drop", [0, 1, 3])
def test_the_losses_are_the_hand_written_ones(drop: int, double: None) -> None:
    nets, given = Nets(), rows(5)
    trace = nets.graph(drop).sample(**given)
    action, new = trace["next_action"], trace["new_action"]
    z, ahead = nets.critics(given["obs"], given["action"]), nets.old(given["next_obs"], action)
    entropy = ALPHA * nets.policy(given["next_obs"]).log_prob(action)
    total = torch.zeros(())
    for row in range(5):
        pooled = sorted(float(x) for k in range(CRITICS) for x in ahead[row, k].detach())
        kept = pooled[: CRITICS * (QUANTILES - drop)]
        samples = [float(given["reward"][row] + given["discount"][row] * (y - entropy[row].detach())) for y in kept]
        for k in range(CRITICS):
            for m in range(QUANTILES):
                tau = (2 * m + 1) / (2 * QUANTILES)
                for y in samples:
                    u = y - z[row, k, m]
                    huber = u**2 / 2 if u.abs() <= 1 else u.abs() - 0.5
                    total = total + abs(tau - float(u < 0)) * huber / (QUANTILES * len(samples))
    loss = total / 5
    weights = list(nets.critics.parameters())
    assert torch.allclose(trace["bellman"].mean(), loss)
    expected = torch.autograd.grad(loss, weights)
    for ours, theirs in zip(torch.autograd.grad(trace.surrogate("bellman"), weights), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
    gain = nets.critics(given["obs"], new).mean((-2, -1))
    assert torch.allclose(trace["soft_policy"], ALPHA * trace["log_prob"] - gain)


@pytest.mark.parametrize("drop", [0, 2])
def test_more_dropped_quantiles_are_more_pessimistic(drop: int, double: None) -> None:
    nets, given = Nets(), rows(64)
    means = []
    for left_out in (drop, drop + 1):
        torch.manual_seed(0)
        means.append(nets.graph(left_out).sample(**given)["target"].mean(-1))
    assert (means[1] < means[0]).all()


def test_the_regression_finds_the_quantiles_of_a_distribution(double: None) -> None:
    """Its samples are spread a thousand times wider than the quadratic part of the loss: quantiles, and neither means nor modes."""
    y = (1000 * torch.randn(1, 4001, generator=Generator().manual_seed(0)).exp()).sort(-1).values
    z = y[:, 500::1000].clone().requires_grad_()  # the quantiles at 1/8, 3/8, 5/8 and 7/8
    (gradient,) = torch.autograd.grad(quantile_loss(z, y).sum(), z)
    assert gradient.abs().max() < 1e-3
    (away,) = torch.autograd.grad(quantile_loss(z * 1.1, y).sum(), z)
    assert (away > 3e-3).all()


def test_the_least_of_one_quantile_a_critic_is_sacs_target(double: None) -> None:
    g, encoder = Generator().manual_seed(0), Encoder(BOX)
    nets, given = Nets(), rows(6)
    critics = QuantileCritics(encoder, DIM, [8], 2, 1, g)

    def smaller(obs: Tensor, action: Tensor) -> Tensor:
        return critics(obs, action).squeeze(-1).amin(-1)

    trace = tqc(nets.policy, critics, target_copy(critics), nets.temperature, drop=0).sample(**given)
    soft = smaller(given["next_obs"], trace["next_action"]) - ALPHA * nets.policy(given["next_obs"]).log_prob(
        trace["next_action"]
    )
    assert torch.allclose(trace["target"][:, 0], given["reward"] + given["discount"] * soft)


@pytest.mark.parametrize("actor", [None, LeaveOneOut(samples=3)])
def test_the_graph_is_right_whatever_the_actors_estimator(actor: scg.Estimator | None, double: None) -> None:
    torch.manual_seed(0)
    nets = Nets()
    graph = nets.graph(1, actor)
    assert [f for f in graph.check(**rows(8)) if f.severity == "error"] == []
    graph.sample(**rows(8)).surrogate("soft_policy").backward()
    assert all(p.grad is None for p in nets.critics.parameters())
    assert all(p.grad is not None for p in nets.policy.parameters())


def test_something_must_be_left() -> None:
    with pytest.raises(OptionError, match="of 4 quantiles one must be left"):
        TQC(quantiles=4, drop=4)
    TQC(quantiles=4, drop=3)
