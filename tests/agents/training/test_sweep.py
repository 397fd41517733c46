"""Sweeps: the same trials on any executor and after any kill, with paired seeds; what is searched; preset files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from scg.agents import AGENTS
from scg.agents.commands import cli
from scg.agents.commands.cli import options_of
from scg.agents.commands.sweep import _options, sweep
from scg.agents.ppo import PPO
from scg.agents.reinforce import Reinforce
from scg.agents.training.run_config import RunConfig, RunError, Settings, written
from scg.agents.training.run_directory import RunDirectory
from scg.agents.training.search_space import dimension, typed
from scg.agents.training.sweep import Plan, Sweep, Trial, train_until
from scg.agents.training.sweep_report import so_far
from scg.executors import InProcess, opened
from scg.executors.local_pool import LocalPool

NEEDS = "optuna is not installed: torch-scg[sweep]"
SMALL = Reinforce(horizon=16, hidden=(4,))
SHORT = RunConfig(steps=128, envs=4, evaluations=2, eval_episodes=2, checkpoints=2)
SEARCH = ("lr=loguniform(1e-4,1e-1)", "gamma=0.9,0.99")
FLAGS = [
    *("reinforce", "--steps", "128", "--envs", "4", "--evaluations", "2", "--eval-episodes", "2", "--checkpoints", "2"),
    *("--horizon", "16", "--hidden", "4", "--search", *SEARCH, "--seeds", "1", "--trials-together", "2"),
]


def made(path: Path, trials: int = 4, **plan: object) -> Sweep:
    found = Sweep(
        path,
        Plan(**{"search": SEARCH, "trials": trials, "seeds": 2, "trials_together": 2, **plan}),  # type: ignore[arg-type]
        Settings("reinforce", SHORT, SMALL, options_of("reinforce").__dataclass_fields__["execution"].default),
    )
    found.create()
    return found


def silent(text: str) -> None: ...


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    pytest.importorskip("optuna", reason=NEEDS)
    found = made(tmp_path_factory.mktemp("sweep") / "whole")
    found.run(InProcess(), silent)
    return found


# -- the same trials -------------------------------------------------------------------------------------------------


def test_trials_have_the_same_seeds_and_the_best_is_the_greatest_mean(whole: Sweep) -> None:
    trials = whole.finished()
    assert [*trials] == [0, 1, 2, 3]
    for number, trial in trials.items():
        runs = [RunDirectory.open(whole.path / "trials" / f"{number}" / f"seed{seed}") for seed in (0, 1)]
        assert [run.run.seed for run in runs] == [0, 1]
        assert {run.agent.lr for run in runs} == {trial.params["lr"]}
        last = [(run.path / "evaluations.csv").read_text().split()[-1].split(",")[1] for run in runs]
        assert trial.value == sum(map(float, last)) / 2
    best = whole.best()
    assert best is not None and best.value == max(trial.value for trial in trials.values())


@pytest.mark.parametrize("how", ["in two workers", "after the loss of some trials", "in two sittings"])
def test_a_sweep_is_a_function_of_its_plan(whole: Sweep, tmp_path: Path, how: str) -> None:
    other = made(tmp_path / "other", trials=3 if how == "in two sittings" else 4)
    if how == "in two workers":
        with LocalPool(2) as pool:
            other.run(pool, silent)
    elif how == "after the loss of some trials":
        shutil.copytree(whole.path, other.path, dirs_exist_ok=True)
        for number in (1, 3):  # one of each batch, which are asked for again
            shutil.rmtree(other.path / "trials" / f"{number}")
        (other.path / "trials" / "2" / "trial.json").unlink()  # its runs are there and are not trained again
        other.run(InProcess(), silent)
    else:
        other.run(InProcess(), silent)
        other = made(tmp_path / "other")
        other.run(InProcess(), silent)
    assert repr(other.finished()) == repr(whole.finished())  # the repr: NaN is not itself
    assert other.best() == whole.best()


RAY = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: torch-scg[ray]")


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=RAY)])
def test_a_sweep_has_the_same_trials_where_a_worker_is_killed(whole: Sweep, tmp_path: Path, engine: str) -> None:
    other, lock, killed = made(tmp_path / "other"), tmp_path / "other" / "trials" / "1" / "seed1" / "lock", list[int]()

    def kill() -> None:
        """The process that trains the second trial: whoever holds its run's lock."""
        until = time.monotonic() + 300
        while not killed and time.monotonic() < until:
            with suppress(OSError, ValueError):
                killed.append(int(lock.read_text()))
            time.sleep(0.001)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with opened(engine, 2) as executor:
        other.run(executor, silent)
    thread.join()
    assert killed and killed[0] != os.getpid()
    assert repr(other.finished()) == repr(whole.finished())
    assert other.best() == whole.best()


