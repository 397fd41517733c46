"""`scg export RUN --out policy.onnx | policy.safetensors`: a run's policy for other programs, its normaliser included.

    .onnx         from the environment's own observations to actions in its own units: no scg, and no torch, is needed to act
    .safetensors  the policy's tensors by name, and what they were trained with as text: to build the same networks in torch

A file is written only once it was held against the policy on 1,000 observations of the environment: equal discrete actions, and
continuous ones within 1e-5 of their range. The extra `torch-scg[export]` has what is needed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, nn
from torch.distributions import Distribution

from scg.agents.commands.exported import Exported, Unexportable, raw
from scg.agents.environments.envs import make
from scg.agents.environments.faults import first_line
from scg.agents.experience.rollout import Rollout
from scg.agents.training.loop import build
from scg.agents.training.run_directory import RunDirectory, RunError
from scg.agents.training.start import spaces_of
from scg.files import whole_file, writing

OBSERVATIONS = 1000
CLOSE = 1e-5  # of an action's range


class Policy(Protocol):
    """What is asked of a `LoadedPolicy`."""

    module: nn.Module
    obs_space: gym.Space
    action_space: gym.Space
    run: RunDirectory

    def acts(self, observations: np.ndarray) -> np.ndarray: ...

    def with_module(self, module: nn.Module) -> Policy: ...


def export(policy: Policy, out: str | Path) -> str:
    """Write the policy to `out` and return what was found where it was checked. RunError where it cannot be written down, or
    the file acts otherwise than the policy: there is no file then."""
    out = Path(out)
    write = writer(out)
    observations = observed(policy)
    try:
        return write(policy, out, observations)
    except Unexportable as error:
        raise RunError(f"policy of {policy.run.path}: {error}") from error


def writer(out: Path) -> Callable[[Policy, Path, np.ndarray], str]:
    kinds = {".onnx": (_to_onnx, "onnx onnxscript onnxruntime"), ".safetensors": (_to_safetensors, "safetensors")}
    if out.suffix not in kinds or out.is_dir():
        raise RunError(f"--out {out}: a policy is exported to a file whose name ends in {' or '.join(kinds)}.")
    write, needs = kinds[out.suffix]
    for package in needs.split():
        try:
            import_module(package)
        except ImportError as error:
            raise RunError(f"--out {out}: {package} is not installed. Remedy: pip install 'torch-scg[export]'") from error
    return write


def observed(policy: Policy, count: int = OBSERVATIONS) -> np.ndarray:
    """`[count, obs…]` as rollouts have them, met by the policy's sampled actions in an environment of the run's."""
    run = policy.run.run
    with make(run.recipe, 1, bins=run.action_bins, step_timeout=run.step_timeout) as one:
        rollout = Rollout(one, [run.seed], Generator().manual_seed(run.seed))
        return rollout.collect(policy.module, count, log_prob=False).obs[:, 0].numpy()


def described(policy: Policy) -> dict[str, str]:
    """What the file says of itself, as text."""
    run = policy.run
    options = asdict(run.agent) if hasattr(run.agent, "__dataclass_fields__") else {}
    with make(run.run.recipe, 1, bins=run.run.action_bins) as one:
        told = spaces_of(one)
    return {
        "scg": version("torch-scg"),
        "agent": run.name,
        "env": run.run.env,
        "spaces": json.dumps(told),
        "options": json.dumps(options, default=str),
    }


# -- ONNX ----------------------------------------------------------------------------------------------------------------


def _to_onnx(policy: Policy, out: Path, observations: np.ndarray) -> str:
    onnx, onnxruntime = (import_module(name) for name in ("onnx", "onnxruntime"))
    module = Exported(policy.module, policy.obs_space, policy.action_space, policy.run.run.action_bins)
    model = _written_down(module, raw(policy.obs_space, observations[:2]), policy)
    onnx.helper.set_model_props(model, described(policy))
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    said = _compared(policy, _runs(session, module, policy), observations)
    _write(out, content)
    inputs = ", ".join(f"{name} {kind} [batch{''.join(f', {n}' for n in shape)}]" for name, shape, kind in module.inputs)
    return f"takes {inputs}; returns {', '.join(module.outputs)}; {said}"


def _written_down(module: Exported, parts: list[np.ndarray], policy: Policy) -> Any:
    """The ONNX model of a module, with a batch of any size."""
    extra = [np.ones((2, *each.shape), each.kind) for each in module.inputs[len(parts) :]]
    given = tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in (*parts, *extra))
    batch = torch.export.Dim("batch", min=1, max=2**31 - 1)
    with _quiet(), _unchecked():
        try:
            made = torch.onnx.export(
                module.eval(),
                given,
                dynamo=True,
                input_names=[each.name for each in module.inputs],
                output_names=module.outputs,
                dynamic_shapes=(tuple({0: batch} for _ in given),),
                verbose=False,
                optimize=True,
            )
        except Unexportable:
            raise
        except Exception as error:  # of many types, whatever the network does
            raise Unexportable(
                f"{type(policy.module).__name__} cannot be written as ONNX: {first_line(error)} Export its weights to .safetensors."
            ) from error
    assert made is not None
    return made.model_proto


@contextmanager
def _unchecked() -> Iterator[None]:
    """Inside, distributions do not look at their parameters' values, which an export has none of."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _runs(session: Any, module: Exported, policy: Policy) -> Callable[[np.ndarray], np.ndarray]:
    """Actions of `[count, obs…]` by the file alone: all at once, or one after the other with a memory."""
    names = [each.name for each in module.inputs]

    def run(observations: np.ndarray) -> np.ndarray:
        given = raw(policy.obs_space, observations)
        if module.masks:
            given.append(observations[:, -module.masks :].astype(np.int8))
        if module.memory is None:
            return session.run(None, dict(zip(names, given, strict=True)))[0]
        memory = np.zeros((1, module.memory.size), module.inputs[-2].kind)
        actions = []
        for t in range(len(observations)):
            inputs = [*(part[t : t + 1] for part in given), memory, np.array([t == 0])]
            action, memory = session.run(None, dict(zip(names, inputs, strict=True)))
            actions.append(action[0])
        return np.stack(actions)

    return run


