"""Imports run one way: papers → agents → estimators → core. The four folders are one namespace, `scg`."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
RANK = ["scg", "scg.estimators", "scg.agents", "scg.papers"]


def package_of(module: str) -> str | None:
    """The package of the four that a module belongs to; None outside of them."""
    for package in reversed(RANK):
        if module == package or module.startswith(package + "."):
            return package
    return None


def imported(file: pathlib.Path) -> list[str]:
    """The dotted names that a file imports, wherever in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_imports_run_one_way():
    for package in RANK:
        folder = ROOT / package.removeprefix("scg.")
        for file in folder.rglob("*.py"):
            for name in imported(file):
                other = package_of(name)
                if other is not None:
                    assert RANK.index(other) <= RANK.index(package), f"{file.relative_to(ROOT)} imports {name}"


def test_no_file_imports_the_folders_by_their_own_names():
    """`import agents` would find another distribution's package, or load ours a second time."""
    for folder in ("scg", "estimators", "agents", "papers", "tests", "benchmarks", "docs"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in imported(file):
                assert name.partition(".")[0] not in ("estimators", "agents", "papers"), (
                    f"{file.relative_to(ROOT)} imports {name}"
                )