def test_another_seed_proposes_other_trials(whole: Sweep, tmp_path: Path) -> None:
    base = whole.base._replace(run=RunConfig(**{**vars(SHORT), "seed": 1}))
    other = Sweep(tmp_path, whole.plan, base)
    ones, others = (each.study([], 0).ask(each._distributions()).params for each in (whole, other))
    assert ones != others


def test_later_batches_are_proposed_from_the_trials_before(whole: Sweep) -> None:
    """A proposal that ignored them would be the same for other values."""
    before = list(whole.finished().values()) * 4  # the first ten are drawn by chance

    def proposal(trials: list[Trial]) -> object:
        return whole.study(trials, 9).ask(whole._distributions()).params

    turned = [Trial(t.number, t.params, t.state, -t.value, t.along) for t in before]
    assert proposal(before) == proposal(before)
    assert proposal(before) != proposal(turned)


def test_pruned_trials_stop_at_an_evaluation_below_the_median(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason=NEEDS)
    ran = []
    for name in ("one", "other"):
        found = made(tmp_path / name, trials=8, pruner="median", trials_together=5, seeds=1)
        if name == "other":  # one that was killed between two evaluations of a batch
            shutil.copytree(tmp_path / "one", found.path, dirs_exist_ok=True)
            for number in (5, 7):
                (found.path / "trials" / f"{number}" / "trial.json").unlink()
        found.run(InProcess(), silent)
        ran.append(found.finished())
    assert repr(ran[0]) == repr(ran[1])
    assert all(ran[0][n].state == "complete" for n in range(5))  # there is nothing to compare the first with
    median = sorted(ran[0][n].along[0] for n in range(5))[2]
    for number in range(5, 8):
        trial = ran[0][number]
        assert (trial.state == "pruned") == (trial.along[0] < median), trial
        assert len(trial.along) == (1 if trial.state == "pruned" else 2)


def test_a_run_that_stops_and_goes_on_at_a_mark_is_worth_the_same(tmp_path: Path) -> None:
    content = written(made(tmp_path / "sweep").base)
    straight = train_until(str(tmp_path / "straight"), content, 1.0)
    half = train_until(str(tmp_path / "halves"), content, 0.5)
    assert train_until(str(tmp_path / "halves"), content, 1.0) == straight
    assert train_until(str(tmp_path / "straight"), content, 0.5) == half  # asked again later


def test_a_trial_that_blows_up_is_failed_and_says_why(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason=NEEDS)
    found = Sweep(
        tmp_path / "sweep", Plan(("lr=1e-3,1e38",), trials=4, seeds=1, trials_together=4), made(tmp_path / "base").base
    )
    found.create()
    best = found.run(InProcess(), silent)
    states = {trial.params["lr"]: trial for trial in found.finished().values()}
    assert states["1e38"].state == "failed" and "step" in states["1e38"].said
    assert best is not None and best.params["lr"] == "1e-3"


