"""The battery for credits: every law that a credit must keep, run as one call. `check_credit` reports, `assert_credit` raises.

process     small decision processes: all outcomes of a block, exact critics, the true gradient
laws        what is held against them
check       the two calls, and `Claim`: what a credit promises
"""

from scg.testing.credit_battery.check import LAWS, CreditReport, assert_credit, check_credit
from scg.testing.credit_battery.subject import Claim

__all__ = ["LAWS", "Claim", "CreditReport", "assert_credit", "check_credit"]
