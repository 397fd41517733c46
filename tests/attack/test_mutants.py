"""The attacker's power: each planted fault is caught, on a graph that is right without it."""

import pytest

from tests.attack.attack import attack
from tests.attack.generate import generate
from tests.attack.mutants import MUTANTS

LIKELY = (1, 5, 8, 11, 16, 17, 68)  # which of the seeds below show most of the faults; tried first


@pytest.mark.parametrize("fault", MUTANTS, ids=lambda f: f.__name__)
def test_a_planted_fault_is_caught(fault):
    for seed in (*LIKELY, *range(120)):
        program = generate(seed)
        with fault():
            found = attack(program, draws=1, most=1)
        if found.kind in ("wrong", "unproven") and attack(program, draws=1, most=1).kind == "right":
            return
    pytest.fail(f"not caught in 120 graphs: {fault.__doc__}")
