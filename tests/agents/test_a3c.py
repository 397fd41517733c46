"""A3C: one worker alone is A2C to the bit, several share what they learn, and a fault reaches the training loop."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from scg.agents import a3c
from scg.agents.a2c import A2C
from scg.agents.a3c import A3C, Common, apprentice
from scg.agents.commands import cli
from scg.agents.common.on_policy import ActorCritic
from scg.agents.environments import envs
from scg.agents.experience.rollout import Rollout
from scg.agents.training import loop
from scg.agents.training.run_directory import RunConfig, RunDirectory, read_table
from scg.agents.updates.metrics import NotFinite
from scg.agents.updates.optimiser import RMSprop

SMALL: dict[str, Any] = {"horizon": 8, "hidden": (8,), "lr": 1e-2}


def nets_of(config: A2C, vector: envs.Environments, seed: int = 0) -> ActorCritic:
    return ActorCritic(config, vector.obs_space, vector.action_space, Generator().manual_seed(seed))


def common_of(config: A3C, vector: envs.Environments) -> tuple[ActorCritic, Common]:
    nets = nets_of(config, vector)
    rmsprop = RMSprop(nets.parameters, config.max_grad_norm)
    rmsprop.rate.fill_(config.lr)
    return nets, Common.of(nets, rmsprop)


def test_a_worker_alone_is_a2c_to_the_bit() -> None:
    """Its own networks begin elsewhere: what it reads and steps are the common ones, statistics included."""
    with envs.make("Pendulum-v1", 2) as one, envs.make("Pendulum-v1", 2) as other:
        reference = A2C(**SMALL).build(one.obs_space, one.action_space, Generator().manual_seed(0))
        rollout = Rollout(one, [0, 1], Generator().manual_seed(0))
        for _ in range(4):
            reference.update(reference.collect(rollout, 10_000), 0.0)
        config = A3C(**SMALL)
        nets, common = common_of(config, other)
        work = apprentice(config, nets_of(config, other, seed=9), common, moves_statistics=True)
        alone = Rollout(other, [0, 1], Generator().manual_seed(0))
        reports = [work(alone) for _ in range(4)]
    assert [report.steps for report in reports] == [16] * 4
    for name, module in (("policy", nets.policy), ("value", nets.value)):
        for key, value in reference.state[name].state_dict().items():
            assert torch.equal(value, module.state_dict()[key]), (name, key)


def test_only_the_worker_that_may_moves_the_statistics() -> None:
    with envs.make("Pendulum-v1", 1) as vector:
        config = A3C(**SMALL)
        nets, common = common_of(config, vector)
        assert nets.normaliser is not None
        first = apprentice(config, nets_of(config, vector), common, moves_statistics=True)
        second = apprentice(config, nets_of(config, vector), common, moves_statistics=False)
        rollouts = [Rollout(vector, [i], Generator().manual_seed(i)) for i in (0, 1)]
        first(rollouts[0]), first(rollouts[0])
        count, before = int(nets.normaliser.count), nets.policy.state_dict()["loc.layers.0.weight"].clone()
        second(rollouts[1])
        assert int(nets.normaliser.count) == count == 16
        assert not torch.equal(before, nets.policy.state_dict()["loc.layers.0.weight"])  # but it does step the networks


def test_processes_train_together_and_stop_where_they_are_told(tmp_path: Path) -> None:
    run = RunDirectory.create(
        "a3c",
        RunConfig(env="CartPole-v1", steps=3000, envs=1, evaluations=2, eval_episodes=2),
        A3C(**SMALL, report=500),
        tmp_path,
    )
    evaluation = loop.train(run, quiet=True)
    assert len(evaluation.returns) == 2 and all(1 <= total <= 500 for total in evaluation.returns)  # CartPole's: 1 a step
    rows = read_table(tmp_path / "metrics.csv")
    assert 3000 <= rows[-1]["step"] <= 3000 + 2 * SMALL["horizon"]  # each of two workers finishes its block
    assert rows[-1]["episodes"] > 10
    extended = RunDirectory.open(tmp_path)
    extended.extend(3500)
    loop.train(extended, resume=True, quiet=True)
    assert 3500 <= read_table(tmp_path / "metrics.csv")[-1]["step"] <= 3500 + 2 * 2 * SMALL["horizon"]
    assert read_table(tmp_path / "evaluations.csv")[-1]["step"] >= 3500


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ("Breaks-v0", "step 5 of the block of worker 0: step raised ZeroDivisionError: no mass"),
        ("Dies-v0", "ended without a word: worker 0 with exit code 7"),
    ],
)
def test_a_fault_in_a_worker_is_one_message_and_leaves_no_process(
    env: str, found: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = "--steps 300 --envs 1 --learners 1 --horizon 8 --hidden 4 --evaluations 0"
    code = cli.train(["a3c", "--env", f"tests.agents.breaking:{env}", *words.split(), "--out", str(tmp_path / "run")])
    shown = capfd.readouterr().err
    assert code == 1 and shown.startswith("stopped: update 1, after step 0: ")
    assert found in shown and "Last good checkpoint" in shown and "Traceback" not in shown
    assert env == "Dies-v0" or ": environment 0, " in shown
    assert not multiprocessing.active_children()


def test_silence_is_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import queue

    pool = object.__new__(a3c.WorkerPool)
    pool.reports, pool.processes = queue.Queue(), []
    monkeypatch.setattr(a3c, "PATIENCE", 0.01)
    with pytest.raises(NotFinite, match="no worker has reported"):
        pool._next()
