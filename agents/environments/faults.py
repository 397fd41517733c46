"""The error of environments."""

from __future__ import annotations


class EnvironmentFault(ValueError):
    """An environment that is missing, or that does not behave. The message says where, what was found, what to do."""
