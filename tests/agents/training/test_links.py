"""No writer of a run goes through a symbolic link, whatever a stranger has put into its folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import pytest

from scg.agents.commands import overestimation
from scg.agents.experience import tensor_files
from scg.agents.reinforce import Reinforce
from scg.agents.training import curves, loop
from scg.agents.training.run_directory import RunConfig, RunDirectory, Table, write_json
from scg.agents.training.video import Camera

SHORT = RunConfig(steps=128, envs=4, evaluations=1, eval_episodes=2, checkpoints=1)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("mine")
    return tmp_path / "outside"


def test_no_output_of_a_resumed_run_goes_through_a_link(tmp_path: Path, outside: Path) -> None:
    run = RunDirectory.create("reinforce", SHORT, Reinforce(horizon=16, hidden=(4,)), tmp_path / "run")
    loop.train(run, quiet=True)
    (old,) = [path for path in run.checkpoints.paths() if "128" in path.name]
    links = {"metrics.tmp", "config.tmp", "evaluations.tmp", "curve.png", "versions.tmp"}
    for name in links:
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(outside)
    loop.train(RunDirectory.open(run.path), resume=True, quiet=True)
    assert outside.read_text() == "mine"
    assert old.exists()
    assert not (run.path / "curve.png").is_symlink()


@pytest.mark.parametrize("upto", [None, 5])
def test_a_table_is_no_link_even_one_that_leads_nowhere(tmp_path: Path, upto: int | None) -> None:
    (tmp_path / "t.csv").symlink_to(tmp_path / "nowhere")
    table = Table(tmp_path / "t.csv", upto)
    table.write(6, {"a": 1.0})
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "t.csv").unlink()
    (tmp_path / "t.csv").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"t\.csv"):  # put there while the run goes on
        table.write(7, {"a": 1.0})
    assert not (tmp_path / "nowhere").exists()


def _film(path: Path) -> None:
    import numpy as np

    with Camera(path).open() as film:
        film.append_data(np.zeros((4, 4, 3), np.uint8))


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.json": lambda path: write_json(path, {}),
    "x.pt": lambda path: tensor_files.save(path, {"n": 1}),
    "x.gif": _film,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_replaces_a_link(tmp_path: Path, outside: Path, name: str) -> None:
    (tmp_path / name).symlink_to(outside)
    WRITERS[name](tmp_path / name)
    assert outside.read_text() == "mine"
    assert (tmp_path / name).stat().st_size > 2


def test_pictures_of_commands_replace_a_link(tmp_path: Path, outside: Path) -> None:
    run = RunDirectory.create("reinforce", SHORT, Reinforce(), tmp_path / "run")
    (run.path / "evaluations.csv").write_text("step,return\n10,1.0\n20,2.0\n")
    rows = [{"step": 1.0, "estimate": 1.0, "truth": 1.0}]
    for name, draw in (
        ("a.png", lambda path: curves.plot([run.path], path)),
        ("b.pdf", lambda path: overestimation.plot([(run, rows)], path)),
    ):
        (tmp_path / name).symlink_to(outside)
        draw(tmp_path / name)
        assert outside.read_text() == "mine"
        assert (tmp_path / name).read_bytes()[:4] in (b"\x89PNG", b"%PDF")


def test_a_picture_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create("reinforce", SHORT, Reinforce(), tmp_path / "run")
    (run.path / "evaluations.csv").write_text("step,return\n10,1.0\n")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        curves.plot([run.path], tmp_path / "out" / "c.png")
    assert os.listdir(tmp_path / "out") == []
