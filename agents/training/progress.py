"""The progress bar: steps done, recent return, steps a second, time left. Lines printed above it stay."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} steps/s" if task.speed else "")


class Progress:
    """A context manager around rich's bar. Without a terminal there is no bar, only what is printed; `quiet` prints nothing."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, soft_wrap=True, highlight=False, markup=False)
        columns = (
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("return {task.fields[recent]:.1f}"),
            _Speed(),
            TimeRemainingColumn(),
        )
        shown = self.console.is_terminal and not quiet
        self.bar = RichProgress(*columns, console=self.console, disable=not shown)
        self.task = self.bar.add_task("", total=total, recent=float("nan"))

    def advance(self, step: int, recent: float) -> None:
        self.bar.update(self.task, completed=step, recent=recent)

    def say(self, text: str) -> None:
        self.console.print(text)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()
