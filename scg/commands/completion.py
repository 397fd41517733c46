"""`scg --completion bash | zsh`: a script that completes commands, agents, papers and options, made from what `--help` prints.

    eval "$(scg --completion bash)"      in ~/.bashrc; zsh likewise. Made once, it starts no Python while one types.

A command whose first word is one of a list says so by its attribute `subjects`, a function that returns the list; each of
them has options of its own.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping
from typing import Any

SHELLS = ("bash", "zsh")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
SCRIPT = """{zsh}_scg() {{
    local words=""
    case "$COMP_CWORD ${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _scg scg
"""


def script(shell: str, commands: Mapping[str, Callable[[list[str]], Any]]) -> str:
    cases = [("1 *", [*commands])]
    for name, command in commands.items():
        own = options(command, [])
        subjects = list(getattr(command, "subjects", list)())
        cases += [(f"2 {name} *", [*subjects, *own])]
        cases += [(f"* {name} {subject}", options(command, [subject])) for subject in subjects]
        cases += [(f"* {name} *", own)]
    lines = "\n".join(f'    "{_quoted(pattern)}") words="{" ".join(words)}" ;;' for pattern, words in cases)
    zsh = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return SCRIPT.format(zsh=zsh, cases=lines)


def options(command: Callable[[list[str]], Any], words: list[str]) -> list[str]:
    """The options that the help of a command names."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        command([*words, "--help"])
    return list(dict.fromkeys(OPTION.findall(shown.getvalue())))


def _quoted(pattern: str) -> str:
    return pattern.replace("*", '"*"')  # a star is one outside of the quotes only
