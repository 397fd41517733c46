"""DQN against tabular solutions, its exploration, and the heads of several choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from scg.agents.dqn import DQN, dqn
from scg.agents.environments import envs
from scg.agents.environments.action_spaces import choices
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.execution.options import OptionError
from scg.agents.experience import acting
from scg.agents.experience.exploration import Epsilon, EpsilonGreedy, RandomChoice, UniformActions, uniform_policy
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.critics import target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.networks.q_heads import QHeads
from tests.agents.processes import ACTIONS, END, STATES, Process

GAMMA = 0.8
ONE_HOT = spaces.Box(0.0, 1.0, (STATES,), np.float32)


def table(values: Tensor) -> QHeads:
    """A network whose values are a table `[states, actions]`: linear in the one-hot state."""
    heads = QHeads(Encoder(ONE_HOT), spaces.Discrete(ACTIONS), [], Generator().manual_seed(0))
    with torch.no_grad():
        heads.net.layers[0].weight.copy_(values.T)
        heads.net.layers[0].bias.zero_()
    return heads


def every_transition(process: Process) -> tuple[dict[str, Tensor], Tensor]:
    """All (s, a, s') as rows, and their probabilities given (s, a)."""
    s, a, x = torch.cartesian_prod(torch.arange(STATES), torch.arange(ACTIONS), torch.arange(STATES)).T
    eye = torch.eye(STATES)
    given = {
        "obs": eye[s], "action": a, "reward": process.reward[s, a],
        "discount": GAMMA * (x != END).to(eye.dtype), "next_obs": eye[x],
    }  # fmt: skip
    return given, process.transition[s, a, x]


def backup(process: Process, ahead: Tensor) -> Tensor:
    """r(s, a) + γ Σ P(s'|s, a) ahead(s'), nothing after `END`."""
    alive = (torch.arange(STATES) != END).to(ahead.dtype)
    return process.reward + GAMMA * process.transition @ (alive * ahead)


def mean_target(process: Process, online: Tensor, old: Tensor, double: bool) -> Tensor:
    given, probability = every_transition(process)
    trace = dqn(table(online), table(old), double).sample(**given)
    return (probability * trace["target"]).reshape(STATES, ACTIONS, STATES).sum(-1)


# -- targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_targets_are_the_tabular_ones(seed: int, double: None) -> None:
    process, g = Process.random(seed), Generator().manual_seed(seed)
    online = torch.randn(STATES, ACTIONS, generator=g)
    old = 0.5 - 2 * online  # the two disagree about what is best
    single = backup(process, old.amax(-1))
    doubled = backup(process, old[torch.arange(STATES), online.argmax(-1)])
    assert torch.allclose(mean_target(process, online, old, double=False), single)
    assert torch.allclose(mean_target(process, online, old, double=True), doubled)
    assert (doubled <= single + 1e-12).all()
    assert (doubled - single).abs().max() > 0.1  # the one taken for the other would be noticed


@pytest.mark.parametrize("double_q", [False, True])
def test_the_regression_finds_the_best_values(double_q: bool, double: None) -> None:
    """From zero, with the target copied at once: value iteration. The fixed point is computed in the table alone."""
    process = Process.random(5)
    best = torch.zeros(STATES, ACTIONS)
    for _ in range(200):
        best = backup(process, best.amax(-1))
    critic = table(torch.zeros(STATES, ACTIONS))
    target_critic = target_copy(critic)
    graph = dqn(critic, target_critic, double_q, huber=False)  # type: ignore[arg-type]
    given, probability = every_transition(process)
    weight = critic.net.layers[0].weight
    for _ in range(200):
        critic.zero_grad()
        graph.sample(**given, importance=probability).surrogate("bellman").backward()
        with torch.no_grad():
            weight -= len(probability) * weight.grad  # type: ignore[arg-type,operator]
        target_critic.load_state_dict(critic.state_dict())
    assert torch.allclose(weight.T, best, atol=1e-9)


def test_the_maximum_over_noisy_values_is_too_large_and_double_dqns_choice_is_not(double: None) -> None:
    """True values 0, ±1 of noise on each: the sum over all 16 pairs of tables of one state with two actions."""
    signs = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    given = {
        "obs": torch.eye(STATES)[:1], "action": torch.tensor([0]), "reward": torch.zeros(1),
        "discount": torch.ones(1), "next_obs": torch.eye(STATES)[:1],
    }  # fmt: skip

    def mean(double_q: bool) -> float:
        found = []
        for online in signs:
            for old in signs:
                tables = [torch.cat([x[None], torch.zeros(STATES - 1, ACTIONS)]) for x in (online, old)]
                found.append(dqn(table(tables[0]), table(tables[1]), double_q).sample(**given)["target"])
        return float(torch.cat(found).detach().mean())

    assert mean(False) == 0.5
    assert mean(True) == 0.0


def test_errors_beyond_one_pull_no_harder_than_those_of_one(double: None) -> None:
    slopes = {}
    for huber in (True, False):
        critic = table(torch.tensor([[0.5, 0.0], [30.0, 0.0], [0.0, 0.0]]))
        given = {
            "obs": torch.eye(STATES)[:2], "action": torch.zeros(2, dtype=torch.long), "reward": torch.zeros(2),
            "discount": torch.zeros(2), "next_obs": torch.eye(STATES)[:2],
        }  # fmt: skip
        dqn(critic, target_copy(critic), huber=huber).sample(**given).surrogate("bellman").backward()  # type: ignore[arg-type]
        slopes[huber] = critic.net.layers[0].weight.grad[0, :2]  # type: ignore[index,union-attr]
    assert torch.allclose(slopes[True], torch.tensor([0.25, 0.5]))  # means over two rows
    assert torch.allclose(slopes[False], torch.tensor([0.25, 15.0]))


# -- several choices -------------------------------------------------------------------------------------------

SEVERAL = spaces.MultiDiscrete([2, 4, 3])


def test_each_dimension_is_maximised_alone_and_the_target_is_their_mean(double: None) -> None:
    """Against a loop over rows and dimensions, which sees no padding."""
    g = Generator().manual_seed(1)
    box = spaces.Box(-1.0, 1.0, (3,), np.float32)
    critic = QHeads(Encoder(box), SEVERAL, [8], g)
    target_critic = QHeads(Encoder(box), SEVERAL, [8], g)
    rows = 6
    obs, next_obs, reward = (torch.randn(rows, *s, generator=g) for s in ((3,), (3,), ()))
    action = torch.stack([torch.randint(n, (rows,), generator=g) for n in (2, 4, 3)], -1)
    discount = torch.tensor([0.9, 0.0] * 3)
    trace = dqn(critic, target_critic, huber=False).sample(
        obs=obs, action=action, reward=reward, discount=discount, next_obs=next_obs
    )
    now, online, old = (net.net(x).detach() for net, x in ((critic, obs), (critic, next_obs), (target_critic, next_obs)))
    for i in range(rows):
        judged, losses = [], []
        for d, n in enumerate((2, 4, 3)):
            best = int(online[i, 4 * d : 4 * d + n].argmax())
            judged.append(float(old[i, 4 * d + best]))
            losses.append(float(now[i, 4 * d + int(action[i, d])]))
        target = float(reward[i]) + float(discount[i]) * float(np.mean(judged))
        assert float(trace["target"][i].detach()) == pytest.approx(target)
        assert float(trace["bellman"][i].detach()) == pytest.approx(float(np.mean([(q - target) ** 2 / 2 for q in losses])))


def test_choices_that_a_dimension_does_not_have_are_never_taken() -> None:
    box = spaces.Box(-1.0, 1.0, (3,), np.float32)
    heads = QHeads(Encoder(box), SEVERAL, [8], Generator().manual_seed(0))
    with torch.no_grad():
        heads.net.layers[-1].bias.view(3, 4).copy_(torch.arange(4.0) * 100)  # the last ones would win
    drawn = acting.mode(heads)(np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32))
    assert (drawn == [1, 3, 2]).all()


