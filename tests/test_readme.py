"""The README is true: its code runs, in order, and prints what it says."""

import contextlib
import io
import pathlib
import re

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def single_precision():
    torch.set_default_dtype(torch.float32)


def test_code_blocks_print_what_follows_them():
    blocks = re.findall(r"```(python|text)\n(.*?)```", TEXT, flags=re.S)
    namespace: dict[str, object] = {}
    printed = ""
    shown = 0
    for kind, body in blocks:
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(body, "README.md", "exec"), namespace)
            printed = out.getvalue()
        else:
            assert printed.strip() == body.strip()
            shown += 1
    assert shown >= 5


def test_files_that_it_names_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_its_table_of_papers_is_their_results():
    from scg import papers

    shown = re.search(r"<!-- papers -->\n(.*?)\n?<!-- /papers -->", TEXT, flags=re.S)
    assert shown is not None
    assert shown[1].strip() == papers.as_markdown().strip()


def test_its_table_of_estimators_is_the_catalogue():
    from scg.estimators.catalogue import as_markdown

    shown = re.search(r"<!-- estimators -->\n(.*?)\n<!-- /estimators -->", TEXT, flags=re.S)
    assert shown is not None
    assert shown[1].strip() == as_markdown().strip()
