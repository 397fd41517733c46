"""Hypothesis: the same examples every time by default; `--hypothesis-profile=long` for more of them, and new ones."""

import os

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=30, suppress_health_check=SLOW)
settings.register_profile("long", deadline=None, max_examples=1000, suppress_health_check=SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
