"""A credit that wraps another one and has the same critics."""

from __future__ import annotations

from dataclasses import dataclass

from scg.credit import Credit


@dataclass(frozen=True)
class Wrapped(Credit):
    """What `EarlierRatios`, `LeadingDiscount` and `LoadedDice` share."""

    credit: Credit

    @property
    def critics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.credit.critics

    @property
    def q_critics(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.credit.q_critics
