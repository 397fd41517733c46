"""The pytest plugin: gradients as tests, with a budget each and a report of all.

    @pytest.mark.gradient(detectable=0.1, seconds=20)
    def test_my_loss(gradient):
        gradient(loss, objective=(graph, inputs))

gradient             fixture: `assert_gradient` with the mark's settings (false_alarm, detectable, floor, max_calls, seconds, causes,
                     seed); its report goes into the test's properties, JUnit's too, whatever the verdict
generator            fixture: a torch.Generator seeded by the test's name
single_thread        fixture: one thread of torch for the test
double_precision     fixture: float64 as default dtype for the test
--gradient-report    FILE: every report of the session as JSON

Installed, the plugin is on in every session (entry point `pytest11`), which costs the import of scg, torch included;
`-p no:scg` turns it off. From a checkout that is not installed: `pytest -p scg.testing.plugin`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from scg.testing.losses.report import GradientReport

SETTINGS = ("false_alarm", "detectable", "floor", "max_calls", "seconds", "causes", "seed")
PROPERTY = "gradient"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("scg").addoption(
        "--gradient-report", metavar="FILE", help="write the verdicts of all gradient tests to FILE, as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"gradient({', '.join(f'{s}=…' for s in SETTINGS)}): settings of the `gradient` fixture: error rates and budget",
    )
    path = config.getoption("--gradient-report")
    if path and not hasattr(config, "workerinput"):  # a worker of pytest-xdist reports to its controller
        if not Path(path).absolute().parent.is_dir() or Path(path).is_dir():
            raise pytest.UsageError(f"--gradient-report {path}: name a file in a folder that is there")
        config.pluginmanager.register(_Reports(Path(path)), "scg-gradient-report")


class _Reports:
    """What the tests found, in the order in which they ended."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path.absolute(), []  # type: ignore[var-annotated]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.found += [
                {"test": report.nodeid, **json.loads(str(value))} for name, value in report.user_properties if name == PROPERTY
            ]

    def pytest_sessionfinish(self) -> None:
        self.path.write_text(json.dumps({"gradients": self.found}, indent=1) + "\n", encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        right = sum(r["verdict"] == "unbiased" for r in self.found)
        terminalreporter.write_line(f"{len(self.found)} gradients, {right} of them unbiased: {self.path}")


@pytest.fixture
def gradient(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., GradientReport]:
    """`check_gradient(loss, objective, …)` that fails the test on "biased" and "undecided", and is reported."""
    mark = request.node.get_closest_marker("gradient")
    settings = dict(mark.kwargs) if mark is not None else {}
    if mark is not None and (mark.args or settings.keys() - set(SETTINGS)):
        wrong = ", ".join([*map(repr, mark.args), *sorted(settings.keys() - set(SETTINGS))])
        pytest.fail(f"@pytest.mark.gradient takes {', '.join(SETTINGS)} by name, not {wrong}", pytrace=False)
    from scg.testing import check_gradient

    def run(loss: Any, objective: Any = None, *args: Any, **kwargs: Any) -> GradientReport:
        __tracebackhide__ = True
        report = check_gradient(loss, objective, *args, **{**settings, **kwargs})
        record_property(PROPERTY, json.dumps(_plain(report.as_dict())))
        record_property("gradient.verdict", report.verdict)
        if not report:
            pytest.fail(str(report), pytrace=False)
        return report

    return run


def _plain(x: Any) -> Any:
    """Numbers that JSON has: infinite and nan ones as words."""
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    return str(x) if isinstance(x, float) and (x != x or x in (float("inf"), float("-inf"))) else x


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """A generator seeded by the test's name: the same numbers whatever runs before."""
    import torch

    return torch.Generator().manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def single_thread() -> Iterator[None]:
    """One thread of torch: sums in the same order on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """float64 as default: exact tests compare to rounding."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
