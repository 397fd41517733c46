"""Sweeps: trials of an agent's options, proposed by Optuna, each trained with the same seeds.

    trials finished before the batch ─► sampler ─► a batch of trials ─► every (trial, seed) is a task ─► value = mean over seeds
                    ▲                                    └── after each evaluation: pruner ──┘                    │
                    └────────────────────────────────────────────────────────────────────────────────────────────┘

A batch is proposed from the trials of the batches before it, by a sampler whose seed is the sweep's and the batch's number; the
pruner too compares with those only. So the trials, their values and the best are a function of the plan: the same on any
executor, with any number of workers, and after any kill. `trials_together` is part of the plan and the workers are not: a batch of one
is the sequential search, a larger one keeps more workers busy and learns later.

    sweep.json       the plan                          trials/N/trial.json     parameters, value, values on the way
    best.json        a preset file of the best trial   trials/N/seedS/         its runs, which go on where they were killed
    trials.csv       all of it                         journal.log             the same as an Optuna study, or --storage's

Akiba et al. (2019), "Optuna: a next-generation hyperparameter optimization framework"; the sampler is Bergstra et al. (2011).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from scg.agents.common.callbacks import Callback, Now
from scg.agents.execution.options import OptionError, check_options
from scg.agents.training.run_config import RunError, Settings, is_of, read, typed_value, written
from scg.agents.training.run_directory import RunDirectory, read_table, write_json
from scg.agents.training.search_space import Dimension, Value, applied, dimension, typed
from scg.executors import Executor, ExecutorError

if TYPE_CHECKING:
    import optuna

State = Literal["complete", "pruned", "failed"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a sweep is, besides the settings that it starts from."""

    search: tuple[str, ...] = ()
    """what is searched: lr=loguniform(1e-5,1e-2) clip=0.1,0.2,0.3 horizon=int(16,256) …"""
    trials: int = 30
    """trials in all"""
    seeds: int = 3
    """runs of each trial, with the seeds from --seed on; all trials have the same"""
    trials_together: int = 5
    """trials that are proposed together, from those before; the workers may be more or fewer"""
    sampler: Literal["tpe", "random"] = "tpe"
    """what proposes: the tree-structured Parzen estimator, or chance"""
    pruner: Literal["none", "median"] = "none"
    """median: a trial ends after an evaluation that is below the median of the earlier trials' at that step"""

    def __post_init__(self) -> None:
        check_options(self, "trials seeds trials_together")


@dataclass(frozen=True)
class Trial:
    """One trial. `along` are the means over seeds of each evaluation; `value` is the last of them, NaN of a failed trial."""

    number: int
    params: dict[str, Value]
    state: State
    value: float
    along: tuple[float, ...]
    said: str = ""


class Reached(NamedTuple):
    """How far a run of a trial has come: the return of the first evaluation at the requested step, or why there is none."""

    value: float
    fault: str = ""


