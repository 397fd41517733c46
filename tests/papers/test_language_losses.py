"""Both papers on language models' losses run, and a loss that is right is not called wrong, nor a wrong one right."""

from __future__ import annotations

import json

import pytest
import torch

import scg.papers.liu2025_drgrpo.run as liu
import scg.papers.tang2025_kl.run as tang
from scg.papers.cli import paper
from scg.papers.toy.answers import nothing, table, task


def test_the_kl_paper_runs(tmp_path):
    assert paper(["tang2025_kl", "--tables", "1", "--updates", "30", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["verdict"] for row in rows] == ["reproduced"] * 6


def test_the_grpo_paper_runs(tmp_path):
    assert paper(["liu2025_drgrpo", "--policies", "3", "--updates", "10", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert [row["verdict"] for row in rows] == ["reproduced"] * 4


def test_losses_in_each_others_place_are_not_reproduced(monkeypatch):
    monkeypatch.setattr(tang, "k3", tang.k1)
    assert not tang.one_token(tang.Settings(tables=1))[3]
    assert not tang.in_reward(tang.Settings(tables=1))[3]
    monkeypatch.setattr(liu, "dr_grpo", liu.grpo)
    assert not liu.unbiased(liu.Settings(policies=3))[3]
    monkeypatch.setattr(liu, "by_deviation", lambda b: -liu.summed(liu.centred(b.rewards) * b.log_probs, b))
    assert not liu.difficulty(liu.Settings(policies=2))[3]


def test_the_tables_kl_is_the_sum_over_its_prefixes():
    policy, reference = table(2, 2, 0), table(2, 2, 1)
    made = task(policy, 2, nothing, reference=reference, kl=1.0)
    p, q = policy.rows.detach().softmax(-1), reference.rows.detach().softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(made.value().detach(), kl[0] + p[0, 0] * kl[1])


def test_options_that_make_no_sense_are_refused(capsys):
    for words in (["tang2025_kl", "--tables", "0"], ["liu2025_drgrpo", "--policies", "1"]):
        assert paper(words) == 2
    assert "at least" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least"):
        liu.Settings(updates=0)
