"""The fault campaign: `python -m tests.faults`."""
