"""REDQ: its target over every subset of the ensemble, and its other losses by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Generator

from scg.agents.common.agent import OptionError
from scg.agents.networks.actors import SquashedPolicy
from scg.agents.networks.critics import QCritics, Temperature, target_copy
from scg.agents.networks.encoder import Encoder
from scg.agents.redq import REDQ, redq
from tests.agents.networks.test_networks import BOX
from tests.agents.test_off_policy_graphs import DIM, rows

ALPHA, COUNT = 0.3, 4


@pytest.mark.parametrize("subset", [1, 2, 3, 4])
def test_targets_are_the_minimum_of_a_random_subset(subset: int, double: None) -> None:
    g, encoder = Generator().manual_seed(0), Encoder(BOX)
    policy = SquashedPolicy(encoder, DIM, [8], g)
    critics, old = (QCritics(encoder, DIM, [8], COUNT, g) for _ in range(2))
    graph = redq(policy, critics, target_copy(old), Temperature(ALPHA), -2.0, subset=subset, count=COUNT)
    torch.manual_seed(0)
    given = {name: value.repeat(60, *[1] * (value.ndim - 1)) for name, value in rows(5).items()}
    trace = graph.sample(**given)
    ahead = old(given["next_obs"], trace["next_action"])
    entropy = ALPHA * policy(given["next_obs"]).log_prob(trace["next_action"])
    possible = torch.stack([ahead[:, list(chosen)].amin(-1) for chosen in combinations(range(COUNT), subset)], -1)
    targets = given["reward"][:, None] + given["discount"][:, None] * (possible - entropy[:, None])
    hit = (trace["target"][:, None] - targets).abs() < 1e-12
    assert hit.any(-1).all()
    if "rank" in graph.nodes:
        order = trace["rank"].argsort(-1, descending=True)[:, :subset]
        assert torch.allclose(trace["values"].sort(-1).values, ahead.gather(-1, order).sort(-1).values)
        chosen = torch.zeros(300, COUNT).scatter(-1, order, 1.0)
        # each critic is in the subset with probability subset / count: a standard error is at most 0.029
        assert (chosen.mean(0) - subset / COUNT).abs().max() < 0.15
    q = critics(given["obs"], given["action"])
    loss = (q - trace["target"].detach()[:, None]).square().sum(-1) / 2
    assert torch.allclose(trace["bellman"], loss)
    gain = critics(given["obs"], trace["new_action"]).mean(-1)
    assert torch.allclose(trace["soft_policy"], ALPHA * trace["log_prob"] - gain)


def test_there_are_no_more_in_the_subset_than_in_the_ensemble() -> None:
    with pytest.raises(OptionError, match="there are 2 critics"):
        REDQ(critics=2, subset=3)
    REDQ(critics=2, subset=2)
