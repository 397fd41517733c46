"""The catalogue of credits: what each reads, what it promises of its mean, and where it is from.

`critics` and `order` are what the classes answer; the claims are written here, and the tests hold every credit against the
battery (`scg.testing.assert_credit`) with its claim, and refute each stronger claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scg.credit import Credit
from scg.estimators.catalogue import in_markdown
from scg.estimators.credit.aggregated import Aggregated
from scg.estimators.credit.batch_leave_one_out import BatchLeaveOneOut
from scg.estimators.credit.group_relative import GroupRelative
from scg.estimators.credit.lambda_return import GAE, LambdaReturn
from scg.estimators.credit.leading_discount import LeadingDiscount
from scg.estimators.credit.loaded_dice import LoadedDice
from scg.estimators.credit.monte_carlo import MonteCarlo
from scg.estimators.credit.n_step import NStep
from scg.estimators.credit.q_critic import QCritic
from scg.estimators.credit.ratios import EarlierRatios
from scg.estimators.credit.retrace import QLambda, Retrace, TreeBackup
from scg.estimators.credit.self_normalised import SelfNormalisedRatios
from scg.estimators.credit.v_trace import VTrace, VTraceTarget
from scg.estimators.credit.vimco import VIMCO
from scg.estimators.credit.without import Without
from scg.testing.credit_battery import Claim


@dataclass(frozen=True)
class CreditRow:
    """One line of the table.

    critics    the nodes that it reads as critics
    unbiased   with which critics, where every episode ends within the record
    cut        whether also where the record is cut, with exact critics
    recorded   what it estimates from a recording of another policy, with exact critics
    order      the highest derivative that is right
    """

    credit: str
    critics: str
    needs: str
    unbiased: str
    cut: str
    recorded: str
    order: str
    paper: str


@dataclass(frozen=True)
class CreditEntry:
    """An exported credit with some settings, and what is written about it. `settings`: in words, others with their claims."""

    credit: Credit
    claim: Claim
    needs: str
    paper: str
    settings: Mapping[str, tuple[Credit, Claim]] = field(default_factory=dict)


_CRITICS = "V at the next observation, terminations"
_Q = "E_π Q at the next observation, terminations"
_RECORDED = f"{_Q}, recorded log-probabilities"

_TABLE = (
    CreditEntry(MonteCarlo(), Claim(1.0, "any", cuts=False), "—", "Williams (1992); Sutton et al. (2000)"),
    CreditEntry(
        NStep(n=2),
        Claim(0.99),
        _CRITICS,
        "Watkins (1989); Mnih et al. (2016)",
        {"n = 1": (NStep(n=1), Claim(0.99, recorded="visited"))},
    ),
    CreditEntry(
        LambdaReturn(),
        Claim(0.99),
        _CRITICS,
        "Sutton (1988); Sutton & Barto (2018)",
        {
            "λ = 0": (LambdaReturn(lam=0.0), Claim(0.99, recorded="visited")),
            "λ = 1": (LambdaReturn(lam=1.0), Claim(0.99, "any")),
        },
    ),
    CreditEntry(
        GAE(),
        Claim(0.99),
        _CRITICS,
        "Schulman et al. (2016)",
        {"λ = 0": (GAE(lam=0.0), Claim(0.99, recorded="visited")), "λ = 1": (GAE(lam=1.0), Claim(0.99, "any"))},
    ),
    CreditEntry(QCritic(), Claim(0.99, recorded="visited"), "—", "Sutton et al. (2000); Weber et al. (2019)"),
    CreditEntry(
        VTrace(),
        Claim(0.99, "any"),
        f"{_CRITICS}, recorded log-probabilities",
        "Espeholt et al. (2018)",
        {"ρ̄ beyond all ratios": (VTrace(rho_bar=math.inf), Claim(0.99, "any", recorded="visited"))},
    ),
    CreditEntry(VTraceTarget(), Claim(0.99, "any"), "the same; the target of a critic", "Espeholt et al. (2018)"),
    CreditEntry(
        Retrace(),
        Claim(0.99, "any", recorded="visited"),
        _RECORDED,
        "Munos et al. (2016)",
        {"λ < 1": (Retrace(lam=0.6), Claim(0.99, recorded="visited"))},
    ),
    CreditEntry(TreeBackup(), Claim(0.99, recorded="visited"), f"{_Q}, a node log π(a|s)", "Precup et al. (2000)"),
    CreditEntry(
        QLambda(),
        Claim(0.99, "any", recorded="visited"),
        _RECORDED,
        "Harutyunyan et al. (2016)",
        {"λ < 1": (QLambda(lam=0.6), Claim(0.99, recorded="visited"))},
    ),
    CreditEntry(
        VIMCO(),
        Claim(critics="any", cuts=False, plate=True),
        "a plate of K ≥ 2 samples, a node log w",
        "Mnih & Rezende (2016)",
        {"mean='arithmetic'": (VIMCO(mean="arithmetic"), Claim(critics="any", cuts=False, plate=True))},
    ),
    CreditEntry(
        BatchLeaveOneOut(),
        Claim(1.0, "any", cuts=False),
        "a batch of samples of one problem",
        "Kool et al. (2019); Ahmadian et al. (2024)",
    ),
    CreditEntry(
        GroupRelative(standardise=False),
        Claim(1.0, "none", cuts=False),
        "a batch of samples of one problem; standardised, it is no estimate of a cost-to-go",
        "Shao et al. (2024); Liu et al. (2025)",
    ),
    CreditEntry(
        Aggregated(MonteCarlo(), alive="log_prob"),
        Claim(1.0, "none", cuts=False),
        "another credit, here `MonteCarlo`; a node that is true where an episode is alive",
        "Shao et al. (2024); Yu et al. (2025)",
        {"over='batch'": (Aggregated(MonteCarlo(), alive="log_prob", over="batch"), Claim(1.0, "none", cuts=False))},
    ),
    CreditEntry(
        Without(MonteCarlo()),
        Claim(1.0, "any", cuts=False),
        "another credit, here `MonteCarlo`; biased where it leaves costs out",
        "—",
    ),
    CreditEntry(
        EarlierRatios(Retrace()),
        Claim(0.99, "any", recorded="own"),
        "another credit, here `Retrace`; recorded log-probabilities",
        "Precup et al. (2000)",
    ),
    CreditEntry(
        SelfNormalisedRatios(Retrace()),
        Claim(0.99, "any"),
        "another credit, here `Retrace`; recorded log-probabilities, a batch",
        "Precup et al. (2000); Thomas (2015)",
    ),
    CreditEntry(
        LeadingDiscount(GAE()),
        Claim(0.99, leading=True),
        "another credit, here `GAE`; blocks that begin with their episodes",
        "Thomas (2014)",
    ),
    CreditEntry(
        LoadedDice(GAE(discount=1.0)),
        Claim(1.0),
        "another credit, an advantage, here `GAE`",
        "Farquhar et al. (2019); Mao et al. (2019)",
    ),
)

ENTRIES: Mapping[str, CreditEntry] = {type(entry.credit).__name__: entry for entry in _TABLE}


def claims() -> dict[str, tuple[Credit, Claim]]:
    """Every claim that the catalogue makes, by the credit's name and settings."""
    found = {}
    for name, entry in ENTRIES.items():
        found[name] = (entry.credit, entry.claim)
        found |= {f"{name}, {setting}": pair for setting, pair in entry.settings.items()}
    return found


