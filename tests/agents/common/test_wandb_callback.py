"""Weights & Biases, without a network; and without the package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import scg
from scg import agents
from scg.agents.execution.options import OptionError

HERE = importlib.util.find_spec("wandb") is not None


@pytest.mark.skipif(not HERE, reason="the extra torch-scg[wandb] is not installed: no wandb")
def test_rows_are_sent_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    sent = []
    callback = agents.WandB(project="mine", mode="offline")
    log = callback._log
    monkeypatch.setattr(callback, "_log", lambda now, row: (sent.append((now.step, row)), log(now, row)))
    options = {"steps": 32, "envs": 2, "horizon": 8, "hidden": (4,), "evaluations": 1, "eval_episodes": 2, "quiet": True}
    run = scg.train("reinforce", "CartPole-v1", out="run", callbacks=[callback], **options)
    callback.finish()
    assert [step for step, _ in sent] == [16, 32, 32]
    assert "train/actor_grad_norm" in sent[0][1] and "evaluation/return" in sent[-1][1]
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(OptionError, match=r"pip install 'torch-scg\[wandb\]'"):
        agents.WandB()
