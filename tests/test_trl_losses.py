"""TRL's own trainers, where they are installed: their losses against the true gradient, by the sum over all groups of answers."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("trl", reason="needs trl and transformers")

from benchmarks.trl_losses import Audited, audit, micro, own_log_probs, row, tasks


def test_its_log_probabilities_and_their_gradients_are_the_policys() -> None:
    """TRL computes them in float32, from padded rows and in chunks."""
    task = tasks()["on-policy"]
    theirs, ours = own_log_probs(task)
    torch.testing.assert_close(theirs.double(), ours, rtol=0, atol=1e-6)
    direction = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    parameters = list(task.parameters().values())
    found, exact = (
        torch.cat([g.flatten() for g in torch.autograd.grad((x * direction).sum(), parameters, retain_graph=True)])
        for x in (theirs, ours)
    )
    assert float((found - exact).norm()) < 1e-5 * float(exact.norm())


def test_rloo_is_unbiased_and_dr_grpo_short_by_what_is_known() -> None:
    report, cut = audit(row("RLOO", trainer="RLOO"), max_groups=2**12)
    assert report.verdict == "unbiased" and not report.findings and cut == 0
    report, _ = audit(row("", loss_type="dr_grpo", scale_rewards="none"), max_groups=2**12)
    assert report.verdict == "scale"
    assert report.scale == pytest.approx((1 - 1 / 3) / 2, abs=1e-6)  # its own answer in the mean of 3; divided by 2 tokens


def test_what_depends_on_micro_batches_is_found() -> None:
    assert micro(Audited(row("", loss_type="bnpo")), 16) > 0.01
    assert micro(Audited(row("", loss_type="dapo")), 16) < 1e-6