@pytest.mark.parametrize("space", [spaces.Discrete(3), SEVERAL])
def test_acting_in_numpy_is_the_modules_greedy_action(space: Any) -> None:
    box = spaces.Box(-1.0, 1.0, (3,), np.float32)
    heads = QHeads(Encoder(box), space, [8], Generator().manual_seed(0))
    obs = torch.randn(40, 3, generator=Generator().manual_seed(1))
    best = heads(obs).argmax(-1)
    drawn = acting.mode(heads)(obs.numpy())
    assert drawn.shape == (40, *space.shape)
    assert np.array_equal(drawn, best[:, 0] if heads.scalar else best)


def test_spaces_without_discrete_actions_are_refused_with_the_flag_that_makes_some() -> None:
    assert choices(spaces.Discrete(4)) == (4,)
    assert choices(SEVERAL) == (2, 4, 3)
    with pytest.raises(EnvironmentFault, match=r"needs discrete actions\. Quantise it with --action-bins"):
        choices(spaces.Box(-1.0, 1.0, (2,)))
    for space in (spaces.Discrete(3, start=1), spaces.MultiDiscrete([[2, 2], [2, 2]])):
        with pytest.raises(EnvironmentFault, match=r"start at 0 are known\. Wrap it"):
            choices(space)
    assert isinstance(uniform_policy(spaces.Box(-1.0, 1.0, (2,))), UniformActions)


# -- exploration -----------------------------------------------------------------------------------------------


