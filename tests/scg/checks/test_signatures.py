"""An examination holds for the calls that it was made for: another signature is examined anew."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Laplace, Normal, Uniform

import scg
from scg import GraphError
from scg.estimators import LeaveOneOut, MeasureValued, Pathwise, ScoreFunction

F64 = torch.float64


def graph(distribution, cost, estimator=None, middle=None):
    built = scg.Graph()
    built.stochastic(estimator or ScoreFunction(), distribution, name="x")
    if middle is not None:
        built.deterministic(middle, name="h")
    built.cost(cost, name="c")
    return built


def theta(*shape, grad=True):
    return torch.full(shape, 0.5, dtype=F64, requires_grad=grad)


def mixing():
    return graph(lambda th: Normal(th, 1.0), lambda x: (x - x.mean(0)) ** 2)


@dataclass
class Data:
    mean: torch.Tensor
    flags: tuple = ()


def examinations(built):
    return sum(examined.samples > 0 for examined in built._plans.broad.values())


# -- gradients wanted, or not ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "built",
    [
        graph(lambda th: Uniform(torch.zeros_like(th), th), lambda x: x**2),
        graph(lambda th: Independent(Uniform(torch.zeros_like(th), th), 1), lambda x: x.sum(-1), LeaveOneOut(3)),
        graph(lambda th: torch.distributions.Gamma(th, 1.0), lambda x: x**2, MeasureValued()),
    ],
    ids=["support", "support under independent", "measure valued"],
)
def test_a_first_sample_without_gradients_says_nothing_of_one_with(built):
    built.sample(th=theta(4, 3, grad=False))
    with pytest.raises(GraphError, match="node 'x'"):
        built.surrogate(th=theta(4, 3))


def test_the_order_of_a_node_is_learned_where_gradients_are_wanted():
    built = graph(lambda th: Laplace(th, torch.ones_like(th)), lambda x: (x - 2) ** 2)
    built.sample(th=theta(10, grad=False))
    th = theta(10)
    (slope,) = torch.autograd.grad(built.surrogate(th=th), th, create_graph=True)
    with pytest.raises(GraphError, match="right to first order only"):
        torch.autograd.grad(slope.sum(), th)


# -- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [theta(1), theta(1, grad=False)])
def test_a_batch_of_one_says_nothing_of_a_larger_one(first):
    built = mixing()
    built.sample(th=first)
    with pytest.raises(GraphError, match="mixes batch elements"):
        built.surrogate(th=theta(64))


def test_a_batch_of_one_in_a_dict_says_nothing_of_a_larger_one():
    built = graph(lambda o: Normal(o["mean"], 1.0), lambda x: x - x.mean(0))
    built.sample(o={"mean": theta(1)})
    with pytest.raises(GraphError, match="mixes batch elements"):
        built.sample(o={"mean": theta(5)})


def test_a_cost_beside_a_column_is_seen_when_the_column_grows():
    built = graph(lambda th: Normal(th, 1.0), lambda x, v: (x - v) ** 2)
    built.surrogate(th=theta(1), v=torch.zeros(1, 1, dtype=F64))
    with pytest.raises(GraphError, match="fewer axes than the cost"):
        built.surrogate(th=theta(5), v=torch.zeros(5, 1, dtype=F64))


@pytest.mark.parametrize(
    "wrap",
    [lambda t: {"m": t}, lambda t: {"m": (t, 1.0)}, lambda t: [t], lambda t: Data(t), lambda t: Normal(t, 1.0)],
    ids=["dict", "tuple in a dict", "list", "dataclass", "distribution"],
)
def test_ranks_in_containers_belong_to_the_signature(wrap):
    def mean(o):
        while not isinstance(o, torch.Tensor):
            o = o.mean if isinstance(o, (Data, Normal)) else o["m"] if isinstance(o, dict) else o[0]
        return o

    built = graph(lambda o: Normal(mean(o), 1.0), lambda x: x * 0 + 1.0)
    assert built.surrogate(o=wrap(theta(4))).item() == 1.0
    assert built.surrogate(o=wrap(theta(3, 4))).item() == 1.0


def test_one_step_says_nothing_of_several():
    built = scg.Graph()
    with built.sequence():
        built.observed("o")
        built.deterministic(lambda o: o - o.mean(0), name="h")
        built.stochastic(ScoreFunction(), lambda h, th: Normal(th * h, 1.0), name="a")
        built.cost(lambda a, h: (a - h) ** 2, name="c")
    built.replay({"o": torch.randn(1), "a": torch.randn(1)}, th=theta())
    with pytest.raises(GraphError, match="node 'h'.*mixes time steps"):
        built.replay({"o": torch.randn(5), "a": torch.randn(5)}, th=theta())


def test_sizes_beyond_two_are_one_signature():
    built = graph(lambda th: Normal(th, 1.0), lambda x: x**2)
    for n in range(1, 40):
        built.sample(th=theta(n))
    assert examinations(built) == 3


# -- modules -----------------------------------------------------------------------------------------------


def test_a_first_sample_in_eval_mode_says_nothing_of_training():
    norm = nn.BatchNorm1d(3)
    built = graph(lambda w: Normal(w.sum(-1), 1.0), lambda h: h.sum(-1), middle=lambda x, w: norm(x.unsqueeze(-1) * w))
    norm.eval()
    built.sample(w=torch.randn(8, 3, requires_grad=True))
    norm.train()
    with pytest.raises(GraphError, match="node 'h'.*mixes batch elements"):
        built.surrogate(w=torch.randn(8, 3, requires_grad=True))
    norm.eval()
    built.surrogate(w=torch.randn(8, 3, requires_grad=True))


def objectives(trained, held):
    built = scg.Graph()
    built.stochastic(ScoreFunction(), lambda o: Normal(trained(o).squeeze(-1), 1.0), name="x")
    built.cost(lambda x: (held(x.unsqueeze(-1)) ** 2).squeeze(-1), name="c", trains=trained)
    built.cost(lambda x: (held(x.unsqueeze(-1)) ** 2).squeeze(-1), name="d", trains=held)
    return built


def test_what_an_objective_trains_is_learned_again_when_parameters_are_unfrozen():
    trained, held = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
    built, o = objectives(trained, held), torch.ones(5, 1, dtype=F64)
    trained.requires_grad_(False)
    built.sample(o=o).surrogate("d")
    trained.requires_grad_(True)
    loss = built.sample(o=o).surrogate("d")
    assert torch.autograd.grad(loss, trained.weight, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(loss, held.weight)[0] is not None


def test_a_parameter_exchanged_for_another_is_one_that_the_objective_trains():
    trained, held = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
    built, o = objectives(trained, held), torch.ones(5, 1, dtype=F64)
    built.sample(o=o).surrogate("d")
    held.weight = nn.Parameter(torch.ones(1, 1, dtype=F64))
    trained.weight = nn.Parameter(torch.ones(1, 1, dtype=F64))
    loss = built.sample(o=o).surrogate("d")
    assert torch.autograd.grad(loss, trained.weight, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(loss, held.weight)[0] is not None


def test_a_copy_of_a_graph_is_examined_for_itself():
    built = mixing()
    built.sample(th=theta(1))
    twin = copy.deepcopy(built)
    assert not twin._plans.broad and twin._plans.graph is twin
    twin.sample(th=theta(1))


# -- compiled ----------------------------------------------------------------------------------------------


def test_a_graph_that_is_compiled_first_is_examined_while_it_is_traced():
    built = graph(lambda th: Uniform(torch.zeros_like(th), th), lambda x: x**2)
    with pytest.raises(GraphError, match="the support of Uniform depends on a parameter"):
        torch.compile(built.surrogate, backend="eager", fullgraph=True)(th=theta(4))
    right = graph(lambda th: Normal(th, 1.0), lambda x: x**2, Pathwise())
    th = theta(4)
    torch.compile(right.surrogate, backend="eager", fullgraph=True)(th=th).backward()
    assert th.grad is not None


def test_a_compiled_call_of_another_signature_is_examined_too():
    built = mixing()
    built.sample(th=theta(1))
    compiled = torch.compile(built.surrogate, backend="eager", fullgraph=True)
    compiled(th=theta(1))
    with pytest.raises(GraphError, match="mixes batch elements"):
        compiled(th=theta(6))


def test_compiled_code_is_not_tied_to_a_size():
    right, compiles = graph(lambda th: Normal(th, 1.0), lambda x: x**2), []

    def counting(module, _):
        compiles.append(1)
        return module.forward

    compiled = torch.compile(right.surrogate, backend=counting, fullgraph=True)
    for n in (4, 5, 6, 7, 8, 9):
        compiled(th=theta(n))
    assert len(compiles) <= 2  # one for a fixed size at most, one for any


# -- calls that cannot be examined as they are ---------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_first_sample_under_activation_checkpointing(reentrant):
    from torch.utils.checkpoint import checkpoint

    built, th = graph(lambda th: Normal(th, 1.0), lambda x: x**2), theta(3)
    checkpoint(lambda u: built.surrogate(th=u), th, use_reentrant=reentrant).backward()
    assert th.grad is not None


def test_a_first_sample_inside_a_function_transform_is_refused_and_a_later_one_is_right():
    built = graph(lambda th: Normal(th, 1.0), lambda x: x**2, Pathwise())
    with pytest.raises(GraphError, match=r"cannot be done inside a torch.func transform.*Evaluate it once"):
        torch.func.grad(lambda t: built.surrogate(th=t))(theta(3, grad=False))
    built.sample(th=theta(3))
    torch.manual_seed(0)
    found = torch.func.grad(lambda t: built.surrogate(th=t))(theta(3, grad=False))
    torch.manual_seed(0)
    th = theta(3)
    assert torch.equal(found, torch.autograd.grad(built.surrogate(th=th), th)[0])
