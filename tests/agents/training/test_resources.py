"""What a machine does not have is one line that says what, how much there is, and what to do; nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.execution import memory
from scg.agents.execution.options import OptionError
from scg.agents.experience.replay import Replay
from scg.agents.experience.rollout import Rollout, row_bytes
from scg.agents.networks.policies import make_policy
from scg.agents.training import loop

SMALL = [
    "reinforce",
    "--env",
    "CartPole-v1",
    "--steps",
    "256",
    "--envs",
    "2",
    "--horizon",
    "32",
    "--hidden",
    "8",
    "--evaluations",
    "1",
    "--eval-episodes",
    "1",
]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("ppo --envs 100000000", "option envs is 100000000: one process steps them all. Give at most 65536."),
        ("ppo --eval-episodes 100000000", "option eval_episodes is 100000000"),
        ("ppo --hidden 100000000", "layers 4 → 100,000,000 → 2 needs"),
        ("sac --env Pendulum-v1 --hidden 1000000 1000000", "of memory, .* are free. Give smaller --hidden."),
        ("ppo --threads 100000", "option threads is 100000: this machine has"),
        ("ppo --device potato", "option device is 'potato'. Give one of torch's devices"),
        ("sac --env Pendulum-v1 --mapped /nowhere", "option mapped: '/nowhere': No such file or directory"),
        (
            "sac --env Pendulum-v1 --replay 1000000000000",
            r"needs 32,596\.3 GiB of memory, .* are free. Give --replay \d+ or less",
        ),
    ],
)
def test_more_than_there_is(words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train([*words.split(), "--out", str(tmp_path / "run")]) == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert re.search(says, shown), shown
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train([*SMALL, "--device", "cuda", "--out", str(tmp_path / "run")]) == 2
    assert "It finds 0 GPUs. Give --device cpu" in capsys.readouterr().err
    assert cli.train([*SMALL, "--out", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["execution"]["device"] = "cuda"  # as of a run on another machine
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert cli.evaluate([str(tmp_path / "run"), "--episodes", "1"]) == 0


def test_a_replay_buffer_is_held_against_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with envs.make("Pendulum-v1", 2) as vector:
        policy = make_policy(vector.obs_space, vector.action_space, [4])
        block = Rollout(vector, [0, 1], torch.Generator()).collect(policy, 3)
        row = row_bytes(vector)
    assert row == 4 * (3 + 3 + 1 + 1) + 3
    size = 10_000_000
    monkeypatch.setattr(memory, "free", lambda: row * size - 1.0)
    for act in (lambda: Replay(size).require(row), lambda: Replay(size).add(block)):
        with pytest.raises(OptionError, match=r"10,000,000 steps, 35 bytes each, needs 334 MiB of memory, 334 MiB are free"):
            act()
    monkeypatch.setattr(memory, "free", lambda: float(row * size))
    Replay(size).require(row)
    with pytest.raises(OptionError, match=f"GiB in {tmp_path}, .* are free. Give a smaller --replay"):
        Replay(10**12, mapped=str(tmp_path)).require(row)


def test_environments_that_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 0.0)
    with pytest.raises(envs.EnvironmentFault, match="memory is full after 255 of 300. Give fewer --envs"):
        envs.make("CartPole-v1", 300)


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 5 TiB"), RuntimeError("x: can't allocate memory: y")])
def test_memory_that_runs_out_all_the_same(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr(loop._Training, "_update", fail)
    assert cli.train([*SMALL, "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err.startswith("error: memory is full (")


@pytest.fixture
def limit() -> Iterator[Any]:
    """Files larger than so many bytes cannot be written: a full disk, as the system tells of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_a_run_which_can_go_on(
    limit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = loop._Training._update

    def fill(self: Any) -> None:
        update(self)
        limit(2_000)

    monkeypatch.setattr(loop._Training, "_update", fill)
    out = tmp_path / "run"
    assert cli.train([*SMALL, "--out", str(out)]) == 1
    limit(resource.RLIM_INFINITY)
    shown = capsys.readouterr().err
    assert shown.startswith(f"stopped: after step 64: cannot write {out}/checkpoints/step-000000000064.pt: File too large.")
    assert f"continue with: scg train --resume {out}\nLast good checkpoint: {out}/checkpoints/step-000000000000.pt" in shown
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000000000000.pt"]
    monkeypatch.setattr(loop._Training, "_update", update)
    assert cli.train(["--resume", str(out)]) == 0


@pytest.mark.parametrize("size", [10, 500])
def test_a_run_directory_that_cannot_be_written_is_taken_back(
    size: int, limit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit(size)
    assert cli.train([*SMALL, "--out", str(tmp_path / "run")]) == 2
    limit(resource.RLIM_INFINITY)
    assert "json: File too large. Choose another --out" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_read_only_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.train([*SMALL, "--out", str(tmp_path / "file")]) == 2
    assert "this is a file, and a run is a folder. Choose another --out" in capsys.readouterr().err
    assert cli.train([*SMALL, "--out", str(tmp_path / "file" / "run")]) == 2
    assert "cannot be written" in capsys.readouterr().err

    def refuse(self: Path, *rest: Any, **more: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    assert cli.train([*SMALL, "--out", str(tmp_path / "run")]) == 0
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cli.train([*SMALL, "--out", str(tmp_path / "other")]) == 2
    assert f"run {tmp_path}/other: cannot be written: {tmp_path}/other: Read-only file system." in capsys.readouterr().err
    assert cli.video([str(tmp_path / "run"), "--out", str(tmp_path / "x" / "film.gif")]) == 1
    assert f"error: {tmp_path}/x: Read-only file system" in capsys.readouterr().err
