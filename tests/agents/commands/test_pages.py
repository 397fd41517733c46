"""The agents' pages are what `python -m scg.agents.commands.pages` writes now, and `scg draw` knows agents by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from html import unescape
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scg.agents import AGENTS, config_type
from scg.agents.commands import pages
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.training.run_directory import RunConfig
from scg.commands.draw import draw, offered

STALE = "run `python -m scg.agents.commands.pages`"


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_the_page_of_an_agent_is_up_to_date(name: str) -> None:
    assert (pages.DOCS / f"{name}.md").read_text(encoding="utf-8") == pages.page(name), STALE


def test_the_index_is_up_to_date_and_no_page_is_left_over() -> None:
    assert (pages.DOCS / "README.md").read_text(encoding="utf-8") == pages.index(), STALE
    assert {path.stem for path in pages.DOCS.glob("*.md")} == {*AGENTS, "README"}
    assert {path.stem for path in pages.DOCS.glob("*.svg")} == {*AGENTS}


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_the_drawing_shows_every_node(name: str) -> None:
    root = ElementTree.parse(pages.DOCS / f"{name}.svg").getroot()
    words = unescape(" ".join(root.itertext()))
    missing = [node for node in pages.graph(name).nodes if node not in words]
    assert not missing, STALE


@pytest.mark.parametrize("config", [RunConfig, *(config_type(name) for name in sorted(AGENTS))])
def test_every_option_says_what_it_means(config: type) -> None:
    said = pages.attribute_docs(config)
    assert [field.name for field in fields(config) if not said.get(field.name)] == []


@dataclass
class Base:
    width: int = 3
    """how wide"""
    height: int = 4
    """how high"""


@dataclass
class Derived(Base):
    width: int = 5
    """how wide
    it is"""
    depth: int = 0

    def area(self) -> int:
        """not an option"""
        return self.width * self.height


def test_an_option_keeps_its_bases_meaning_unless_it_has_its_own() -> None:
    assert pages.attribute_docs(Derived) == {"width": "how wide it is", "height": "how high"}


def test_presets_are_written_as_they_are_typed() -> None:
    assert "| CartPole-v1 | `--no-normalise-obs`" in pages.page("ppo")
    assert "| MuJoCo | `--envs 16`, `--horizon 16`, `--compile` from 200,000 steps on |" in pages.page("a2c")
    assert "| Hopper-v5 | `--envs 1`, `--lr 0.001`, `--alpha 0.2`, `--no-learn-alpha`, `--compile` from" in pages.page("sac")
    assert "Hopper-v5" not in pages.page("td3")
    assert "| CartPole-v1 | `--no-scale-reward`" in pages.page("reinforce")


def test_an_agent_that_no_actions_suit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise EnvironmentFault("not these")

    monkeypatch.setattr(config_type("ppo"), "build", refuse)
    with pytest.raises(EnvironmentFault, match="PPO takes neither continuous nor discrete actions"):
        pages.graph("ppo")


def test_scg_draw_takes_an_agents_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [point.value for point in entry_points(group="scg.graphs")] == ["scg.agents.commands.pages:graphs"]
    assert offered().keys() == AGENTS.keys()
    out = tmp_path / "sac.dot"
    assert draw(["sac", "--out", str(out), "--derivation"]) == 0
    assert "bellman" in out.read_text()
    assert "∂J_bellman/∂θ_critics" in capsys.readouterr().out


def test_a_name_that_is_no_agents_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert draw(["pppo"]) == 2
    said = capsys.readouterr().err
    assert "'pppo' names no graph: say path/to/model.py:graph" in said
    assert "Did you mean 'ppo'?" in said


def test_a_package_that_lacks_what_it_needs_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def load(self) -> None:
            raise ModuleNotFoundError("no gymnasium")

    monkeypatch.setattr("scg.commands.draw.entry_points", lambda group: [Broken()])
    assert offered() == {}
