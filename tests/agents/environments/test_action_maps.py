"""Actions inside their space, whatever the space and whatever the agent says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from scg.agents.environments.action_maps import to_bins, to_space
from scg.agents.environments.action_spaces import action_dim
from scg.agents.environments.envs import EnvironmentFault

INF, MAX = np.inf, np.finfo(np.float32).max
SPACES = {
    "bounded": spaces.Box(-1.0, 3.0, (2,)),
    "unit": spaces.Box(-1.0, 1.0, (2,)),
    "uneven": spaces.Box(np.array([-0.1, 1e-3], np.float32), np.array([0.7, 0.3], np.float32)),
    "double": spaces.Box(-0.1, 0.7, (2,), np.float64),
    "below": spaces.Box(0.0, INF, (2,)),
    "above": spaces.Box(-INF, -0.3, (2,)),
    "mixed": spaces.Box(np.array([0.2, -INF], np.float32), np.array([0.9, INF], np.float32)),
    "far": spaces.Box(-1e6, 1e6, (2,)),
    "max": spaces.Box(-MAX, MAX, (2,)),
    "far from zero": spaces.Box(1e6, 1e6 + 1, (2,)),
    "integers": spaces.Box(0, 3, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (2,), np.uint8),
    "signed bytes": spaces.Box(-128, 127, (2,), np.int8),
    "counts": spaces.Box(0, INF, (2,), np.int64),  # type: ignore[arg-type]
    "all integers": spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
    "image": spaces.Box(0.0, 1.0, (2, 2)),
}
VALUES = np.concatenate([np.linspace(-1.0, 1.0, 41), [-1e30, -7.3, 7.3, 1e30, -INF, INF, 1 - 1e-9, -1 + 1e-9, -0.0]])


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_every_action_that_reaches_the_environment_is_inside_its_space(name: str, kind: Any) -> None:
    space = SPACES[name]
    actions = np.broadcast_to(VALUES.reshape(-1, *[1] * len(space.shape)), (len(VALUES), *space.shape)).astype(kind)
    with np.errstate(over="ignore"):
        mapped = to_space(space)(actions)
    outside = [row for row in mapped if not space.contains(row)]
    assert not outside


@pytest.mark.parametrize(("low", "high"), [(0, 3), (-2, 2), (5, 5)])
def test_integers_are_played_in_equal_shares(low: int, high: int) -> None:
    actions = (np.arange(1200) + 0.5)[:, None] / 600 - 1
    played, counts = np.unique(to_space(spaces.Box(low, high, (1,), np.int64))(actions), return_counts=True)
    assert played.tolist() == list(range(low, high + 1))
    assert set(counts.tolist()) == {1200 // (high - low + 1)}


def test_a_half_bounded_action_is_the_agents_own_up_to_the_bound() -> None:
    mapped = to_space(spaces.Box(0.0, INF, (1,)))(np.array([[-2.0], [0.5], [40.0]]))
    assert mapped.tolist() == [[0.0], [0.5], [40.0]]


@pytest.mark.parametrize("name", ["below", "above", "mixed", "far", "max"])
def test_spaces_without_a_scale_are_refused_where_one_is_needed(name: str) -> None:
    for needs in (action_dim, lambda space: to_bins(space, 5)):
        with pytest.raises(EnvironmentFault, match="2e\\+05 apart"):
            needs(SPACES[name])  # type: ignore[operator]


def test_bounds_at_most_twice_1e5_apart_are_a_scale() -> None:
    space = spaces.Box(-1e5, 1e5, (1,))
    assert action_dim(space) == 1
    assert to_space(space)(np.array([[0.5]])).tolist() == [[5e4]]
    assert to_bins(space, 3)(np.array([0, 1, 2])).tolist() == [[-1e5], [0.0], [1e5]]


def test_bins_of_integers_are_the_nearest() -> None:
    assert to_bins(spaces.Box(0, 3, (1,), np.int64), 3)(np.array([0, 1, 2])).flatten().tolist() == [0, 2, 3]
