"""What MkDocs calls: it adds the pages that are made from files outside `docs`, and rewrites links and formulas."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from posixpath import relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from website import formulas, generated, notebooks, reference  # noqa: E402
from website.pages import BrokenLink, Pages  # noqa: E402

SHIM = "assets/iframe-worker.js"
_state: dict[str, Any] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """`agents/`, `papers/`, `decisions/` and `reference/` in `nav` become the lists of their pages."""
    pages = Pages.of(ROOT)
    _state["pages"], _state["made"] = pages, {**reference.pages(ROOT), **generated.pages(ROOT)}
    _state["files"] = {page: file for file, page in pages.where.items()}
    pages.add(_state["made"])
    config.nav = [_filled(entry) for entry in config.nav or []]
    config.watch = [*config.watch, str(ROOT / "website")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages and figures that are not in `docs`."""
    pages: Pages = _state["pages"]
    for file, page in pages.where.items():
        if file.startswith("docs/") and not file.endswith(".ipynb"):
            continue
        if page.startswith("source/"):
            files.append(File.generated(config, page, content=pages.source(file)))
        elif file.endswith(".ipynb"):
            files.append(File.generated(config, page, content=notebooks.as_page(ROOT / file)))
        elif page.endswith(".md"):
            files.append(File.generated(config, page, content=(ROOT / file).read_text()))
        else:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / file)))
    files.append(File.generated(config, SHIM, abs_src_path=str(ROOT / "website" / SHIM)))
    for page, content in _state["made"].items():
        files.append(File.generated(config, page, content=content))
    for file in [f for f in files if f.src_uri.endswith(".ipynb")]:
        files.remove(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    file = _state["files"].get(page.file.src_uri)
    if file is None or page.file.src_uri.startswith("source/"):
        return markdown
    try:
        return _state["pages"].rewritten(file, markdown)
    except BrokenLink as error:
        raise PluginError(str(error)) from error


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    html = re.sub(r"<!-- ?/?[a-z-]+ ?-->\n?", "", html)
    return formulas.rendered(html) if "arithmatex" in html else html


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    return _local(output, Path(page.file.dest_uri).parent.as_posix())


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    return _local(output, ".")


def _local(output: str, folder: str) -> str:
    """The one script that the theme would fetch from elsewhere is beside the page."""
    return output.replace("https://unpkg.com/iframe-worker/shim", relpath(SHIM, folder))


def _filled(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _listed(inside) for title, inside in entry.items()}
    return entry


def _listed(inside: Any) -> Any:
    if isinstance(inside, list):
        return [_filled(entry) for entry in inside]
    if not inside.endswith("/"):
        return inside
    known = sorted({*_state["pages"].where.values(), *_state["made"]})
    own = [p for p in known if p.startswith(inside) and p.endswith(".md") and p != "agents/results.md"]
    if inside == "papers/":
        return ["papers.md", *({_short(p): p} for p in own)]
    if inside == "reference/":
        rooms = [{_title(p): p} for p in own if p.count("/") == 1 and not p.endswith("index.md")]
        return ["reference/index.md", *rooms, {"Estimators": [{Path(p).stem: p} for p in own if p.count("/") == 2]}]
    index = [p for p in own if p.endswith("/index.md")]
    rest = [p for p in own if p not in index]
    return [*index, *(p if inside == "decisions/" else {Path(p).stem: p} for p in rest)]


def _short(page: str) -> str:
    return Path(page).parent.name


def _title(page: str) -> str:
    return _state["made"][page].splitlines()[0].removeprefix("# ")
