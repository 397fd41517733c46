"""Examined again at samples 2, 4, 8, …: code that changes after the first sample is found, and nothing is left behind."""

import gc

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal, Uniform

import scg
from scg import GraphError
from scg.estimators import LeaveOneOut, Pathwise, ScoreFunction

F64 = torch.float64


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("scg.checks.signature.ALLOWANCE", 60.0)  # whatever else this machine is doing


class Switch:
    """Off at the first samples; the training loop turns it on."""

    on = False


def graph(switch, late, estimator=None, early=lambda x: 2 * x, distribution=lambda th: Normal(th, 1.0), cost=lambda h: h):
    built = scg.Graph()
    built.stochastic(estimator or ScoreFunction(), distribution, name="x")
    built.deterministic(lambda x: late(x) if switch.on else early(x), name="h")
    built.cost(cost, name="c")
    return built


MEMORY: list = [torch.zeros(())]
NOISE = nn.Dropout(0.5)


def remembered(x):
    MEMORY[0] = x.detach()
    return 2 * x


SWITCHED = {
    "a reduction over the batch": lambda s: graph(s, lambda x: x - x.mean(0)),
    "a running sum over the batch": lambda s: graph(s, lambda x: x.cumsum(0)),
    "batch mixed in a tuple": lambda s: graph(s, lambda x: (x.flip(0), x), early=lambda x: (x, x), cost=lambda h: h[0]),
    "branches mixed": lambda s: graph(s, lambda x: x - x.mean(0), LeaveOneOut(3)),
    "a rounded path": lambda s: graph(s, lambda x: x.round(), Pathwise()),
    "a detached path": lambda s: graph(s, lambda x: x.detach() * 2, Pathwise()),
    "a comparison": lambda s: graph(s, lambda x: (x > 0).to(F64), Pathwise()),
    "a write in place": lambda s: graph(s, lambda x: x.mul_(2)),
    "dropout": lambda s: graph(s, lambda x: NOISE(x)),
    "noise of its own": lambda s: graph(s, lambda x: x + torch.randn_like(x)),
    "a support that moves": lambda s: graph(
        s, lambda x: x, distribution=lambda th: Uniform(torch.zeros_like(th), th.exp() if s.on else torch.ones_like(th))
    ),
    "axes that broadcast": lambda s: graph(
        s,
        lambda x: x,
        distribution=lambda th: Normal(th.unsqueeze(-1) if s.on else th, 1.0),
        cost=lambda h: h.reshape(6, -1).sum(-1),
    ),
    "a gradient that is not finite": lambda s: graph(s, lambda x: torch.where(x > 0, x.sqrt(), x), Pathwise()),
}


def undeclared(s):
    built = scg.Graph()
    built.stochastic(ScoreFunction(), lambda th: Normal(th, 1.0), name="x")
    built.deterministic(remembered, name="h", parents=["x"])
    built.stochastic(ScoreFunction(), lambda th: Normal(th, 1.0), name="other")
    built.cost(lambda h: h, name="c")
    built.cost(lambda other: other + (MEMORY[0] if s.on else 0.0), name="d")
    return built


SWITCHED["a closure over a sample"] = undeclared


def mixed_in_time(s):
    built = scg.Graph()
    with built.sequence():
        built.observed("o")
        built.deterministic(lambda o: o - o.mean(0) if s.on else o, name="h")
        built.stochastic(ScoreFunction(), lambda h, th: Normal(th * h, 1.0), name="a")
        built.cost(lambda a: a, name="c")
    return built


