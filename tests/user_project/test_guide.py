"""docs/guides/your-agent.md is true: its files are written, its commands run and its code holds, in a folder of their own."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from scg.commands.cli import main

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-agent.md"


def test_its_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"```(python|sh)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)
    files, commands, pieces = 0, 0, 0
    for kind, body in blocks:
        if kind == "sh":
            for line in body.strip().splitlines():
                _, *words = shlex.split(line)
                short = ["--steps", "1024", "--evaluations", "1", "--eval-episodes", "2"] if words[0] == "train" else []
                torch.set_default_dtype(torch.float32)
                assert main([*words, *short]) == 0, capsys.readouterr().err
                commands += 1
        elif name := re.match(r"# (\w+\.py)\n", body):
            Path(name[1]).write_text(body)
            files += 1
        else:
            torch.set_default_dtype(torch.float64 if "Process" in body else torch.float32)
            exec(compile(body, str(GUIDE), "exec"), {})
            pieces += 1
    assert (files, commands, pieces) == (2, 5, 3)
    assert "∂J/∂θ_action" in capsys.readouterr().out
    assert "evenness_share" in Path("runs/smooth/metrics.csv").read_text().splitlines()[0]
    for name in ("my_agent", "smooth"):
        sys.modules.pop(name, None)


def test_the_pages_that_it_is_linked_from_name_it() -> None:
    for page in ("README.md", "docs/training.md"):
        assert "guides/your-agent.md" in (GUIDE.parents[2] / page).read_text(encoding="utf-8")
