"""Hindsight: relabelled rows against a plain loop over episodes, and the goals' distribution against what is stated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from scg.agents import config_type
from scg.agents.environments import envs
from scg.agents.environments.envs import EnvironmentFault
from scg.agents.environments.goal_space import GoalSpace
from scg.agents.execution.options import OptionError
from scg.agents.experience import tensor_files
from scg.agents.experience.exploration import RandomChoice, UniformActions
from scg.agents.experience.hindsight import Hindsight, PrioritisedHindsight, Strategy
from scg.agents.experience.prioritised import EPSILON
from scg.agents.experience.replay import Multistep
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.training.loop import train
from scg.agents.training.presets import preset
from scg.agents.training.run_directory import RunConfig, RunDirectory
from tests.agents.training.test_loop import assert_same

STRATEGIES = get_args(Strategy)
GAMMA = 0.9


class Line:
    """Goals on a line: what is achieved there is reached within 1.5, which costs nothing and, at an even goal, is the end."""

    def compute_reward(self, achieved: Any, desired: Any, info: dict) -> Any:
        return -np.abs(achieved - desired)[..., 0] * (np.abs(achieved - desired)[..., 0] > 1.5)

    def compute_terminated(self, achieved: Any, desired: Any, info: dict) -> Any:
        return (np.abs(achieved - desired)[..., 0] <= 1.5) & (np.asarray(desired)[..., 0] % 2 == 0)


def line_space() -> GoalSpace:
    box = spaces.Box(-1e6, 1e6, (1,), np.float64)
    where = spaces.Box(-1e6, 1e6, (2,), np.float64)
    return GoalSpace(spaces.Dict({"observation": where, "achieved_goal": box, "desired_goal": box}), Line())


def made_up(steps: int, batch: int, seed: int, start: int = 0, carried: Tensor | None = None) -> Block:
    """Rows that say when and where they were; the achieved goals are small integers, so that goals are met now and then."""
    g = Generator().manual_seed(seed)
    kind = {"dtype": torch.float64}
    time = (start + torch.arange(steps, **kind))[:, None].expand(steps, batch)
    place = torch.arange(batch, **kind).expand(steps, batch)
    some = lambda: torch.randint(0, 9, (steps, batch), generator=g).double()  # noqa: E731
    desired, achieved, after = some() + 100, some(), some()
    terminated, truncated = (torch.rand(steps, batch, generator=g) < 0.15 for _ in range(2))
    over = terminated | truncated
    first = torch.cat([torch.ones(1, batch, dtype=torch.bool) if carried is None else carried[None], over[:-1]])
    first[1:] |= torch.rand(steps - 1, batch, generator=g) < 0.05  # cut without a flag, as by a resumption that begins anew
    obs = torch.stack([time, place, desired, achieved], -1)
    next_obs = torch.stack([time + 0.5, place, desired, after], -1)
    reward = torch.randn(steps, batch, generator=g, **kind)
    return Block(
        obs, torch.randn(steps, batch, 2, generator=g, **kind), None, reward, terminated, truncated, first, next_obs, []
    )


def filled(
    lengths: list[int], batch: int, capacity: int, seed: int, n: int = 1, strategy: Strategy = "future", kind: Any = Hindsight
) -> tuple[Hindsight, dict[str, Tensor]]:
    """A ring after blocks of these lengths, and all rows that ever were, end to end."""
    replay = kind(capacity, Multistep(GAMMA, n), space=line_space(), strategy=strategy)
    replay._checked = 10**9  # these rows are nobody's: their rewards are not what the functions say
    blocks: list[Block] = []
    for i, length in enumerate(lengths):
        last = blocks[-1] if blocks else None
        carried = None if last is None else last.terminated[-1] | last.truncated[-1]
        if i % 3 == 2 and carried is not None:
            carried = torch.ones_like(carried)  # environments that cannot be saved begin anew after a resumption
        blocks.append(made_up(length, batch, seed + i, sum(lengths[:i]), carried))
        replay.add(blocks[-1])
    names = [f.name for f in dataclasses.fields(Block) if isinstance(getattr(blocks[0], f.name), Tensor)]
    return replay, {name: torch.cat([getattr(block, name) for block in blocks]) for name in names}


def bounds(rows: dict[str, Tensor], t: int, e: int, oldest: int) -> tuple[int, int]:
    """The first and the last row, as far as there are any, of the episode that row t of environment e belongs to."""
    over, first = rows["terminated"] | rows["truncated"], rows["first"]
    begin, end, newest = t, t, len(first) - 1
    while begin > oldest and not first[begin, e]:
        begin -= 1
    while end < newest and not over[end, e] and not first[end + 1, e]:
        end += 1
    return begin, end


def possible(rows: dict[str, Tensor], t: int, e: int, oldest: int, strategy: Strategy) -> list[tuple[int, int]]:
    """Every (time, environment) whose achieved goal row (t, e) may be given."""
    begin, end = bounds(rows, t, e, oldest)
    newest, batch = rows["reward"].shape[0] - 1, rows["reward"].shape[1]
    span = {"final": range(end, end + 1), "future": range(t, end + 1), "episode": range(begin, end + 1)}
    if strategy == "random":
        return [(s, d) for s in range(oldest, newest + 1) for d in range(batch)]
    return [(s, e) for s in span[strategy]]


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=7)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(deadline=None, derandomize=True, max_examples=20)
@given(LENGTHS, st.integers(1, 3), st.integers(3, 40), st.integers(0, 10**6))
def test_goals_come_from_where_the_strategy_says(
    strategy: Strategy, lengths: list[int], batch: int, capacity: int, seed: int
) -> None:
    """Never from another episode (but for "random"), never from over the ring's seam; every row of it, often enough drawn,
    is a source. Episodes that still go on reach to the newest row."""
    replay, rows = filled(lengths, batch, capacity, seed, strategy=strategy)
    count, slots = sum(lengths), replay.slots
    oldest = max(0, count - slots)
    times = torch.arange(oldest, count)
    index = ((times % slots)[:, None] * batch + torch.arange(batch)).flatten()
    draws = 200
    sources = replay.sources(index.repeat(draws), Generator().manual_seed(seed))
    found = replay._data["next_obs"].flatten(0, 1)[sources].view(draws, len(times), batch, 4)
    for i, t in enumerate(times.tolist()):
        for e in range(batch):
            drawn = {(int(s - 0.5), int(d)) for s, d, *_ in found[:, i, e].tolist()}
            allowed = set(possible(rows, t, e, oldest, strategy))
            assert drawn <= allowed
            if len(allowed) <= 12:  # one of 12 is missed by 200 draws once in 3·10⁶ rows
                assert drawn == allowed


@settings(deadline=None, derandomize=True, max_examples=40)
@given(LENGTHS, st.integers(1, 3), st.integers(3, 40), st.integers(1, 5), st.sampled_from(STRATEGIES), st.integers(0, 10**6))
def test_relabelled_rows_equal_a_plain_loop(
    lengths: list[int], batch: int, capacity: int, n: int, strategy: Strategy, seed: int
) -> None:
    """Rewards, terminations and n-step targets under the new goal, row by row with the environment's own functions."""
    replay, rows = filled(lengths, batch, capacity, seed, n, strategy)
    env, count, slots = Line(), sum(lengths), replay.slots
    index = torch.arange(len(replay))
    goals = replay._data["next_obs"].flatten(0, 1)[replay.sources(index, Generator().manual_seed(seed)), 3:]
    got = replay.relabelled(index, goals)
    oldest = max(0, count - slots)
    for i in index.tolist():
        slot, e = divmod(i, batch)
        t = next(t for t in range(oldest, count) if t % slots == slot)
        goal = goals[i].numpy()
        _, end = bounds(rows, t, e, oldest)
        total, last, over = 0.0, t, False
        for last in range(t, min(t + n - 1, end) + 1):
            achieved = rows["next_obs"][last, e, 3:].numpy()
            total += GAMMA ** (last - t) * float(env.compute_reward(achieved, goal, {}))
            over = bool(env.compute_terminated(achieved, goal, {}))
            if over:
                break
        assert got["obs"][i].tolist() == [t, e, goal.item(), rows["obs"][t, e, 3].item()]
        assert got["next_obs"][i].tolist() == [last + 0.5, e, goal.item(), rows["next_obs"][last, e, 3].item()]
        assert got["reward"][i].item() == pytest.approx(total, abs=1e-12)
        assert got["discount"][i].item() == pytest.approx(0.0 if over else GAMMA ** (last - t + 1), abs=1e-12)


