"""The paper's claims on a wall, with fewer repeats."""

from pathlib import Path

import pytest
import torch

from scg.papers.suh2022_alpha_order import run as paper


def test_every_claim_holds_with_few_repeats(tmp_path: Path) -> None:
    before = torch.get_default_dtype()
    results = paper.run(paper.Settings(repeats=8, throws=60), tmp_path)
    assert torch.get_default_dtype() is before
    assert not results.failed, results.failed
    assert (tmp_path / "wall.png").exists()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="--repeats 1"):
        paper.Settings(repeats=1)
