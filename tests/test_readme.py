"""README and guides are true: their code runs, in order, and prints what they say."""

import contextlib
import io
import pathlib
import re

import pytest
import torch

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/graphs.md",
    "docs/estimators.md",
    "docs/training.md",
    "docs/guides/your-agent.md",
    "docs/speed.md",
    "docs/papers.md",
]


@pytest.fixture(autouse=True)
def single_precision():
    torch.set_default_dtype(torch.float32)


def text(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.mark.parametrize(("page", "least"), [("README.md", 3), ("docs/graphs.md", 2), ("docs/estimators.md", 3)])
def test_code_blocks_print_what_follows_them(page, least):
    blocks = re.findall(r"```(python|text)\n(.*?)```", text(page), flags=re.S)
    namespace: dict[str, object] = {}
    printed = ""
    shown = 0
    for kind, body in blocks:
        if kind == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(body, page, "exec"), namespace)
            printed = out.getvalue()
        else:
            assert printed.strip() == body.strip()
            shown += 1
    assert shown >= least


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", text(page)):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_readme_is_short():
    assert len(text("README.md").splitlines()) <= 200


def test_the_table_of_papers_is_their_results():
    from scg import papers

    shown = re.search(r"<!-- papers -->\n(.*?)\n?<!-- /papers -->", text("docs/papers.md"), flags=re.S)
    assert shown is not None
    assert shown[1].strip() == papers.as_markdown().strip()
    for name in papers.names():  # the table and `scg paper` show the first line alone
        assert (papers.load(name).__doc__ or "").splitlines()[0].endswith("."), name


def test_the_table_of_estimators_is_the_catalogue():
    from scg.estimators.catalogue import as_markdown

    shown = re.search(r"<!-- estimators -->\n(.*?)\n<!-- /estimators -->", text("docs/estimators.md"), flags=re.S)
    assert shown is not None
    assert shown[1].strip() == as_markdown().strip()


def test_the_table_of_credits_is_their_catalogue():
    from scg.estimators.credit.catalogue import as_markdown

    shown = re.search(r"<!-- credits -->\n(.*?)\n<!-- /credits -->", text("docs/estimators.md"), flags=re.S)
    assert shown is not None
    assert shown[1].strip() == as_markdown().strip()
