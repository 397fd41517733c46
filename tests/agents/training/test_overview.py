"""`scg runs` and `scg dashboard`: what a folder of runs holds, as a table and as a page."""

from __future__ import annotations

import csv
import http.client
import math
import os
import re
import shutil
import threading
from base64 import b64decode
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from scg.agents.commands import cli
from scg.agents.commands.runs import dashboard, runs, server
from scg.agents.training.curves import bootstrap_interval
from scg.agents.training.dashboard import LARGEST, page
from scg.agents.training.overview import duration, number, overview
from scg.agents.training.run_directory import RunDirectory, read_table

SHORT = ["--env", "CartPole-v1", "--steps", "512", "--envs", "2", "--horizon", "32", "--hidden", "8", "--eval-episodes", "3"]
GIF = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: two seeds of one configuration, and one with another rate."""
    out = tmp_path_factory.mktemp("overview") / "runs"
    for name, options in {"a": ["--seed", "0"], "b": ["--seed", "1"], "c": ["--lr", "0.02"]}.items():
        assert cli.train(["reinforce", *SHORT, "--evaluations", "2", *options, "--out", str(out / name)]) == 0
    return out


@pytest.fixture
def mine(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "mine"))


def test_a_row_is_what_the_runs_files_say(folder: Path) -> None:
    first = overview([folder]).rows[0]
    last = read_table(folder / "a" / "evaluations.csv")[-1]
    metrics = read_table(folder / "a" / "metrics.csv")[-1]
    assert first.name == str(folder / "a")
    assert first.value == last["return"]
    assert (first.low, first.high) == (last["return"] - 2 * last["error"], last["return"] + 2 * last["error"])
    assert first.steps == last["step"] == 512
    assert first.seconds == metrics["seconds"]
    assert first.speed == pytest.approx(512 / metrics["seconds"])


def test_flags_that_differ_are_named_and_no_others(folder: Path) -> None:
    assert [row.differs for row in overview([folder]).rows] == [
        "--lr 0.003 --seed 0",
        "--lr 0.003 --seed 1",
        "--lr 0.02 --seed 0",
    ]
    assert overview([folder / "a"]).rows[0].differs == ""


def test_seeds_together_have_the_bootstrap_interval_of_their_mean(folder: Path) -> None:
    both, other = overview([folder], together=True).rows
    values = np.array([read_table(folder / name / "evaluations.csv")[-1]["return"] for name in "ab"])
    low, high = bootstrap_interval(values[:, None])
    assert (both.value, both.low, both.high) == (values.mean(), low[0], high[0])
    assert [run.run.seed for run in both.runs] == [0, 1]
    assert both.differs == "--lr 0.003" and other.differs == "--lr 0.02"


def test_the_command_prints_a_table_and_writes_a_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs([str(folder), "--csv", str(tmp_path / "all.csv")]) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for title in ("return", "interval", "steps/s", "differs in"))
    assert "--lr 0.02 --seed 0" in printed
    rows = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert [float(row["return"]) for row in rows] == [row.value for row in overview([folder]).rows]


def test_a_run_without_evaluations_and_a_damaged_one_do_not_hide_the_others(mine: Path) -> None:
    (mine / "a" / "evaluations.csv").unlink()
    (mine / "b" / "config.json").write_text("{")
    (mine / "c" / "metrics.csv").write_text("step,seconds\nx,y\n")
    found = overview([mine])
    assert [row.name for row in found.rows] == [str(mine / "a")]
    assert math.isnan(found.rows[0].value) and found.rows[0].cells()[4:6] == ("–", "–")
    assert len(found.unread) == 2
    assert "config.json is damaged" in found.unread[0] and "no table of numbers" in found.unread[1]
    assert "config.json is damaged" in page([mine])


def test_folders_without_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (runs, dashboard):
        assert command([str(tmp_path)]) == 2
        assert "no config.json there or below" in capsys.readouterr().err
    assert dashboard([str(tmp_path), "--out", "page.txt"]) == 2


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.25, "0.2 s"), (12.4, "12 s"), (60.0, "1 min 00 s"), (3725.0, "1 h 02 min"), (math.nan, "–")],
)
def test_times_are_shown_in_their_two_largest_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(9.3333, "9.333"), (-151.44, "-151.4"), (7294.2, "7,294"), (math.nan, "–")])
def test_returns_have_four_digits(value: float, shown: str) -> None:
    assert number(value) == shown


# -- the page ----------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element with its attributes; addresses that leave the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_has_the_table_curves_graphs_and_films_and_no_address_of_elsewhere(mine: Path) -> None:
    (mine / "a" / "policy.gif").write_bytes(GIF)
    elements = Elements(page([mine]))
    images = elements.of("img")
    kinds = [re.match(r"data:([\w/+]+);base64,", image["src"] or "")[1] for image in images]  # type: ignore[index]
    assert kinds.count("image/svg+xml") == 1  # the curves
    assert kinds.count("image/png") == 3 and kinds.count("image/gif") == 1
    assert not elements.of("script") and not elements.of("link")
    assert all((a["href"] or "").startswith("#run") for a in elements.of("a"))
    assert {a["href"] for a in elements.of("a")} == {f"#{article['id']}" for article in elements.of("article")}
    assert "default-src 'none'" in str(elements.of("meta"))


def test_what_a_strangers_run_says_is_escaped_and_what_it_links_to_is_not_shown(mine: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG secret")
    (mine / "a" / "graph.png").unlink()
    (mine / "a" / "graph.png").symlink_to(secret)
    (mine / "b" / "policy.gif").write_bytes(b"<script>alert(1)</script>")
    (mine / "c" / "<img src=x>.gif").write_bytes(GIF)
    with open(mine / "c" / "long.gif", "wb") as file:
        file.write(GIF)
        os.truncate(file.fileno(), LARGEST + 1)
    os.mkfifo(mine / "c" / "pipe.mp4")
    text = page([mine])
    assert "c2VjcmV0" not in text and "alert(1)" not in text
    assert "<img src=x>" not in text and "&lt;img src=x&gt;" in text
    assert text.count("not shown") == 4


def test_the_command_writes_the_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboard([str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@contextmanager
def serving(paths: tuple[Path, ...]):
    with server(paths, 0) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            served.shutdown()
            thread.join()


def answer(port: int, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def test_the_page_is_served_on_the_loopback_address_alone(mine: Path) -> None:
    with serving((mine,)) as served:
        assert served.server_address[0] == "127.0.0.1"
        status, body = answer(served.server_port)
        assert status == 200 and body.count("<article") == 3
        shutil.rmtree(mine / "c")
        assert answer(served.server_port)[1].count("<article") == 2  # made anew at every request
        assert answer(served.server_port, "/../../etc/passwd")[0] == 404
        assert answer(served.server_port, host="elsewhere.example:80")[0] == 403
        shutil.rmtree(mine)
        assert answer(served.server_port)[0] == 500


def test_the_runs_are_left_as_they_were(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    page([folder])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert RunDirectory.open(folder / "a").run.steps == 512
