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


# Packages whose files must not import each other in a circle, with the order of their folders: a file imports from its own
# folder and from those before it. "" is the package's top: the agents' pages.
ACYCLIC = {
    "scg.agents": [
        "execution",
        "environments",
        "networks",
        "experience",
        "updates",
        "dynamics",
        "common",
        "search",
        "",
        "training",
        "commands",
    ],
}


def files_of(package: str) -> dict[str, pathlib.Path]:
    """Module name -> file."""
    folder = ROOT / package.removeprefix("scg.")
    found = {}
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder).with_suffix("").parts
        found[".".join([package, *parts]).removesuffix(".__init__")] = file
    return found


def edges_of(package: str) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports, for typing or at run time."""
    files = files_of(package)
    return {
        module: {
            next(m for m in (name, name.rpartition(".")[0]) if m in files)
            for name in imported(file)
            if name in files or name.rpartition(".")[0] in files
        }
        - {module}
        for module, file in files.items()
    }


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of some circle of imports, in order; empty without one."""
    state: dict[str, int] = {}  # 1: being visited, 2: done
    path: list[str] = []

    def visit(module: str) -> list[str]:
        state[module] = 1
        path.append(module)
        for other in sorted(edges[module]):
            if state.get(other) == 1:
                return path[path.index(other) :]
            if other not in state and (found := visit(other)):
                return found
        path.pop()
        state[module] = 2
        return []

    for module in sorted(edges):
        if module not in state and (found := visit(module)):
            return found
    return []


def test_a_circle_of_imports_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_files_of_a_package_import_each_other_in_a_circle():
    for package in ACYCLIC:
        found = cycle(edges_of(package))
        assert not found, f"these import each other in a circle: {' → '.join([*found, *found[:1]])}"


def test_folders_import_only_from_those_before_them():
    for package, order in ACYCLIC.items():
        edges, depth = edges_of(package), package.count(".") + 1

        def folder_of(module: str, depth: int = depth) -> str:
            parts = module.split(".")[depth:]
            return parts[0] if parts and parts[0] in order else ""

        assert set(map(folder_of, edges)) == set(order), f"{package}: its folders are not those of the order"
        for module, others in edges.items():
            for other in others:
                if other == package:  # names of the package itself, which imports nothing
                    continue
                before = order.index(folder_of(other)) <= order.index(folder_of(module))
                assert before, f"{module} imports {other}, of a later folder"


# Files of scg.testing whose parts call each other, the import inside a function: an oracle is held against differences,
# whose report is an oracle's; draws of a replicated graph are those that a bias is located with.
CALL_EACH_OTHER = [
    {"scg.testing.differences", "scg.testing.held", "scg.testing.oracle"},
    {"scg.testing.monte_carlo", "scg.testing.localise"},
]


def needed(file: pathlib.Path) -> set[str]:
    """What a file imports when it runs, inside functions too; not what only a type checker reads."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.ImportFrom) and child.module:
                found.update({child.module, *(f"{child.module}.{alias.name}" for alias in child.names)})
            elif isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            walk(child)

    walk(ast.parse(file.read_text()))
    return found


def test_no_files_of_the_core_import_each_other():
    """What a file needs, and what that needs, never leads back to it."""
    files = {m: f for m, f in files_of("scg").items() if f.name != "__init__.py"}
    imports = {m: {n for n in needed(f) if n in files and n != m} for m, f in files.items()}
    after: dict[str, set[str]] = {}
    for module in imports:
        seen: set[str] = set()
        queue = [module]
        while queue:
            for name in imports[queue.pop()] - seen:
                seen.add(name)
                queue.append(name)
        after[module] = seen
    cycles = {frozenset(n for n in after[m] if m in after[n]) for m in files if m in after[m]}
    left = [c for c in cycles if c not in CALL_EACH_OTHER]
    assert not left, f"these import each other: {[sorted(c) for c in left]}"


# The core's files and folders: one imports, at its top, only from its own folder and from those before it.
CORE = [
    *(
        "errors",
        "files",
        "targets",
        "figures",
        "identity",
        "tables",
        "scan",
        "shapes",
        "randomness",
        "tree",
        "distributions",
        "estimator",
        "auto",
        "credit",
        "node",
        "executors",
    ),
    *("analysis", "specification", "evaluation", "surrogate", "checks", "trace", "graph"),
    *("draw", "derivation", "testing", "comparison", "commands"),
]


def at_top(file: pathlib.Path) -> set[str]:
    """What a file imports outside of functions, a type checker's imports among them."""
    found: set[str] = set()
    queue: list[ast.stmt] = list(ast.parse(file.read_text()).body)
    for statement in queue:
        if isinstance(statement, ast.If):
            queue += statement.body
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found.update({statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)})
    return found


def core_files() -> dict[str, pathlib.Path]:
    above = ("scg.estimators", "scg.agents", "scg.papers")
    return {m: f for m, f in files_of("scg").items() if m.count(".") and not m.startswith(above) and m != "scg.__main__"}


def test_the_cores_folders_import_only_from_those_before_them():
    files = core_files()
    assert {m.split(".")[1] for m in files} == set(CORE)
    for module, file in files.items():
        for other in at_top(file) & set(files):
            ours, theirs = (m.split(".")[1] for m in (module, other))
            assert CORE.index(theirs) <= CORE.index(ours), f"{module} imports {other}, which comes after it"


def test_where_types_close_a_circle_a_comment_says_why():
    files = core_files()
    edges = {
        m: {n for n in at_top(f) if n in files and n != m} | {n for n in needed(f) if n in files} for m, f in files.items()
    }
    after: dict[str, set[str]] = {}
    for module in edges:
        queue, seen = [module], set()
        while queue:
            for name in edges[queue.pop()] - seen:
                seen.add(name)
                queue.append(name)
        after[module] = seen
    for module, file in files.items():
        typed = (at_top(file) - needed(file)) & set(files)
        if any(module in after[other] for other in typed):
            assert "if TYPE_CHECKING:  # " in file.read_text(), f"{module}: say why {typed} and it need each other's types"
