"""Networks by name and by file: what they read, what they give, how they act, and where their initial weights come from."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator

from scg.agents.common.agent import OptionError
from scg.agents.dqn import DQN
from scg.agents.environments import envs
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.environments.flat_space import FlatSpace
from scg.agents.experience.acting import mode
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.networks import ImageView, make_network, sampled, target_in, with_whole_path
from scg.agents.networks.policies import make_policy
from scg.agents.ppo import PPO
from scg.agents.sac import SAC
from scg.targets import TargetError

IMAGE = spaces.Box(0, 255, (42, 42, 3), np.uint8)
PARTS = spaces.Dict(
    picture=spaces.Box(0, 255, (4, 4, 1), np.uint8),
    place=spaces.Box(-1.0, 1.0, (2,), np.float64),
    kind=spaces.Discrete(3, start=1),
    pair=spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(0.0, 1.0, (), np.float32))),
)
MINE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, space, features):
        super().__init__()
        self.space, self.linear = space, nn.Linear(2 + 3 + 2, features)
        self.kinds = nn.Embedding(4, 3)

    def forward(self, obs):
        pair, binary, single = obs["pair"]
        assert obs["picture"].shape[-3:] == (4, 4, 1) and pair.shape[-1:] == (2,) and single.shape == obs["kind"].shape
        return self.linear(torch.cat([obs["place"], self.kinds(obs["kind"]), binary], -1)).relu()

def two(space, features):
    return 2

def narrow(space, features):
    return nn.Linear(3, 3)

def flat(space, features):
    return nn.Sequential(nn.Flatten(), nn.Linear(space.shape[0], 5), nn.ReLU())
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my_networks.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize(
    ("shape", "channels_last", "result"),
    [
        ((42, 42, 3), True, (3, 42, 42)),
        ((4, 84, 84), False, (4, 84, 84)),
        ((42, 40), False, (1, 42, 40)),
        ((4, 42, 42, 3), True, (12, 42, 42)),
        ((4, 3, 42, 42), False, (12, 42, 42)),
    ],
)
def test_images_have_their_channels_first_or_last_and_stacks_join_them(shape, channels_last, result) -> None:
    view = ImageView(shape)
    assert view.last == channels_last and view.result == result
    images, batch = view(torch.randint(256, (2, 5, *shape), dtype=torch.uint8))
    assert images.shape == (10, *result) and batch == (2, 5)
    one = torch.zeros(1, *shape)
    one[(0, *(0,) * (len(shape) - 3), *((3, 4, 1) if channels_last else ((1, 3, 4) if len(shape) > 2 else (3, 4))))] = 1.0
    assert view(one)[0][0, 0 if len(shape) == 2 else 1, 3, 4] == 1.0


@pytest.mark.parametrize(("name", "space"), [("residual", spaces.Box(-1.0, 1.0, (3,))), ("cnn", IMAGE), ("mlp", IMAGE)])
def test_a_network_acts_in_numpy_as_it_learns_in_torch(name: str, space: gym.Space) -> None:
    policy = make_policy(space, spaces.Discrete(3), [8], Generator().manual_seed(0), network=name, features=16)
    obs = np.stack([sampled(space, i) for i in range(6)])
    given = torch.from_numpy(obs)
    assert np.array_equal(mode(policy)(obs), policy(given).probs.argmax(-1).numpy())
    stacked = policy(given.unflatten(0, (2, 3))).logits.flatten(0, 1)
    torch.testing.assert_close(stacked, policy(given).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "cnn", "gru", "cnn+lstm"])
def test_initial_weights_come_from_the_generator_alone(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        state = torch.get_rng_state()
        network = make_network(name, IMAGE, 16, Generator().manual_seed(seed))
        assert torch.equal(state, torch.get_rng_state())
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_bytes_are_scaled() -> None:
    network = make_network("cnn", IMAGE, 16, Generator().manual_seed(0))
    obs = torch.randint(256, (2, 42, 42, 3), dtype=torch.uint8)
    floats = make_network("cnn", spaces.Box(0.0, 1.0, IMAGE.shape, np.float32), 16, Generator().manual_seed(0))
    torch.testing.assert_close(network(obs), floats(obs / 255))


def test_a_flat_observation_is_restored_part_by_part() -> None:
    space = FlatSpace(PARTS)
    PARTS.seed(3)
    rows = [PARTS.sample() for _ in range(4)]
    flat = np.stack([spaces.flatten(PARTS, row) for row in rows])
    assert np.array_equal(space.flattened(rows[0])[0], flat[:1].astype(space.dtype))
    restored = space.restored(torch.from_numpy(flat))
    for i, row in enumerate(rows):
        assert np.array_equal(restored["picture"][i], row["picture"]) and np.allclose(restored["place"][i], row["place"])
        assert restored["kind"][i] == row["kind"] and np.array_equal(restored["pair"][0][i], row["pair"][0])
        assert np.array_equal(restored["pair"][1][i], row["pair"][1]) and np.allclose(restored["pair"][2][i], row["pair"][2])
    batch = {"picture": np.stack([r["picture"] for r in rows]), "place": np.stack([r["place"] for r in rows])}
    batch |= {"kind": np.array([r["kind"] for r in rows])}
    batch["pair"] = tuple(np.stack([r["pair"][k] for r in rows]) for k in range(3))
    found, single = space.flattened(batch)
    assert not single and np.array_equal(found, flat.astype(space.dtype))


class Parts(gym.Env):
    """Everything at once: parts as observations, several binary actions."""

    observation_space, action_space = PARTS, spaces.MultiBinary(3)

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(PARTS.spaces)
        self.time = 0

    def reset(self, *, seed: int | None = None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.int8))
        self.time += 1
        return self.observation_space.sample(), float(np.sum(action)) / 30, self.time == 10, False, {}


gym.register("Parts-v0", entry_point=Parts)


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_dictionaries_and_binary_actions_train_with_a_network_of_ones_own(kind, mine: Path) -> None:
    settings = kind(horizon=16, network=f"{mine}:Mine", **({"warmup": 64} if kind is DQN else {"minibatch": 32}))
    with envs.make("Parts-v0", 2) as vector:
        agent = settings.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [1, 2], Generator().manual_seed(1))
        before = [p.clone() for p in agent.policy.parameters()]
        for _ in range(2):
            block = agent.collect(rollout, 10**6)
            agent.update(block, 0.0)
        assert block.action.shape[-1] == 3
        embedding = next(m for m in agent.policy.modules() if isinstance(m, torch.nn.Embedding))
        index = next(i for i, p in enumerate(agent.policy.parameters()) if p is embedding.weight)
        assert not torch.equal(before[index], embedding.weight)


class Single(gym.Env):
    """0-d observations, whole or float64 numbers."""

    action_space = spaces.Discrete(2)

    def __init__(self, kind: str = "float64") -> None:
        self.observation_space = spaces.Box(0, 9, (), np.dtype(kind).type)

    def reset(self, *, seed: int | None = None, options=None):
        return np.asarray(3, self.observation_space.dtype), {}

    def step(self, action):
        return np.asarray(4, self.observation_space.dtype), 1.0, True, False, {}


for _kind in ("float64", "int64", "uint8"):
    gym.register(f"Single{_kind}-v0", entry_point=Single, kwargs={"kind": _kind})


@pytest.mark.parametrize("kind", ["float64", "int64", "uint8"])
@pytest.mark.parametrize("settings", [PPO(horizon=8), DQN(warmup=16)])
def test_observations_without_axes_and_of_any_numbers_train(kind: str, settings) -> None:
    with envs.make(f"Single{kind}-v0", 2) as vector:
        agent = settings.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [1, 2], Generator().manual_seed(1))
        agent.update(agent.collect(rollout, 10**6), 0.0)


def test_pictures_stay_bytes_in_blocks_and_buffers() -> None:
    with envs.make("MovingTarget-v0", 2) as vector:
        agent = DQN(warmup=8, network="cnn", features=8).build(
            vector.obs_space, vector.action_space, Generator().manual_seed(0)
        )
        block = agent.collect(Rollout(vector, [1, 2], Generator().manual_seed(1)), 10**6)
        assert block.obs.dtype == torch.uint8
        agent.update(block, 0.0)
        assert agent.memory is not None and agent.memory.rows(torch.arange(2))["obs"].dtype == torch.uint8


def test_actor_and_critics_have_networks_of_their_own(mine: Path) -> None:
    space = spaces.Box(-1.0, 1.0, (3,))
    agent = SAC(warmup=8, network=f"{mine}:flat").build(space, spaces.Box(-1.0, 1.0, (1,)), Generator().manual_seed(0))
    ours = {id(p) for p in agent.policy.parameters()}
    critics = agent.state["critics"]
    assert isinstance(critics, torch.nn.Module) and not any(id(p) in ours for p in critics.parameters())


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("transformer", OptionError, "option network is 'transformer'. Give one of mlp, residual, cnn, gru, lstm, or path"),
        ("mlp+rnn", OptionError, "after + comes a memory, gru or lstm"),
        ("cnn", EnvironmentFault, "the network cnn is for images"),
        ("{file}:nothing", TargetError, "has no 'nothing'"),
        ("{file}:two", OptionError, "it returned 2. Return a torch.nn.Module"),
        ("{file}:Mine", TargetError, "on three observations"),
    ],
)
def test_networks_that_cannot_be_are_refused(name: str, error: type[Exception], says: str, mine: Path) -> None:
    with pytest.raises(error) as caught:
        make_network(name.format(file=mine), spaces.Box(-1.0, 1.0, (3,)), 8)
    assert says in str(caught.value)


def test_a_run_names_its_network_by_the_whole_path(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    assert PPO(network="my_networks.py:flat").network == f"{mine}:flat"
    assert with_whole_path("my_networks.py:flat+gru") == f"{mine}:flat+gru"
    assert target_in(f"{mine}:flat+gru") == f"{mine}:flat" and target_in("cnn+gru") == ""
