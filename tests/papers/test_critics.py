"""What a paper sees of trained critics."""

from __future__ import annotations

import json

import pytest
import torch

from scg.agents.commands import cli
from scg.agents.training.run_directory import RunDirectory
from scg.papers import critics as module
from scg.papers.critics import PAIRS, critics
from tests.papers.critics_seen import judged
from tests.papers.learned import flat


@pytest.fixture
def single():
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def never(*args, **kwargs):
    raise AssertionError("measured again")


@pytest.mark.usefixtures("single")
def test_every_checkpoint_is_seen_once(tmp_path, monkeypatch):
    small = (
        "--steps 60 --hidden 8 --evaluations 1 --eval-episodes 1 --checkpoints 2 --warmup 20 --batch 8 --report 10 --gamma 0.5"
    )
    cli.train(["ddpg", "--env", "Pendulum-v1", *small.split(), "--out", str(tmp_path / "run")])
    run = RunDirectory.open(tmp_path / "run")
    first = critics(run)
    assert [row["step"] for row in first.along] == [30, 60]
    assert first.last["bias"] == pytest.approx(first.last["estimate"] - first.last["truth"], rel=1e-4)
    assert PAIRS <= len(first.pairs) < 2 * PAIRS
    mean = sum(estimate - truth for estimate, truth in first.pairs) / len(first.pairs)
    assert mean == pytest.approx(first.last["bias"], rel=0.2)
    assert json.loads(json.dumps(first.numbers()))["along"][-1]["step"] == 60
    with monkeypatch.context() as patch:
        patch.setattr(module, "each_checkpoint", never)
        assert critics(run) == first
        run.checkpoints.paths()[0].unlink()
        with pytest.raises(AssertionError, match="measured again"):
            critics(run)
    assert [row["step"] for row in critics(run).along] == [60]


def test_estimates_that_are_off_by_a_constant():
    seen = judged(flat(0.0), bias=5.0, size=9.0).seen
    assert seen.overestimation == 5.0
    assert seen.correlation == pytest.approx(1.0)
    assert seen.rms == pytest.approx(5.0 / (sum(x**2 for x in (9, 12, 15, 18)) / 4) ** 0.5)


def test_values_that_are_the_same_everywhere_correlate_with_nothing():
    seen = judged(flat(0.0), bias=5.0).seen
    constant = type(seen)(seen.along, [(1.0, 100.0), (2.0, 100.0)])
    assert constant.correlation == 0.0
