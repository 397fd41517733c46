"""The guides for losses are true: their first code runs and prints what they say."""

import contextlib
import io
import pathlib
import re

import pytest
import torch

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


@pytest.fixture
def default_type():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)