def test_a_sweep_that_is_killed_is_resumed_to_the_same_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line; its trials are also an Optuna study, a table and a picture."""
    optuna = pytest.importorskip("optuna", reason=NEEDS)
    words = [*FLAGS, "--trials", "4"]
    assert sweep([*words, "--out", str(tmp_path / "whole")]) == 0
    said = capsys.readouterr().out
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", "import sys; from scg.agents.commands.sweep import sweep; sys.exit(sweep(sys.argv[1:]))"]
    process = subprocess.Popen([*command, *words, "--workers", "2", "--out", str(killed)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(killed.glob("trials/2/*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= len(Sweep.open(killed).finished()) < 4
    for lock in killed.glob("trials/*/*/lock"):  # its workers end by themselves
        until_dead(lock)
    assert sweep(["--resume", str(killed)]) == 0
    ones, others = (Sweep.open(path) for path in (tmp_path / "whole", killed))
    assert ones.finished() == others.finished() and ones.best() == others.best()
    assert (killed / "best.json").read_bytes() == (tmp_path / "whole" / "best.json").read_bytes()
    best = ones.best()
    assert best is not None and f"best: trial {best.number}, return {best.value:.1f}" in said
    study = optuna.load_study(
        study_name="killed",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(killed / "journal.log"))),
    )
    assert study.best_value == best.value and len(study.trials) == 4
    assert (killed / "sweep.png").stat().st_size > 10_000 and len((killed / "trials.csv").read_text().splitlines()) == 5
    # … and the preset file is taken by `scg train`.
    options = options_of("reinforce", ["--preset", str(killed / "best.json")]).__dataclass_fields__
    assert options["agent"].default.lr == best.params["lr"] and options["run"].default.steps == 128


def until_dead(lock: Path) -> None:
    text = lock.read_text().strip()
    while (
        text and Path(f"/proc/{text}").exists() and Path(f"/proc/{text}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    ):
        time.sleep(0.01)
    assert not text or int(text) != os.getpid()


# -- what is searched ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("lr=loguniform(1e-5, 1e-2)", 1e-3, 1e-3),
        ("horizon=int(16,256)", 32, 32),
        ("envs=logint(1,64)", 8, 8),
        ("clip=0.1,0.2", "0.2", 0.2),
        ("hidden=64x64,32", "64x64", (64, 64)),
        ("hidden=64x64,32", "32", (32,)),
        ("normalise-obs=true,false", "false", False),
        ("network=mlp,residual", "mlp", "mlp"),
        ("eval_actions=mode,sample", "sample", "sample"),
    ],
)
def test_proposed_values_have_the_types_of_their_options(text: str, value: object, found: object) -> None:
    got = typed(dimension(text, PPO), value, PPO)  # type: ignore[arg-type]
    assert got == found and type(got) is type(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr", "Say name=loguniform"),
        ("lr=", "Say name=loguniform"),
        ("rate=uniform(0,1)", "PPO and the run have no option 'rate'"),
        ("horizn=int(1,2)", "Did you mean 'horizon'"),
        ("seed=int(0,9)", "no option 'seed'"),
        ("lr=lognormal(0,1)", "'lognormal' is no range.* There are uniform"),
        ("lr=loguniform(0,1)", "give low < high, above 0"),
        ("lr=uniform(1,1)", "give low < high"),
        ("lr=uniform(a,1)", "the ends of a range are numbers"),
        ("lr=uniform(1)", "each of two numbers"),
        ("horizon=int(1.5,4)", "whole numbers"),
        ("horizon=uniform(1.5,4)", "1.5 is not an integer"),
        ("clip=0.1,0.1", "has a value twice"),
        ("clip=0.1,wide", "'wide' is not a number"),
        ("normalise_obs=1,0", "'1' is not true or false"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(RunError, match=says):
        dimension(text, PPO)


def test_the_best_so_far_counts_complete_trials_only() -> None:
    def trial(number: int, state: str, value: float) -> Trial:
        return Trial(number, {}, state, value, ())  # type: ignore[arg-type]

    given = [trial(0, "failed", math.nan), trial(1, "complete", 1.0), trial(2, "pruned", 9.0), trial(3, "complete", 2.0)]
    found = so_far(given)
    assert math.isnan(found[0]) and found[1:] == [1.0, 1.0, 2.0]


# -- folders and presets ---------------------------------------------------------------------------------------------


def test_a_folder_with_another_sweep_or_something_else_is_refused(tmp_path: Path) -> None:
    one = made(tmp_path / "sweep")
    one.create()  # the same: it goes on
    with pytest.raises(RunError, match="has another plan. Continue it with --resume"):
        made(tmp_path / "sweep", seeds=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="there is something else. Choose another --out"):
        made(tmp_path / "other")
    with pytest.raises(RunError, match=r"sweep.json cannot be read"):
        Sweep.open(tmp_path / "other")


def test_a_run_that_is_not_the_sweeps_is_not_opened(tmp_path: Path) -> None:
    """Its file may name code of a stranger's."""
    content = written(made(tmp_path / "sweep").base)
    path = tmp_path / "sweep" / "trials" / "0" / "seed0"
    train_until(str(path), content, 0.5)
    there = json.loads((path / "config.json").read_text())
    (tmp_path / "bad.py").write_text("raise SystemExit('it ran')")
    (path / "config.json").write_text(json.dumps({**there, "agent": f"{tmp_path / 'bad.py'}:Agent"}))
    with pytest.raises(RunError, match="it is not the sweep's"):
        train_until(str(path), content, 1.0)


