"""A node that reads a prefix: the same policy step by step and in one pass, exact gradients, and a mask that is examined."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

import scg
from scg import GraphError, Pathwise, ScoreFunction, detach, dist, prefix
from scg.agents.networks.transformer import Transformer
from scg.checks import causal
from scg.estimators import Enumeration, LeaveOneOut, NoGradient, Pruned
from scg.testing import check_unbiased, exact_gradient

pytestmark = pytest.mark.usefixtures("double")
VOCABULARY, STEPS = 3, 3
PROMPT = torch.tensor([1, 0])


def scored(answer: Tensor) -> Tensor:
    return (answer * torch.arange(1, answer.shape[-1] + 1).double().mul(2.0).cos()).sum(-1).sin()


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Mean(nn.Module):
    """The mean of the embeddings so far. `see(x)`: what each position sees besides."""

    def __init__(self, see: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))
        self.slope = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))
        self.see = see

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding[tokens]
        mean = x.cumsum(-2) / torch.arange(1, x.shape[-2] + 1).unsqueeze(-1)
        mean = mean if self.see is None else mean + self.see(x)
        return torch.tanh(mean @ self.slope) + x


class Extended(Mean):
    """The same, from the sum of the embeddings before."""

    error = 0.0

    def extend(self, state: tuple[Tensor, int] | None, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, int]]:
        before, length = (0.0, 0) if state is None else state
        x = self.embedding[tokens]
        total = x.cumsum(-2) + before
        positions = torch.arange(1, x.shape[-2] + 1).unsqueeze(-1) + length
        values = torch.tanh(total / positions @ self.slope) + x + self.error * length
        return values, (total[..., -1:, :], length + x.shape[-2])


def graph(model: nn.Module, estimator: scg.Estimator | None = None, *, entropy: float = 0.3, **knobs: object) -> scg.Graph:
    made = scg.Graph()
    with made.sequence():
        made.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])

        @made.stochastic(estimator or ScoreFunction(), **knobs)
        def token(logits):
            return Categorical(logits=logits)

        @made.cost
        def bonus(pi=dist("token")):
            return -entropy * pi.entropy()

    @made.reward
    def score(answer=prefix("token")):
        return scored(answer)

    return made


def answers() -> Tensor:
    return torch.tensor(list(itertools.product(range(VOCABULARY), repeat=STEPS))).T  # [time, answer]


def by_hand(model: nn.Module, entropy: float = 0.3) -> Tensor:
    """E[cost] as a sum over all answers, each evaluated from its prefixes alone."""
    total = torch.zeros(())
    for answer in answers().T:
        probability, cost = torch.ones(()), torch.zeros(())
        for t in range(STEPS):
            pi = Categorical(logits=model(torch.cat([PROMPT, answer[:t]]))[-1])
            cost = cost - entropy * pi.entropy()
            probability = probability * pi.probs[answer[t]]
        total = total + probability * (cost - scored(answer))
    return total


def flat(value: Tensor, model: nn.Module) -> Tensor:
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


def mean_gradient(made: scg.Graph, model: nn.Module) -> Tensor:
    """The mean of the surrogate's gradient over all answers, one replay each."""
    total: Tensor | float = 0.0
    for answer in answers().T:
        trace = made.replay({"token": answer}, prompt=PROMPT)
        total = total + trace.log_prob("token").sum().exp() * flat(trace.surrogate(), model)
    return torch.as_tensor(total)


def test_one_pass_gives_what_step_by_step_does():
    model = Transformer(5, width=8, layers=2, heads=2, context=8)
    made, prompt = graph(model), torch.randint(3, (4, 2))
    sampled = made.sample(steps=4, prompt=prompt)
    replayed = made.replay({"token": sampled["token"]}, prompt=prompt)
    assert replayed["logits"].shape == (4, 4, 5)
    torch.testing.assert_close(replayed["logits"], sampled["logits"])
    torch.testing.assert_close(flat(replayed.surrogate(), model), flat(sampled.surrogate(), model))
    calls: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
    with scg.examination(again=False):
        made.replay({"token": sampled["token"]}, prompt=prompt)
    assert calls == [(4, 5)]


