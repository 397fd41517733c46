"""Which page of the site each file of the repository becomes, and the links between them.

    docs/x.md                → x.md                    papers/NAME/README.md → papers/NAME/index.md, with its figures
    agents/RESULTS.md        → agents/results.md       docs/notebooks/x.ipynb → notebooks/x.md
    CHANGELOG.md, …          → changelog.md, …         a/b.py, where a page links to it → source/a/b.md, its text

Links are written for a reader of the repository (`[ppo](../agents/ppo.py)`), so here each is resolved to the file that it names
and rewritten to that file's page. A link to a file that has no page is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

ROOT = Path(__file__).resolve().parents[1]
ALONE = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "readme.md",
    "agents/RESULTS.md": "agents/results.md",
}
FIGURES = (".png", ".svg", ".gif")
PLAIN = (".py", ".toml", ".json", ".csv", ".sh")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".sh": "sh"}

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```[^\n]*$|    [^\n]*$)", re.S | re.M)


class BrokenLink(ValueError):
    pass


@dataclass
class Pages:
    """`where`: the page, or figure, of each file of the repository, both as paths with slashes."""

    root: Path = ROOT
    where: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path = ROOT) -> Pages:
        pages = cls(root)
        where = pages.where
        for path in sorted((root / "docs").rglob("*")):
            name = path.relative_to(root / "docs").as_posix()
            if path.suffix in (".md", *FIGURES):
                where[f"docs/{name}"] = re.sub(r"(^|/)README\.md$", r"\1index.md", name)
            elif path.suffix == ".ipynb":
                where[f"docs/{name}"] = str(PurePosixPath(name).with_suffix(".md"))
        where |= {file: page for file, page in ALONE.items() if (root / file).exists()}
        for readme in sorted((root / "papers").glob("*/README.md")):
            folder = readme.parent.relative_to(root).as_posix()
            where[f"{folder}/README.md"] = f"{folder}/index.md"
            for figure in sorted(p for p in readme.parent.iterdir() if p.suffix in FIGURES):
                where[f"{folder}/{figure.name}"] = f"{folder}/{figure.name}"
        for file, page in list(where.items()):
            if page.endswith(".md"):
                for named in pages.named(file, text(root / file)):
                    if Path(named).suffix in PLAIN and (root / named).is_file():
                        where.setdefault(named, f"source/{PurePosixPath(named).with_suffix('')}.md")
        return pages

    def add(self, made: Iterable[str]) -> None:
        """Pages that are no file: a link says where they would be in `docs`."""
        self.where.update({f"docs/{page}": page for page in made})

    def named(self, file: str, markdown: str) -> Iterator[str]:
        """The files of the repository that a page's links name."""
        for piece in _prose(markdown):
            for match in LINK.finditer(piece):
                if (target := match[2].partition("#")[0]) and not _elsewhere(target):
                    yield normpath(f"{PurePosixPath(file).parent}/{target}")

    def rewritten(self, file: str, markdown: str) -> str:
        """The page with each link pointing to the page of the file that it names."""
        here = self.where[file]

        def one(match: re.Match[str]) -> str:
            target, sharp, anchor = match[2].partition("#")
            if not target or _elsewhere(target):
                return match[0]
            named = normpath(f"{PurePosixPath(file).parent}/{target}")
            page = next((self.where[n] for n in (named, f"{named}/README.md", f"{named}/index.md") if n in self.where), None)
            if page is None and named == "docs/decisions":
                page = "decisions/index.md"
            if page is None:
                raise BrokenLink(f"{file}: the link to {target} leads to no file with a page")
            return f"{match[1]}({relpath(page, PurePosixPath(here).parent)}{sharp}{anchor})"

        return "".join(LINK.sub(one, piece) if i % 2 == 0 else piece for i, piece in enumerate(FENCE.split(markdown)))

    def source(self, file: str) -> str:
        """The page that shows a file."""
        fence = "`````"
        language = LANGUAGES.get(Path(file).suffix, "text")
        return (
            f"---\nsearch:\n  exclude: true\n---\n\n# {file}\n\n{fence}{language}\n{text(self.root / file).rstrip()}\n{fence}\n"
        )


def text(path: Path) -> str:
    if path.suffix == ".ipynb":
        from website.notebooks import prose

        return prose(path)
    return path.read_text()


def _prose(markdown: str) -> list[str]:
    return FENCE.split(markdown)[::2]


def _elsewhere(target: str) -> bool:
    return target.startswith(("http:", "https:", "mailto:"))
