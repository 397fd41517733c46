"""What used to end in a wrong number or an internal error: the right number now, or an error that names the node."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import scg
from scg import GraphError, dist
from scg.estimators import LeaveOneOut, Pathwise, ScoreFunction

F64 = torch.float64


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theta(*shape):
    return torch.full(shape, 0.3, dtype=F64, requires_grad=True)


def through(middle, estimator=None, cost=lambda h: h):
    graph = scg.Graph()
    graph.stochastic(estimator or Pathwise(), lambda th: Normal(th, 1.0), name="x")
    graph.deterministic(middle, name="h")
    graph.cost(cost, name="c")
    return graph


# -- writing into a parent -----------------------------------------------------------------------------------


@dataclass
class Box:
    x: torch.Tensor


def by_numpy(x):
    array = x.detach().numpy()
    np.clip(array, -0.01, 0.01, out=array)
    return torch.as_tensor(array)


def by_data(x):
    x.data.mul_(2)
    return x


@pytest.mark.parametrize("write", [by_numpy, by_data, lambda x: x.mul_(2)], ids=["numpy", "data", "in place"])
def test_a_function_that_writes_into_its_parent_is_refused(write):
    with pytest.raises(GraphError, match="node 'h': its function writes into a parent"):
        through(write, ScoreFunction()).sample(th=theta(4))
    through(lambda x: write(x.clone()), ScoreFunction()).sample(th=theta(4))


def put_in_dict(h):
    h["y"] = 1.0
    return h["x"]


def put_in_list(h):
    h.append(1.0)
    return h[0]


def put_in_dataclass(h):
    h.x = 2 * h.x
    return h.x


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (lambda x: {"x": x}, put_in_dict),
        (lambda x: [x], put_in_list),
        (lambda x: Box(x), put_in_dataclass),
    ],
    ids=["dict", "list", "dataclass"],
)
def test_a_function_that_writes_into_a_container_is_refused(make, write):
    with pytest.raises(GraphError, match="node 'c': its function writes into a parent"):
        through(make, ScoreFunction(), write).sample(th=theta(4))
    through(make, ScoreFunction(), lambda h: write(copy.copy(h))).sample(th=theta(4))


# -- gradients that are not finite -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "f",
    [
        lambda x: torch.where(x > 0, x.sqrt(), 0.1 * x),
        lambda x: (x - x.detach()).abs().sqrt() + x,
        lambda x: torch.where(x.abs() > 1e9, x / (x - x), x),
    ],
    ids=["square root", "square root at 0", "division"],
)
def test_a_gradient_that_is_not_finite_names_its_node(f):
    with pytest.raises(GraphError, match="node 'h': its value is finite, and the gradient of it for one of its parents is not"):
        through(f).surrogate(th=theta(50))


def test_a_parameters_gradient_that_is_not_finite_names_its_node():
    scale = nn.Parameter(torch.zeros((), dtype=F64))
    with pytest.raises(GraphError, match="node 'h'.*a parameter that it reads"):
        through(lambda x: x * scale.abs().sqrt()).surrogate(th=theta(4))


def test_clamping_before_the_root_is_accepted():
    through(lambda x: torch.where(x > 0, x.clamp_min(1e-6).sqrt(), 0.1 * x)).surrogate(th=theta(50)).backward()


# -- shapes and dtypes of costs ----------------------------------------------------------------------------------


def test_a_column_beside_a_row_is_refused():
    def build():
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda w, X: Bernoulli(logits=X * w), name="b")
        graph.cost(lambda b, y: (b - y) ** 2, name="c")
        return graph

    with pytest.raises(GraphError, match=r"node 'c': its batch shape is \[6, 6\], that of its ancestor 'b' \[6, 1\]"):
        build().sample(w=theta(), X=torch.randn(6, 1), y=torch.ones(6))
    assert build().sample(w=theta(), X=torch.randn(6, 1), y=torch.ones(6, 1))["c"].shape == (6, 1)
    assert build().sample(w=theta(), X=torch.randn(6, 1), y=torch.ones(1, 6))["c"].shape == (6, 6)  # a row on purpose
    assert build().sample(w=theta(), X=torch.randn(6), y=torch.ones(6))["c"].shape == (6,)
    assert build().sample(w=theta(), X=torch.randn(6, 1), y=torch.ones(6, 4))["c"].shape == (6, 4)  # shared along four


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int64, torch.bool])
def test_rewards_of_integers_and_flags_are_numbers(kind):
    graph = scg.Graph()
    graph.stochastic(LeaveOneOut(2), lambda th: Bernoulli(logits=th), name="b")
    graph.reward(lambda b: b.to(kind), name="r")
    trace = graph.sample(th=theta(20))
    assert trace["r"].dtype == torch.get_default_dtype()
    assert torch.equal(trace["r"], -trace["b"].to(trace["r"].dtype))
    trace.surrogate().backward()


# -- objectives ----------------------------------------------------------------------------------------------


def test_what_trains_names_must_be_reached():
    code, x = nn.Parameter(torch.randn(5, 2)), torch.randn(8, 2)

    def build(hold):
        graph = scg.Graph()
        graph.deterministic(lambda x: x + hold(code[torch.cdist(x, code).argmin(-1)] - x), name="st")
        graph.cost(lambda st, x: ((st - x) ** 2).sum(-1), name="codebook", trains=[code])
        return graph

    with pytest.raises(GraphError, match="cost 'codebook': it reaches nothing of what trains= names"):
        build(torch.Tensor.detach).surrogate(x=x)
    build(lambda t: t).surrogate(x=x).backward()
    assert code.grad is not None
    with torch.no_grad():
        assert not build(lambda t: t).surrogate(x=x).requires_grad
    code.requires_grad_(False)
    build(torch.Tensor.detach).surrogate(x=x)  # frozen on purpose


def test_a_copied_graph_whose_functions_hold_the_first_ones_module_is_refused():
    net = nn.Linear(1, 1).double()

    def build(fn):
        graph = scg.Graph()
        graph.deterministic(fn, name="h", parents=["o"])
        graph.stochastic(ScoreFunction(), lambda h: Normal(h.squeeze(-1), 1.0), name="x")
        graph.cost(lambda x: x**2, name="c", trains=net)
        return graph

    with pytest.raises(GraphError, match="a copy of the graph copies what trains= names, and not what functions close over"):
        copy.deepcopy(build(lambda o: net(o))).surrogate(o=torch.ones(9, 1, dtype=F64))
    twin = copy.deepcopy(build(net))
    twin.surrogate(o=torch.ones(9, 1, dtype=F64)).backward()
    assert net.weight.grad is None and twin.nodes["h"].fn.weight.grad is not None


# -- modes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_inference_mode(warm):
    graph = scg.Graph()
    graph.stochastic(ScoreFunction(), lambda th: Normal(th, 1.0), name="x")
    graph.cost(lambda x, pi: x - pi.log_prob(x), name="c", parents=["x", dist("x")])
    th = theta(3)
    if warm:
        graph.sample(th=th)
    with torch.inference_mode():
        assert math.isfinite(graph.sample(th=th).objective.item())
        assert math.isfinite(graph.sample(th=torch.zeros(3)).objective.item())
    graph.surrogate(th=th).backward()


def test_an_empty_batch_has_no_gradient():
    graph = through(lambda x: x**2, ScoreFunction())
    th = theta(0)
    graph.surrogate(th=th).backward()
    assert th.grad.shape == (0,)
