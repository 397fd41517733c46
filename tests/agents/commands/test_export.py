"""Exported policies act as the policy does; what differs is refused, and what is missing is said."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator

import scg
from scg.agents import config_type
from scg.agents.commands import cli, exported
from scg.agents.commands.export import _compared, export, observed
from scg.agents.commands.exported import Exported
from scg.agents.commands.load import LoadedPolicy
from scg.agents.environments import origin
from scg.agents.environments.envs import make
from scg.agents.environments.flat_space import FlatSpace
from scg.agents.networks.normalisers import ObsNormaliser
from scg.agents.training.loop import build
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError

EXTRA = ("onnx", "onnxscript", "onnxruntime", "safetensors")
MISSING = [name for name in EXTRA if importlib.util.find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(MISSING), reason=f"the extra torch-scg[export] is not installed: no {', '.join(MISSING)}")


class Any_(gym.Env):
    """Any spaces; observations are sampled."""

    def __init__(self, obs: gym.Space, action: gym.Space, masks: bool = False) -> None:
        self.observation_space, self.action_space = obs, action
        self.metadata = {"action_mask": masks, "render_modes": []}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self._shown()

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        obs, info = self._shown()
        return obs, 0.0, False, False, info

    def _shown(self) -> Any:
        mask = self.np_random.integers(0, 2, 4).astype(np.int8)
        mask[self.np_random.integers(4)] = 1
        return self.observation_space.sample(), {"action_mask": mask}


VECTOR = spaces.Box(-3.0, 3.0, (3,), np.float32)
PARTS = spaces.Dict(
    {
        "kind": spaces.Discrete(3, start=2),
        "place": spaces.Box(-1.0, 1.0, (2, 2), np.float64),
        "two": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2))),
    }
)
CASES: dict[str, tuple[str, dict[str, Any], gym.Space, gym.Space, dict[str, Any]]] = {
    "discrete": ("ppo", {}, VECTOR, spaces.Discrete(4), {}),
    "box": ("ppo", {}, spaces.Box(-3.0, 3.0, (3,), np.float64), spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 9.0])), {}),
    "integers": ("ppo", {}, VECTOR, spaces.Box(-4, 5, (2,), np.int32), {}),
    "unbounded": ("ppo", {"policy": "state-gaussian"}, VECTOR, spaces.Box(-np.inf, np.inf, (1,)), {}),
    "beta": ("ppo", {"policy": "beta"}, VECTOR, spaces.Box(-2.0, 2.0, (2,)), {}),
    "bins": ("ppo", {}, VECTOR, spaces.Box(-2.0, 2.0, (2,)), {"action_bins": 5}),
    "binary": ("a2c", {}, spaces.Discrete(5, start=1), spaces.MultiBinary(3), {}),
    "several": ("a2c", {}, PARTS, spaces.MultiDiscrete([2, 3]), {}),
    "masks": ("ppo", {}, PARTS, spaces.Discrete(4), {"masks": True}),
    "gru": ("ppo", {"network": "gru", "features": 6}, VECTOR, spaces.Discrete(4), {}),
    "lstm": ("ppo", {"network": "lstm", "features": 6}, VECTOR, spaces.Box(-2.0, 2.0, (1,)), {}),
    "cnn": ("ppo", {"network": "cnn", "features": 6}, spaces.Box(0, 255, (12, 12, 1), np.uint8), spaces.Discrete(4), {}),
    "residual": ("ppo", {"network": "residual", "features": 6}, VECTOR, spaces.Discrete(4), {}),
    "sac": ("sac", {}, VECTOR, spaces.Box(-2.0, 2.0, (2,)), {}),
    "ddpg": ("ddpg", {}, VECTOR, spaces.Box(-2.0, 2.0, (2,)), {}),
    "naf": ("naf", {}, VECTOR, spaces.Box(-2.0, 2.0, (2,)), {}),
    "soft-q": ("soft-q", {}, VECTOR, spaces.Box(-2.0, 2.0, (2,)), {}),
    "dqn": ("dqn", {}, VECTOR, spaces.MultiDiscrete([2, 3]), {}),
    "es": ("es", {}, VECTOR, spaces.Discrete(4), {}),
    "ars": ("ars", {"normalise_obs": True}, VECTOR, spaces.Box(-2.0, 2.0, (2,)), {}),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(origin, "_given", {})
    torch.set_default_dtype(torch.float32)


def untrained(case: str) -> LoadedPolicy:
    """A policy with large weights and moved statistics, as if it had been trained."""
    name, options, obs, action, run_options = CASES[case]
    run_options = dict(run_options)
    masks = run_options.pop("masks", False)
    env = origin.give(lambda: Any_(obs, action, masks))
    config: Any = config_type(name)
    narrow = {"hidden": (4,)} if "hidden" in config.__dataclass_fields__ else {}
    run = RunDirectory(Path("run"), name, RunConfig(env, **run_options), config(**narrow, **options))
    with make(run.run.recipe, 1, bins=run.run.action_bins) as one:
        agent, spaces_of = build(run, one), (one.obs_space, one.vector.single_action_space)
        drawn = Generator().manual_seed(1)
        for parameter in [*agent.policy.parameters(), *([agent.policy.theta] if hasattr(agent.policy, "theta") else [])]:
            scale = 1.0 if parameter.ndim > 1 or parameter is getattr(agent.policy, "theta", None) else 0.1
            parameter.data += scale * torch.randn(parameter.shape, generator=drawn)
        for module in agent.policy.modules():
            if isinstance(module, ObsNormaliser):
                module.absorb(1 + 2 * torch.randn(50, *one.obs_space.shape, generator=drawn))
    return LoadedPolicy(agent.policy, *spaces_of, run, Generator())


@pytest.mark.parametrize("case", CASES)
def test_the_module_that_is_exported_acts_as_the_policy_in_the_environments_own_units(case: str) -> None:
    """Before anything is written: in torch, on what the environment gives."""
    policy = untrained(case)
    assert len(observed(policy, 3)) == 3
    obs = observed(policy, 60)
    module = Exported(policy.module, policy.obs_space, policy.action_space, policy.run.run.action_bins)
    said = _compared(policy, lambda obs: by_torch(module, policy, obs), obs)
    assert "60 observations" in said
    assert len({tuple(np.atleast_1d(action)) for action in policy.acts(obs).tolist()}) > 1
    rows = [value[0] for value in exported.raw(policy.obs_space, obs)]
    wanted = policy.obs_space.original if isinstance(policy.obs_space, FlatSpace) else policy.obs_space
    if not isinstance(wanted, spaces.Dict):
        assert wanted.contains(rows[0][()])


def by_torch(module: Exported, policy: LoadedPolicy, obs: np.ndarray) -> np.ndarray:
    given = [torch.from_numpy(part) for part in exported.raw(policy.obs_space, obs)]
    if module.masks:
        given.append(torch.from_numpy(obs[:, -module.masks :]))
    with torch.no_grad():
        if module.memory is None:
            return module(*given)[0].numpy()
        memory, actions = torch.zeros(1, module.memory.size), []
        for t in range(len(obs)):
            action, memory = module(*(part[t : t + 1] for part in given), memory, torch.tensor([t == 0]))
            actions.append(action[0].numpy())
        return np.stack(actions)


@needs_extra
@pytest.mark.parametrize("case", ["box", "several", "masks", "gru", "cnn", "bins"])
def test_onnx_acts_as_the_policy(case: str) -> None:
    said = export(untrained(case), "policy.onnx")
    assert "on 1,000 observations of given/lambda" in said and Path("policy.onnx").exists()


@needs_extra
def test_a_trained_run_is_exported_by_the_command_with_its_normaliser(capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    run = scg.train("ppo", "Pendulum-v1", steps=64, envs=2, horizon=16, hidden=(4,), evaluations=0, quiet=True)
    assert cli.export([str(run), "--out", "policy.onnx"]) == 0
    assert "takes obs float32 [batch, 3]; returns action; actions within" in capsys.readouterr().out
    session, policy = onnxruntime.InferenceSession("policy.onnx"), scg.load(run)
    obs = np.array([[0.5, 0.8, 3.0], [1.0, 0.0, -7.0]], np.float32)
    assert np.allclose(session.run(None, {"obs": obs})[0], policy(obs), atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["env"] == "Pendulum-v1"
    assert cli.export([str(run), "--out", "policy.safetensors"]) == 0
    assert "actions within 0.0e+00 of their range on 1,000 observations" in capsys.readouterr().out
    from safetensors import safe_open
    from safetensors.torch import load_file

    fresh = scg.load(run)
    for parameter in fresh.module.parameters():
        parameter.data.zero_()
    fresh.module.load_state_dict(load_file("policy.safetensors"))
    assert np.array_equal(fresh(obs), policy(obs))
    with safe_open("policy.safetensors", "pt") as file:
        assert json.loads(file.metadata()["options"])["hidden"] == [4]
        assert file.metadata()["agent"] == "ppo"


@needs_extra
@pytest.mark.parametrize("out", ["policy.onnx", "policy.safetensors"])
def test_a_file_that_acts_otherwise_is_not_written(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: a normaliser that is left out."""
    policy = untrained("box")
    (normaliser,) = [module for module in policy.module.modules() if isinstance(module, ObsNormaliser)]
    wanted = policy.acts
    monkeypatch.setattr(policy, "acts", lambda obs: wanted(obs + 0.01 * (normaliser.shift != 0).float().mean().item()))
    with pytest.raises(RunError, match="exported, its actions differ by up to .* Nothing was written"):
        export(policy, out)
    assert not Path(out).exists()


def test_another_ending_and_a_missing_extra_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.export(["nowhere", "--out", "policy.pt"]) == 2
    assert "a file whose name ends in .onnx or .safetensors" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert cli.export(["nowhere"]) == 2
    assert "onnx is not installed. Remedy: pip install 'torch-scg[export]'" in capsys.readouterr().err


def test_a_policy_without_a_mode_in_torch_is_refused_by_name() -> None:
    class Odd(torch.nn.Module):
        def forward(self, obs: torch.Tensor) -> int:
            return 3

    with pytest.raises(exported.Unexportable, match=r"Odd says no most probable action in torch. Give it a method `best"):
        exported.best(Odd(), torch.zeros(1))
