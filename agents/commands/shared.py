"""What the commands share: faults told in one line, and a trained run as its checkpoint left it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from scg.agents.commands.trust import opened
from scg.agents.common.agent import Agent, OptionError
from scg.agents.environments.envs import EnvironmentFault, make
from scg.agents.environments.faults import EnvironmentFailed, first_line
from scg.agents.execution.memory import is_shortage
from scg.agents.experience import tensor_files
from scg.agents.experience.tensor_files import CheckpointError
from scg.agents.networks.finite_check import NotFinite
from scg.agents.training.run_directory import RunDirectory, RunError
from scg.errors import visible
from scg.files import told
from scg.targets import TargetError

FIGURES = (".png", ".pdf", ".svg")
Command = Callable[[list[str]], int]


def reported(command: Command) -> Command:
    """Faults that a user can mend are one message, not a traceback."""

    @wraps(command)
    def run(argv: list[str]) -> int:
        from scg.agents.training.loop import TrainingStopped
        from scg.agents.training.video import VideoError

        try:
            return command(argv)
        except (TrainingStopped, EnvironmentFailed, NotFinite) as error:
            print(f"stopped: {_harmless(error)}", file=sys.stderr)
            return 1
        except (CheckpointError, EnvironmentFault, OptionError, RunError, TargetError, VideoError) as error:
            print(f"error: {_harmless(error)}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"error: {_harmless(told(error))}", file=sys.stderr)
            return 1
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            print(f"error: memory is full ({first_line(error)}). Give fewer --envs or smaller networks.", file=sys.stderr)
            return 1
        except SystemExit as leave:  # argument errors and --help
            return leave.code if isinstance(leave.code, int) else 2

    return run


def check_figure(out: Path) -> None:
    """RunError for a file that no figure can be written to, before the computation starts."""
    if out.suffix not in FIGURES or out.is_dir():
        raise RunError(f"--out {out}: a figure is a file whose name ends in {', '.join(FIGURES)}.")


def _harmless(error: Exception | str) -> str:
    """The message, line by line, without terminal control characters: it may quote an untrusted file or module."""
    return "\n".join(map(visible, str(error).split("\n")))


def trained(path: Path, best: bool, trust: bool = False, env: Any = None) -> tuple[RunDirectory, Agent, Path]:
    """A run, its agent as the last or the best checkpoint left it, and that checkpoint."""
    from scg.agents.training.loop import build

    run = opened(path, trust, env)
    run.execution = replace(run.execution, device="cpu", threads=1, cuda_graphs=False)  # this machine may be another
    if best:
        file, state = run.checkpoints.best, tensor_files.load(run.checkpoints.best)
    else:
        file, state = run.checkpoints.load_latest(lambda text: print(f"warning: {text}", file=sys.stderr))
    with make(run.run.recipe, 1, bins=run.run.action_bins) as one:
        agent = build(run, one)
    agent.load_state_dict(state["agent"])
    return run, agent, file
