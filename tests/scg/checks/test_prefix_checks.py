"""What reads a prefix is examined: masks that leak, caches that differ from the whole, declarations that make no sense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import scg
from scg import GraphError, ScoreFunction, prefix
from scg.checks import causal
from scg.estimators import NoGradient
from tests.scg.prefixes import PROMPT, Extended, Mean, graph


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
