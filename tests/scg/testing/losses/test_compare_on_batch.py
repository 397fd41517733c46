"""A user's PPO and SAC losses beside our pages' graphs on the same batch."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from scg.agents.ppo import ppo
from scg.agents.sac import sac
from scg.estimators.credit import GAE
from scg.testing import compare_on_batch
from tests.agents.processes import Linear, categorical


def critic(x):
    return x.squeeze(-1)


@pytest.fixture
def batch():
    rows = (1, 16)
    advantage = torch.randn(rows)
    return {
        "first": torch.zeros(rows, dtype=torch.bool), "terminated": torch.zeros(rows, dtype=torch.bool),
        "obs": torch.randn(*rows, 3), "next_obs": torch.randn(*rows, 3), "action": torch.randint(2, rows),
        "reward": torch.randn(rows), "next_value": torch.zeros(rows), "target": torch.randn(rows),
        "action.log_prob": torch.full(rows, -0.7), "action.credit": advantage,
    }  # fmt: skip


policy, value = Linear(3, 2, categorical, 0).double(), Linear(3, 1, critic, 1).double()
graph = ppo(policy, value, GAE(), clip=0.2, entropy_bonus=0.1, value_weight=0.5)


def loss(batch, entropy=0.1, regression=0.5):
    dist = Categorical(logits=policy(batch["obs"]).logits)
    ratio = (dist.log_prob(batch["action"]) - batch["action.log_prob"]).exp()
    a = batch["action.credit"]
    actor = torch.max(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
    return actor + regression * (value(batch["obs"]) - batch["target"]).square().mean() - entropy * dist.entropy().mean()


def test_the_same_ppo_loss_has_the_same_gradient(batch):
    found = compare_on_batch(loss, graph, batch)
    assert found, found
    assert "the same gradient" in str(found)
    assert set(found.graph) == {"policy.weight", "value.weight"}


def test_a_difference_is_laid_at_its_term(batch):
    found = compare_on_batch(lambda batch: loss(batch, entropy=-0.1, regression=1.0), graph, batch)
    assert not found
    assert found.factors["gain"] == pytest.approx(1)
    assert found.factors["entropy"] == pytest.approx(-1)
    assert found.factors["regression"] == pytest.approx(2)
    assert max(found.unexplained.values()) < 1e-9
    assert "its sign is wrong" in str(found)


def test_a_difference_within_a_term_is_unexplained(batch):
    def unclipped(batch):
        dist = Categorical(logits=policy(batch["obs"]).logits)
        ratio = (dist.log_prob(batch["action"]) - batch["action.log_prob"]).exp()
        return (ratio * batch["action.credit"]).mean() + 0.5 * (value(batch["obs"]) - batch["target"]).square().mean()

    found = compare_on_batch(unclipped, graph, batch)
    assert not found
    assert found.unexplained["policy.weight"] > 1e-3
    assert found.unexplained["value.weight"] < 1e-9


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 1, dtype=torch.float64))

    def forward(self, obs):
        return Independent(Normal(obs @ self.weight, 0.5), 1)


class Critics(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, dtype=torch.float64))

    def forward(self, obs, action):
        return torch.cat([obs, action], -1).tanh() @ self.weight


class Temperature(nn.Module):
    def forward(self):
        return torch.tensor(0.2)


def test_sac_draws_on_both_sides_from_the_same_seeds():
    actor, critics, target = Actor(), Critics(), Critics().requires_grad_(False)
    page = sac(actor, critics, target, Temperature())
    n = 64
    batch = {
        "obs": torch.randn(n, 3), "action": torch.randn(n, 1), "reward": torch.randn(n), "discount": torch.full((n,), 0.9),
        "next_obs": torch.randn(n, 3),
    }  # fmt: skip

    def mine(batch, alpha=0.2):
        with torch.no_grad():
            pi = actor(batch["next_obs"])
            following = pi.sample()
            soft = target(batch["next_obs"], following).amin(-1) - 0.2 * pi.log_prob(following)
            y = batch["reward"] + batch["discount"] * soft
        bellman = 0.5 * (critics(batch["obs"], batch["action"]) - y.unsqueeze(-1)).square().sum(-1).mean()
        pi = actor(batch["obs"])
        action = pi.rsample()
        q = nn.functional.linear(torch.cat([batch["obs"], action], -1).tanh(), critics.weight.detach().T).amin(-1)
        return bellman + (alpha * pi.log_prob(action) - q).mean()

    found = compare_on_batch(mine, page, batch, {"actor": actor, "critics": critics}, reduce="sum", tolerance=0.02)
    assert found, found
    assert max(found.differences.values()) < 1e-6  # the same noise in the same order
    wrong = compare_on_batch(lambda batch: 3 * mine(batch), page, batch, {"actor": actor, "critics": critics}, reduce="sum")
    assert not wrong
    assert wrong.factors["bellman"] == pytest.approx(3, rel=0.2)