class Sweep:
    """A sweep in its folder."""

    def __init__(self, path: Path, plan: Plan, base: Settings) -> None:
        self.path, self.plan, self.base = path, plan, base
        kind = type(base.agent)
        self.space: list[Dimension] = [dimension(text, kind) for text in plan.search]
        names = [one.name for one in self.space]
        if not names:
            raise RunError("option search: nothing is searched. Say --search lr=loguniform(1e-5,1e-2), say.")
        if len(set(names)) < len(names):
            raise RunError(f"option search: an option is named twice in {', '.join(names)}.")
        if base.run.evaluations < 1:
            raise RunError("option evaluations is 0: a trial is judged by its evaluations. Give at least 1.")

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """The sweep in a folder, whose code the caller trusts. RunError says what is wrong with it."""
        return cls(path, *plan_of(path, trusted=True))

    def create(self) -> None:
        """Write the plan. A folder that has this sweep already goes on; one with another is an error."""
        file, content = self.path / "sweep.json", {"plan": asdict(self.plan), "base": written(self.base)}
        content = json.loads(json.dumps(content))
        if file.exists():
            plan, base = plan_of(self.path)
            before = {"plan": {**asdict(plan), "trials": self.plan.trials}, "base": written(base)}
            if json.loads(json.dumps(before)) != content:
                raise RunError(
                    f"sweep {self.path}: has another plan. Continue it with --resume {self.path}, or choose another --out."
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise RunError(f"sweep {self.path}: there is something else. Choose another --out.")
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(file, content)

    # -- trials --------------------------------------------------------------------------------------------------------

    def finished(self) -> dict[int, Trial]:
        """Trials by number."""
        found = {}
        for file in (self.path / "trials").glob("*/trial.json"):
            content = json.loads(file.read_text(encoding="utf-8"))
            along = tuple(map(float, content.pop("along")))
            found[int(content["number"])] = Trial(**{**content, "value": float(content["value"]), "along": along})
        return dict(sorted(found.items()))

    def settings_of(self, params: dict[str, Value]) -> Settings:
        """The settings of a trial."""
        kind = type(self.base.agent)
        values = {one.name: typed(one, params[one.name], kind) for one in self.space}
        of_run, of_agent = applied(values, self.base.run, self.base.agent)
        return self.base._replace(run=replace(self.base.run, **of_run), agent=replace(self.base.agent, **of_agent))  # type: ignore[type-var]

    def best(self) -> Trial | None:
        """The complete trial of the greatest value; of equals the first."""
        complete = [trial for trial in self.finished().values() if trial.state == "complete"]
        return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)

    def run(self, executor: Executor, say: Say = print) -> Trial | None:
        """Run what is left of the sweep, and return the best trial."""
        for first in range(0, self.plan.trials, self.plan.trials_together):
            numbers = range(first, min(first + self.plan.trials_together, self.plan.trials))
            done = self.finished()
            if not done.keys() >= set(numbers):
                self._batch(first, [n for n in numbers if n not in done], done, executor, say)
            best = self.best()
            if best is not None:
                write_json(self.path / "best.json", written(self.settings_of(best.params)))
        return self.best()

    def _batch(self, first: int, left: Sequence[int], done: dict[int, Trial], executor: Executor, say: Say) -> None:
        """Train the trials `left` of the batch that begins with number `first`, all seeds at once, evaluation by evaluation."""
        study = self.study([done[n] for n in range(first)], first // self.plan.trials_together)
        # Always the whole batch: a proposal depends on those before it.
        asked = {first + k: study.ask(self._distributions()) for k in range(self.plan.trials_together)}
        alive = {n: asked[n] for n in left}
        values: dict[int, list[float]] = {n: [] for n in left}
        marks = self.base.run.evaluations if self.plan.pruner != "none" else 1
        for mark in range(1, marks + 1):
            for number, reached in self._trained(alive, mark / marks, executor).items():
                faults = [each.fault for each in reached if each.fault]
                if not faults:
                    values[number].append(float(np.mean([each.value for each in reached])))
                    alive[number].report(values[number][-1], mark)
                pruned = not faults and mark < marks and alive[number].should_prune()
                if faults or pruned or mark == marks:
                    state: State = "failed" if faults else "pruned" if pruned else "complete"
                    value = math.nan if faults else values[number][-1]
                    self._record(
                        Trial(number, asked[number].params, state, value, tuple(values[number]), "; ".join(faults)), say
                    )
                    del alive[number]

    def _trained(self, alive: dict[int, optuna.Trial], share: float, executor: Executor) -> dict[int, list[Reached]]:
        """Every seed of the living trials, trained for that share of the steps."""
        base, tasks, whose = self.base.run, list[tuple[Any, ...]](), list[int]()
        for number, trial in alive.items():
            settings = self.settings_of(trial.params)
            for seed in range(base.seed, base.seed + self.plan.seeds):
                run = settings._replace(run=replace(settings.run, seed=seed))
                path = self.path.absolute() / "trials" / f"{number}" / f"seed{seed}"
                tasks.append((str(path), written(run), share))
                whose.append(number)
        found: dict[int, list[Reached]] = {number: [] for number in alive}
        for number, reached in zip(whose, executor.map(train_until, tasks), strict=True):
            found[number].append(reached)
        return found

    def _record(self, trial: Trial, say: Say) -> None:
        write_json(self.path / "trials" / f"{trial.number}" / "trial.json", asdict(trial))
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in trial.params.items())
        outcome = f"return {trial.value:.1f}" if trial.state == "complete" else f"{trial.state} {trial.said}".strip()
        say(f"trial {trial.number:>3}: {outcome:<16} {shown}")

    # -- Optuna --------------------------------------------------------------------------------------------------------

    def study(self, before: Sequence[Trial], batch: int) -> optuna.Study:
        """An Optuna study of finished trials, whose sampler is that of a batch."""
        from optuna import create_study, pruners, samplers

        seed = int(np.random.SeedSequence([self.base.run.seed, *b"sweep", batch]).generate_state(1)[0])
        sampler = (
            samplers.TPESampler(
                seed=seed, constant_liar=True
            )  # unfinished trials of the batch count as bad ones, so that its proposals differ
            if self.plan.sampler == "tpe"
            else samplers.RandomSampler(seed=seed)
        )
        pruner = pruners.MedianPruner(n_startup_trials=5) if self.plan.pruner == "median" else pruners.NopPruner()
        study = create_study(direction="maximize", sampler=sampler, pruner=pruner)
        study.add_trials([self._frozen(trial) for trial in before])
        return study

    def mirror(self, storage: str = "") -> None:
        """Write all trials into an Optuna study for its own tools: `journal.log` here, or the database of the URL."""
        from optuna import create_study, storages

        if storage:
            kept: Any = storage
        else:
            from optuna.storages import journal

            (self.path / "journal.log").unlink(missing_ok=True)  # a copy of the trials, made anew
            kept = storages.JournalStorage(journal.JournalFileBackend(str(self.path / "journal.log")))
        study = create_study(study_name=self.path.name, storage=kept, direction="maximize", load_if_exists=True)
        there = {trial.user_attrs.get("number") for trial in study.trials}
        study.add_trials([self._frozen(trial) for trial in self.finished().values() if trial.number not in there])

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        from optuna.trial import TrialState, create_trial

        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[trial.state]
        return create_trial(
            params=trial.params,
            distributions=self._distributions(),
            state=state,
            value=None if trial.state == "failed" else trial.value,
            intermediate_values=dict(enumerate(trial.along, 1)),
            user_attrs={"number": trial.number},
        )

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, optuna.distributions.BaseDistribution] = {}
        for one in self.space:
            if one.choices:
                found[one.name] = CategoricalDistribution(one.choices)
            elif one.whole:
                found[one.name] = IntDistribution(int(one.low), int(one.high), log=one.log)
            else:
                found[one.name] = FloatDistribution(one.low, one.high, log=one.log)
        return found


