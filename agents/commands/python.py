"""Training from Python: `scg.train` is `scg train`, with objects where the command has names.

    run = scg.train("ppo", "CartPole-v1", steps=50_000, lr=1e-3)          every flag is an argument, with the same presets
    run = scg.train(PPO(lr=1e-3), Corridor, steps=50_000)                 a class or function that makes environments
    run = scg.train("ppo", Corridor(length=10), steps=50_000)             an environment that was made: one, never evaluated
    scg.resume(run, steps=100_000)                                        policy = scg.load(run)

What a class or function at the top of a file makes, any process can make again, so the commands work on such a run. What has
no such name (a lambda, an environment that was made) is this process's, and is given again as `env=` to go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from scg import agents, targets
from scg.agents.commands.trust import opened
from scg.agents.common.agent import Config
from scg.agents.common.callbacks import Callback
from scg.agents.environments.envs import make
from scg.agents.environments.origin import give
from scg.agents.execution.options import OptionError
from scg.agents.execution.settings import Execution
from scg.agents.training.presets import preset
from scg.agents.training.run_directory import RunConfig, RunDirectory, RunError
from scg.errors import nearest

ONE: dict[str, Any] = {"envs": 1, "evaluations": 0}  # what an environment that was made is good for


def train(
    agent: Any,
    env: Any = "CartPole-v1",
    *,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    **options: Any,
) -> Path:
    """Train in a new run directory, which is returned.

    agent    a name or target of `scg train`, or a config, whose options are then those that it was made with
    env      an id, `path/to/file.py:Name`, a class or function that makes an environment, or an environment
    out      the run directory; default runs/<agent>-<env>-seed<seed>
    options  the flags of the command by name: of the run (steps, seed, envs, evaluations …), the agent and its execution;
             `env_kwargs` may be a dictionary
    """
    name, config = _agent(agent)
    options = {**options, "env": give(env), **_kwargs(options)}
    if isinstance(env, gym.Env):
        for option, only in ONE.items():
            if options.setdefault(option, only) != only:
                raise RunError(
                    f"option {option} is {options[option]}, but env is an environment that was made, and no second one can be "
                    f"made like it: {option} is {only}. Give the class or function that makes it."
                )
    run, config, execution = _sections(name, config, options)
    return _trained(begin(name, run, config, execution, None if out is None else Path(out)), False, quiet, callbacks)


def resume(
    run: str | Path,
    *,
    env: Any = None,
    steps: int | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    trust: bool = False,
) -> Path:
    """Go on from the last checkpoint, as `scg train --resume` does.

    env    what was given to `train`, where that was an object. Its spaces are compared with the run's; that it is otherwise the
           same environment is yours to know. Episodes go on where it can be saved (`get_state`, `set_state`), else they restart
    steps  a new total
    trust  import the code that the run's folder names without a question
    """
    directory = opened(Path(run), trust, env)
    if steps is not None:
        directory.extend(steps)
    return _trained(directory, True, quiet, callbacks)


def begin(name: str, run: RunConfig, config: Config, execution: Execution, out: Path | None) -> RunDirectory:
    """A new run directory, once the agent and the environment could be built: what is refused leaves none behind."""
    try_to_build(RunDirectory(Path(), name, run, config, execution))
    return RunDirectory.create(name, run, config, out, execution)


def try_to_build(run: RunDirectory) -> None:
    """Build environment and agent once, and take the start from another run."""
    from scg.agents.experience.rollout import row_bytes
    from scg.agents.training.loop import build
    from scg.agents.training.start import start

    run.agent.check(run.execution)  # type: ignore[attr-defined]
    several = run.run.envs > 1 or run.run.evaluations > 0  # evaluations have environments of their own
    with make(run.run.recipe, 1 + several, bins=run.run.action_bins, step_timeout=run.run.step_timeout) as tried:
        agent = build(run, tried)
        if agent.memory is not None:
            agent.memory.require(row_bytes(tried))
        if run.run.start:
            start(agent, Path(run.run.start), tried)
        tried.reset([run.run.seed] * tried.batch)


def _trained(run: RunDirectory, again: bool, quiet: bool, callbacks: Sequence[Callback]) -> Path:
    from scg.agents.training.loop import train as train_run

    train_run(run, again, quiet, callbacks)
    return run.path


def _agent(agent: Any) -> tuple[str, Config | None]:
    """Its name in a run's configuration, and its config where that was given."""
    if isinstance(agent, str):
        return agent, None
    kind = agent if isinstance(agent, type) else type(agent)
    if not agents.is_config(kind):
        raise OptionError(f"agent is {agent!r}. Give a name of scg train, a target file.py:Name, or an agent's config.")
    place = f"{kind.__module__}:{kind.__qualname__}"
    known = next((name for name, target in agents.AGENTS.items() if target == place), None)
    return known or targets.place_of(kind, "agent"), None if isinstance(agent, type) else agent


def _kwargs(options: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """`env_kwargs` as a run's configuration has them."""
    given = options.get("env_kwargs")
    if not isinstance(given, Mapping):
        return {}
    texts = tuple(f"{name}={value!r}" for name, value in given.items())
    if RunConfig(env_kwargs=texts).recipe.kwargs() != dict(given):
        raise RunError(
            f"option env_kwargs is {given!r}: a run keeps numbers, texts, and tuples, lists and dictionaries of them. Give a "
            "function that makes the environment as env."
        )
    return {"env_kwargs": texts}


def _sections(name: str, config: Config | None, options: Mapping[str, Any]) -> tuple[RunConfig, Config, Execution]:
    """The run's three sections: presets, and the options over them."""
    kind = agents.config_type(name) if config is None else type(config)
    kinds = (RunConfig, kind, Execution)
    known = [field.name for each in kinds for field in fields(each)]
    for option in options:
        if option not in known:
            raise OptionError(f"scg.train: no option is called {option!r}.{nearest(option, known)}")
    steps = options.get("steps", RunConfig.steps)
    found = preset(name, options["env"], steps)
    asked = [{field.name: options[field.name] for field in fields(each) if field.name in options} for each in kinds]
    mine = kind(**{**found.agent, **asked[1]}) if config is None else replace(config, **asked[1])  # type: ignore[type-var]
    return RunConfig(**{**found.run, **asked[0]}), mine, Execution(**{**found.execution, **asked[2]})
