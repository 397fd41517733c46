"""Files are written whole or not at all, and never through a link."""

from __future__ import annotations

from pathlib import Path

import pytest

import scg
from scg.draw import render
from scg.files import remove_temporaries, whole_file


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "x.txt").symlink_to(tmp_path / "outside")
    with whole_file(tmp_path / "x.txt") as file:
        file.write(b"new")
    assert (tmp_path / "outside").read_text() == "mine"
    assert not (tmp_path / "x.txt").is_symlink()
    assert (tmp_path / "x.txt").read_text() == "new"


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")

    def write_half() -> None:
        with whole_file(tmp_path / "x.txt") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "old"


def test_no_two_temporaries_have_one_name(tmp_path: Path) -> None:
    with whole_file(tmp_path / "x.txt") as one, whole_file(tmp_path / "x.txt") as other:
        assert one.name != other.name


def test_temporaries_of_the_killed_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    for name in (".x.0123456789abcdef.tmp.pt", ".x.pt.4711.tmp", "x.tmp", "x.pt", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / ".y.pt.00.tmp").symlink_to(tmp_path / "outside")
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "x.tmp", "x.pt", ".hidden"}
    remove_temporaries(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", ["png", "dot", "mmd"])
def test_a_drawing_does_not_go_through_a_link(tmp_path: Path, suffix: str) -> None:
    graph = scg.Graph()
    graph.cost(lambda theta: theta**2, name="loss")
    (tmp_path / "outside").write_text("mine")
    (tmp_path / f"g.{suffix}").symlink_to(tmp_path / "outside")
    render(graph, tmp_path / f"g.{suffix}")
    assert (tmp_path / "outside").read_text() == "mine"
