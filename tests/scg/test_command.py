"""`python -m scg` and the version."""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import version

import pytest

import scg


def test_the_package_runs_as_its_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["scg", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("scg", run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"scg {scg.__version__}\n"


def test_the_version_is_the_distributions() -> None:
    assert scg.__version__ == version("torch-scg")