@pytest.mark.parametrize("baseline", [None, 0.7])
def test_the_mean_gradient_over_all_answers_is_the_true_one(baseline):
    model = Mean()
    made, truth = graph(model, baseline=baseline), flat(by_hand(model), model)
    torch.testing.assert_close(mean_gradient(made, model), truth)


def test_a_twin_that_forgets_later_costs_is_caught():
    model = Mean()
    made = scg.Graph()
    with made.sequence():
        made.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])
        made.stochastic(ScoreFunction(), lambda logits: Categorical(logits=logits), name="token")
        made.deterministic(model, name="cut", parents=[detach(prefix("token", init="prompt"))])
        made.cost(lambda cut: -0.3 * Categorical(logits=cut).entropy(), name="bonus")
    made.reward(scored, name="score", parents=[prefix("token")])
    wrong = mean_gradient(made, model) - flat(by_hand(model), model)
    assert wrong.norm() > 0.01 * flat(by_hand(model), model).norm()


def test_recorded_under_another_policy_the_prefix_ratios_are_right():
    """All answers once, under the uniform policy: their mean is the objective, and its gradient the true one."""
    model = Mean()
    every = answers()
    given = {"token": every, "token.log_prob": torch.full(every.shape, 1 / VOCABULARY).log()}
    trace = graph(model).replay(given, prompt=PROMPT.expand(every.shape[1], 2))
    torch.testing.assert_close(trace.objective, by_hand(model).detach())
    torch.testing.assert_close(flat(trace.surrogate(), model), flat(by_hand(model), model))


def test_a_transformer_over_all_625_answers():
    """GPT-2's shape, two layers, vocabulary 5, four tokens: the replay of all answers at once against enumeration."""
    model = Transformer(5, width=4, layers=2, heads=2, context=8, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    every = torch.tensor(list(itertools.product(range(5), repeat=4))).T
    given = {"token": every, "token.log_prob": torch.full(every.shape, 1 / 5).log()}
    made = graph(model)
    trace = made.replay(given, prompt=PROMPT.expand(625, 2))
    found = exact_gradient(made, {"prompt": PROMPT}, wrt=model, steps=4)
    torch.testing.assert_close(flat(trace.surrogate(), model), torch.cat([g.flatten() for g in found.values()]))


def test_enumeration_agrees_with_the_sum_by_hand():
    model = Mean()
    found = exact_gradient(graph(model), {"prompt": PROMPT}, wrt=model, steps=STEPS)
    torch.testing.assert_close(torch.cat([g.flatten() for g in found.values()]), flat(by_hand(model), model))


@pytest.mark.parametrize("estimator", [ScoreFunction(), Pruned(LeaveOneOut(2)), Pruned(Enumeration(), share=0.3)], ids=str)
def test_estimators_of_tokens_are_unbiased(estimator):
    model = Mean()
    report = check_unbiased(
        graph(model, estimator), {"prompt": PROMPT}, wrt={"slope": model.slope}, steps=2, detectable=0.6, false_alarm=0.01
    )
    assert report.ok, report


def test_below_a_prompt_that_branches():
    model = Mean()
    with pytest.raises(GraphError, match="feeds a prev"):
        graph(model, LeaveOneOut(2)).sample(steps=2, prompt=PROMPT)
    made = scg.Graph()

    @made.stochastic(Enumeration())
    def task(theta):
        return Categorical(logits=theta)

    @made.deterministic
    def prompt(task):
        return torch.stack([task, 0 * task + 2], -1)

    with made.sequence():
        made.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])
        made.stochastic(ScoreFunction(), lambda logits: Categorical(logits=logits), name="token")
    made.reward(
        lambda task, answer: (task - answer.sum(-1)).double().cos(), name="score", parents=["task", prefix("token", init=None)]
    )
    theta = torch.tensor([0.2, -0.3, 0.1], requires_grad=True)
    trace = made.sample(steps=2, theta=theta)
    assert trace["token"].shape == (3, 2)  # [branch, time]
    report = check_unbiased(
        made, {"theta": theta}, wrt={"theta": theta, "slope": model.slope}, steps=2, detectable=0.6, false_alarm=0.01
    )
    assert report.ok, report


