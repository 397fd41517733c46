"""The pytest plugin, which the installed package registers, in sessions of its own."""

import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

ROOT = pathlib.Path(__file__).parents[3]
PAGE = """
import pytest, torch
from torch.distributions import Bernoulli

theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

def value():
    return theta.sigmoid()

def right():
    dist = Bernoulli(logits=theta.expand(256))
    b = dist.sample()
    return (dist.log_prob(b) * b).mean()

@pytest.mark.gradient(detectable=0.2)
def test_right(gradient):
    assert gradient(right, value).table.detectable == 0.2

@pytest.mark.gradient(detectable=0.2, causes=0)
def test_wrong(gradient):
    gradient(lambda: 2 * right(), value)

@pytest.mark.gradient(detectable=1e-5, seconds=0.1)
def test_budget(gradient):
    gradient(right, value)

@pytest.mark.gradient(budget=3)
def test_typo(gradient):
    gradient(right, value)

def test_fixtures(generator, single_thread, double_precision):
    assert torch.get_num_threads() == 1
    assert torch.get_default_dtype() == torch.float64
    assert isinstance(generator, torch.Generator)
"""


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    (folder / "test_page.py").write_text(PAGE)
    done = run(folder, "--strict-markers", "--gradient-report", "gradients.json", "--junitxml", "junit.xml")
    return folder, done


def test_right_ones_pass_and_wrong_ones_fail_with_a_report(session):
    _, done = session
    assert "2 failed, 2 passed" in done.stdout
    assert "gradient of <lambda>: biased" in done.stdout
    assert "too long" in done.stdout
    assert "gradient of right: undecided" in done.stdout
    assert "takes false_alarm, detectable" in done.stdout and "not budget" in done.stdout
    assert "check_gradient(loss" not in done.stdout  # no trace of ours


def test_all_reports_are_in_the_file(session):
    folder, done = session
    found = json.loads((folder / "gradients.json").read_text())["gradients"]
    assert [(r["test"].rpartition("::")[2], r["verdict"]) for r in found] == [
        ("test_right", "unbiased"), ("test_wrong", "biased"), ("test_budget", "undecided"),
    ]  # fmt: skip
    assert found[1]["scale"][0] == pytest.approx(2, abs=0.3)
    assert "3 gradients, 1 of them unbiased" in done.stdout


def test_junit_has_them_as_properties(session):
    folder, _ = session
    tests = {t.get("name"): t for t in ET.parse(folder / "junit.xml").iter("testcase")}
    properties = {p.get("name"): p.get("value") for p in tests["test_wrong"].iter("property")}
    assert properties["gradient.verdict"] == "biased"
    assert json.loads(properties["gradient"])["loss"] == "<lambda>"


def test_a_report_in_no_folder_is_refused(tmp_path):
    done = run(tmp_path, "--gradient-report", "nowhere/gradients.json")
    assert done.returncode == 4
    assert "name a file in a folder that is there" in done.stderr
