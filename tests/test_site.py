"""The site: its guides print what they show, its links lead somewhere, and it asks nothing of other places."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from website import docstrings, formulas, generated, reference
from website.blocks import blocks, run, shell
from website.pages import ROOT, BrokenLink, Pages

GUIDES = [
    "your-environment", "your-network", "sequences-and-plates", "discrete-latents", "queues-and-options", "hierarchies",
    "token-policies", "sweeps-and-clusters", "runs",
]  # fmt: skip
ELSEWHERE = {
    "your-agent",
    "your-loss",
    "language-models",
    "index",
}  # tests/user_project/test_guide.py, tests/test_guides.py; a list


@pytest.fixture
def modules_of_its_own(tmp_path):
    """What a guide's files left imported is not what another file's `import layers` finds."""
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.usefixtures("modules_of_its_own")
@pytest.mark.parametrize("name", GUIDES)
def test_a_guides_blocks_print_what_follows_them(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    text = (ROOT / "docs" / "guides" / f"{name}.md").read_text(encoding="utf-8")
    shown = 0
    for block, printed in run(text, name):
        assert printed.strip() == block.body.strip()
        shown += 1
    assert shown == sum(block.kind == "text" for block in blocks(text))


def test_every_guide_is_run():
    assert {path.stem for path in (ROOT / "docs" / "guides").glob("*.md")} == {*GUIDES} | ELSEWHERE


def test_a_page_that_prints_something_else_is_told():
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n"
    ((block, printed),) = run(page, "page")
    assert (block.body, printed) == ("3\n", "2\n")
    with pytest.raises(ZeroDivisionError):
        list(run("```python\n1 / 0\n```\n", "page"))
    with pytest.raises(RuntimeError, match="exit code 2"):
        shell(["scg", "draw", "nothing.py:graph"])
    with pytest.raises(ValueError, match="a page's commands are scg's and pytest's"):
        shell(["rm", "x"])


# -- pages and links ---------------------------------------------------------------------------------------------


def test_every_link_of_every_page_leads_to_a_page():
    pages = Pages.of()
    own = dict(pages.where)
    pages.add({**reference.pages(ROOT), **generated.pages(ROOT)})
    for file, page in own.items():
        if page.endswith(".md") and not page.startswith("source/") and not file.endswith(".ipynb"):
            pages.rewritten(file, (ROOT / file).read_text(encoding="utf-8"))


def test_links_are_rewritten_to_pages_and_broken_ones_are_errors(tmp_path):
    for name in ("docs/a.md", "docs/guides/README.md", "docs/x.png", "agents/ppo.py", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("see [code](../agents/ppo.py)" if name == "docs/a.md" else "x")
    pages = Pages.of(tmp_path)
    markdown = (
        "[a](../agents/ppo.py#b) ![x](x.png) [c](guides) [d](../CHANGELOG.md) [e](https://x.y) [f](#g)\n\n```\n[h](i)\n```\n"
    )
    assert pages.rewritten("docs/a.md", markdown) == (
        "[a](source/agents/ppo.md#b) ![x](x.png) [c](guides/index.md) [d](changelog.md) [e](https://x.y) [f](#g)\n\n```\n[h](i)\n```\n"
    )
    with pytest.raises(BrokenLink, match=r"docs/a\.md: the link to gone\.md leads to no file"):
        pages.rewritten("docs/a.md", "[x](gone.md)")


def test_pages_of_the_site_name_no_address_to_load_from():
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in settings and "offline" in settings and "http" not in settings
    assert "url(" not in (ROOT / "docs" / "site.css").read_text()


def test_every_page_is_in_the_contents():
    settings = (ROOT / "mkdocs.yml").read_text()
    folders = ("agents/", "decisions/", "papers/")
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT / "docs").as_posix()
        assert name in settings or name.startswith(folders) or name == "papers.md", name


# -- what is made from the code ----------------------------------------------------------------------------------


def test_the_catalogue_has_each_estimator_with_its_identity_and_leave_one_out_written_out():
    page = generated.pages(ROOT)["derive/catalogue.md"]
    from scg.estimators.catalogue import ENTRIES

    assert re.findall(r"^## (\w+)$", page, re.M) == list(ENTRIES)
    for name, section in zip(ENTRIES, re.split(r"^## \w+$", page, flags=re.M)[1:], strict=True):
        assert "```text" in section or "$$" in section or name == "NoGradient", name
    assert r"\frac{1}{2} \sum_{i} \partial \log p(x_{i};\, \theta)" in page  # leave-one-out
    assert r"\operatorname{clip}(r, 0.8, 1.2)" in page.replace("r_{t}", "r")  # PPO's clip


def test_the_reference_names_modules_that_exist():
    for page, text in reference.pages(ROOT).items():
        for identifier in re.findall(r"^::: (\S+)$", text, re.M):
            parts = identifier.split(".")
            found = any(
                ROOT.joinpath(*parts[:n]).with_suffix(".py").exists() or ROOT.joinpath(*parts[:n], "__init__.py").exists()
                for n in range(len(parts), 0, -1)
            )
            assert found, (page, identifier)


def test_formulas_are_mathml_without_a_script():
    html = formulas.rendered(r'<p><span class="arithmatex">\(\frac{1}{n} \sum_i x_i\)</span></p>')
    assert "<mfrac>" in html and "arithmatex" not in html and "<script" not in html
    aligned = formulas.mathml("\\begin{aligned}\na &= \\Big[ b \\Big] \\\\\nc &= \\mathbb{1}[d]\n\\end{aligned}", True)
    assert aligned.count("<mtr>") == 2 and "𝟙" in aligned and "&</" not in aligned


def test_what_is_laid_out_in_a_docstring_keeps_its_layout():
    text = docstrings.as_markdown("One [n, *batch] line.\n\n    ∇E[f]   the identity\n\n    b\n\n`x[0]` end:\n  * a\n  * b")
    assert text == (
        "One \\[n, \\*batch\\] line.\n\n```text\n∇E[f]   the identity\n\nb\n```\n\n`x[0]` end:\n\n```text\n* a\n* b\n```"
    )
    assert docstrings.as_markdown("name   what\na      b") == "```text\nname   what\na      b\n```"


def test_no_page_names_a_file_outside_of_the_project():
    for path in Path(ROOT / "docs").rglob("*.md"):
        assert not re.search(r"(?<![\w.`])/(work|home|root|tmp)/", path.read_text(encoding="utf-8")), path