def test_epsilon_falls_linearly_over_its_share_of_the_run_and_stays() -> None:
    epsilon = Epsilon(1.0, 0.1, 0.5)
    seen = []
    for progress in (0.0, 0.25, 0.5, 0.9):
        epsilon.follow(progress)
        seen.append(epsilon.value)
    assert seen == pytest.approx([1.0, 0.55, 0.1, 0.1])
    at_once = Epsilon(1.0, 0.1, 0.0)
    at_once.follow(0.0)
    assert at_once.value == pytest.approx(0.1)
    at_once.load_state_dict(epsilon.state_dict() | {"value": 0.7})
    assert at_once.value == 0.7


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_exploration_takes_every_other_action_with_its_share_of_epsilon(epsilon: float) -> None:
    """P(greedy) = 1 − ε + ε/3, every other ε/3. 9,000 draws: five standard errors are 0.027, so a bias of 0.05 fails."""
    space = spaces.Discrete(3)
    heads = QHeads(Encoder(spaces.Box(-1.0, 1.0, (2,), np.float32)), space, [], Generator().manual_seed(0))
    obs = np.ones((9000, 2), np.float32)
    greedy = int(acting.mode(heads)(obs)[0])
    behaviour = EpsilonGreedy(heads, RandomChoice(space), Epsilon(epsilon, 0.0, 1.0))
    drawn = acting.sampler(behaviour, Generator().manual_seed(1), 1, 9000)(obs)
    share = np.bincount(drawn, minlength=3) / 9000
    expected = np.full(3, epsilon / 3)
    expected[greedy] += 1 - epsilon
    assert np.allclose(share, expected, atol=0.027)
    assert drawn.dtype == np.int64


def test_random_choices_of_several_dimensions_cover_each_and_nothing_else() -> None:
    drawn = RandomChoice(SEVERAL).noise((5, 400), Generator().manual_seed(0)).reshape(-1, 3)
    assert [sorted(set(column.tolist())) for column in drawn.T] == [[0, 1], [0, 1, 2, 3], [0, 1, 2]]


# -- the agent -------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"hidden": (8,), "batch": 8, "warmup": 40, "replay": 100, "horizon": 2, "report": 32}


def test_the_target_is_copied_at_every_so_many_steps() -> None:
    with envs.make("CartPole-v1", 1) as vector:
        agent = DQN(**SMALL, target_every=3).build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [0], Generator().manual_seed(0))
        critic, target = agent.state["critic"], agent.state["target_critic"]
        same = []
        for _ in range(7):
            agent.update(agent.collect(rollout, 1000), 0.0)
            pairs = zip(critic.parameters(), target.parameters(), strict=True)  # type: ignore[attr-defined]
            same.append(all(torch.equal(p, q) for p, q in pairs))
    assert same == [True, False, False, True, False, False, True]


def test_continuous_actions_are_learned_as_bins() -> None:
    for env_id, sizes in (("Pendulum-v1", (5,)), ("MultiGoal-v0", (5, 5))):
        with envs.make(env_id, 2, bins=5) as vector:
            agent = DQN(**SMALL).build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
            rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
            fresh = agent.policy.state_dict()
            before = {name: value.clone() for name, value in fresh.items()}
            for progress in (0.0, 0.1):
                block = agent.collect(rollout, 1000)
                metrics = agent.update(block, progress)
                assert block.action.shape[2:] == (() if len(sizes) == 1 else (2,))
                assert set(block.action.unique().tolist()) <= set(range(5))
            assert choices(vector.action_space) == sizes
            assert any(not torch.equal(value, before[name]) for name, value in fresh.items())
            assert metrics["bellman"] > 0 and metrics["bellman_grad_norm"] > 0
            assert metrics["epsilon"] == pytest.approx(1.0 - 0.5 * 0.95)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target_every": 0}, "option target_every is 0. Give a number at least 1"),
        ({"epsilon": 1.5}, "option epsilon is 1.5. Give a number between 0 and 1"),
        ({"epsilon_share": -0.1}, "option epsilon_share is -0.1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        DQN(**options)


def test_the_learning_rate_falls_linearly_to_its_last_share() -> None:
    """…and gradients are shortened before Adam's moments see them."""
    with envs.make("CartPole-v1", 1) as vector:
        config = DQN(warmup=64, horizon=8, batch=8, hidden=(8,), lr=1e-3, lr_last=0.2, max_grad_norm=1e-3)
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [0], Generator().manual_seed(0))
        optimiser = agent.state["bellman_optimiser"]
        for progress, rate in ((0.0, 1e-3), (0.5, 6e-4), (1.0, 2e-4)):
            agent.update(agent.collect(rollout, 10**9), progress)
            assert float(optimiser.rate) == pytest.approx(rate)
        assert float(optimiser.power) < 1e-5
