"""Second derivatives and what changes nothing: `python -m tests.attack.derivatives --graphs 300` tries more of them."""

import pytest
import torch
from torch.utils.checkpoint import CheckpointError

from scg import Branches, ScoreFunction
from scg.evaluation import evaluation
from tests.attack.catalogue import build
from tests.attack.derivatives import attack, changed, curvature, drawn, off, sampled

REFUSED = ("right to first order only", "reaches nothing of what trains= names", "draws other samples")


def test_every_random_program_is_right_or_refused_for_a_known_reason():
    for seed in range(12, 18):
        kind, detail = attack(seed, replicates=200)
        assert kind == "right" or (kind == "refused" and any(words in detail for words in REFUSED)), f"seed {seed}: {detail}"


def test_a_weight_that_is_right_to_first_order_alone_is_caught(monkeypatch):
    """1 + z has the gradient of exp(z), and lacks z² in its second derivative."""
    program = drawn(34)
    assert "ScoreFunction()" in {n.estimator for n in program.nodes}
    truth, right = curvature(program), ScoreFunction.branch

    def linear(self, distribution):
        branches = right(self, distribution)
        return Branches(branches.values, branches.n, weights=1 + branches.score)

    torch.manual_seed(0)
    assert off(program, truth, 2000, build(program)) < 4
    monkeypatch.setattr(ScoreFunction, "branch", linear)
    assert off(program, truth, 2000, build(program)) > 6


def test_a_distribution_that_a_checkpointed_stretch_shares_is_caught(monkeypatch):
    program = drawn(27)
    graph = build(program)
    sampled(program, 3, graph)
    assert not changed(program, graph, "checkpoint", 27)
    monkeypatch.setattr(evaluation, "unused", lambda distribution: distribution)
    with pytest.raises(CheckpointError):
        changed(program, graph, "checkpoint", 27)
