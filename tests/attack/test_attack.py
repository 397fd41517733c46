"""`scg` against the oracle, on random graphs: `python -m tests.attack --graphs 10000` tries more of them."""

import pytest

from tests.attack.attack import attack, completed
from tests.attack.generate import generate
from tests.attack.program import code
from tests.attack.reasons import REASONS

PART = 25


@pytest.mark.parametrize("start", range(0, 300, PART))
def test_every_random_graph_is_right_or_refused_for_a_known_reason(start):
    refused = 0
    for seed in range(start, start + PART):
        program = generate(seed)
        verdict = attack(program)
        if verdict.kind == "refused":
            assert any(words in verdict.detail for words in REASONS), (
                f"seed {seed}: {verdict.detail}\n{code(completed(program))}"
            )
            refused += 1
        else:
            assert verdict.kind == "right", f"seed {seed} is {verdict.kind}: {verdict.detail}\n{code(completed(program))}"
    assert refused <= PART // 3, "too much is refused for the rest to say much"
