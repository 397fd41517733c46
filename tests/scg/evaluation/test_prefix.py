"""A node that reads a prefix: the same policy step by step and in one pass, and exact gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

import scg
from scg import GraphError, Pathwise, ScoreFunction, detach, prefix
from scg.agents.networks.transformer import Transformer
from scg.estimators import Enumeration, LeaveOneOut, Pruned
from scg.testing import check_unbiased, exact_gradient
from tests.scg.prefixes import PROMPT, STEPS, VOCABULARY, Extended, Mean, answers, by_hand, flat, graph, mean_gradient, scored


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
