"""Execution: how updates are computed, whatever the algorithm. The same flags for every agent.

An agent's page says what an update is; the machinery that it hands its graph to (`scg.agents.updates`) reads this setting.
None of it changes the expected gradient. `compile`, `bf16` and `cuda_graphs` change rounding; `overlap` lets data arrive one
update late.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

import torch

from scg.agents.execution.options import OptionError, check_options


@dataclass(frozen=True)
class Execution:
    """The same for every agent; the base of its config says which of these its updates have a use for."""

    device: str = "cpu"
    """where updates run, "cuda" say; acting stays in numpy"""
    compile: bool = False
    """compile updates: 1.5 to 2.5 times the speed, after 13 to 30 s (a few seconds once they are cached)"""
    bf16: bool = False
    """matrix products of numbers rounded to bfloat16: faster on processors with instructions for them"""
    threads: int = 1
    """torch threads; small nets are fastest with one"""
    overlap: bool = False
    """a second thread collects the next block while an update runs, and takes the actor's gradient while the critics' is taken:
    with `--threads 1` two cores are busy"""
    together: int = 1
    """gradient steps in one call of a compiled update, which takes so many times as long to compile; divides `updates`"""
    cuda_graphs: bool = False
    """compiled updates on a GPU are replayed as CUDA graphs"""

    def __post_init__(self) -> None:
        check_options(self, at_least_one="threads together")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise OptionError(f"option device is {self.device!r}. Give one of torch's devices, cpu or cuda.") from error
        if self.cuda_graphs and not (self.compile and self.device.startswith("cuda")):
            raise OptionError("--cuda-graphs needs --compile and --device cuda.")

    def check_machine(self) -> None:
        """OptionError for a device or a number of threads that this machine does not have."""
        most = max(64, 4 * (os.cpu_count() or 1))
        if self.threads > most:
            raise OptionError(
                f"option threads is {self.threads}: this machine has {os.cpu_count()} cores. Give at most {most}."
            )
        if self.device == "cpu":
            return
        try:
            torch.zeros(1, device=self.device).item()
        except Exception as error:  # of many types, by device
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
            raise OptionError(
                f"option device is {self.device!r}, which torch cannot use here ({reason}). It finds {gpus} GPUs. "
                "Give --device cpu, or install a torch that was built for the GPU."
            ) from error

    def changed(self) -> list[str]:
        """The options that are not at their defaults."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]


EAGER = Execution()
