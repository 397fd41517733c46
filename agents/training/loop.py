"""The training loop of all agents: collect, update, check, and at times evaluate and save.

    ┌─► block = collect(rollout) ─► metrics = update(block) ─► finite? ─► log ─► evaluate? ─► save? ─┐
    │   └──────────── until `agent.report` steps ─────────┘                                          │
    └─────────────────────────────────────────────────────────────────────────────────────────────────┘

Nothing is shared between training and evaluation: environments, seeds and generators are their own, so how often a run
is evaluated does not change it. A checkpoint holds parameters, optimisers, generators, counters, the replay buffer (in
pieces beside it) and the environments' states (`scg.agents.environments.environment_state` says which can be saved; others restart their episodes,
and the run says so), so a killed run whose environments can be saved ends in the same bits when it resumes. A NaN stops
the run with an error that names its node or parameter; earlier checkpoints stay. `scg.agents.common.callbacks` says when
callbacks are called; the numbers that they return become columns of the same tables.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Generator

import scg.draw
from scg.agents.common.agent import Agent
from scg.agents.common.callbacks import Callback, Now
from scg.agents.environments import envs
from scg.agents.environments.envs import EnvironmentFault, Environments
from scg.agents.environments.faults import described, first_line
from scg.agents.execution.threads import torch_threads
from scg.agents.experience.acting import one_blas_thread
from scg.agents.experience.rollout import Episode, Rollout
from scg.agents.networks.finite_check import REMEDY
from scg.agents.training import curves
from scg.agents.training.evaluation import Evaluation, evaluate
from scg.agents.training.progress import Progress
from scg.agents.training.run_directory import RunDirectory, RunError, Table
from scg.agents.training.signals import stop_if_asked
from scg.agents.training.start import check_spaces, spaces_of, start
from scg.agents.updates.metrics import Means, Metrics, NotFinite
from scg.executors import Executor
from scg.files import told

COLUMNS = ("step", "return", "episodes", "updates", "seconds", "steps_per_second")  # of metrics.csv, before an update's own
RECENT = 20  # episodes in the running mean of the return


class TrainingStopped(RuntimeError):
    """The run cannot go on. The message says where, why, and which checkpoint is the last good one."""


@dataclass
class Counters:
    """What a run has done so far."""

    step: int = 0
    updates: int = 0
    episodes: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def state_dict(self) -> dict[str, Any]:
        return {**vars(self), "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "recent": deque(state["recent"], maxlen=RECENT)})


def train(
    run: RunDirectory,
    resume: bool = False,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    executor: Executor | None = None,
) -> Evaluation | None:
    """Train to the end of the budget, from the last checkpoint if `resume`. Returns the last evaluation, or None without any.

    `callbacks` are called after the agent's own. A population's members are evaluated on the `executor`, by default here.
    """
    with (
        torch_threads(run.execution.threads),
        run.writing(),
        _event_writer_told(),
        one_blas_thread(),
        _environments(run) as environments,
        Progress(run.run.steps, quiet) as progress,
    ):
        training = _Training(run, environments, progress, callbacks, executor)
        try:
            return training.run_to_end(resume)
        except OSError as error:
            raise TrainingStopped(
                f"after step {training.counters.step}: cannot write {told(error)}. Make room, then continue with: "
                f"scg train --resume {run.path}\nLast good checkpoint: {training.last_good or 'none yet'}"
            ) from error


@contextmanager
def _event_writer_told() -> Iterator[None]:
    """TensorBoard's thread raises what it meets once more in ours, at the next event: its own traceback says nothing new."""
    before = threading.excepthook

    def hook(args: Any) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == "_AsyncWriterThread"):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def _environments(run: RunDirectory) -> Environments:
    options = run.run
    return envs.make(
        options.recipe, options.envs, threads=options.step_threads, bins=options.action_bins, step_timeout=options.step_timeout
    )


def build(run: RunDirectory, environments: Environments) -> Agent:
    """The agent of a run, its initial weights drawn from the run's seed."""
    generator = Generator().manual_seed(envs.seeds(run.run.seed, "weights", 1)[0])
    return run.agent.build(environments.obs_space, environments.action_space, generator, run.execution)


