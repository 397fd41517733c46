"""`check_credit`: every law that applies to a credit, decided exactly by listing all outcomes of small processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from scg.credit import Credit
from scg.draw.labels import brief
from scg.errors import nearest
from scg.tables import Table
from scg.testing.battery.check import result, surroundings
from scg.testing.battery.report import LawReport, Result
from scg.testing.credit_battery import laws
from scg.testing.credit_battery.subject import NAMES, Claim, Subject

Law = Callable[[Subject], str]

# In the order in which they are run and shown. A law returns "exact", perhaps with evidence: "exact: value, q".
LAWS: Mapping[str, Law] = {
    "shapes": laws.shapes,
    "time": laws.time,
    "ends": laws.ends,
    "critics": laws.critics,
    "first order": laws.first_order,
    "any critics": laws.any_critics,
    "cuts": laws.cuts,
    "recorded": laws.recorded,
    "alone": laws.alone,
    "constant": laws.constant,
    "second order": laws.second_order,
}


@dataclass(frozen=True)
class CreditReport(LawReport):
    """What became of every law, `results`. `print(report)` is a table; its truth value is `ok`."""

    credit: str

    def shown(self) -> Iterator[str | Table]:
        passed = [r for r in self.results if r.status == "passed"]
        verdict = f"failed {'; '.join(self.broken)}" if self.failures else f"passed {len(passed)} laws"
        if not self.failures and not passed:
            verdict = "none of these laws applies"
        yield f"{self.credit}: {verdict}"
        yield Table(("law", "result", "evidence"), [(r.law, r.status, r.evidence) for r in self.results], {0, 1, 2})


def check_credit(
    credit: Credit,
    claim: Claim | None = None,
    *,
    names: Mapping[str, str] | None = None,
    laws: Iterable[str] | None = None,
    waived: Mapping[str, str] | None = None,
) -> CreditReport:
    """Does `credit` keep the laws, and what `claim` promises?

        report = check_credit(MyCredit(discount=0.9), Claim(discount=0.9, critics="any", cuts=False))
        assert report, report

    claim    what it promises of its mean. Default: `Claim(discount=credit.discount)`, unbiased with exact critics, also where
             the record is cut
    names    {"value": "v"}: what the credit calls the nodes of the process, which are `value` V(s_t), `next_value` V(s_{t+1}),
             `q` Q(s_t, a_t), `terminated` and `log_prob`; V = Σ_a π Q
    laws     names of the laws to run; default: all
    waived   {law: why it does not apply}
    """
    if not isinstance(credit, Credit):
        shown = f"the class {credit.__name__}" if isinstance(credit, type) else repr(credit)
        raise TypeError(f"check_credit takes an instance of a subclass of scg.credit.Credit, not {shown}")
    claim = claim or Claim(getattr(credit, "discount", 1.0))
    names, waived = dict(names or {}), dict(waived or {})
    for name in names:
        if name not in NAMES:
            raise ValueError(f"names: the process has no node {name!r}.{nearest(name, NAMES)} It has {', '.join(NAMES)}")
    chosen = list(LAWS) if laws is None else [laws] if isinstance(laws, str) else list(laws)
    for law in [*chosen, *waived]:
        if law not in LAWS:
            raise ValueError(f"no law {law!r}.{nearest(law, LAWS)} Known: {', '.join(LAWS)}")
    with surroundings(seed=0):
        subject = Subject(credit, claim, names)
        results = [
            Result(law, "", "does not apply", waived[law]) if law in waived else result(law, "", partial(LAWS[law], subject))
            for law in chosen
        ]
    return CreditReport(tuple(results), brief(credit))


def assert_credit(credit: Credit, *args: Any, **kwargs: Any) -> CreditReport:
    """`check_credit`, as an assertion: fails where a law is broken, with the table as its message."""
    __tracebackhide__ = True
    report = check_credit(credit, *args, **kwargs)
    if not report.ok:
        raise AssertionError(f"\n{report}")
    return report