def uniform_over_the_future(picked: Tensor, times: Tensor, ends: Tensor) -> float:
    """χ² of offsets against uniform ones: a row with m rows to its episode's end adds m − 1 degrees of freedom.

    Returned as a standard score, by Wilson and Hilferty's cube root: above 3.7 once in 10,000 seeds."""
    statistic, freedom = 0.0, 0
    for time in times.unique().tolist():
        here = times == time
        m = int(ends[here][0]) - time + 1
        counts = torch.bincount(picked[here] - time, minlength=m)
        expected = int(here.sum()) / m
        statistic += float(((counts - expected).square() / expected).sum())
        freedom += m - 1
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


def offsets(wrong: bool) -> float:
    """The score of 40,000 draws, or of a twin that leaves a row's own outcome out one time in five."""
    replay, rows = filled([37, 20], 1, 57, seed=3)
    draws = 1000
    times = torch.arange(57).repeat(draws)
    sources = replay.sources(times, Generator().manual_seed(1))  # with one environment and no seam, index is time
    ends = torch.tensor([bounds(rows, t, 0, 0)[1] for t in range(57)]).repeat(draws)
    if wrong:
        skipped = (torch.rand(len(times), generator=Generator().manual_seed(2)) < 0.2) & (sources == times) & (times < ends)
        sources = torch.where(skipped, sources + 1, sources)
    several = ends > times
    return uniform_over_the_future(sources[several], times[several], ends[several])