def plan_of(path: Path, trusted: bool = False) -> tuple[Plan, Settings]:
    """The plan and the settings in a sweep's folder; code that it names is imported only if `trusted`. RunError says what is
    wrong with them."""
    file = path / "sweep.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        plan, base = dict(content["plan"]), content["base"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(
            f"sweep {path}: sweep.json cannot be read ({error}). Give a folder that `scg sweep` has made."
        ) from error
    settings = read(base, f"sweep {file}", print, trusted)
    try:
        plan["search"] = typed_value(plan["search"], tuple[str, ...])
        return Plan(**plan), settings
    except (KeyError, TypeError, OptionError) as error:
        raise RunError(f"sweep {file}: section 'plan' is not one of this version ({error}).") from error


def require_optuna() -> None:
    """ExecutorError, with the extra that has it, where Optuna is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ExecutorError(
            f"`scg sweep` needs the package optuna ({error}). Install it: pip install 'torch-scg[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class StopAt(Callback):
    """Ends the run after the evaluation at a step; it can go on from there."""

    def __init__(self, step: float) -> None:
        self.step = step

    def after_evaluation(self, now: Now, evaluation: Any) -> None:
        if now.step >= self.step:
            now.stop("the trials are compared here")


def train_until(path: str, content: dict[str, Any], share: float) -> Reached:
    """On a worker: train the run at `path` for that share of its steps, and return what it is worth there. What was done before is
    not done again; a run that cannot go on to the bit begins again."""
    from scg.agents.environments.faults import EnvironmentFailed
    from scg.agents.networks.finite_check import NotFinite
    from scg.agents.training.loop import TrainingStopped, train

    folder, settings = Path(path), read(content, f"run {path}", print, trusted=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        RunDirectory.create(settings.name, settings.run, settings.agent, folder, settings.execution)
    elif not is_of(folder / "config.json", settings):
        raise RunError(f"run {path}: it is not the sweep's, which has other options. Remove it.")
    run = RunDirectory.open(folder, trusted=True)
    steps = share * settings.run.steps
    table = folder / "evaluations.csv"
    if run.has_begun() and not run.goes_on_to_the_bit():
        if share < 1:
            raise RunError(
                f"run {path}: its environments cannot be saved, so it cannot wait to be compared. Say --pruner none."
            )
        run.begin_again()
    rows = read_table(table) if table.exists() else []
    if not rows or rows[-1]["step"] < steps or rows[-1]["step"] > (_last_step(run) or 0):
        try:
            train(run, run.has_begun(), quiet=True, callbacks=[StopAt(steps)])
        except (TrainingStopped, EnvironmentFailed, NotFinite) as error:
            return Reached(math.nan, f"{error}".splitlines()[0])
        rows = read_table(table)
    return Reached(next(row["return"] for row in rows if row["step"] >= steps))


def _last_step(run: RunDirectory) -> int | None:
    """The step of the last checkpoint."""
    paths = run.checkpoints.paths()
    return int(paths[-1].stem.removeprefix("step-")) if paths else None


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value}"
