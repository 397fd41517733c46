"""Hypothesis shows the same examples every time by default; `--hypothesis-profile=long` for more of them, and new ones."""

import os
import resource

import pytest
import torch
from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=30, suppress_health_check=SLOW)
settings.register_profile("long", deadline=None, max_examples=1000, suppress_health_check=SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

torch.set_num_threads(1)

MEMORY = 12 * 2**30  # bytes of address space a test process: what asks for more fails, and does not stall the machine
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
if soft == resource.RLIM_INFINITY:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))


@pytest.fixture(autouse=True)
def double_precision_and_a_seed():
    """Exact tests compare to rounding; every test starts from the same random stream."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
