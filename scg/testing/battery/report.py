"""What the battery found, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scg.tables import Table, Tabular

Status = Literal["passed", "failed", "undecided", "does not apply"]


class NotApplicable(Exception):
    """A law has nothing to say of an estimator on a kind of distribution: why."""


class Broken(Exception):
    """A law does not hold: what was found beside what should have been."""


class Undecided(Exception):
    """Not enough draws to tell whether a law holds."""


@dataclass(frozen=True)
class Result:
    """One law on one kind of distribution: what became of it, and the evidence (or the reason) in words.

    how    "exact" where nothing was left to chance, "sampled" where the sequential test decided, else ""
    """

    law: str
    kind: str
    status: Status
    evidence: str = ""
    how: str = ""


@dataclass(frozen=True)
class LawReport(Tabular):
    """What became of every law, `results`; its truth value is `ok`."""

    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        """What was broken or not decided."""
        return tuple(r for r in self.results if r.status in ("failed", "undecided"))

    @property
    def broken(self) -> tuple[str, ...]:
        """The names of the laws that do not hold."""
        return tuple(dict.fromkeys(r.law for r in self.failures))

    @property
    def ok(self) -> bool:
        return not self.failures and any(r.status == "passed" for r in self.results)

    def __bool__(self) -> bool:
        return self.ok

    def __getitem__(self, law: str) -> tuple[Result, ...]:
        """The results of one law."""
        return tuple(r for r in self.results if r.law == law)


@dataclass(frozen=True)
class EstimatorReport(LawReport):
    """Every law on every distribution, `results`. `print(report)` is a table; its truth value is `ok`.

    false_alarm    the probability that a right estimator fails, over the whole battery
    detectable     the bias that would not be missed by a sampled law, relative to the largest entry of the gradient,
                   or to half of one draw's root mean square where that is greater
    """

    estimator: str
    false_alarm: float
    detectable: float

    def shown(self) -> Iterator[str | Table]:
        laws = list(dict.fromkeys(r.law for r in self.results))
        yield f"{self.estimator}: {self._verdict()}"
        titles = ("law", "passed", "exact", "sampled", "failed", "does not apply")
        yield Table(titles, [self._row(law) for law in laws], {0, 5})
        for law in self.broken:
            worst = [r for r in self.failures if r.law == law]
            yield from (f"{' · '.join(filter(None, (law, r.kind)))}: {r.status}. {r.evidence}" for r in worst[:3])
            if len(worst) > 3:
                yield f"{law} · and {', '.join(r.kind for r in worst[3:])}"

    def _verdict(self) -> str:
        rates = f"false alarm {self.false_alarm:g}, detectable {self.detectable:g}"
        if not self.ok and not self.failures:
            return f"none of these laws applies ({rates})"
        if not self.ok:
            return f"failed {'; '.join(self.broken)} ({rates})"
        passed = [r for r in self.results if r.status == "passed"]
        kinds = {r.kind for r in passed if r.law != "refusal"}
        return f"passed {len({r.law for r in passed})} laws on {len(kinds)} distributions ({rates})"

    def _row(self, law: str) -> tuple[str, ...]:
        mine = self[law]
        passed = [r for r in mine if r.status == "passed"]
        reasons: dict[str, list[str]] = {}
        for r in mine:
            if r.status == "does not apply":
                reasons.setdefault(r.evidence, []).append(r.kind)
        whole = len(mine) == sum(map(len, reasons.values()))
        why = [
            reason if whole and len(reasons) == 1 else f"{', '.join(filter(None, kinds))}: {reason}"
            for reason, kinds in reasons.items()
        ]
        counts = (
            len(passed),
            *(sum(r.how == how for r in passed) for how in ("exact", "sampled")),
            sum(r in self.failures for r in mine),
        )
        return (law, *(str(c or "") for c in counts), "; ".join(why))
