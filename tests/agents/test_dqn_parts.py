"""Rainbow's parts: duelling heads and distributions of returns, against loops over what the papers write."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from scg.agents.dqn import DQN, distributional_dqn
from scg.agents.execution.options import OptionError
from scg.agents.networks.critics import target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.q_heads import QHeads
from scg.agents.networks.returns import Categorical, Expected, Quantiles, Returns

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SEVERAL = spaces.MultiDiscrete([2, 4])
GRID = Categorical(-2.0, 3.0, 6)


def heads(returns: Returns, space: gym.Space, duelling: bool = False, seed: int = 0) -> QHeads:
    return QHeads(Encoder(BOX), space, [8], Generator().manual_seed(seed), BOX, duelling, returns)


def rows(space: gym.Space, count: int = 6) -> dict[str, Tensor]:
    g = Generator().manual_seed(1)
    sizes = torch.tensor([space.n] if isinstance(space, spaces.Discrete) else list(space.nvec))
    action = (torch.rand(count, len(sizes), generator=g) * sizes).long()
    obs, reward, ahead = torch.randn(count, 3, generator=g), torch.randn(count, generator=g), torch.randn(count, 3, generator=g)
    return {
        "obs": obs, "action": action[:, 0] if isinstance(space, spaces.Discrete) else action, "reward": reward,
        "discount": torch.tensor([0.9, 0.0, 0.9, 0.5, 1.0, 0.9]), "next_obs": ahead,
    }  # fmt: skip


def projected(reward: float, discount: float, probabilities: list[float]) -> list[float]:
    """Algorithm 1 of Bellemare, Dabney & Munos (2017), for one row, as it stands there."""
    step = (GRID.high - GRID.low) / (GRID.atoms - 1)
    m = [0.0] * GRID.atoms
    for j, p in enumerate(probabilities):
        b = (min(max(reward + discount * (GRID.low + j * step), GRID.low), GRID.high) - GRID.low) / step
        low, high = int(np.floor(b)), int(np.ceil(b))
        if low == high:
            m[low] += p
        else:
            m[low] += p * (high - b)
            m[high] += p * (b - low)
    return m


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("space", [spaces.Discrete(3), SEVERAL], ids=["one choice", "several"])
@pytest.mark.parametrize("returns", [Quantiles(5), GRID], ids=["quantiles", "categorical"])
def test_the_loss_is_the_papers(returns: Any, space: gym.Space, double_q: bool, double: None) -> None:
    critic, given = heads(returns, space), rows(space)
    old: Any = target_copy(heads(returns, space, seed=5))
    trace = distributional_dqn(critic, old, returns, double_q).sample(**given)
    total = torch.zeros(())
    sizes = critic.sizes
    for row in range(6):
        z, ahead = critic.atoms(given["obs"])[row], old.atoms(given["next_obs"])[row]
        judge = critic.atoms(given["next_obs"])[row] if double_q else ahead
        targets = []
        for d, size in enumerate(sizes):
            values = [float(returns.mean(judge[d, a]).detach()) for a in range(size)]
            chosen = ahead[d, int(np.argmax(values))]
            r, discount = float(given["reward"][row]), float(given["discount"][row])
            if returns is GRID:
                targets.append(projected(r, discount, chosen.softmax(-1).tolist()))
            else:
                targets.append([r + discount * float(y) for y in chosen])
        target = np.mean(targets, axis=0)
        for d in range(len(sizes)):
            action = int(given["action"][row] if isinstance(space, spaces.Discrete) else given["action"][row, d])
            mine = z[d, action]
            if returns is GRID:
                loss = -sum(m * lp for m, lp in zip(target, mine.log_softmax(-1), strict=True))
            else:
                loss = torch.zeros(())
                for i in range(5):
                    for y in target:
                        u = y - mine[i]
                        huber = u**2 / 2 if u.abs() <= 1 else u.abs() - 0.5
                        loss = loss + abs((2 * i + 1) / 10 - float(u < 0)) * huber / 25
            total = total + loss / len(sizes)
    weights = list(critic.parameters())
    assert torch.allclose(trace["bellman"].mean(), total / 6)
    expected = torch.autograd.grad(total / 6, weights)
    for ours, theirs in zip(torch.autograd.grad(trace.surrogate("bellman"), weights), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_a_backup_keeps_the_mean_where_nothing_is_clipped(double: None) -> None:
    logits = torch.randn(50, 1, 6, generator=Generator().manual_seed(0))
    reward, discount = torch.linspace(-0.2, 0.2, 50), torch.full((50,), 0.9)
    target = GRID.backup(reward, discount, logits)
    assert torch.allclose(target.sum(-1), torch.ones(50))
    assert torch.allclose(GRID.target_mean(target), reward + discount * GRID.mean(logits)[:, 0])
    terminal = GRID.backup(torch.full((1,), 1.0), torch.zeros(1), logits[:1])  # 1.0 is the fourth point of the grid
    assert torch.allclose(terminal, torch.eye(6)[3:4])


@pytest.mark.parametrize("returns", [Expected(), Quantiles(5), GRID], ids=["expected", "quantiles", "categorical"])
@pytest.mark.parametrize("space", [spaces.Discrete(3), SEVERAL], ids=["one choice", "several"])
def test_duelling_heads_are_a_value_and_advantages_of_mean_zero(space: gym.Space, returns: Any, double: None) -> None:
    critic = heads(returns, space, duelling=True)
    obs = torch.randn(7, 3, generator=Generator().manual_seed(2))
    out = critic.net(obs).reshape(7, len(critic.sizes), max(critic.sizes) + 1, returns.atoms)
    atoms = critic.atoms(obs)
    for d, size in enumerate(critic.sizes):
        value, advantage = out[:, d, -1], out[:, d, :size]
        assert torch.allclose(atoms[:, d, :size], value[:, None] + advantage - advantage.mean(1, keepdim=True))
        assert torch.allclose(atoms[:, d, :size].mean(1), value)


@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("returns", [Expected(), Quantiles(5), GRID], ids=["expected", "quantiles", "categorical"])
@pytest.mark.parametrize("space", [spaces.Discrete(3), SEVERAL], ids=["one choice", "several"])
def test_acting_in_numpy_is_the_greedy_choice(space: gym.Space, returns: Any, duelling: bool) -> None:
    critic = heads(returns, space, duelling)
    obs = torch.randn(200, 3, generator=Generator().manual_seed(3))
    assert np.array_equal(critic.numpy_actor()(obs.numpy(), None), critic.best(obs).numpy())


@pytest.mark.parametrize("returns", ["expected", "quantiles", "categorical"])
def test_every_part_can_be_switched_on_at_once(returns: Any) -> None:
    config = DQN(returns=returns, duelling=True, n_step=3, prioritised=True, hidden=(8,), atoms=7, warmup=10)
    agent = config.build(BOX, spaces.Discrete(2), Generator().manual_seed(0))
    given = {**rows(spaces.Discrete(2)), "importance": torch.ones(6)}
    given = {name: value if name == "action" else value.float() for name, value in given.items()}
    before = [p.clone() for p in agent.policy.parameters()]
    metrics, errors = agent.state["learner"](given)  # type: ignore[operator]
    assert errors.shape == (6,) and (errors > 0).all() and metrics[0]["bellman"] > 0
    assert all(not torch.equal(p, q) for p, q in zip(agent.policy.parameters(), before, strict=True))


def test_a_grid_without_room_is_refused() -> None:
    for wrong in ({"value_low": 1.0, "value_high": 1.0}, {"atoms": 1}):
        with pytest.raises(OptionError, match="they make no grid"):
            DQN(returns="categorical", **wrong)  # type: ignore[arg-type]
    DQN(returns="quantiles", atoms=1)
