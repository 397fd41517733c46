"""The contract of executors: the same bits in process, in a pool, on Ray, by submitit; also where workers die."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from scg.executors import Executor, ExecutorError, InProcess, TaskError, WorkerDied, opened
from scg.executors.local_pool import LocalPool, shares
from tests.scg.executors import tasks

FOUR = [(i,) for i in range(4)]


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(module) is None, reason=f"{module} is not installed: torch-scg[{module}]")


ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("ray", id="ray", marks=needs("ray")),
    pytest.param("slurm:cluster=local", id="submitit", marks=needs("submitit")),
]


@pytest.fixture(scope="module", params=ENGINES)
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    before = set(multiprocessing.active_children())
    folder = f",folder={tmp_path_factory.mktemp('jobs')}" if "slurm" in request.param else ""
    with opened(request.param + folder, workers=2) as made:
        yield made
    assert not set(multiprocessing.active_children()) - before
    folder = getattr(made, "folder", None)
    if folder is not None:  # Ray's
        assert not running(folder) and not Path(folder).exists()


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with LocalPool(2) as made:
        yield made


# -- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_draw_the_same_bits_everywhere(executor: Executor) -> None:
    here = list(InProcess().map(tasks.draws, FOUR, seed=7))
    assert len(set(here)) == 4
    assert list(executor.map(tasks.draws, FOUR, seed=7)) == here


def test_a_task_whose_worker_is_killed_is_repeated_with_its_own_bits(executor: Executor, tmp_path: Path) -> None:
    here = list(InProcess().map(tasks.draws, FOUR))
    assert list(executor.map(tasks.dies_once, [(str(tmp_path), i) for i in range(4)])) == here
    assert (tmp_path / "died").exists()


def test_numbers_that_depend_on_the_worker_are_not_the_same(pool: LocalPool) -> None:
    """The comparison above can fail."""
    assert list(pool.map(tasks.draws_of_its_process, FOUR)) != list(pool.map(tasks.draws_of_its_process, FOUR))


def test_threads_and_default_type_travel_with_the_task(pool: LocalPool) -> None:
    assert torch.get_default_dtype() is torch.float64
    assert pool.submit(tasks.settings, 0).result() == (1, "torch.float64")
    torch.set_default_dtype(torch.float32)
    assert pool.submit(tasks.settings, 0).result() == (1, "torch.float32")
    assert InProcess(1, threads=3).submit(tasks.settings, 0).result() == (3, "torch.float32")


def test_a_task_here_leaves_no_trace_in_the_default_generators() -> None:
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    assert InProcess().submit(tasks.draws, 0, seed=1).result() != InProcess().submit(tasks.draws, 0, seed=2).result()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), str(np.random.get_state())) == before[1:]  # noqa: NPY002


def test_results_stream_as_they_come_and_map_puts_them_in_order(pool: LocalPool) -> None:
    list(pool.map(tasks.sleeps, [(1,), (2,)]))  # both workers have started
    assert next(iter(pool.stream(tasks.sleeps, FOUR)))[0] != 0  # the first task is the slowest
    assert list(pool.map(tasks.sleeps, FOUR)) == [0, 1, 2, 3]


def test_a_stream_in_process_runs_a_task_when_it_is_asked_for() -> None:
    stream = InProcess().stream(tasks.divides, [(1,), (0,)])
    assert next(stream) == (0, 1.0)
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_a_task_that_kills_every_worker_comes_to_an_end(pool: LocalPool) -> None:
    with pytest.raises(WorkerDied, match=r"task kills: 4 workers died with it, the last one: killed by SIGKILL"):
        list(pool.map(tasks.kills, [(0,)]))
    assert pool.submit(tasks.draws, 0).result()[0] == 0  # the pool is whole again


def test_errors_are_the_tasks_own(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        list(executor.map(tasks.divides, [(1,), (0,)]))


def test_what_cannot_travel_is_said(pool: LocalPool) -> None:
    with pytest.raises(TaskError, match="Peculiar: 1 and 2"):
        pool.submit(tasks.peculiar).result()
    with pytest.raises(Exception, match="pickle"):
        pool.submit(tasks.unpicklable).result()
    with pytest.raises(Exception, match="pickle"):
        pool.submit(lambda: None).result()
    assert pool.submit(tasks.draws, 0).result()[0] == 0


# -- actors ----------------------------------------------------------------------------------------------------------


def test_an_actor_takes_the_same_walk_everywhere_and_after_its_death(executor: Executor, tmp_path: Path) -> None:
    if "Slurm" in type(executor).__name__:
        with pytest.raises(ExecutorError, match="no actors"):
            executor.actor(tasks.Walk, str(tmp_path), 1.0)
        return
    walked = []
    for number, engine in enumerate((InProcess(), executor)):
        folder = tmp_path / str(number)
        folder.mkdir()
        actor = engine.actor(tasks.Walk, str(folder), 1.0, seed=3)
        path = [actor.call("step", 0.5).result() for _ in range(3)]
        pid = actor.call("pid").result()
        if engine.elsewhere:
            os.kill(pid, signal.SIGKILL)
        path += [actor.call("step", 0.5).result() for _ in range(3)]
        assert (actor.call("pid").result() != pid) == engine.elsewhere
        walked.append(path)
        actor.close()
        assert len((folder / "steps").read_text()) == (9 if engine.elsewhere else 6)  # the first three were repeated
    assert walked[0] == walked[1]


def test_after_a_checkpoint_only_later_calls_are_repeated(pool: LocalPool, tmp_path: Path) -> None:
    actor = pool.actor(tasks.Walk, str(tmp_path), 1.0)
    for _ in range(3):
        actor.call("step", 0.5)
    actor.checkpoint().result()
    at = actor.call("step", 0.5).result()
    os.kill(actor.call("pid").result(), signal.SIGKILL)
    assert actor.call("state_dict").result() == at
    assert len((tmp_path / "steps").read_text()) == 5
    actor.close()


# -- processes -------------------------------------------------------------------------------------------------------


def test_workers_have_cores_of_their_own_where_there_are_enough() -> None:
    cores = sorted(os.sched_getaffinity(0))
    given = shares(len(cores), 1)
    assert sorted(core for share in given for core in share) == cores
    assert shares(len(cores) + 1, 1) == [()] * (len(cores) + 1)


def test_the_end_of_an_executor_is_that_of_its_workers() -> None:
    before = set(multiprocessing.active_children())
    with LocalPool(1) as made:
        made.submit(tasks.draws, 0).result()
        assert set(multiprocessing.active_children()) - before
        waiting = [made.submit(time.sleep, 60) for _ in range(2)]
    assert not set(multiprocessing.active_children()) - before
    assert all(future.cancelled() or future.exception() is not None for future in waiting)


ORPHANS = """
import os, signal, time
from scg.executors.local_pool import LocalPool
if __name__ == "__main__":
    pool = LocalPool(1)
    pid = pool.submit(os.getpid).result()
    pool.submit(time.sleep, 600)
    time.sleep(0.1)
    print(pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(ORPHANS)
    with open(tmp_path / "said", "w+") as said:  # not a pipe, whose end would be the worker's
        code = subprocess.run([sys.executable, str(tmp_path / "parent.py")], stdout=said, check=False).returncode
        said.seek(0)
        assert code == -signal.SIGKILL
        worker = Path(f"/proc/{int(said.read())}/stat")
    deadline = time.monotonic() + 20
    while lives(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(worker)


def lives(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- engines by name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("rey", r"executor 'rey' is unknown. Did you mean 'ray'\? There are: local, ray, slurm"),
        ("local:5", r"executor 'local:5': '5'. Say local:option=value"),
        ("local:cores=5", "executor 'local:cores=5': .*unexpected keyword argument 'cores'"),
    ],
)
def test_an_executor_that_makes_no_sense_is_refused(engine: str, says: str) -> None:
    with pytest.raises(ExecutorError, match=says):
        opened(engine)


def test_fewer_than_one_worker_or_thread_is_refused() -> None:
    assert opened("local", 1, 1).workers == 1
    with pytest.raises(ExecutorError, match="option workers is 0. Give at least 1"):
        opened("local", 0)
    with pytest.raises(ExecutorError, match="option threads is 0. Give at least 1"):
        opened("local", 2, 0)


@pytest.mark.parametrize(("engine", "module", "extra"), [("ray", "ray", "ray"), ("slurm", "submitit", "slurm")])
def test_a_missing_package_is_named_with_its_extra(
    engine: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExecutorError, match=rf"needs the package {module} .*pip install 'torch-scg\[{extra}\]'"):
        opened(engine, 2)


@needs("ray")
def test_ray_has_no_dashboard_and_a_token_of_its_own(executor: Executor) -> None:
    """Ray listens on all interfaces; what is left after its end is looked at where the executor is closed."""
    if not hasattr(executor, "folder"):
        pytest.skip("another engine")
    import ray

    from scg.executors.ray_core import AUTH, TOKEN

    assert ray._private.worker._global_node.webui_url in ("", None)
    assert len(os.environ[TOKEN]) == 64 or any(name in os.environ for name in AUTH if name != TOKEN)
    assert running(executor.folder)


def running(folder: str) -> list[str]:
    """The processes whose command line names a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended meanwhile
            continue
        if folder in line:
            found.append(line)
    return found