def test_values_with_an_event_and_a_path():
    weight = torch.tensor([[0.5, -0.3], [0.2, 0.4]], requires_grad=True)
    made = scg.Graph()
    with made.sequence():

        @made.deterministic
        def mean(x=prefix("x", init="start", event=1)):
            return x.cumsum(-2) @ weight

        @made.stochastic(Pathwise())
        def x(mean):
            return Independent(Normal(mean, 0.5), 1)

        @made.cost
        def square(x):
            return x.square().sum(-1)

    start = torch.tensor([[0.4, -0.2]])
    trace = made.sample(steps=3, start=start.expand(6, 1, 2), generator=torch.Generator().manual_seed(1))
    seen, total = start.expand(6, 1, 2), torch.zeros(())
    noise = torch.Generator().manual_seed(1)
    for _ in range(3):
        now = (seen.cumsum(-2) @ weight)[:, -1] + 0.5 * torch.randn(6, 2, generator=noise)
        total, seen = total + now.square().sum(-1).mean(), torch.cat([seen, now.unsqueeze(1)], 1)
    torch.testing.assert_close(trace["x"].movedim(0, 1), seen[:, 1:])
    torch.testing.assert_close(torch.autograd.grad(trace.surrogate(), weight)[0], torch.autograd.grad(total, weight)[0])
    short = scg.Graph()
    with short.sequence():
        short.deterministic(lambda x: x, name="mean", parents=[prefix("x", init="start")])
        short.stochastic(Pathwise(), lambda mean: Independent(Normal(mean, 1.0), 1), name="x")
        short.cost(lambda x: x.sum(-1), name="c")
    with pytest.raises(GraphError, match=r"say event=1"):
        short.sample(steps=2, start=start)


def later(distance: int, begin: int = 0) -> Callable[[Tensor], Tensor]:
    """What lies so many positions ahead, from position `begin` on."""

    def see(x: Tensor) -> Tensor:
        length = x.shape[-2]
        ahead = nn.functional.pad(x[..., distance:, :], (0, 0, 0, min(distance, length)))[..., :length, :]
        return ahead * (torch.arange(length) >= begin).unsqueeze(-1)

    return see


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize(("distance", "begin", "step"), [(1, 0, 0), (1, 4, 3), (2, 0, 0), (3, 5, 4)])
def test_a_mask_that_leaks_is_refused_with_its_first_step(batch, distance, begin, step):
    """Two positions of a prompt: step t reads position t + 1 last."""
    model = Mean(later(distance, begin))
    with pytest.raises(GraphError, match=rf"node 'logits': its value at step {step} moves"):
        graph(model).sample(steps=9, prompt=torch.ones(*batch, 2, dtype=torch.long))


@pytest.mark.parametrize("begin", [2, 25, 50])
def test_a_leak_over_a_stretch_is_found_wherever_it_begins(begin):
    """More places than passes and elements: the places to cut at are spread over the whole length."""
    with pytest.raises(GraphError, match="its mask lets a position see later ones"):
        graph(Mean(later(1, begin))).sample(steps=62, prompt=torch.ones(1, 2, dtype=torch.long))


def test_on_very_many_positions_there_are_fewer_passes_and_a_leak_is_found(monkeypatch):
    lengths, counts, model = [], [], Mean()
    model.register_forward_hook(lambda module, inputs, result: lengths.append(inputs[0].shape[-1]))
    for large in (2**16, 100):
        monkeypatch.setattr(causal, "LARGE", large)
        lengths.clear()
        graph(model).sample(steps=30, prompt=torch.ones(4, 2, dtype=torch.long))
        counts.append(lengths.count(31))
    assert counts[0] - counts[1] == causal.PASSES - 1
    with pytest.raises(GraphError, match="its mask lets a position see later ones"):
        graph(Mean(later(1))).sample(steps=30, prompt=torch.ones(4, 2, dtype=torch.long))


def test_a_leak_within_the_prompt_is_none():
    """No value of the sequence lies there."""
    model = Mean(lambda x: later(1)(x) * (torch.arange(x.shape[-2]) < 1).unsqueeze(-1))
    graph(model).sample(steps=4, prompt=torch.ones(2, 2, dtype=torch.long))


def test_a_leak_is_seen_in_a_recording_too():
    token = torch.randint(3, (6, 4))
    graph(Mean()).replay({"token": token}, prompt=PROMPT.expand(4, 2))
    with pytest.raises(GraphError, match="its mask lets a position see later ones"):
        graph(Mean(later(1))).replay({"token": token}, prompt=PROMPT.expand(4, 2))