class After(nn.Module):
    """Changes what it does after its n-th call, which it counts in a buffer or an attribute."""

    def __init__(self, n, attribute):
        super().__init__()
        self.n, self.attribute, self.calls = n, attribute, 0
        self.register_buffer("counted", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.attribute:
            self.calls += 1
        else:
            self.counted += 1
        return x - x.mean(0) if max(self.calls, int(self.counted)) > self.n else 2 * x


def caught(run, samples=64):
    try:
        for i in range(samples):
            run(i)
    except GraphError:
        return True
    return False


@pytest.mark.parametrize("kind", SWITCHED)
def test_code_that_is_switched_on_after_the_first_sample_is_found(kind):
    switch = Switch()
    built = SWITCHED[kind](switch)

    def run(i):
        switch.on = i >= 5
        built.surrogate(th=torch.full((6,), 0.3, dtype=F64, requires_grad=True))

    run(0)
    assert caught(run)


def test_steps_that_are_mixed_from_some_sample_on_are_found():
    switch = Switch()
    built = mixed_in_time(switch)

    def run(i):
        switch.on = i >= 5
        built.replay({"o": torch.randn(4, 6), "a": torch.randn(4, 6)}, th=torch.tensor(0.3, requires_grad=True))

    assert caught(run)


@pytest.mark.parametrize("attribute", [True, False])
def test_a_module_that_changes_after_so_many_calls_is_found(attribute):
    module = After(12, attribute)
    built = scg.Graph()
    built.stochastic(ScoreFunction(), lambda th: Normal(th, 1.0), name="x")
    built.deterministic(module, name="h", parents=["x"])
    built.cost(lambda h: h, name="c")
    assert caught(lambda i: built.surrogate(th=torch.zeros(6, requires_grad=True)))


def test_a_schedule_in_an_input_is_followed():
    built = scg.Graph()
    built.stochastic(Pathwise(), lambda th: Normal(th, 1.0), name="x")
    built.cost(lambda x, step: x.round() if step > 10 else x, name="c")
    assert caught(lambda i: built.surrogate(th=torch.zeros(6, requires_grad=True), step=i))


def test_parameters_that_drift_to_where_a_path_is_cut_are_followed():
    built = scg.Graph()
    built.stochastic(Pathwise(), lambda th: Normal(th, 0.1), name="x")
    built.cost(lambda x: x if x.mean() < 2 else x.floor(), name="c")
    assert caught(lambda i: built.surrogate(th=torch.full((6,), 0.2 * i, requires_grad=True)))


def test_steps_beyond_the_third_are_examined_in_time():
    built = scg.Graph()
    with built.sequence():
        built.stochastic(ScoreFunction(), lambda s: Normal(s, 0.1), name="a", parents=[scg.prev("n", init="n0")])
        built.deterministic(lambda n: n + 1.0, name="n", parents=[scg.prev("n", init="n0")])
        built.cost(lambda a, n: a - a.mean(0) if bool((n > 5).all()) else a, name="c")
    assert caught(lambda i: built.sample(n0=torch.zeros(4), steps=12))


def test_what_stays_right_is_never_refused():
    built = SWITCHED["a reduction over the batch"](Switch())
    assert not caught(lambda i: built.surrogate(th=torch.zeros(6, requires_grad=True)), 200)


# -- nothing is left behind ----------------------------------------------------------------------------------


def test_examinations_leave_batch_statistics_counters_gradients_and_the_stream_alone():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.calls, self.seen = nn.BatchNorm1d(3), 0, []

        def forward(self, o):
            self.calls += 1
            self.seen.append(self.calls)
            return self.norm(o)

    def run(again):
        torch.manual_seed(1)
        module = Counting()
        built = scg.Graph()
        built.deterministic(module, name="h", parents=["o"])
        built.stochastic(Pathwise(), lambda h: Independent(Normal(h, 1.0), 1), name="x")
        built.cost(lambda x: x.square().sum(-1), name="c")
        values = []
        with scg.examination(again=again):
            for _ in range(9):
                values.append(built.sample(o=torch.randn(8, 3))["x"].detach())
        return module, torch.stack(values)

    (once, first), (often, second) = run(False), run(True)
    assert torch.equal(first, second)
    assert once.norm.num_batches_tracked == often.norm.num_batches_tracked == 9
    assert torch.equal(once.norm.running_mean, often.norm.running_mean)
    assert once.calls == often.calls == 9 and once.seen == often.seen == list(range(1, 10))
    assert all(p.grad is None for p in often.parameters())


def test_examinations_come_at_powers_of_two_and_can_be_switched_off(monkeypatch):
    from scg.checks.signature import Plans

    taken = []
    examine = Plans._examine
    monkeypatch.setattr(Plans, "_examine", lambda self, *a: taken.append(count[0]) or examine(self, *a))
    count = [0]
    for again, right in ((True, [1, 2, 4, 8, 16]), (False, [1])):
        taken.clear()
        built = SWITCHED["a reduction over the batch"](Switch())
        with scg.examination(again=again):
            for i in range(1, 21):
                count[0] = i
                built.surrogate(th=torch.zeros(6, requires_grad=True))
        assert taken == right


def test_examinations_stay_within_their_share_of_the_time(monkeypatch):
    from scg.checks.signature import Plans

    now, spent = [0.0], [0.0]
    monkeypatch.setattr("scg.checks.signature.ALLOWANCE", 0.1)
    monkeypatch.setattr("scg.checks.signature.time.perf_counter", lambda: now[0])
    plan = None

    def slow(self, *_):
        nonlocal plan
        now[0] += 1.0
        spent[0] += 1.0
        return plan, 1.0

    built = SWITCHED["a reduction over the batch"](Switch())
    th = torch.zeros(6, requires_grad=True)
    built.surrogate(th=th)
    (examined,) = set(built._plans.broad.values())
    plan, examined.cost = examined.plan, 1.0
    built._plans.started = 0.0
    monkeypatch.setattr(Plans, "_examine", slow)
    for _ in range(3000):
        now[0] += 0.5
        built.surrogate(th=th)
    assert 1 <= spent[0] <= 0.01 * now[0]


def test_an_examination_keeps_none_of_its_tensors():
    """Softmax saves its output: kept as it is, it would hold the function that saved it, and all that is above."""

    def alive():
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    theta = torch.randn(64, 3, requires_grad=True)
    before = alive()
    for _ in range(3):
        graph = scg.Graph()
        graph.stochastic(ScoreFunction(), lambda theta: Categorical(probs=theta.softmax(-1)), name="x")
        graph.cost(lambda x, theta: x * theta.softmax(-1).square().sum(-1), name="c")
        graph.sample(theta=theta)
        del graph
    assert alive() <= before + 4  # what torch makes once
