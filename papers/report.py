"""What a reproduction reports: rows of claim and verdict, as JSON, as README's table, and on the terminal."""

from __future__ import annotations

import json
import math
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from scg.agents.training.run_config import RunError

HEADER = ("Claim and place", "Paper", "Ours, mean ± s.e. (seeds)", "Command, time", "Verdict")
REPRODUCED, FAILED, REFUTED = "reproduced", "failed", "does not hold"
"""REFUTED: what the paper says is not so here, which was shown and not merely missed; FAILED: the run is not what it should be."""


@dataclass(frozen=True)
class Estimate:
    """A mean over independent draws, with its standard error; `exact` is what it should be."""

    mean: float
    error: float
    draws: int
    exact: float

    @property
    def z(self) -> float:
        """How many standard errors the mean lies off."""
        gap = abs(self.mean - self.exact)
        if gap <= 1e-9 * max(1.0, abs(self.exact)):
            return 0.0
        return gap / self.error if self.error else math.inf

    def __str__(self) -> str:
        return with_error(self.mean, self.error)


@dataclass(frozen=True)
class Row:
    """One claim. `numbers` are all that was measured for it, by name."""

    claim: str
    paper: str
    ours: str
    seconds: float
    verdict: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass
class Results:
    """All of a run. `sections` are further texts of the README by marker name; they are not part of the numbers."""

    paper: str
    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.verdict == FAILED]

    def write(self, out: Path) -> None:
        """results.json; and the generated parts of a README.md that lies beside it."""
        out.mkdir(parents=True, exist_ok=True)
        content = {key: value for key, value in asdict(self).items() if key != "sections"}
        (out / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        readme = out / "README.md"
        if readme.exists():
            text = readme.read_text(encoding="utf-8")
            for name, section in {"table": table(content), **self.sections}.items():
                text = filled(text, name, section)
            readme.write_text(text, encoding="utf-8")


Claim = tuple[str, str, str, bool | str, dict[str, Any]]
"""claim and place; what the paper says; what we found; whether that agrees, or a verdict; all numbers"""

Job = tuple[str, Callable[[], Claim]]
"""its title, and what makes the claim"""

Say = Callable[[str, float], None]
"""`say(what, done)`: what is being run, and the share of all that is behind."""


def collect(paper: str, settings: Any, jobs: Sequence[Job], say: Say) -> Results:
    """Run the jobs `(title, job)` in order, one row each. `settings` is the dataclass that the run was given; its fields
    with `told` False in their metadata are left out of the results."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    told = {field.name for field in fields(settings) if field.metadata.get("told", True)}
    chosen = {name: value for name, value in asdict(settings).items() if name in told}
    results = Results(paper, f"scg paper {paper}", chosen, versions)
    for i, (title, job) in enumerate(jobs):
        say(title, i / (len(jobs) + 1))
        began = time.perf_counter()
        claim, says, ours, right, numbers = job()
        verdict = right if isinstance(right, str) else REPRODUCED if right else FAILED
        results.rows.append(Row(claim, says, ours, round(time.perf_counter() - began, 2), verdict, numbers))
    return results


def updated(out: Path, rows: Sequence[Row]) -> list[Row]:
    """The rows of `out`'s results.json, those with the claims of `rows` replaced. RunError for a claim that is not there."""
    try:
        content = json.loads((out / "results.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{out} has no results of which some could be kept ({error.strerror})") from error
    found = {row["claim"]: Row(**row) for row in content["rows"]}
    if new := [row.claim for row in rows if row.claim not in found]:
        raise RunError(f"{out}: no row says {new[0]!r}")
    return list({**found, **{row.claim: row for row in rows}}.values())


def table(results: dict[str, Any]) -> str:
    """README's table from what results.json holds."""
    rows = [" | ".join(("", *HEADER, "")).strip(), "|---|---|---|---|---|"]
    for row in results["rows"]:
        cells = (row["claim"], row["paper"], row["ours"], f"`{results['command']}`, {row['seconds']:.1f} s", row["verdict"])
        rows.append(" | ".join(("", *(cell.replace("|", r"\|") for cell in cells), "")).strip())
    settings = ", ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in results["settings"].items()
    )
    versions = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
    return "\n".join([*rows, "", f"All of it with {settings}; {versions}; {results['seconds']:.0f} s in all."])


def filled(text: str, name: str, section: str) -> str:
    """`text` with what stands between `<!-- name -->` and `<!-- /name -->` replaced."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(opening) + r".*?" + re.escape(closing), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no place for {name!r}: put {opening} and {closing} where it belongs")
    return pattern.sub(lambda _: f"{opening}\n{section}\n{closing}", text)


def show(results: Results, console: Console) -> None:
    """The table on the terminal, in colour where there is one."""
    shown = Table(*HEADER[:3], HEADER[4], title=f"{results.paper}, {results.seconds:.0f} s", show_lines=True)
    for row in results.rows:
        colour = {REPRODUCED: "green", REFUTED: "yellow"}.get(row.verdict, "red")
        shown.add_row(plain(row.claim), plain(row.paper), plain(row.ours), f"[{colour}]{row.verdict}[/]")
    console.print(shown)


def plain(markdown: str) -> str:
    """A cell without its Markdown, and safe for rich's own markup."""
    return markdown.replace("<br>", "\n").replace("`", "").replace("**", "").replace("[", r"\[")


def with_error(mean: float, error: float) -> str:
    """`−0.4127 ± 0.0021`: two digits of the error, and the mean to match."""
    digits = 4 if error <= 0 else min(8, max(0, 1 - math.floor(math.log10(error))))
    return f"{number(mean, digits)} ± {error:.{digits}f}"


def over_seeds(values: Sequence[float]) -> str:
    """Mean ± standard error, or the one number that there is."""
    if len(values) == 1:
        return f"{number(values[0], 0 if abs(values[0]) >= 100 else 2)} (one run)"
    return with_error(statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5)


def number(value: float, digits: int = 5) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
