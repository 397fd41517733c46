"""Checkpoints: whole or not at all, and nothing in them runs."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from scg.agents.experience import tensor_files
from scg.agents.experience.tensor_files import CheckpointError
from scg.agents.training import checkpoint
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


def _sealed(path: Path, state: dict[str, object]) -> None:
    """A file with a right digest that `save` would not write."""
    buffer = io.BytesIO()
    torch.save(state, buffer, pickle_module=pickle)
    content = buffer.getvalue()
    path.write_bytes(content + tensor_files.MARK + hashlib.sha256(content).digest())


def test_any_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    """Of the archive's directory too, whose damage the archive's own checksums do not see."""
    path = tmp_path / "x.pt"
    tensor_files.save(path, {"n": 1, "weights": torch.arange(3.0)})
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 7), *range(len(whole) - 300, len(whole))]:
        path.write_bytes(_flip(whole, at))
        with pytest.raises(CheckpointError, match="digest is missing or differs"):
            tensor_files.load(path)


@pytest.mark.parametrize("kind", ["directory", "no archive", "no dict"])
def test_whatever_cannot_be_read_is_the_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.pt"
    if kind == "directory":
        path.mkdir()
    elif kind == "no archive":
        path.write_bytes(b"abc" + tensor_files.MARK + hashlib.sha256(b"abc").digest())
    else:
        _sealed(path, [1, 2])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"x\.pt: (cannot be read|format None)"):
        tensor_files.load(path)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_damaged_checkpoints_that_are_newer_cost_no_good_one(tmp_path: Path, keep: int) -> None:
    first = Checkpoints(tmp_path, keep)
    first.save(100, {"n": 100})
    for step in (900, 901, 902):
        (tmp_path / f"step-{step:012d}.pt").write_bytes(b"damaged")
    resumed = Checkpoints(tmp_path, keep)
    said: list[str] = []
    assert resumed.load_latest(said.append)[1]["n"] == 100
    assert len(said) == 3
    resumed.save(200, {"n": 200})
    assert Checkpoints(tmp_path, keep).load_latest(said.append)[1]["n"] == 200
    left = [int(path.stem.removeprefix("step-")) for path in resumed.paths()]
    assert left == [200] if keep == 1 else [100, 200]


def test_a_checkpoint_whose_replay_is_damaged_gives_way_to_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(100, {"n": 100}), checkpoints.save(200, {"n": 200})
    said: list[str] = []

    def use(state: dict[str, object]) -> None:
        if state["n"] == 200:
            raise CheckpointError("replay from-000000000100.pt: cannot be read")

    assert checkpoints.load_latest(said.append, use)[1]["n"] == 100
    assert said == ["replay from-000000000100.pt: cannot be read"]


def test_what_was_written_badly_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(100, {"n": 100})
    monkeypatch.setattr(checkpoint, "save", lambda path, state: path.write_bytes(b"half"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.save(200, {"n": 200})
    monkeypatch.undo()
    assert Checkpoints(tmp_path).load_latest(lambda text: None)[1]["n"] == 100


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
    _sealed(tmp_path / "x.pt", {"format": 99})
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        tensor_files.load(tmp_path / "x.pt")


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    _sealed(tmp_path / "x.pt", {"format": 1, "x": Attack()})
    with pytest.raises(CheckpointError, match="cannot be read"):
        tensor_files.load(tmp_path / "x.pt")
    assert not (tmp_path / "owned").exists()


def test_what_a_damaged_checkpoint_says_holds_no_terminal_escape(tmp_path: Path) -> None:
    """The unpickler quotes the name of what it refuses to load."""
    content = b"c\x1b[2Jmodule\nname\n."
    buffer = io.BytesIO()
    torch.save({"format": 1}, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(tmp_path / "archive", "w") as changed:
        for name in whole.namelist():
            changed.writestr(name, content if name.endswith("data.pkl") else whole.read(name))
    archive = (tmp_path / "archive").read_bytes()
    (tmp_path / "x.pt").write_bytes(archive + tensor_files.MARK + hashlib.sha256(archive).digest())
    with pytest.raises(CheckpointError, match="cannot be read") as caught:
        tensor_files.load(tmp_path / "x.pt")
    assert str(caught.value).isprintable()
