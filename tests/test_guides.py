"""The guide for losses is true: its code runs and prints what it says."""

import contextlib
import io
import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "guides" / "your-loss.md"


def test_code_blocks_print_what_follows_them(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    (printed,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), flags=re.S)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, str(PAGE), "exec"), {"__name__": "guide"})
    assert out.getvalue() == printed
