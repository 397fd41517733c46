"""What the commands share: faults told in one line, and a trained run as its checkpoint left it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from scg import executors
from scg.agents import is_target, names
from scg.agents.commands.trust import opened
from scg.agents.common.agent import Agent, OptionError
from scg.agents.environments.envs import EnvironmentFault, make
from scg.agents.environments.faults import EnvironmentFailed, first_line
from scg.agents.execution.memory import is_shortage
from scg.agents.experience import tensor_files
from scg.agents.experience.tensor_files import CheckpointError
from scg.agents.networks.finite_check import NotFinite
from scg.agents.training.run_directory import RunDirectory, RunError
from scg.commands.shared import Fault, reporting
from scg.errors import nearest, visible
from scg.executors import Executor, ExecutorError, WorkerDied
from scg.files import told
from scg.targets import TargetError

FIGURES = (".png", ".pdf", ".svg")


def fault_of(error: Exception) -> Fault | None:
    """The exit code of a fault that a user can mend, and what to say of it; None for one that is ours."""
    from scg.agents.training.loop import TrainingStopped
    from scg.agents.training.video import VideoError

    if isinstance(error, TrainingStopped | EnvironmentFailed | NotFinite | WorkerDied):
        return 1, f"stopped: {_harmless(error)}"
    if isinstance(
        error, CheckpointError | EnvironmentFault | ExecutorError | OptionError | RunError | TargetError | VideoError
    ):
        return 2, f"error: {_harmless(error)}"
    if isinstance(error, OSError):
        return 1, f"error: {_harmless(told(error))}"
    if isinstance(error, MemoryError | RuntimeError) and is_shortage(error):
        return 1, f"error: memory is full ({first_line(error)}). Give fewer --envs or smaller networks."
    return None


reported = reporting(fault_of)


def names_agent(argv: list[str]) -> bool:
    """Whether the arguments begin with an agent: one that has a name, or a target."""
    return bool(argv) and (argv[0] in names() or (is_target(argv[0]) and not argv[0].startswith("-")))


def resumes(argv: list[str]) -> bool:
    return any(word.split("=")[0] == "--resume" for word in argv)


def usage(argv: list[str], text: str) -> int:
    """Print how a command is used whose arguments do not begin with an agent; the exit code: 0 where that was asked for."""
    asked = bool(argv) and argv[0] in ("-h", "--help")
    if argv and not asked:
        print(f"error: agent {argv[0]!r} is unknown.{nearest(argv[0], names())}", file=sys.stderr)
    agents = f"AGENT is path/to/file.py:Name, or one of: {', '.join(names())}"
    print(f"usage: {text}\n{agents}", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def executor_of(wish: Any) -> Executor:
    """The executor of the options `executor` and `workers`; a task has one thread, or what its run says."""
    return executors.opened(wish.executor, wish.workers)


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