def test_future_goals_are_uniform_over_the_rest_of_the_episode() -> None:
    """χ² at a level of 10⁻⁴; with 1,000 draws a row, a fifth less of one outcome is found (its score is above 10)."""
    assert offsets(wrong=False) < 3.7
    assert offsets(wrong=True) > 10


def test_k_of_every_k_plus_one_rows_have_another_goal_and_the_rest_are_as_recorded() -> None:
    replay, _ = filled([40], 2, 80, seed=0)
    drawn = replay.sample(20_000, Generator().manual_seed(0))
    own = drawn.rows["obs"][:, 2] >= 100  # nobody achieves what was desired here
    assert abs(own.double().mean() - 0.2) < 4 * (0.2 * 0.8 / 20_000) ** 0.5  # false alarm once in 16,000 seeds
    assert_same({k: v[own] for k, v in drawn.rows.items()}, replay.rows(drawn.index[own]))
    again = replay.sample(20_000, Generator().manual_seed(0))
    assert_same(drawn.rows, again.rows)


@pytest.mark.parametrize(("k", "share"), [(0, 0.0), (1e400, 1.0)])
def test_no_row_or_every_row_can_have_another_goal(k: float, share: float) -> None:
    replay = Hindsight(80, Multistep(GAMMA), space=line_space(), k=k)
    replay._checked = 10**9
    replay.add(made_up(40, 2, 0))
    assert (replay.sample(500, Generator().manual_seed(0)).rows["obs"][:, 2] < 100).double().mean() == share


def test_a_goal_is_one_for_both_observations_and_the_ring_is_not_written_to() -> None:
    replay, _ = filled([40], 2, 80, seed=0, n=3)
    before = {name: ring.clone() for name, ring in replay._data.items()}
    drawn = replay.sample(500, Generator().manual_seed(0))
    another = drawn.rows["obs"][:, 2] < 100
    assert torch.equal(drawn.rows["obs"][another, 2], drawn.rows["next_obs"][another, 2])
    assert_same(before, replay._data)


