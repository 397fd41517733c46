"""Checkpoints: whole or not at all, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from scg.agents.experience import tensor_files
from scg.agents.experience.tensor_files import CheckpointError
from scg.agents.training.checkpoint import Checkpoints

STATE = {"counters": {"step": 7, "big": 2**100, "recent": [1.0]}, "weights": torch.arange(1000.0)}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    tensor_files.save(tmp_path / "a" / "x.pt", STATE)
    state = tensor_files.load(tmp_path / "a" / "x.pt")
    assert state["counters"] == STATE["counters"]
    assert torch.equal(state["weights"], STATE["weights"])


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    tensor_files.save(tmp_path / "x.pt", {"n": 1})

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="disk full"):
        tensor_files.save(tmp_path / "x.pt", {"n": 2})
    monkeypatch.undo()
    assert tensor_files.load(tmp_path / "x.pt")["n"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_any_cut_and_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    tensor_files.save(path, STATE)
    whole = path.read_bytes()
    payload = whole.index(STATE["weights"].numpy().tobytes())  # type: ignore[union-attr]
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:-1], _flip(whole, payload + 1234)):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"x\.pt: .*(cannot be read|damaged).*earlier"):
            tensor_files.load(path)


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (100, 200, 300):
        checkpoints.save(step, {"n": step})
    assert [path.name for path in checkpoints.paths()] == ["step-000000000200.pt", "step-000000000300.pt"]
    checkpoints.paths()[-1].write_bytes(b"half")
    said: list[str] = []
    path, state = checkpoints.load_latest(said.append)
    assert state["n"] == 200
    assert path.stem == "step-000000000200"
    assert len(said) == 1
    assert "step-000000000300.pt: cannot be read (4 bytes" in said[0]
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint \(2 damaged found\)"):
        checkpoints.load_latest(said.append)


def test_absence_and_another_format_are_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        tensor_files.load(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"no usable checkpoint \(none found\)"):
        Checkpoints(tmp_path / "nowhere").load_latest(print)
    torch.save({"format": 99}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        tensor_files.load(tmp_path / "x.pt")


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"format": 1, "x": Attack()}, tmp_path / "x.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensor_files.load(tmp_path / "x.pt")
    assert not (tmp_path / "owned").exists()
