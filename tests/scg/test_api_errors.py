"""Mistakes in declarations and calls: each is one error that names the node or the argument, and says what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

import scg
from scg import Graph, GraphError, Pathwise, ScoreFunction, detach, prev
from scg.estimators.credit import GAE, MonteCarlo

F64 = torch.float64
NET = nn.Linear(1, 1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def theta() -> Tensor:
    return torch.full((4,), 0.3, dtype=F64, requires_grad=True)


def flat(
    cost: Callable[..., Any] = lambda x: x**2,
    law: Callable[..., Any] = lambda th: Normal(th, 1.0),
    estimator: Any = None,
    trains: Any = None,
    **settings: Any,
) -> Graph:
    """th → x → c."""
    graph = Graph()
    graph.stochastic(estimator or ScoreFunction(), law, name="x", **settings)
    graph.cost(cost, name="c", trains=trains)
    return graph


def timed(cost: Callable[..., Any] = lambda s: s**2, first: Any = None, **settings: Any) -> Graph:
    """obs(t) → s(t) → c(t)."""
    graph = Graph()
    with graph.sequence(first):
        if first:
            graph.observed(first)
        graph.observed("obs")
        graph.stochastic(ScoreFunction(), lambda th, obs: Normal(th + obs, 1.0), name="s", **settings)
        graph.cost(cost, name="c")
    return graph


def recurrent() -> Graph:
    graph = Graph()
    with graph.sequence():
        graph.stochastic(ScoreFunction(), lambda th, p=prev("s", init="s0"): Normal(th + p, 1.0), name="s")
        graph.cost(lambda s: s**2, name="c")
    return graph


def walk(steps: Any) -> Tensor:
    return recurrent().surrogate(th=theta(), s0=torch.zeros(4, dtype=F64), steps=steps)


def draw(graph: Graph, **call: Any) -> Tensor:
    call = {"th": theta()} | call
    if "obs" in graph.nodes:
        call = {"obs": torch.randn(3, 4, dtype=F64)} | call
    return graph.surrogate(**call)


def zeros(*shape: int, **options: Any) -> Tensor:
    return torch.zeros(*shape, **({"dtype": F64} | options))


def replay(given: Any, graph: Graph | None = None) -> Tensor:
    return (graph or flat()).replay(given, th=theta()).surrogate()


def timed_replay(**given: Any) -> Tensor:
    return timed().replay({name.replace("__", "."): value for name, value in given.items()}, th=theta()).surrogate()


class Credit(scg.Credit):
    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer

    def __call__(self, downstream: Any) -> Any:
        return self.answer(downstream)


class Samples:
    """An estimator by its method, which returns no branches."""

    def branch(self, distribution: Any) -> Any:
        return distribution.sample()


def trace() -> scg.Trace:
    return flat().sample(th=theta())


def law(th: Tensor) -> Normal:
    return Normal(th, 1.0)


def third_call(make: Callable[[Any], Graph], good: Any, bad: Any) -> Tensor:
    """A call of a signature that was examined before, so that only the evaluation itself can see it."""
    box = [good]
    graph = make(box)
    for _ in range(2):
        graph.surrogate(th=theta())
    box[0] = bad
    return graph.surrogate(th=theta())


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    # -- costs
    "cost None": (lambda: draw(flat(lambda x: None)), "node 'c': its function returned None (is a `return` missing?)"),
    "cost list": (lambda: draw(flat(lambda x: [x, x])), "node 'c': its function returned an object of type list"),
    "cost list of numbers": (lambda: draw(flat(lambda x: [1.0] * 4)), "node 'c': its function returned an object of type list"),
    "cost dict": (lambda: draw(flat(lambda x: {"a": x})), "node 'c': its function returned an object of type dict"),
    "cost string": (lambda: draw(flat(lambda x: "1")), "node 'c': its function returned an object of type str"),
    "cost distribution": (lambda: draw(flat(lambda x: Normal(x, 1.0))), "node 'c': its function returned an object of type Normal"),
    "cost complex": (lambda: draw(flat(lambda x: x * 1j)), "node 'c': its function returned complex numbers (torch.complex128)"),
    "cost complex number": (lambda: draw(flat(lambda x: 1j)), "node 'c': its function returned an object of type complex"),
    "cost pathwise complex": (lambda: draw(flat(lambda x: x * 1j, estimator=Pathwise())), "costs, baselines and credits are tensors"),
    "cost trained None": (lambda: draw(flat(lambda x, th: None, trains="th")), "node 'c': its function returned None"),
    "cost of a sequence None": (lambda: draw(timed(lambda s: None)), "node 'c': its function returned None"),
    "cost other batch": (lambda: draw(flat(lambda x: zeros(7))), "node 'c': its value has batch shape (7,), and its ancestor 'x' has (4,)"),
    "cost one element more": (lambda: draw(flat(lambda x: torch.cat([x, x[:1]]))), "Return one cost per batch element of 'x'"),
    "cost of a sequence other batch": (lambda: draw(timed(lambda s: zeros(7))), "node 'c': its value has batch shape (7,)"),
    "cost other batch later": (
        lambda: third_call(lambda box: flat(lambda x: box[0]), torch.ones(4), torch.ones(7)),
        "node 'c': its value has batch shape (7,)",
    ),
    "cost summed over the batch": (lambda: draw(flat(lambda x: x.sum())), "return one cost per batch element"),
    "cost nan": (lambda: draw(flat(lambda x: x * math.nan)), "node 'c': its value is not finite"),
    # -- baselines and credits
    "baseline other batch": (lambda: draw(flat(baseline=lambda th: zeros(7))), "node 'x': its baseline has shape (7,)"),
    "baseline other batch later": (
        lambda: third_call(lambda box: flat(baseline=lambda: box[0]), torch.ones(4), torch.ones(7)),
        "node 'x': its baseline has shape (7,), its weights (4,)",
    ),
    "baseline column": (lambda: draw(flat(baseline=lambda th: th[:, None])), "node 'x': its baseline 'x.baseline' has 2 axes"),
    "baseline None": (lambda: draw(flat(baseline=lambda th: None)), "node 'x': its baseline returned None (is a `return` missing?)"),
    "baseline list": (lambda: draw(flat(baseline=lambda th: [1.0])), "node 'x': its baseline returned an object of type list"),
    "baseline complex": (lambda: draw(flat(baseline=lambda th: th * 1j)), "node 'x': its baseline returned complex numbers"),
    "baseline law": (lambda: draw(flat(baseline=law)), "node 'x': its baseline returned an object of type Normal"),
    "baseline constant list": (lambda: flat(baseline=[1.0]), "node 'x': baseline= is a node's name, a function of nodes or one real"),
    "baseline constant vector": (lambda: flat(baseline=zeros(4)), "of shape (4,)"),
    "baseline constant complex": (lambda: flat(baseline=1j), "node 'x': baseline= is a node's name"),
    "baseline constant bool": (lambda: flat(baseline=True), "node 'x': baseline= is a node's name"),
    "baseline constant nan": (lambda: flat(baseline=math.nan), "node 'x': baseline=nan is not finite"),
    "baseline Credit": (lambda: flat(baseline=GAE("v", 0.9, 0.9)), "node 'x': baseline= is a node's name"),
    "baseline of no node": (lambda: draw(flat(baseline="v")), "node 'x': baseline='v' is no node"),
    "credit GAE class": (lambda: timed(credit=GAE), "node 's': credit=GAE is a class; give an instance, GAE(…)"),
    "credit MonteCarlo class": (lambda: timed(credit=MonteCarlo), "node 's': credit=MonteCarlo is a class"),
    "credit class of modules": (lambda: flat(credit=nn.Linear), "node 'x': credit=Linear is a class; give an instance"),
    "credit estimator": (lambda: flat(credit=ScoreFunction()), "node 'x': credit= is a Credit, a node's name, a function of nodes"),
    "credit other batch": (lambda: draw(flat(credit=lambda th: zeros(7))), "node 'x': its credit has shape (7,)"),
    "credit None": (lambda: draw(flat(credit=lambda th: None)), "node 'x': its credit returned None"),
    "Credit returns None": (lambda: draw(flat(credit=Credit(lambda d: None))), "returned a NoneType; a credit returns real numbers"),
    "Credit returns a number": (lambda: draw(flat(credit=Credit(lambda d: 1.0))), "node 'x': its credit"),
    "Credit other batch": (lambda: draw(flat(credit=Credit(lambda d: zeros(7)))), "node 'x': its credit has shape (7,)"),
    "Credit other steps": (lambda: draw(timed(credit=Credit(lambda d: zeros(9, 4)))), "node 's': its credit has shape (9, 4)"),
    "Credit scalar": (lambda: draw(timed(credit=Credit(lambda d: zeros(())))), "returned torch.float64 of shape ()"),
    "Credit reads no node": (lambda: draw(flat(credit=Credit(lambda d: d.value("v")))), "'v' has no value in this trace"),
    "Credit of no critic": (lambda: draw(timed(credit=GAE("v", 0.9, 0.9))), "node 's': its credit reads 'v', which is no node"),
    # -- given values
    "log_prob other batch": (lambda: replay({"x": zeros(4), "x.log_prob": zeros(3)}), "given['x.log_prob'] has shape (3,)"),
    "log_prob column": (lambda: replay({"x": zeros(4), "x.log_prob": zeros(4, 1)}), "Give one log-probability per recorded value"),
    "log_prob list": (lambda: replay({"x": zeros(4), "x.log_prob": [0.0] * 4}), "given['x.log_prob']: a tensor is needed, got [0.0"),
    "log_prob number": (lambda: replay({"x": zeros(4), "x.log_prob": 0.0}), "given['x.log_prob']: a tensor is needed, got 0.0"),
    "log_prob complex": (lambda: replay({"x": zeros(4), "x.log_prob": zeros(4) * 1j}), "given['x.log_prob']: real numbers are needed"),
    "log_prob other batch in time": (
        lambda: timed_replay(obs=zeros(3, 4), s=zeros(3, 4), s__log_prob=zeros(3, 7)),
        "node 's': given['s.log_prob'] has shape (7,), the recorded values have batch (4,)",
    ),
    "log_prob of no value": (lambda: replay({"x.log_prob": zeros(4)}), "the value 'x' that it belongs to is not given"),
    "value list": (lambda: replay({"x": [0.0] * 4}), "given['x']: a tensor is needed, got [0.0"),
    "value None": (lambda: replay({"x": None}), "given['x']: a tensor is needed, got None of type NoneType"),
    "value other batch": (lambda: replay({"x": zeros(7)}), "node 'x': Value is not broadcastable"),
    "value complex": (lambda: replay({"x": zeros(4, dtype=torch.complex64)}), "node 'c': its function returned complex numbers"),
    "value of no support": (lambda: replay({"x": zeros(4) + 0.5}, flat(law=lambda th: Bernoulli(logits=th))), "node 'x': Expected value"),
    "value of no category": (
        lambda: replay({"x": zeros(4) + 9}, flat(law=lambda th: Categorical(logits=th.expand(4, 4)))),
        "node 'x': Expected value argument",
    ),
    "credit given list": (lambda: replay({"x.credit": [1.0] * 4}, flat(credit=1.0)), "given['x.credit']: a tensor is needed"),
    "credit given other batch": (lambda: replay({"x.credit": zeros(7)}, flat(credit=1.0)), "node 'x': its credit has shape (7,)"),
    "credit given to none": (lambda: replay({"x.credit": zeros(4)}), "given['x.credit']: node 'x' has no credit; declare it"),
    "given unknown": (lambda: replay({"xx": zeros(4)}), "given['xx']: no such node. Did you mean 'x'?"),
    "given input": (lambda: replay({"th": zeros(4)}), "given['th']: it is an input of the graph; pass it by keyword, th=…"),
    "given by number": (lambda: replay({1: zeros(4)}), "given[1]: values are given by node name, a string"),
    "given list": (lambda: replay([("x", 1)]), "graph.replay(given): a dict of values by node name, got list"),
    "given None": (lambda: replay(None), "graph.replay(given): a dict of values by node name, got NoneType"),
    "given cost": (lambda: replay({"c": zeros(4)}), "given['c']: a cost node is computed from its parents"),
    "observed scalar": (lambda: timed_replay(obs=zeros(())), "given['obs']: it is a value of the sequence, [time, batch…, event…]"),
    "observed list": (lambda: timed_replay(obs=[1.0, 2.0]), "given['obs']: it is a value of the sequence, a tensor [time, batch…"),
    "observed array": (lambda: timed_replay(obs=zeros(3, 4).numpy()), "got a ndarray without tensors"),
    "observed other steps": (lambda: timed_replay(obs=zeros(3, 4), s=zeros(5, 4)), "'s' has 5 steps, another 3"),
    "first list": (lambda: draw(timed(first="first"), first=[True] * 3), "given['first']: a tensor is needed, got [True"),
    "first None": (lambda: draw(timed(first="first"), first=None), "given['first']: a tensor is needed, got None"),
    "first other batch": (
        lambda: draw(timed(first="first"), first=torch.zeros(3, 7, dtype=torch.bool)),
        "node 'first': episodes start in a batch of shape (7,), and the cost 'c' has (4,)",
    ),
    # -- steps
    "steps 0": (lambda: walk(0), "steps=0: say how many steps"),
    "steps -1": (lambda: walk(-1), "steps=-1: say how many steps"),
    "steps 2.5": (lambda: walk(2.5), "steps=2.5: say how many steps"),
    "steps nan": (lambda: walk(math.nan), "steps=nan: say how many steps"),
    "steps '3'": (lambda: walk("3"), "steps='3': say how many steps"),
    "steps [3]": (lambda: walk([3]), "steps=[3]: say how many steps"),
    "steps True": (lambda: walk(True), "steps=True: say how many steps"),
    "steps None": (lambda: walk(None), "say how many steps, steps=100 for instance"),
    "steps 3.0 for 3": (lambda: draw(timed(), steps=3.0), "steps=3.0: say how many steps"),
    "steps 9 for 3": (lambda: draw(timed(), steps=9), "steps=9, but 'obs' was given for 3 steps"),
    "steps without a sequence": (lambda: draw(flat(), steps=4), "steps=4: this graph has no sequence"),
    "steps 0 without a sequence": (lambda: draw(flat(), steps=0), "steps=0: an integer of at least 1, or none"),
    # -- generators
    "generator 5": (lambda: draw(flat(), generator=5), "generator=5: a torch.Generator is needed"),
    "generator class": (lambda: draw(flat(), generator=torch.Generator), "a torch.Generator is needed"),
    "replay generator": (lambda: flat().replay({}, th=theta(), generator="x"), "generator='x': a torch.Generator is needed"),
    # -- estimators
    "estimator class": (lambda: Graph().stochastic(ScoreFunction, law), "an instance, as in ScoreFunction()"),
    "estimator= class": (lambda: Graph().stochastic(law, estimator=ScoreFunction, name="x"), "node 'x': estimator=ScoreFunction is a class"),
    "estimator class of another": (lambda: Graph().stochastic(Samples, law, name="x"), "node 'x': graph.stochastic takes an estimator"),
    "estimator string": (lambda: Graph().stochastic("score", law, name="x"), "node 'x': estimator='score': an estimator is an instance"),
    "estimator number": (lambda: Graph().stochastic(law, estimator=3, name="x"), "node 'x': 3 is no estimator: inherit from scg.Estimator"),
    "estimator missing": (lambda: Graph().stochastic(law, name="x"), "node 'x': graph.stochastic needs an estimator"),
    "two estimators": (lambda: Graph().stochastic(ScoreFunction(), Pathwise(), law), "takes one estimator and one function"),
    "two functions": (lambda: Graph().stochastic(ScoreFunction(), law, law), "takes one estimator and one function"),
    "with_estimators class": (lambda: flat().with_estimators(x=ScoreFunction), "node 'x': estimator=ScoreFunction is a class"),
    "with_estimators None": (lambda: flat().with_estimators(x=None), "node 'x': None is no estimator"),
    "with_estimators unknown": (lambda: flat().with_estimators(y=Pathwise()), "'y' is no node of this graph"),
    "branch returns a tensor": (lambda: draw(flat(estimator=Samples())), ".branch returned Tensor; an estimator returns scg.Branches"),
    "samples 0": (lambda: ScoreFunction(0), "ScoreFunction(samples=0): samples is an integer, at least 1"),
    "samples True": (lambda: Pathwise(True), "Pathwise(samples=True): samples is an integer, at least 1"),
    # -- parents and functions
    "parents unknown": (lambda: draw(flat(lambda zz: zz)), "input 'zz' is missing, needed by 'c': pass it by keyword"),
    "parents string": (lambda: Graph().cost(law, parents="x"), "node 'law': parents= is a list of names, got the string 'x'"),
    "parents number": (lambda: Graph().cost(law, parents=3), "node 'law': parents= is a list of names, got 3 of type int"),
    "parents dict": (lambda: Graph().cost(law, parents={"x": "y"}), "node 'law': parents= is a list of names, got {'x'"),
    "parents set": (lambda: Graph().cost(law, parents={"x"}), "node 'law': parents= is a list of names, got {'x'}"),
    "parents marker": (lambda: Graph().cost(law, parents=detach("x")), "node 'law': parents= is a list of names, got Edge"),
    "parents hold a number": (lambda: Graph().cost(law, parents=[3]), "node 'law': parents=: a parent is a node's name or a marker"),
    "parents hold an empty name": (lambda: Graph().cost(law, parents=[""]), "node 'law': parents=: a parent is a node's name"),
    "parents too few": (lambda: Graph().cost(lambda a, b: a, name="h", parents=["x"]), "node 'h': parents= names 1 of them"),
    "parents too many": (lambda: Graph().cost(NET, name="h", parents=["x", "y"]), "node 'h': parents= names 2 of them"),
    "parents itself": (lambda: draw(flat(lambda x, c: x)), "node 'c': cycle c → c; break it with prev"),
    "observed parents string": (lambda: Graph().observed("o", "x"), "node 'o': parents= is a list of names, got the string 'x'"),
    "observed function": (lambda: Graph().observed(law), "an observed node has a name and no function"),
    "function *args": (lambda: Graph().cost(lambda *a: a, name="h"), "node 'h': the signature of"),
    "function **options": (lambda: Graph().cost(lambda **a: a, name="h"), "say parents="),
    "function without signature": (lambda: Graph().cost(max, name="h"), "node 'h': <built-in function max> shows no signature; say parents="),
    "function number": (lambda: Graph().cost(3, name="h"), "node 'h': a cost node is a function of its parents, got 3 of type int"),
    "function string": (lambda: Graph().cost("loss"), "graph.cost: a cost node is a function of its parents, got 'loss'"),
    "function None": (lambda: Graph().cost(name="h")(None), "node 'h': a cost node is a function of its parents, got None"),
    "function class of modules": (lambda: Graph().cost(nn.Linear, name="h"), "node 'h': Linear is a class of modules; give an instance"),
    "name empty": (lambda: Graph().cost(law, name=""), "node name '': a name is a non-empty string without dots"),
    "name blank": (lambda: Graph().cost(law, name=" "), "node name ' ': a name is a non-empty string without dots"),
    "name with a dot": (lambda: Graph().cost(law, name="x.y"), "node name 'x.y': a name is a non-empty string"),
    "name number": (lambda: Graph().cost(law, name=3), "node name 3: a name is a non-empty string"),
    "name reserved": (lambda: Graph().cost(law, name="self"), "node 'self': this name is reserved"),
    "name twice": (lambda: flat().cost(law, name="c"), "node 'c' is declared twice"),
    "prev init number": (lambda: prev("s", init=0.0), "prev('s', init=0.0): init= names the node or input whose value comes first"),
    "sequence first number": (lambda: timed(first=3), "sequence(first=3): first= is the name of an observed node"),
    "plate True": (lambda: draw(flat(plate=True)), "node 'x': plate=True; it is the number of samples"),
    "plate list": (lambda: draw(flat(plate=[3])), "node 'x': plate=[3]; it is the number of samples"),
    # -- trains=
    "trains []": (lambda: draw(flat(trains=[])), "cost 'c': trains=[] names no parameter and no input"),
    "trains [[]]": (lambda: draw(flat(trains=[[]])), "leave trains= out where all do"),
    "trains module without parameters": (lambda: draw(flat(trains=nn.ReLU())), "cost 'c': trains=ReLU() names no parameter"),
    "trains number": (lambda: draw(flat(trains=3)), "cost 'c': trains= takes modules, parameters or names of inputs, got 3"),
    "trains class": (lambda: draw(flat(trains=nn.Linear)), "cost 'c': trains= takes modules, parameters or names of inputs"),
    "trains node": (lambda: draw(flat(trains="x")), "cost 'c': trains='x' is a node"),
    "trains unknown": (lambda: draw(flat(trains="thh")), "cost 'c': trains='thh' is no input of the graph. Did you mean 'th'?"),
    # -- inputs
    "input missing": (lambda: flat().surrogate(), "input 'th' is missing, needed by 'x': pass it by keyword"),
    "input unread": (lambda: draw(flat(), q=theta()), "'q' is neither an input nor an observed node of this graph"),
    "input node": (lambda: draw(flat(), x=theta()), "node 'x': a stochastic node is computed here; to give its value use graph.replay"),
    "input of integers": (lambda: draw(flat(), th=torch.ones(4, dtype=torch.int64)), "node 'x': no sample could be drawn from its Normal"),
    "input nan": (lambda: draw(flat(), th=theta() * math.nan), "node 'x': a value lies outside the support or the constraints"),
    "negative scale unchecked": (
        lambda: draw(flat(law=lambda th: Normal(th, -th, validate_args=False))),
        "node 'x': no sample could be drawn from its Normal",
    ),
    # -- what nodes return
    "law tensor": (lambda: draw(flat(law=lambda th: th)), "node 'x': a stochastic node's function returns a torch Distribution, got Tensor"),
    "law None": (lambda: draw(flat(law=lambda th: None)), "returns a torch Distribution, got NoneType"),
    "law class": (lambda: draw(flat(law=lambda th: Normal)), "returns a torch Distribution, got type"),
    "no cost": (lambda: Graph().surrogate(), "this graph has no cost: declare one with @graph.cost"),
    # -- questions to a trace
    "surrogate unknown": (lambda: trace().surrogate("no_such"), "trace.surrogate('no_such'): no such cost"),
    "surrogate number": (lambda: trace().surrogate(3), "trace.surrogate(3): no such cost"),
    "surrogate twice": (lambda: trace().surrogate("c", "c"), "trace.surrogate: the cost 'c' is named twice"),
    "surrogate reduce": (lambda: trace().surrogate(reduce="max"), "trace.surrogate(reduce='max'): over time it is 'sum' or 'mean'"),
    "variance unknown": (lambda: trace().variance(theta(), "no_such"), "trace.variance('no_such'): no such cost"),
    "value unknown": (lambda: trace()["y"], "'y' has no value in this trace"),
    "dist of a cost": (lambda: trace().dist("c"), "'c' is no stochastic node of this graph"),
    "log_prob unknown": (lambda: trace().log_prob("y"), "'y' is no stochastic node of this graph"),
    "credit unknown": (lambda: trace().credit("y"), "trace.credit('y'): no such node"),
    "pairs without a sequence": (lambda: trace().pairs(torch.tensor([0])), "trace.pairs: this graph has no sequence"),
    "pairs out of range": (
        lambda: timed().replay({"obs": zeros(3, 4), "s": zeros(3, 4)}, th=theta()).pairs(torch.tensor([99])),
        "trace.pairs(index): integers from 0 to 11 are needed",
    ),
    "ancestors unknown": (lambda: flat().ancestors("y"), "'y' is no node of this graph"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_error_that_names_it(name):
    make, phrase = MISTAKES[name]
    with pytest.raises((GraphError, TypeError, ValueError)) as caught:
        make()
    error = caught.value
    assert phrase in "\n".join([str(error), *getattr(error, "__notes__", [])])
    assert isinstance(error, GraphError) or re.match(r"(generator=|\w+\(samples=)", str(error)) or error.__notes__


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: flat(lambda x: None), "error: node 'c': its function returned None"),
        (lambda: flat(lambda x: [x]), "error: node 'c': its function returned an object of type list"),
        (lambda: flat(lambda x: x * 1j), "error: node 'c': its function returned complex numbers"),
        (lambda: flat(lambda x: zeros(7)), "error: node 'c': its value has batch shape (7,)"),
        (lambda: flat(lambda x: x @ x @ x), "error: node 'c': its function failed: RuntimeError: both arguments to matmul"),
        (lambda: flat(baseline=lambda th: zeros(7)), "error: node 'x': its baseline has shape (7,)"),
        (lambda: flat(baseline=lambda th: None), "error: node 'x': its baseline returned None"),
        (lambda: flat(law=lambda th: th), "error: node 'x': a stochastic node's function returns a torch Distribution"),
        (lambda: flat(trains=[]), "error: node 'c': trains=[] names no parameter"),
        (lambda: flat(plate=0), "error: node 'x': plate=0; it is the number of samples"),
    ],
)
def test_a_check_lists_it(make, says):
    assert str(make().check(th=theta())[0]).startswith(says)


def test_a_check_of_the_call_names_no_node():
    assert str(flat().check(th=theta(), steps=4)[0]).startswith("error: steps=4: this graph has no sequence")
    assert str(flat().check(thh=theta())[0]).startswith("error: input 'th' is missing, needed by 'x'")
    assert "this graph has no cost" in str(Graph().check()[0])


@pytest.mark.parametrize("value", [None, "0.3", [0.3]])
def test_a_functions_own_exception_stays_what_it_is_and_names_the_node(value):
    with pytest.raises(ValueError, match="Input arguments must all be") as caught:
        flat().surrogate(th=value)
    assert any(note.startswith("in node 'x', called with th: ") for note in caught.value.__notes__)


def test_what_is_right_at_the_boundary_is_accepted():
    assert draw(flat(lambda x: 1.0 * (x.detach().numpy() > 0))).isfinite()  # an array has no gradient to lose
    assert draw(flat(lambda x: x > 0, baseline=lambda th: 1.0, credit=torch.tensor(2.0))).isfinite()
    assert draw(flat(baseline=lambda th: th.mean())).isfinite()
    assert draw(timed(first="first"), first=torch.tensor([True, False, False]), steps=3).isfinite()
    assert walk(1).isfinite()