@pytest.mark.parametrize("kind", [Hindsight, PrioritisedHindsight])
@pytest.mark.parametrize("lengths", [[3], [9, 9, 9, 9], [25], [1] * 30])
def test_a_saved_buffer_draws_the_same_goals_when_it_is_restored(tmp_path: Path, kind: Any, lengths: list[int]) -> None:
    """…and goes on marking episodes that were open when it was saved."""
    replay = kind(20, Multistep(GAMMA, 2), space=line_space())
    replay._checked = 10**9
    state, carried = {}, None
    for i, length in enumerate(lengths):
        block = made_up(length, 2, i, sum(lengths[:i]), carried)
        carried = block.terminated[-1] | block.truncated[-1]
        replay.add(block)
        state = replay.save(tmp_path / "replay")
    tensor_files.save(tmp_path / "state.pt", state)
    other = kind(20, Multistep(GAMMA, 2), space=line_space())
    other._checked = 10**9
    other.load(tmp_path / "replay", tensor_files.load(tmp_path / "state.pt"))
    for buffer in (replay, other):
        buffer.add(made_up(6, 2, 99, sum(lengths), carried))
    one, two = (buffer.sample(256, Generator().manual_seed(0)) for buffer in (replay, other))
    assert_same(one.rows, two.rows)


def test_prioritised_rows_keep_their_importance_and_their_index() -> None:
    replay, _ = filled([40], 2, 80, seed=0, kind=PrioritisedHindsight)
    replay.learned(torch.arange(80), torch.arange(80) ** 4.0)
    drawn = replay.sample(4000, Generator().manual_seed(0))
    p = (torch.arange(80) ** 4.0 + EPSILON) ** replay.alpha  # type: ignore[attr-defined]
    counts = torch.bincount(drawn.index, minlength=80)
    assert ((counts - 4000 * p / p.sum()).abs() <= 2).all()  # stratified: never more than a draw at either end off
    assert drawn.rows["importance"].max() == 1
    assert (drawn.rows["obs"][:, 2] < 100).double().mean() > 0.7  # and most of them have another goal


# -- on environments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "options"), [("BitFlip4-v0", {}), ("PointReach-v0", {"terminates": True, "radius": 0.3})])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_row_under_its_own_goal_is_computed_as_the_environment_recorded_it(env_id: str, options: Any, steps: int) -> None:
    """Rewards, terminations and n-step targets of every row; so the functions are the environment's own, on whole batches."""
    with envs.make(env_id, 3, **options) as vector:
        rollout = Rollout(vector, [0, 1, 2], Generator().manual_seed(0))
        random = RandomChoice(vector.action_space) if "Bit" in env_id else UniformActions(2)
        replay = Hindsight(600, Multistep(0.5, steps), space=vector.obs_space)
        for _ in range(25):
            replay.add(rollout.collect(random, 8, log_prob=False))
    index = torch.arange(len(replay))
    recorded = replay.rows(index)
    own = replay._data["next_obs"].flatten(0, 1)[:, replay.space.desired]
    again = replay.relabelled(index, own)
    assert_same({name: recorded[name] for name in again}, again)
    assert (recorded["discount"] == 0).any()  # terminations are there, and time limits
    assert (replay._data["over"] & ~replay._data["terminated"]).any()


