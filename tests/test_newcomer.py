"""A newcomer reads the site's first page and follows each of its three paths: a checked estimator, a checked loss, a trained agent.

Only what is printed there is run, in a folder that is empty before, and what it prints is what stands below it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from scg.agents.training.run_directory import RunDirectory, read_table
from website.blocks import blocks, run

DOCS = Path(__file__).parents[1] / "docs"
PATHS = ["derive/index.md", "test/index.md", "train/index.md"]


def followed(page: str) -> str:
    """Run a page; all that it shows."""
    text = (DOCS / page).read_text(encoding="utf-8")
    shown = [block.body for block, printed in run(text, page) if same(printed, block.body)]
    assert len(shown) == sum(block.kind == "text" for block in blocks(text))
    return "".join(shown)


def same(printed: str, shown: str) -> bool:
    assert printed.strip() == shown.strip()
    return True


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    return tmp_path


def test_the_first_page_leads_to_the_three_paths_and_prints_what_it_says():
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [target for target in re.findall(r"\]\(([^)]+)\)", text) if target in PATHS] == PATHS
    assert followed("index.md") == "False\nTrue\n"


def test_the_first_path_ends_in_a_checked_estimator():
    shown = followed("derive/index.md")
    assert "Halves: passed" in shown and "OwnSample: failed first order" in shown
    assert shown.rstrip().endswith("unbiased")


def test_the_second_path_ends_in_a_checked_loss():
    shown = followed("test/index.md")
    assert "biased at 0.5 of the true length: a wrong mean over an axis" in shown
    assert shown.splitlines()[1:] == ["unbiased", "unbiased"]
    sys.modules.pop("test_my_loss", None)


def test_the_third_path_ends_in_a_trained_agent(empty_folder):
    assert followed("train/index.md") == "True\n"
    assert RunDirectory.open(empty_folder / "runs" / "first").run.steps == 32_000
    assert read_table(empty_folder / "runs" / "first" / "evaluations.csv")[-1]["return"] > 100
    assert (empty_folder / "dashboard.html").read_text().count("<article") == 2
    assert (empty_folder / "reinforce.svg").stat().st_size > 1000 and (empty_folder / "curve.png").exists()
