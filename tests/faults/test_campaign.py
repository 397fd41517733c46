"""The fault campaign in small; in the long profile, whole. Its figures are in docs/faults.md."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.faults import files, kills, words
from tests.faults.__main__ import campaign, table
from tests.faults.trials import Outcome, Trial, trained

LONG = settings.default.max_examples > 100  # the long profile


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return trained(tmp_path / "whole")


def none_lost(outcomes: list[Outcome]) -> None:
    assert outcomes and not [f"{outcome.trial.name}: {outcome.lost}" for outcome in outcomes if outcome.lost]


def test_files(whole: Path, tmp_path: Path) -> None:
    none_lost(campaign(files.trials(20 if LONG else 1, whole), tmp_path / "files"))


def test_words(whole: Path, tmp_path: Path) -> None:
    none_lost(campaign(words.trials(whole, 1.0 if LONG else 0.05), tmp_path / "words"))


@pytest.mark.skipif(not LONG, reason="tests/agents/training/test_kills.py kills two")
def test_kills(tmp_path: Path) -> None:
    none_lost(campaign(kills.trials(50), tmp_path / "kills"))


def test_a_trial_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    before = [*sys.path], os.getcwd(), resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGTERM)

    def disturbs(folder: Path) -> None:
        (folder / "disturbing.py").write_text("")
        sys.path.insert(0, str(folder))
        importlib.import_module("disturbing")
        os.chdir(folder)
        os.environ["DISTURBED"] = "1"
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, before[2][1]))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exploded = True  # type: ignore[attr-defined]
        raise AssertionError("gone")

    assert campaign([Trial("a kind", "bad", disturbs)], tmp_path / "trials")[0].lost
    assert before == ([*sys.path], os.getcwd(), resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGTERM))
    assert "DISTURBED" not in os.environ and "disturbing" not in sys.modules and not hasattr(sys, "exploded")


def test_a_loss_is_counted_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def loses(folder: Path) -> None:
        raise AssertionError("gone")

    outcomes = campaign([Trial("a kind", "bad", loses), Trial("a kind", "good", lambda folder: None)], tmp_path / "trials")
    assert "LOST  a kind: bad: AssertionError: gone" in capsys.readouterr().out
    assert "| a kind | 2 | 1 | 1 |" in table(outcomes)