# -- safetensors -----------------------------------------------------------------------------------------------------------


def _to_safetensors(policy: Policy, out: Path, observations: np.ndarray) -> str:
    files = import_module("safetensors.torch")
    state = {name: value.detach().clone().contiguous() for name, value in policy.module.state_dict().items()}
    content = files.save(state, metadata=described(policy))
    options = policy.run.run
    with make(options.recipe, 1, bins=options.action_bins) as one:
        again = build(policy.run, one).policy  # fresh networks, with what is read back
    again.load_state_dict(files.load(content))
    said = _compared(policy, policy.with_module(again).acts, observations)
    _write(out, content)
    return f"{len(state)} tensors, {sum(value.numel() for value in state.values()):,} numbers; {said}"


# -- checks ------------------------------------------------------------------------------------------------------------------


def _compared(policy: Policy, run: Callable[[np.ndarray], np.ndarray], observations: np.ndarray) -> str:
    """RunError where the actions of the file are not the policy's."""
    wanted, found = policy.acts(observations), run(observations)
    count = f"{len(observations):,} observations of {policy.run.run.env}"
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise RunError(
            f"policy of {policy.run.path}: exported, its actions are {found.shape} {found.dtype} on {count}, and "
            f"{wanted.shape} {wanted.dtype} here. Nothing was written."
        )
    if wanted.dtype.kind != "f" or policy.run.run.action_bins:
        differ = int((found != wanted).reshape(len(wanted), -1).any(1).sum())
        if differ:
            raise RunError(
                f"policy of {policy.run.path}: exported, it acts otherwise on {differ} of {count}. Nothing was written."
            )
        return f"the same actions on {count}"
    width = _width(policy.action_space)
    gap = float((np.abs(found.astype(np.float64) - wanted) / width).max())
    if not gap <= CLOSE:
        raise RunError(
            f"policy of {policy.run.path}: exported, its actions differ by up to {gap:.1e} of their range on {count}; allowed is "
            f"{CLOSE:.0e}. Nothing was written."
        )
    return f"actions within {gap:.1e} of their range on {count}"


def _width(space: Any) -> np.ndarray:
    """The range of each action; 1 where there is none."""
    assert isinstance(space, spaces.Box)
    with np.errstate(over="ignore", invalid="ignore"):
        width = space.high.astype(np.float64) - space.low.astype(np.float64)
    return np.where(np.isfinite(width) & (width > 0), width, 1.0)


def _write(out: Path, content: bytes) -> None:
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as file:
            file.write(content)
