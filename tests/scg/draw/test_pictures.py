"""What a picture shows, in each language it is drawn in."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import warnings
import xml.etree.ElementTree as ElementTree

import pytest
from torch import nn
from torch.distributions import Normal

import scg
from scg import Graph, Pathwise, ScoreFunction, detach, dist, prev
from scg.draw import picture_of, render, to_dot, to_html, to_mermaid
from scg.draw.canvas import paint
from scg.estimators import LeaveOneOut
from tests.scg.draw.graphs import EVERY, actor_critic, mixed, odd_names, recurrent, sac

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
ids = [make.__name__ for make in EVERY]


def line_of(text: str, *words: str) -> str:
    """The one line that holds all the words."""
    found = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(found) == 1, f"{words} in {len(found)} lines of\n{text}"
    return found[0]


def node_of(text: str, name: str) -> str:
    """The declaration of a node."""
    found = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{name} [")]
    assert len(found) == 1
    return found[0]


# -- Graphviz ------------------------------------------------------------------------------------------------


def test_deterministic_nodes_are_boxes_stochastic_circles_costs_diamonds_and_inputs_plain_text():
    text = to_dot(mixed())
    assert "shape=box" in node_of(text, '"a"')
    assert "shape=circle" in node_of(text, '"z"')
    assert "shape=diamond" in node_of(text, '"f"')
    assert "shape=plaintext" in node_of(text, '"theta"')


def test_detached_edges_are_dashed_and_no_others():
    text = to_dot(mixed())
    assert "style=dashed" in line_of(text, '"y" -> "r"')
    assert text.count("style=dashed") == 1


def test_a_distribution_edge_says_so():
    assert 'label="p(·)"' in line_of(to_dot(sac()), '"new_action" -> "soft_policy" [')


def test_a_detached_distribution_edge_is_both():
    graph = Graph()
    graph.stochastic(Pathwise(), lambda theta: Normal(theta, 1.0), name="x")
    graph.cost(lambda x, p: x, name="f", parents=["x", detach(dist("x"))])
    edge = line_of(to_dot(graph), '"x" -> "f"', "p(·)")
    assert "style=dashed" in edge


def test_previous_values_are_labelled_and_so_are_initial_ones_and_the_last_step():
    text = to_dot(recurrent())
    assert 'label="t−1"' in line_of(text, '"h" -> "h"')
    assert 'label="t=1"' in line_of(text, '"h0" -> "h"')
    assert 'label="t=T"' in line_of(text, '"s" -> "final"')


def test_the_sequence_is_a_plate_around_its_nodes_alone():
    text = to_dot(recurrent())
    plate = text[text.index("subgraph cluster") : text.index("  }", text.index("subgraph cluster"))]
    assert "t = 1…T" in plate
    for name in ("h", "s", "action", "step"):
        assert f'"{name}" [' in plate
    for name in ("h0", "theta", "final"):
        assert f'"{name}" [' not in plate


def test_a_graph_without_a_sequence_has_no_plate():
    assert "subgraph" not in to_dot(mixed())


def test_each_stochastic_node_carries_its_estimator_and_what_changed_its_score():
    assert "Pathwise" in node_of(to_dot(mixed()), '"z"')
    assert "baseline: 0.5" in node_of(to_dot(mixed()), '"y"')
    node = node_of(to_dot(actor_critic()), '"action"')
    assert "credit: GAE" in node
    assert "(lam=0.9)" in node


def test_only_settings_that_differ_from_the_default_are_shown():
    graph = Graph()
    graph.stochastic(LeaveOneOut(samples=4), lambda theta: Normal(theta, 1.0), name="x")
    graph.stochastic(LeaveOneOut(), lambda theta: Normal(theta, 1.0), name="y")
    graph.cost(lambda x, y: x * y, name="f")
    assert "(samples=4)" in node_of(to_dot(graph), '"x"')
    assert "(" not in node_of(to_dot(graph), '"y"').split("LeaveOneOut")[1]


def test_costs_and_rewards_are_told_apart_and_say_what_they_train():
    assert "reward" in node_of(to_dot(mixed()), '"r"')
    assert "cost" in node_of(to_dot(mixed()), '"f"')
    assert "trains critics" in node_of(to_dot(sac()), '"bellman"')
    assert "trains actor" in node_of(to_dot(sac()), '"soft_policy"')


@pytest.mark.parametrize("held", [list, iter], ids=["list", "iterator"])
def test_a_cost_that_trains_a_modules_parameters_names_the_module(held):
    net = nn.Linear(1, 1)
    graph = Graph()
    graph.cost(lambda x: net(x).sum(-1), name="f", trains=held(list(net.parameters())))
    assert "trains net<" in node_of(to_dot(graph), '"f"')


def test_observed_nodes_are_shaded():
    assert 'fillcolor="#d9d9d9"' in node_of(to_dot(actor_critic()), '"obs"')


def test_a_baseline_function_is_a_grey_dotted_box_attached_to_its_node():
    text = to_dot(recurrent())
    assert "style=dotted" in node_of(text, '"action.baseline"')
    assert "style=dotted" in line_of(text, '"action.baseline" -> "action"')
    assert "style=dotted" in line_of(text, '"s" -> "action.baseline"')


def test_a_credits_critic_points_at_its_node():
    assert 'label="critic"' in line_of(to_dot(actor_critic()), '"value" -> "action"')


def test_optional_inputs_say_so():
    graph = Graph()
    graph.cost(lambda theta, scale=2.0: theta * scale, name="f")
    assert "optional" in node_of(to_dot(graph), '"scale"')


@needs_graphviz
@pytest.mark.parametrize("make", EVERY, ids=ids)
def test_graphviz_draws_every_graph(make):
    done = subprocess.run(["dot", "-Tsvg"], input=make().to_dot().encode(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr
    drawn = ElementTree.fromstring(done.stdout)
    titles = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}title")}
    shown = picture_of(make())
    assert len([t for t in titles if t]) >= len(shown.marks)


@needs_graphviz
def test_graphviz_keeps_odd_names_apart():
    names = subprocess.run(["dot", "-Tplain"], input=to_dot(odd_names()).encode(), capture_output=True, timeout=60)
    nodes = [line for line in names.stdout.decode().splitlines() if line.startswith("node ")]
    assert len(nodes) == 6


# -- Mermaid -------------------------------------------------------------------------------------------------


def test_mermaid_has_the_same_shapes_dashes_labels_and_plate():
    text = to_mermaid(recurrent())
    assert text.startswith("flowchart LR")
    assert 'subgraph sequence["t = 1…T"]' in text
    assert re.search(
        r'n\d+\(\("action<br/><small>LeaveOneOut</small><br/><small>baseline: a function</small>"\)\):::stochastic', text
    )
    assert re.search(r'n\d+\["h"\]:::deterministic', text)
    assert re.search(r'n\d+\{"step<br/><small>cost</small>"\}:::cost', text)
    assert re.search(r'n\d+ -->\|"t−1"\| n\d+', text)
    assert "-.->" in to_mermaid(mixed())
    assert re.search(r'n\d+ ==>\|"p#40;·#41;"\| n\d+', to_mermaid(sac()))


def test_mermaid_escapes_what_it_would_read_as_syntax():
    text = to_mermaid(odd_names())
    label = line_of(text, "ScoreFunction").split('"')[1]
    assert label == "x #34;q#34; #60;b#62;#38;#92;<br/><small>ScoreFunction</small>"
    for line in text.splitlines():
        assert line.count('"') in (0, 2), line


# -- without Graphviz ----------------------------------------------------------------------------------------


@pytest.fixture
def no_graphviz(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)


@pytest.mark.parametrize("make", EVERY, ids=ids)
def test_the_fallback_draws_every_graph(make):
    data = paint(picture_of(make()), ".png")
    width, height = struct.unpack(">II", data[16:24])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert width > 200
    assert height > 60
    assert len(data) > 3000


def test_a_graph_that_is_wrong_can_be_drawn():
    graph = Graph()
    graph.deterministic(lambda b: b, name="a")
    graph.deterministic(lambda a: a, name="b")
    assert '"a" -> "b"' in to_dot(graph)
    assert paint(picture_of(graph), ".png")
    assert "cycle" in to_html(graph)


def test_an_empty_graph_can_be_drawn():
    assert paint(picture_of(Graph()), ".png")


# -- files and notebooks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_render_writes_pictures_without_graphviz(tmp_path, no_graphviz, suffix):
    path = render(mixed(), tmp_path / f"graph.{suffix}")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


@needs_graphviz
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_render_writes_pictures_through_graphviz(tmp_path, suffix):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = render(mixed(), tmp_path / f"graph.{suffix}")
    assert path.stat().st_size > 1000
    if suffix == "svg":
        assert "graphviz" in path.read_text(encoding="utf-8")


def test_render_falls_back_with_a_warning_where_graphviz_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: str(tmp_path / "no-such-dot"))
    with pytest.warns(UserWarning, match="Graphviz could not draw the graph, matplotlib does"):
        render(mixed(), tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_render_writes_the_languages_too(tmp_path):
    assert render(mixed(), tmp_path / "graph.dot").read_text(encoding="utf-8") == mixed().to_dot()
    assert render(mixed(), tmp_path / "graph.mmd").read_text(encoding="utf-8") == mixed().to_mermaid()


def test_render_refuses_an_unknown_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"'\.jpg' is no format to draw in; use one of png, svg, pdf, dot, mmd"):
        render(mixed(), tmp_path / "graph.jpg")


def test_a_notebook_shows_the_picture_and_what_is_wrong(no_graphviz):
    assert "<svg" in mixed()._repr_html_()
    graph = Graph()
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")
    graph.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="<idle>")
    graph.cost(lambda x: x, name="f")
    shown = graph._repr_html_()
    assert "&lt;idle&gt;" in shown
    assert "no cost is downstream of it" in shown


def test_prev_of_a_node_by_two_parameters_is_drawn_once_each_way():
    graph = Graph()
    with graph.sequence():
        graph.deterministic(lambda a, b, c: a, name="h", parents=[prev("h", init="h0"), prev("h", init="h0"), "x"])
        graph.cost(lambda h: h, name="f")
    assert to_dot(graph).count('"h" -> "h"') == 1


def test_the_public_methods_are_these_functions():
    graph = scg.Graph()
    graph.cost(lambda theta: theta, name="f")
    assert graph.to_dot() == to_dot(graph)
    assert graph.to_mermaid() == to_mermaid(graph)