def test_what_depends_on_how_many_follow_is_refused():
    model = Mean(lambda x: 0.3 * x * x.shape[-2])
    with pytest.raises(GraphError, match="node 'logits': all steps at once it gives another value at step 0"):
        graph(model).sample(steps=3, prompt=PROMPT)


def test_a_cache_is_held_against_the_whole():
    right, wrong = Extended(), Extended()
    wrong.error = 0.05
    trace = graph(right).sample(steps=4, prompt=PROMPT.expand(3, 2))
    torch.testing.assert_close(
        graph(right).replay({"token": trace["token"]}, prompt=PROMPT.expand(3, 2))["logits"], trace["logits"]
    )
    with pytest.raises(GraphError, match="node 'logits': extend gives another value at step 1"):
        graph(wrong).sample(steps=4, prompt=PROMPT)


def test_a_cache_gets_new_positions_alone():
    model, seen = Extended(), []
    made = graph(model)
    made.sample(steps=4, prompt=PROMPT.expand(3, 2))  # examined
    extend = model.extend
    model.extend = lambda state, tokens: seen.append(tokens.shape[-1]) or extend(state, tokens)
    with scg.examination(again=False):
        made.sample(steps=4, prompt=PROMPT.expand(3, 2))
    assert seen == [2, 1, 1, 1]


def test_a_prompt_shared_by_the_batch():
    model = Extended()
    made = graph(model)
    token = torch.randint(3, (4, 5))
    shared = made.replay({"token": token}, prompt=PROMPT)
    each = made.replay({"token": token}, prompt=PROMPT.expand(5, 2))
    torch.testing.assert_close(flat(shared.surrogate(), model), flat(each.surrogate(), model))


def test_after_the_end_nothing_has_gradient_and_padding_is_certain():
    """`eos` ends an answer; its mask is a function of the prefix, so all rules stay as they are."""
    model, eos, pad = Mean(), 2, 0

    def policy(tokens: Tensor, prompt: Tensor) -> Tensor:
        ended = (tokens == eos) & (torch.arange(tokens.shape[-1]) >= prompt.shape[-1])
        padded = torch.full((VOCABULARY,), -torch.inf).index_fill(0, torch.tensor(pad), 0.0)
        return torch.where((ended.cumsum(-1) > 0).unsqueeze(-1), padded, model(tokens))

    made = scg.Graph()
    with made.sequence():
        made.deterministic(policy, name="logits", parents=[prefix("token", init="prompt"), "prompt"])
        made.stochastic(ScoreFunction(), lambda logits: Categorical(logits=logits), name="token")
    made.reward(scored, name="score", parents=[prefix("token")])
    truth, found = torch.zeros(()), torch.zeros(())
    for answer in answers().T:
        pis = [Categorical(logits=model(torch.cat([PROMPT, answer[:t]]))[-1]) for t in range(STEPS)]
        ends = [t for t in range(STEPS) if answer[t] == eos]
        last = ends[0] if ends else STEPS - 1
        if (answer[last + 1 :] != pad).any():
            continue
        probability = torch.stack([pis[t].probs[answer[t]] for t in range(last + 1)]).prod()
        truth = truth - probability * scored(answer)
        found = found + probability.detach() * flat(made.replay({"token": answer}, prompt=PROMPT).surrogate(), model)
    torch.testing.assert_close(found, flat(truth, model))
    tokens = made.sample(steps=STEPS, prompt=PROMPT.expand(64, 2))["token"]
    ended = (tokens == eos).cumsum(0) > 0
    assert (tokens[1:][ended[:-1]] == pad).all()


def test_a_verifier_may_know_answers_of_one_length_alone():
    """The examination, of three steps elsewhere, is then of all."""
    value = torch.randn(5, VOCABULARY)
    made, model = scg.Graph(), Mean()
    with made.sequence():
        made.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])
        made.stochastic(ScoreFunction(), lambda logits: Categorical(logits=logits), name="token")
    made.reward(lambda answer: value[torch.arange(5), answer].sum(-1), name="score", parents=[prefix("token")])
    assert made.sample(steps=5, prompt=PROMPT.expand(4, 2))["score"].shape == (4,)
    with pytest.raises(IndexError):
        made.sample(steps=4, prompt=PROMPT.expand(4, 2))