class _Training:
    def __init__(
        self,
        run: RunDirectory,
        environments: Environments,
        progress: Progress,
        callbacks: Sequence[Callback] = (),
        executor: Executor | None = None,
    ) -> None:
        self.directory, self.options, self.progress = run, run.run, progress
        self.counters = Counters()
        self.last_good: Path | None = next(reversed(run.checkpoints.paths()), None)
        self.agent, self.spaces = build(run, environments), spaces_of(environments)
        self.callbacks, self.now = [*self.agent.callbacks, *callbacks], Now(self.agent, run.path)
        generator = Generator().manual_seed(envs.seeds(self.options.seed, "actions", 1)[0])
        with self._stopping(lambda: "before the first step"):
            seeds = envs.seeds(self.options.seed, "environments", environments.batch)
            self.rollout = Rollout(environments, seeds, generator, executor)

    def run_to_end(self, resume: bool) -> Evaluation | None:
        from torch.utils.tensorboard import SummaryWriter

        if resume and not self.directory.has_begun():
            self.progress.say("no checkpoint yet: it starts from the beginning")
            resume = False
        if resume:
            self._resume()
        else:
            if self.options.start:
                self.progress.say(start(self.agent, Path(self.options.start), self.rollout.envs))
            self.directory.record()
            draw(self.agent, self.directory.path)
            self._save()  # a run that is killed early can be resumed too
        counters, options = self.counters, self.options
        upto = counters.step if resume else None
        self.metrics = Table(self.directory.path / "metrics.csv", upto)
        self.evaluations = Table(self.directory.path / "evaluations.csv", upto)
        self.events = SummaryWriter(str(self.directory.path), purge_step=counters.step + 1 if resume else None)
        evaluation = None
        try:
            while counters.step < options.steps:
                stop_if_asked()
                before = counters.step
                evaluation = None
                self._update()
                if _due(before, counters.step, options.steps, options.evaluations):
                    evaluation = self._evaluate()
                if self.now.reasons and evaluation is None and options.evaluations:
                    evaluation = self._evaluate()
                if self.now.reasons or _due(before, counters.step, options.steps, options.checkpoints):
                    self._save()
                if self.now.reasons:
                    self.progress.say(f"stopped at step {counters.step:,}: {'; '.join(self.now.reasons)}")
                    break
        finally:
            with suppress(OSError):  # the error that stopped the run is reported already
                self.events.close()
        if not options.evaluations:
            return None
        evaluation = evaluation or self._evaluation()  # a finished run, resumed
        curves.plot([self.directory.path], self.directory.path / "curve.png")
        return evaluation

    @contextmanager
    def _stopping(self, where: Callable[[], str]) -> Iterator[None]:
        """Turns errors inside into TrainingStopped, which names the step and the last good checkpoint."""
        try:
            yield
        except Exception as error:
            blown = "" if isinstance(error, EnvironmentFault) else self.agent.exploded()
            if not blown and not isinstance(error, NotFinite | EnvironmentFault | scg.GraphError):
                raise
            if not blown:
                raise self._stopped(where(), str(error)) from error
            if isinstance(error, NotFinite | scg.GraphError):
                said = first_line(error)
                remedy = "" if "learning rate" in said else f" {REMEDY}"
                raise self._stopped(where(), f"{said} ({blown}.{remedy})") from error
            # torch's errors, of a distribution's parameters say, are explained by it
            raise self._stopped(where(), f"{blown}. {REMEDY} ({described(error)})") from error

    def _stopped(self, where: str, why: str) -> TrainingStopped:
        return TrainingStopped(f"{where}: {why}\nLast good checkpoint: {self.last_good or 'none yet'}")

    def _update(self) -> None:
        """Blocks and their updates until there is something to report: at least one block."""
        counters, total = self.counters, self.options.steps
        started = time.perf_counter()
        steps, updates, episodes, means = 0, 0, list[Episode](), Means()

        def where() -> str:
            count = counters.updates
            which = f"update {count + 1}" if updates == 1 else f"one of the updates {count + 1} to {count + updates}"
            return f"{which}, after step {counters.step}"

        with self._stopping(where):
            while updates == 0 or (steps < self.agent.report and counters.step + steps < total):
                updates += 1
                block = self.agent.collect(self.rollout, total - counters.step - steps)
                for callback in self.callbacks:
                    callback.before_update(self.now, block)
                metrics = self.agent.update(block, (counters.step + steps) / total)
                steps, episodes = steps + block.steps, episodes + block.episodes
                if self.callbacks:
                    self.now.step, self.now.updates = counters.step + steps, counters.updates + updates
                    metrics = self._called("after_update", metrics)
                means.add(metrics)
            metrics = means.take()
            for name, value in metrics.items():
                if not np.isfinite(value):
                    raise NotFinite(f"metric {name!r} is {value}.")
            self.agent.check_finite()
        seconds = time.perf_counter() - started
        counters.step += steps
        counters.updates += updates
        counters.episodes += len(episodes)
        counters.seconds += seconds
        counters.recent.extend(episode.total for episode in episodes)
        self._log(metrics, steps / seconds)

    def _log(self, metrics: Metrics, speed: float) -> None:
        counters = self.counters
        recent = float(np.mean(counters.recent)) if counters.recent else float("nan")
        row = {
            "return": recent,
            "episodes": counters.episodes,
            "updates": counters.updates,
            "seconds": round(counters.seconds, 3),
            "steps_per_second": round(speed, 1),
            **metrics,
        }
        self.metrics.write(counters.step, row)
        for name, value in row.items():
            if np.isfinite(value):
                self.events.add_scalar(f"train/{name}", value, counters.step)
        self.progress.advance(counters.step, recent)

    def _evaluation(self) -> Evaluation:
        options = self.options
        with self._stopping(lambda: f"evaluation at step {self.counters.step}"):
            return evaluate(
                self.agent.policy,
                options.recipe,
                options.eval_episodes,
                options.seed,
                self.counters.step,
                options.eval_actions,
                options.action_bins,
                options.eval_steps,
                options.step_timeout,
            )

    def _evaluate(self) -> Evaluation:
        counters = self.counters
        evaluation = self._evaluation()
        row = self._called("after_evaluation", evaluation.row(), evaluation)
        self.evaluations.write(counters.step, row)
        for name, value in row.items():
            self.events.add_scalar(f"evaluation/{name}", value, counters.step)
        self.progress.say(
            f"step {counters.step:>9,}   evaluation {evaluation.shown(evaluation.mean):>8} ± {evaluation.shown(evaluation.error)} "
            f"({len(evaluation.returns)} fresh episodes{evaluation.remark})"
        )
        if evaluation.mean >= counters.best:
            counters.best = evaluation.mean
            self.directory.checkpoints.save_best(self._state())  # without the replay buffer: for evaluation, not for resuming
        return evaluation

    def _called(self, moment: str, metrics: Metrics, *about: Any) -> Metrics:
        """`metrics` with those that the callbacks return, whose names must be new."""
        for callback in self.callbacks:
            more = getattr(callback, moment)(self.now, *(about or (metrics,))) or {}
            for name in more:
                if name in metrics or name in COLUMNS:
                    raise RunError(f"callback {type(callback).__name__}.{moment}: {name!r} is a column already. Rename it.")
            metrics = {**metrics, **{name: float(value) for name, value in more.items()}}
        return metrics

    def _state(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"agent": self.agent, "rollout": self.rollout, "counters": self.counters}
        return {"spaces": self.spaces, **{name: part.state_dict() for name, part in parts.items()}}

    def _save(self) -> None:
        state = self._state()
        if self.agent.memory is not None:
            state["memory"] = self.agent.memory.save(self.directory.path / "replay")
        self.last_good = self.directory.checkpoints.save(self.counters.step, state)
        for callback in self.callbacks:
            callback.after_checkpoint(self.now, self.last_good)

    def _resume(self) -> None:
        for change in self.directory.changed_versions():
            self.progress.say(f"warning: {change} since this run began; its bits may differ")
        path, state = self.directory.checkpoints.load_latest(
            lambda text: self.progress.say(f"warning: {text}"), self._load_memory
        )
        check_spaces(f"run {self.directory.path}", state.get("spaces"), self.spaces)
        self.counters.load_state_dict(state["counters"])
        done, steps = self.counters.step, self.options.steps
        if self.directory.extended and steps < done:
            raise RunError(f"option steps is {steps}, but run {self.directory.path} has done {done}. Give at least as many.")
        self.agent.load_state_dict(state["agent"])
        with self._stopping(lambda: f"resuming at step {self.counters.step}"):
            whole = self.rollout.load_state_dict(state["rollout"])
        if not whole:
            self.progress.say("warning: these environments cannot be saved; their episodes start afresh")
        self.last_good = path
        self.now.step, self.now.updates = self.counters.step, self.counters.updates
        self.directory.record()
        self.progress.say(f"resumed from {path} at step {self.counters.step:,}")

    def _load_memory(self, state: dict[str, Any]) -> None:
        if self.agent.memory is not None:
            self.agent.memory.load(self.directory.path / "replay", state["memory"])


def draw(agent: Agent, directory: Path) -> None:
    """`graph.dot` and `graph.png`."""
    for name in ("graph.dot", "graph.png"):
        scg.draw.render(agent.graph, directory / name)


def _due(before: int, after: int, total: int, times: int) -> bool:
    """Whether one of `times` evenly spaced marks lies in (before, after]; the last mark is `total`. There is none where `times` is 0."""
    return times > 0 and (after >= total or before * times // total < after * times // total)