def test_a_sweep_of_a_strangers_agent_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = made(tmp_path / "sweep")
    content = json.loads((found.path / "sweep.json").read_text())
    (tmp_path / "bad.py").write_text("raise SystemExit('it ran')")
    content["base"]["agent"] = f"{tmp_path / 'bad.py'}:Agent"
    (found.path / "sweep.json").write_text(json.dumps(content))
    pytest.importorskip("optuna", reason=NEEDS)
    assert sweep(["--resume", str(found.path)]) == 2
    assert "Say --trust if you trust that file" in capsys.readouterr().err


def change(key: str, value: object) -> Callable[[dict[str, object]], object]:
    return lambda content: content.update({key: value})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (change("agent", "ppo"), "it is of agent 'ppo'. Say scg train ppo --preset"),
        (change("version", 99), "version is 99"),
        (change("config", {"lr": "high"}), "expected a number|is missing"),
    ],
)
def test_a_preset_file_of_another_kind_is_refused(
    edit: Callable[[dict[str, object]], object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory.create("reinforce", SHORT, SMALL, tmp_path / "run")
    content = json.loads((run.path / "config.json").read_text())
    edit(content)
    (tmp_path / "preset.json").write_text(json.dumps(content))
    if content["agent"] == "ppo":
        content["config"] = vars(PPO())
        (tmp_path / "preset.json").write_text(json.dumps(content))
    assert cli.train(["reinforce", "--preset", str(tmp_path / "preset.json"), "--out", str(tmp_path / "new")]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_the_config_of_a_run_is_a_preset_file_and_flags_change_it(tmp_path: Path) -> None:
    run = RunDirectory.create("reinforce", SHORT, SMALL, tmp_path / "run")
    file = str(run.path / "config.json")
    assert cli.train(["reinforce", "--preset", file, "--steps", "64", "--out", str(tmp_path / "new")]) == 0
    new = RunDirectory.open(tmp_path / "new")
    assert new.agent == SMALL and new.run == RunConfig(**{**vars(SHORT), "steps": 64})
    assert cli.train(["reinforce", "--preset", str(tmp_path / "none.json")]) == 2


def test_a_preset_file_imports_no_environment_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory.create("reinforce", SHORT, SMALL, tmp_path / "run")
    content = json.loads((run.path / "config.json").read_text())
    content["run"]["env"] = "nowhere:Id-v0"
    (tmp_path / "preset.json").write_text(json.dumps(content))
    assert cli.train(["reinforce", "--preset", str(tmp_path / "preset.json")]) == 2
    assert "its environment imports a module. If you trust it, say --env nowhere:Id-v0" in capsys.readouterr().err


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep([*FLAGS, "--trials", "2"]) == 2
    assert "pip install 'torch-scg[sweep]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", AGENTS)
def test_no_flag_has_two_meanings(name: str) -> None:
    """Options of the run, the agent, its execution, the command and the plan are flags of one line."""
    for made_of in (options_of(name), _options(name, [])):
        flags = []
        for field in dataclasses.fields(made_of):
            section = field.default
            flags += [f.name for f in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else [field.name]
        assert len(flags) == len(set(flags)), sorted({flag for flag in flags if flags.count(flag) > 1})