def test_an_objective_of_its_own_for_each_module():
    """A critic that reads the same prefix leaves nothing in the policy."""
    model, value = Mean(), nn.Linear(1, 1)
    made = scg.Graph()
    with made.sequence():
        made.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])
        made.deterministic(
            lambda x: value(x.double().cumsum(-1).unsqueeze(-1)).squeeze(-1), name="v", parents=[prefix("token", init="prompt")]
        )
        made.stochastic(ScoreFunction(), lambda logits: Categorical(logits=logits), name="token", baseline="v")
        made.cost(lambda token: (token - 0.5).double(), name="c", trains=model)
        made.cost(lambda v: (v - 1.0).square(), name="fit", trains=value)
    trace = made.sample(steps=3, prompt=PROMPT.expand(4, 2))
    trace.surrogate("fit").backward(retain_graph=True)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None for p in value.parameters())


def test_windows_ancestors_and_how_it_is_written():
    made = graph(Mean())
    assert made.lags("token", "logits") == scg.analysis.structure.Window(1, float("inf"))
    assert made.lags("token", "score") == scg.analysis.structure.Window(0, float("inf"))
    assert made.lags("token", "bonus") == scg.analysis.structure.Window(1, float("inf"))
    assert made.ancestors("score") == ("token",)
    assert "t" in made.to_mermaid()
    assert "token_{<t}" in str(made.derivation())


def outside() -> None:
    made = scg.Graph()
    made.stochastic(ScoreFunction(), lambda logits: Categorical(logits=logits), name="token", parents=["theta"])
    made.cost(lambda x: x, name="c", parents=[prefix("token")])
    made.check()
    raise GraphError(made.check()[0].message)


def without_init() -> None:
    made = scg.Graph()
    with made.sequence():
        made.deterministic(lambda x: x, name="h", parents=[prefix("token")])
        made.stochastic(ScoreFunction(), lambda h: Categorical(logits=h), name="token")
    _ = made.structure


def in_a_distribution() -> None:
    made = scg.Graph()
    with made.sequence():
        made.stochastic(ScoreFunction(), lambda x: Categorical(logits=x), name="token", parents=[prefix("token", init="p")])
    _ = made.structure


def beside_a_step() -> None:
    made = scg.Graph()
    with made.sequence():
        made.observed("obs")
        made.deterministic(lambda x, obs: x, name="h", parents=[prefix("token", init="p"), "obs"])
        made.stochastic(ScoreFunction(), lambda h: Categorical(logits=h), name="token")
    _ = made.structure


def with_episodes() -> None:
    made = scg.Graph()
    with made.sequence(first="first"):
        made.observed("first")
        made.deterministic(lambda x: x, name="h", parents=[prefix("token", init="p")])
        made.stochastic(ScoreFunction(), lambda h: Categorical(logits=h), name="token")
    _ = made.structure


def one_value_for_all() -> None:
    made = scg.Graph()
    with made.sequence():
        made.deterministic(lambda x: x.sum(-1), name="h", parents=[prefix("token", init="p")])
        made.stochastic(NoGradient(), lambda h: Categorical(logits=h), name="token")
    made.sample(steps=2, p=torch.zeros(4, 2, dtype=torch.long))


def no_positions() -> None:
    made = graph(Mean())
    made.sample(steps=2, prompt=torch.tensor(1))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (outside, "needs a stochastic node of the sequence"),
        (without_init, "is empty at the first step"),
        (in_a_distribution, "this is a stochastic node"),
        (beside_a_step, "beside a prefix it reads 'obs' at one step"),
        (with_episodes, "Give each episode a batch element of its own"),
        (one_value_for_all, r"one value for each position, \[batch…, length, …\]: axis 1 is to have size 2"),
        (no_positions, "the initial positions are a tensor"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_refused(build, said):
    with pytest.raises(GraphError, match=said):
        build()


def test_pairs_are_refused():
    trace = graph(Mean(), credit=0.3).replay({"token": torch.randint(3, (3, 4))}, prompt=PROMPT.expand(4, 2))
    with pytest.raises(GraphError, match="it reads a prefix, which a single step does not have"):
        trace.pairs(torch.tensor([0]))
