"""Replay: what is drawn, what a target is made of, what is saved; all against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from scg.agents.environments import envs
from scg.agents.experience import tensor_files
from scg.agents.experience.exploration import UniformActions
from scg.agents.experience.prioritised import EPSILON, PrioritisedReplay, SumTree
from scg.agents.experience.replay import Multistep, Replay
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.experience.tensor_files import CheckpointError
from tests.agents.training.test_loop import assert_same


def made_up(steps: int, batch: int, seed: int, start: int = 0, ends: float = 0.2) -> Block:
    """A block whose observations say when and where they were: obs = (time, environment), next_obs = obs + 1/2."""
    g = Generator().manual_seed(seed)
    time = (start + torch.arange(steps, dtype=torch.float64))[:, None].expand(steps, batch)
    obs = torch.stack([time, torch.arange(batch, dtype=torch.float64).expand(steps, batch)], -1)
    draw = lambda: torch.rand(steps, batch, generator=g)  # noqa: E731
    action = torch.randn(steps, batch, 2, generator=g, dtype=torch.float64)
    reward = torch.randn(steps, batch, generator=g, dtype=torch.float64)
    terminated, truncated = draw() < ends, draw() < ends
    first = torch.cat([draw()[:1] < ends, (terminated | truncated)[:-1]])  # a block may begin with restarted episodes
    return Block(obs, action, None, reward, terminated, truncated, first, obs + 0.5, [])


def joined(blocks: list[Block], name: str) -> Tensor:
    return torch.cat([getattr(block, name) for block in blocks])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(2, 30),
    st.integers(1, 5),
    st.integers(0, 10**6),
)
def test_multistep_targets_equal_a_plain_loop(lengths: list[int], batch: int, capacity: int, n: int, seed: int) -> None:
    """Every row of a ring that may have wrapped, with terminations, truncations and its newest slot."""
    gamma, replay, blocks, count = 0.9, Replay(capacity, Multistep(0.9, n)), [], 0
    for i, length in enumerate(lengths):
        blocks.append(made_up(length, batch, seed + i, count))
        replay.add(blocks[-1])
        count += length
    reward, terminated, truncated, first = (joined(blocks, name) for name in ("reward", "terminated", "truncated", "first"))
    slots = -(-capacity // batch)
    kept = range(max(0, count - slots), count)
    assert len(replay) == len(kept) * batch
    for t in kept:
        for e in range(batch):
            total, last = 0.0, t
            for k in range(n):
                last = t + k
                total += gamma**k * reward[last, e]
                if terminated[last, e] or truncated[last, e] or last == count - 1 or first[last + 1, e]:
                    break
            rows = replay.rows(torch.tensor([t % slots * batch + e]))
            assert rows["obs"].tolist() == [[t, e]]
            assert rows["next_obs"].tolist() == [[last + 0.5, e + 0.5]]
            assert rows["reward"].item() == pytest.approx(float(total), abs=1e-12)
            power = 0.0 if terminated[last, e] else gamma ** (last - t + 1)
            assert rows["discount"].item() == pytest.approx(power, abs=1e-12)
            assert torch.equal(rows["action"][0], joined(blocks, "action")[t, e])


@pytest.mark.parametrize("env_id", ["Counting-v0", "CountingLimited-v0"])
def test_next_obs_is_where_the_action_led_and_only_a_termination_ends_the_sum(env_id: str) -> None:
    """`Counting` says its step and its length: the truth of every row can be read off its observation."""
    with envs.make(env_id, 3) as vector:
        rollout = Rollout(vector, [0, 1, 2], Generator().manual_seed(0))
        policy = lambda obs: torch.distributions.Categorical(logits=torch.zeros(len(obs), 2))  # noqa: E731
        module = torch.nn.Module()
        module.forward = policy  # type: ignore[method-assign]
        replay = Replay(1000, Multistep(0.5))
        for _ in range(40):
            replay.add(rollout.collect(module, 2, log_prob=False))
    rows = replay.rows(torch.arange(len(replay)))
    step, length = rows["obs"].unbind(-1)
    assert torch.equal(rows["next_obs"], torch.stack([step + 1, length], -1))
    assert torch.equal(rows["reward"], step + 1)
    ends = step + 1 == length
    assert torch.equal(rows["discount"], torch.where(ends, 0.0, 0.5))
    cut_short = (env_id == "CountingLimited-v0") & (step + 1 == 3) & ~ends
    assert bool(cut_short.any()) == (env_id == "CountingLimited-v0")  # truncations are there, and they bootstrap


def test_sampling_is_uniform_over_what_is_there_and_follows_its_generator() -> None:
    replay = Replay(40, Multistep())
    for i in range(3):
        replay.add(made_up(7, 2, i, 7 * i))  # 21 slots: the first has been overwritten
    draws = 20_000
    times = replay.sample(draws, Generator().manual_seed(0)).rows["obs"]
    flat = (times[:, 0] * 2 + times[:, 1]).long()
    counts = torch.bincount(flat, minlength=42)
    assert counts[:2].sum() == 0
    expected = draws / 40
    statistic = float(((counts[2:] - expected).square() / expected).sum())
    assert statistic < 76.1  # χ² with 39 degrees of freedom: exceeded once in 2,500 seeds; a row that is missing adds 500
    again = replay.sample(draws, Generator().manual_seed(0))
    assert torch.equal(again.rows["obs"], times)


def test_a_block_longer_than_the_ring_leaves_its_end() -> None:
    replay = Replay(10, Multistep(0.9, 3))
    replay.add(made_up(4, 2, 0))
    replay.add(made_up(23, 2, 1, 4))
    assert len(replay) == 10
    assert sorted(replay.rows(torch.arange(10))["obs"][:, 0].tolist()) == sorted(2 * [22.0, 23, 24, 25, 26])


def test_another_number_of_environments_is_refused() -> None:
    replay = Replay(10)
    replay.add(made_up(4, 2, 0))
    with pytest.raises(ValueError, match="a block of 3 environments, but the buffer was begun with 2"):
        replay.add(made_up(4, 3, 0))


def test_a_memory_mapped_buffer_holds_the_same(tmp_path: Path) -> None:
    plain, mapped = Replay(20, Multistep(0.9, 2)), Replay(20, Multistep(0.9, 2), str(tmp_path))
    for i in range(5):
        plain.add(made_up(7, 2, i, 7 * i)), mapped.add(made_up(7, 2, i, 7 * i))
    index = torch.arange(20)
    assert_same(plain.rows(index), mapped.rows(index))
    assert list(tmp_path.iterdir()) == []  # the file has no name, so a kill leaves nothing behind


# -- saving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Replay, PrioritisedReplay])
@pytest.mark.parametrize("lengths", [[3], [3, 2, 4], [9, 9, 9, 9], [25], [1] * 30])
def test_a_saved_buffer_is_restored_to_the_bit(tmp_path: Path, kind: type[Replay], lengths: list[int]) -> None:
    """…whatever came in between two saves, and goes on to the same bits."""
    replay, count, state = kind(20, Multistep(0.9, 3)), 0, {}
    for i, length in enumerate(lengths):
        replay.add(made_up(length, 2, i, count))
        count += length
        replay.learned(torch.tensor([0, 1]), torch.tensor([0.3, 7.0]) + i)
        state = replay.save(tmp_path / "replay")
    state = _through_a_file(tmp_path, state)
    other = kind(20, Multistep(0.9, 3))
    other.load(tmp_path / "replay", state)
    for buffer in (replay, other):
        buffer.add(made_up(3, 2, 99, count))
    one, two = (buffer.sample(64, Generator().manual_seed(0), 0.5) for buffer in (replay, other))
    assert_same(one.rows, two.rows)
    assert_same(replay.rows(torch.arange(len(replay))), other.rows(torch.arange(len(other))))


def test_an_empty_buffer_is_saved_and_restored(tmp_path: Path) -> None:
    for kind in (Replay, PrioritisedReplay):
        state, other = kind(20).save(tmp_path), kind(20)
        other.load(tmp_path, state)
        assert len(other) == 0


def _through_a_file(directory: Path, state: dict) -> dict:
    tensor_files.save(directory / "state.pt", state)
    return tensor_files.load(directory / "state.pt")


def test_each_save_writes_what_is_new_and_drops_what_no_kept_checkpoint_needs(tmp_path: Path) -> None:
    replay, states = Replay(10), []
    for i in range(12):
        replay.add(made_up(3, 1, i, 3 * i))
        states.append(replay.save(tmp_path))
    pieces = sorted(tmp_path.iterdir())
    assert all(len(tensor_files.load(piece)["reward"]) == 3 for piece in pieces)
    assert len(pieces) == 5  # the last 10 slots lie in 4 of them; the save before needs one more
    before = Replay(10)
    before.load(tmp_path, states[-2])  # the last checkpoint was torn: the one before is whole
    times = before.rows(torch.arange(10))["obs"][:, 0]
    assert sorted(times.tolist()) == list(range(23, 33))
    assert len(list(tmp_path.iterdir())) == 4  # what the lost checkpoint had written is gone


def test_a_damaged_or_foreign_piece_is_an_error_that_names_it(tmp_path: Path) -> None:
    replay = Replay(10)
    replay.add(made_up(3, 1, 0))
    state = replay.save(tmp_path)
    (piece,) = tmp_path.iterdir()
    content = piece.read_bytes()
    piece.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"from-000000000000\.pt: cannot be read"):
        Replay(10).load(tmp_path, state)
    replay.add(made_up(1, 1, 0, 3))
    tensor_files.save(piece, {**{name: torch.zeros(2, 1) for name in ("obs", "reward")}})
    with pytest.raises(CheckpointError, match=r"from-000000000000\.pt: 2 steps, the checkpoint says 3"):
        Replay(10).load(tmp_path, state)


# -- prioritised ---------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 10**6))
def test_the_sum_tree_equals_cumulative_sums(size: int, writes: int, seed: int) -> None:
    """Integers are summed without rounding, so the leaf that a point falls on is exactly known; zeros are never found."""
    rng = np.random.default_rng(seed)
    tree, plain = SumTree(size), np.zeros(size)
    for _ in range(writes):
        index = rng.integers(size, size=rng.integers(1, 12))
        values = rng.integers(0, 4, size=len(index)).astype(float)
        tree.set(index, values)
        for i, value in zip(index, values, strict=True):  # the last one counts
            plain[i] = value
    assert np.array_equal(tree[np.arange(size)], plain)
    assert tree.total == plain.sum()
    if plain.any():
        points = rng.random(50) * plain.sum()
        assert np.array_equal(tree.find(points), np.searchsorted(np.cumsum(plain), points, side="right"))
        assert plain[tree.find(np.array([plain.sum()]))].item() > 0  # a point that rounding moved to the very end


def test_a_tree_rebuilt_from_its_leaves_has_the_same_bits() -> None:
    rng, tree, other = np.random.default_rng(0), SumTree(3000), SumTree(3000)
    for _ in range(50):
        tree.set(rng.integers(3000, size=64), rng.random(64))
    other.set(np.arange(3000), tree[np.arange(3000)])
    assert np.array_equal(tree.nodes, other.nodes)


def test_prioritised_sampling_equals_a_naive_implementation() -> None:
    """Probabilities, strata and importance, by searching cumulative sums of |δ|^α."""
    alpha, beta, progress, k = 0.7, 0.4, 0.25, 16
    replay = PrioritisedReplay(50, Multistep(), alpha=alpha, beta=beta)
    replay.add(made_up(20, 2, 0))
    rng = np.random.default_rng(0)
    errors = np.ones(40)  # new rows have the largest priority so far, which is 1 at first
    for _ in range(5):
        index, error = rng.choice(40, 8, replace=False), 3 * rng.random(8)
        replay.learned(torch.from_numpy(index), torch.from_numpy(error))
        errors[index] = error + EPSILON
    replay.add(made_up(3, 2, 1, 20))
    p = np.concatenate([errors**alpha, np.full(6, max(1.0, replay.highest))])
    assert replay.highest > 1.0
    drawn = replay.sample(k, Generator().manual_seed(3), progress)
    within = torch.rand(k, generator=Generator().manual_seed(3), dtype=torch.float64).numpy()
    expected = np.searchsorted(np.cumsum(p), (np.arange(k) + within) / k * p.sum(), side="right")
    assert np.array_equal(drawn.index.numpy(), expected)
    importance = (46 * p[expected] / p.sum()) ** -(beta + progress * (1 - beta))
    assert np.allclose(drawn.rows["importance"].numpy(), importance / importance.max(), rtol=1e-12)


def test_at_beta_one_importance_undoes_the_priorities() -> None:
    """Σ_i P(i) importance_i f(i) / Σ_i P(i) importance_i is the uniform mean of f: exactly, by the probabilities themselves."""
    replay = PrioritisedReplay(30, Multistep(), beta=1.0)
    replay.add(made_up(15, 2, 0))
    replay.learned(torch.arange(30), torch.linspace(0.1, 3.0, 30))
    p = replay._tree[np.arange(30)] / replay._tree.total
    drawn = replay.sample(4000, Generator().manual_seed(0))
    scale = (drawn.rows["importance"].numpy() * p[drawn.index.numpy()]).mean()
    assert np.allclose(drawn.rows["importance"].numpy() * p[drawn.index.numpy()], scale, rtol=1e-12)


def test_uniform_actions_cover_the_box_and_look_at_nothing() -> None:
    noise = UniformActions(3).noise((1000, 2), Generator().manual_seed(0))
    assert noise.shape == (1000, 2, 3)
    assert -1 <= noise.min() < -0.99
    assert 0.99 < noise.max() <= 1


# -- several minibatches -------------------------------------------------------------------------------------


def test_uniform_minibatches_are_one_draw_in_pieces() -> None:
    replay = Replay(50, Multistep(0.9, 2))
    replay.add(made_up(20, 2, 0))
    whole = replay.sample(24, Generator().manual_seed(0))
    pieces = list(replay.minibatches(3, 8, Generator().manual_seed(0)))
    assert [len(piece.index) for piece in pieces] == [8, 8, 8]
    assert_same({name: torch.cat([piece.rows[name] for piece in pieces]) for name in whole.rows}, whole.rows)
    assert torch.equal(torch.cat([piece.index for piece in pieces]), whole.index)
    pairs = list(replay.minibatches(4, 6, Generator().manual_seed(0), together=2))
    assert [len(pair.index) for pair in pairs] == [12, 12]
    assert torch.equal(torch.cat([pair.index for pair in pairs]), whole.index)


def test_a_prioritised_minibatch_knows_what_the_one_before_it_taught() -> None:
    """A row whose error is by far the largest is all that is drawn from then on."""
    replay = PrioritisedReplay(50, Multistep())
    replay.add(made_up(20, 2, 0))
    drawn = replay.minibatches(2, 16, Generator().manual_seed(0))
    assert len(set(next(drawn).index.tolist())) > 8
    replay.learned(torch.tensor([7]), torch.tensor([1e12]))
    assert set(next(drawn).index.tolist()) == {7}
