"""`--start RUN`: networks and normalisers are those of the earlier run, everything else is fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import scg
from scg.agents.training.run_directory import RunDirectory, RunError
from tests.agents.training.test_loop import assert_same, last_state

SHORT: dict[str, Any] = {
    "env": "CartPole-v1", "steps": 64, "envs": 2, "horizon": 16, "hidden": (4,), "checkpoints": 1, "evaluations": 0,
    "normalise_obs": True, "scale_reward": True, "quiet": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_default_dtype(torch.float32)
    return scg.train("a2c", out=tmp_path_factory.mktemp("start") / "earlier", **SHORT).resolve()


def first_state(run: Path) -> dict[str, Any]:
    from scg.agents.experience import tensor_files

    return tensor_files.load(run / "checkpoints" / "step-000000000000.pt")["agent"]


def test_networks_and_normalisers_are_copied_and_optimisers_are_fresh(trained: Path) -> None:
    before = last_state(RunDirectory.open(trained))["agent"]
    run = scg.train("a2c", start=str(trained), seed=5, **{**SHORT, "envs": 4})  # of other environments, in another number
    after = first_state(run)
    for name in ("policy", "value"):
        assert_same(before[name], after[name])
    assert int(after["policy"]["encoder.normaliser.moments.count"]) == 64
    for name, value in before["reward_scale"].items():
        if name not in ("running", "age"):  # of episodes that are not continued
            assert_same(value, after["reward_scale"][name])
    assert float(before["rmsprop"]["count"]) > 0 and float(after["rmsprop"]["count"]) == 0
    assert RunDirectory.open(run).run.start == str(trained)


def test_without_a_start_the_networks_are_others(trained: Path) -> None:
    before, after = last_state(RunDirectory.open(trained))["agent"], first_state(scg.train("a2c", seed=5, **SHORT))
    assert not torch.equal(before["policy"]["logits.layers.0.weight"], after["policy"]["logits.layers.0.weight"])


def test_a_run_that_was_started_so_resumes_without_the_earlier_one(trained: Path, tmp_path: Path) -> None:
    import shutil

    copied = tmp_path / "copied"
    shutil.copytree(trained, copied)
    run = scg.train("a2c", start=str(copied), **SHORT)
    shutil.rmtree(copied)
    scg.resume(run, steps=96, quiet=True)


def test_another_agent_takes_the_networks_of_the_same_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**SHORT, "quiet": False}
    assert_same(
        last_state(RunDirectory.open(trained))["agent"]["policy"],
        first_state(scg.train("npg", start=str(trained), **options))["policy"],
    )
    plain = {name: value for name, value in options.items() if name != "normalise_obs"}
    run = scg.train("reinforce", out="bare", baseline="none", **plain)
    scg.train("ppo", start=str(run / "checkpoints" / "step-000000000064.pt"), **{**options, "normalise_obs": False})
    assert "fresh, as that run has none: reward_scale" in capsys.readouterr().out


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "hidden": (
        {"hidden": (5,)},
        r"policy\.logits\.layers\.0\.weight has shape \(4, 4\), and here \(5, 4\)\. Build the same networks: .* hidden \[4\]",
    ),
    "normaliser": ({"normalise_obs": False}, r"policy\.encoder\.normaliser.* has shape .*, and here None"),
    "spaces": ({"env": "Acrobot-v1"}, r"its observation space is Box\(4,\) of numbers, and this environment's is Box\(6,\)"),
    "agent": ({"agent": "dqn", "horizon": 8, "warmup": 8}, "None has the name of another, so nothing can be copied"),
    "nowhere": ({"start": "nowhere"}, "nowhere is no run, nor a checkpoint"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_one_message_and_leaves_nothing(fault: str, trained: Path) -> None:
    options, message = FAULTS[fault]
    options = {"agent": "a2c", "start": str(trained), **SHORT, **options}
    if options["agent"] == "dqn":
        del options["scale_reward"]
    with pytest.raises(RunError, match=message):
        scg.train(**options)
    assert not Path("runs").exists()