def catalogue() -> list[CreditRow]:
    """The table, one row for each exported credit."""
    return [
        CreditRow(
            name,
            ", ".join([*entry.credit.critics, *entry.credit.q_critics]) or "—",
            entry.needs,
            _said(entry, _unbiased),
            _said(entry, lambda claim: "—" if claim.plate else "yes" if claim.cuts else "no"),
            _said(entry, lambda claim: "—" if claim.plate else _RECORDED_WORDS[claim.recorded]),
            "∞" if entry.credit.order == math.inf else f"{entry.credit.order:g}",
            entry.paper,
        )
        for name, entry in ENTRIES.items()
    ]


def as_markdown() -> str:
    """The table for a README."""
    return in_markdown(catalogue())


_RECORDED_WORDS = {"no": "biased", "visited": "∇ at the visited states", "own": "∇ at the policy's own states"}


def _unbiased(claim: Claim) -> str:
    given = {"any": "any critics", "exact": "exact critics", "none": "no"}[claim.critics]
    return given + (", with γ^t in front" if claim.leading else "")


def _said(entry: CreditEntry, words: Callable[[Claim], str]) -> str:
    """What the claim says, and what it says of other settings where that differs."""
    usual = words(entry.claim)
    others = [f"{words(claim)}: {setting}" for setting, (_, claim) in entry.settings.items() if words(claim) != usual]
    return usual + (f" ({'; '.join(others)})" if others else "")
