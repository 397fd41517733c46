"""The guides for losses are true: their first code runs and prints what they say."""

import contextlib
import io
import pathlib
import re
from dataclasses import replace

import pytest
import torch

from scg import ScoreFunction

GUIDES = pathlib.Path(__file__).parents[1] / "docs" / "guides"


@pytest.mark.parametrize("name", ["your-loss", "language-models"])
def test_code_blocks_print_what_follows_them(name, default_type):
    page = GUIDES / f"{name}.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)[0]
    (printed,) = re.findall(r"```text\n(.*?)```", page.read_text(), flags=re.S)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(page), "exec"), {"__name__": "guide"})
    assert out.getvalue() == printed


def test_the_hypothesis_test_of_the_guide_passes_and_fails_with_a_wrong_estimator(tmp_path, default_type):
    page = (GUIDES / "your-loss.md").read_text()
    (code,) = re.findall(r"```python\n(# test_everywhere.py.*?)```", page, flags=re.S)
    namespace = {"__name__": "guide"}
    exec(compile(code, "test_everywhere.py", "exec"), namespace)
    namespace["test_gradients_of_graphs_with_my_estimator_are_unbiased"]()
    twin = code.replace("LeaveOneOut(samples=3)  # yours", "Half()").replace("[MINE, ScoreFunction(), Enumeration()]", "[MINE]")
    namespace = {"__name__": "guide", "Half": Half}
    exec(compile(twin, "test_everywhere.py", "exec"), namespace)
    with pytest.raises(AssertionError, match="biased"):
        namespace["test_gradients_of_graphs_with_my_estimator_are_unbiased"]()


class Half(ScoreFunction):
    """Half of the score: a biased twin."""

    def branch(self, distribution):
        branches = super().branch(distribution)
        return replace(branches, score=0.5 * branches.score + 0.5 * branches.score.detach())


@pytest.fixture
def default_type():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)
