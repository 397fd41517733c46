"""The completion that `scg --completion` prints is asked as a shell asks it."""

from __future__ import annotations

import subprocess

import pytest

import scg
from scg.commands.cli import main
from scg.commands.completion import script


def ppo(argv: list[str]) -> int:
    print("--lr FLOAT, --env (--no-twin)" if argv[:1] == ["ppo"] else "usage: train AGENT | --resume RUN, lr --lr-like")
    raise SystemExit(0)


def plot(argv: list[str]) -> int:
    print("--out PATH   --label")
    return 0


ppo.subjects = lambda: ["ppo", "a2c"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("scg ", "train plot"),
        ("scg pl", "plot"),
        ("scg train ", "ppo a2c --resume --lr-like"),
        ("scg train --r", "--resume"),
        ("scg train ppo --", "--lr --env --no-twin"),
        ("scg train ppo x y --e", "--env"),
        ("scg train file.py:A --r", "--resume"),
        ("scg plot run run --l", "--label"),
        ("scg nosuch --l", ""),
    ],
)
def test_a_shell_completes_commands_subjects_and_options(line: str, found: str) -> None:
    words = line.split(" ")
    asked = f'COMP_WORDS=({" ".join(word or chr(39) * 2 for word in words)}); COMP_CWORD={len(words) - 1}; _scg; echo "${{COMPREPLY[*]}}"'
    shown = subprocess.run(
        ["bash", "-c", script("bash", {"train": ppo, "plot": plot}) + asked], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == found and not shown.stderr


def test_the_command_prints_it_for_every_agent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", "zsh"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("autoload -U +X bashcompinit") and "--minibatch" in shown and "schulman2015_scg" in shown
    assert main(["--completion", "cmd"]) == 2
    assert "say which shell, bash or zsh" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scg {scg.__version__}\n"