class Moody(gym.Env):
    """A goal environment that breaks the protocol as it is told to."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        kind = spaces.Discrete(3) if fault == "kind" else spaces.Box(-1, 1, (2,), np.float32)
        parts = {"observation": kind, "achieved_goal": kind, "desired_goal": kind}
        self.observation_space = spaces.Dict({k: v for k, v in parts.items() if (k, fault) != ("desired_goal", "missing")})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.goal = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        obs, info = self._obs(), {"bonus": float(self.np_random.random())}
        reward = self.compute_reward(obs["achieved_goal"], self.goal, info) + (self.fault == "reward")
        ended = self.compute_terminated(obs["achieved_goal"], self.goal, info)
        ended |= self.fault == "terminated" and bool(self.np_random.random() < 0.2)
        return obs, float(reward), ended, False, info

    def _obs(self) -> dict:
        place = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        obs = {"observation": place, "achieved_goal": place, "desired_goal": self.goal}
        return {name: obs[name].copy() for name in self.observation_space.spaces}

    def compute_reward(self, achieved: Any, desired: Any, info: dict) -> Any:
        bonus = info["bonus"] if self.fault == "info" else 0.0
        return bonus - (np.linalg.norm(achieved - desired) if self.fault == "alone" else np.abs(achieved - desired).max(-1))

    def compute_terminated(self, achieved: Any, desired: Any, info: dict) -> Any:
        return bool(np.linalg.norm(achieved - desired) < 0.3) if self.fault == "" else False


gym.register("Moody-v0", entry_point=Moody, max_episode_steps=20)


def moody(fault: str) -> Hindsight:
    with envs.make("Moody-v0", 2, fault=fault) as vector:
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        replay = Hindsight(400, Multistep(GAMMA), space=vector.obs_space)
        replay.add(rollout.collect(UniformActions(1), 100, log_prob=False))
        return replay


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("reward", r"200 of 200 steps have another reward .* the first is step 0 of environment 0: recorded .*, computed"),
        ("terminated", r"of 200 steps have another terminated than .* desired one alone"),
        ("info", r"goal functions raised KeyError: 'bonus', given goals and an empty info"),
        ("missing", r"'Moody-v0': Moody has dictionary observations, but no 'desired_goal' in its observations"),
        ("kind", r"goal spaces Discrete\(3\) \(desired\) .* Both must be Box or MultiBinary"),
    ],
)
def test_an_environment_whose_goals_do_not_say_everything_is_refused(fault: str, says: str) -> None:
    with pytest.raises(EnvironmentFault, match=says):
        moody(fault)


@pytest.mark.parametrize("fault", ["", "alone"])
def test_functions_that_take_one_goal_at_a_time_are_asked_one_by_one(fault: str) -> None:
    """An `if` on the goals' distance; a norm over the whole batch, which raises nothing and is wrong. The check in `add`
    has compared them with what was recorded."""
    replay = moody(fault)
    drawn, env = replay.sample(64, Generator().manual_seed(0)).rows, Moody(fault)
    for goal, after, reward in zip(drawn["obs"][:, 2:4], drawn["next_obs"][:, 4:], drawn["reward"], strict=True):
        assert reward.item() == pytest.approx(env.compute_reward(after.numpy(), goal.numpy(), {}), rel=1e-6)


def test_hindsight_without_goals_and_unknown_strategies_are_refused() -> None:
    with pytest.raises(EnvironmentFault, match=r"observation space Box.* has no goals\. Choose a goal environment"):
        Hindsight(10, space=spaces.Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match="strategy 'past'. Known: final, future, episode, random"):
        Hindsight(10, space=line_space(), strategy="past")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="option her_k is -1"):
        config_type("sac")(her_k=-1.0)


@pytest.mark.parametrize("name", ["ddpg", "dqn", "sac", "td3"])
@pytest.mark.parametrize("prioritised", [False, True])
def test_every_off_policy_agent_learns_from_hindsight_by_a_flag(name: str, prioritised: bool) -> None:
    config = config_type(name)(her="future", warmup=40, horizon=2, batch=16, hidden=(8,), prioritised=prioritised)
    with envs.make("BitFlip4-v0" if name == "dqn" else "PointReach-v0", 2) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        for _ in range(3):
            metrics = agent.update(agent.collect(rollout, 1000), 0.0)
    assert isinstance(agent.memory, Hindsight) and np.isfinite(list(metrics.values())).all()


def test_bit_flip_is_learned_with_hindsight_and_not_without(tmp_path: Path) -> None:
    """8 bits in 2,400 steps."""
    success = {}
    for her in ("future", "none"):
        run_options, options, _ = preset("dqn", "BitFlip8-v0", 2400)
        config = config_type("dqn")(**{**options, "her": her, "hidden": (64, 64), "epsilon_share": 0.3})
        run = RunConfig("BitFlip8-v0", **run_options, steps=2400, evaluations=1, eval_episodes=100, checkpoints=1)
        success[her] = train(RunDirectory.create("dqn", run, config, tmp_path / her), quiet=True).success
    assert success["future"] >= 0.95
    assert success["none"] <= 0.2
