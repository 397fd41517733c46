"""Executors: where tasks run that do not depend on each other, with the same bits wherever that is.

    with opened("local", workers=4) as executor:
        for index, result in executor.stream(function, [(a,), (b,), …]): …       as they end; `map` in their order

    task.py      a task and its surroundings: seed, threads, default type      executor.py   the interface, and what all share
    actor.py     an object with a state, in a process of its own               engines.py    engines by name
    in_process.py, local_pool.py, ray_core.py, slurm.py                        the engines

Nothing outside of this folder knows which engine runs a task.
"""

from scg.executors.actor import Actor
from scg.executors.engines import ENGINES, opened
from scg.executors.executor import Executor
from scg.executors.in_process import InProcess
from scg.executors.task import ExecutorError, TaskError, WorkerDied

__all__ = ["ENGINES", "Actor", "Executor", "ExecutorError", "InProcess", "TaskError", "WorkerDied", "opened"]
