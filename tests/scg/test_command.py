"""`python -m scg` and the version."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import scg


def test_the_package_runs_as_its_command() -> None:
    done = subprocess.run([sys.executable, "-m", "scg", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"scg {scg.__version__}\n"


def test_the_version_is_the_distributions() -> None:
    assert scg.__version__ == version("torch-scg")
