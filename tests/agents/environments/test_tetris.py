"""Tetris: placements, lines, features, against a plain player of its own; batches with the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from torch import Generator

from scg.agents.environments import envs
from scg.agents.environments.tetris import _FORMS, CHOICES, SPAN, Tetris, _turns, games
from scg.agents.search.controllers import ScorePolicy

PIECES = list(_FORMS)


def plain(board: np.ndarray, piece: int, choice: int) -> tuple[np.ndarray, int] | None:
    """Drop a piece row by row, the whole shape checked each time: the board after it and the lines removed."""
    count = 0
    for shape in _turns(_FORMS[PIECES[piece]]):
        cells = shape[::-1].astype(np.uint8)
        h, w = cells.shape
        for x in range(10 - w + 1):
            if count == choice:
                tall = np.vstack([board, np.zeros((6, 10), np.uint8)])
                y = len(tall) - h
                while y > 0 and not (tall[y - 1 : y - 1 + h, x : x + w] & cells).any():
                    y -= 1
                tall[y : y + h, x : x + w] |= cells
                if tall[len(board) :].any():
                    return None
                kept = tall[: len(board)][~tall[: len(board)].all(1)]
                lines = len(board) - len(kept)
                return np.vstack([kept, np.zeros((lines, 10), np.uint8)]), lines
            count += 1
    return None


def features(board: np.ndarray) -> list[float]:
    heights = [max(np.flatnonzero(column), default=-1) + 1 for column in board.T]
    holes = sum(int(h - column[:h].sum()) for h, column in zip(heights, board.T, strict=True))
    return [*heights, *np.abs(np.diff(heights)), max(heights), holes, 1]


def test_the_pieces_have_their_numbers_of_placements() -> None:
    found = {name: int((SPAN[i] > 0).sum()) for i, name in enumerate(PIECES)}
    assert found == {"I": 17, "O": 9, "S": 17, "Z": 17, "T": 34, "L": 34, "J": 34}


@pytest.mark.parametrize("height", [10, 20])
def test_games_agree_with_a_plain_player(height: int) -> None:
    env, generator, cleared = Tetris(height), np.random.default_rng(0), 0
    for seed in range(2):
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            board, piece = env.board.copy(), env.piece
            for choice in range(CHOICES):
                after = plain(board, piece, choice)
                assert obs[choice].tolist() == (features(after[0]) if after is not None else [0.0] * 22)
            legal = np.flatnonzero(obs[:, -1])
            low = legal[np.argsort(obs[legal, 20] + obs[legal, 19], kind="stable")[:3]]  # few holes: games with lines
            choice = int(generator.choice(low))
            expected = plain(board, piece, choice)
            obs, reward, over, _, _ = env.step(choice)
            assert expected is not None
            assert np.array_equal(env.board, expected[0]) and reward == expected[1]
            cleared += expected[1]
    assert cleared > 0


def test_choosing_no_placement_ends_the_game() -> None:
    env = Tetris()
    env.reset(seed=0)
    env.piece = PIECES.index("O")
    assert env.step(20)[1:3] == (0.0, True)


def test_it_is_an_environment_of_gymnasium() -> None:
    check_env(Tetris(10), skip_render_check=True)


def test_a_batch_has_the_bits_of_each_alone() -> None:
    with envs.make("TetrisSmall-v0", 4) as batch, envs.make("TetrisSmall-v0", 1) as alone:
        obs, single = batch.reset([0, 1, 2, 3]), alone.reset([2])
        assert np.array_equal(obs[2], single[0])
        for _ in range(30):
            action = obs[:, :, -1].argmax(1)
            together, one = batch.step(action), alone.step(action[2:3])
            obs = together.obs.copy()
            assert np.array_equal(obs[2], one.obs[0]) and together.reward[2] == one.reward[0]


def test_scores_choose_the_best_legal_row() -> None:
    with envs.make("TetrisSmall-v0", 1) as one:
        policy = ScorePolicy(one.obs_space, one.action_space, Generator())
        obs = one.reset([0])
    crowd = policy.crowd(2)
    theta = np.zeros(22)
    theta[19:21] = -1.0
    crowd.load(1, theta)
    action = crowd.act(np.concatenate([obs, obs]))
    worth = np.where(obs[0, :, -1] > 0, obs[0] @ theta, -np.inf)
    assert action[1] == worth.argmax()
    theta[-1] = -100.0  # worse than a row of zeros, which is no placement
    crowd.load(0, theta)
    assert crowd.act(np.concatenate([obs, obs]))[0] == action[1]


@pytest.mark.parametrize("height", [10, 20])
def test_whole_games_are_the_environments(height: int) -> None:
    theta = np.random.default_rng(1).normal(size=(3, 22))
    theta[:, 20] -= 8.0  # few holes: games with lines
    theta[:, 10:19] -= 2.0
    expected = []
    for weights, seed in zip(theta, range(3), strict=True):
        env, lines, placed, over = Tetris(height), 0.0, 0, False
        obs, _ = env.reset(seed=seed)
        while not over and placed < 80:
            worth = np.where(obs.any(-1), obs.astype(np.float64) @ weights, -np.inf)
            obs, reward, over, _, _ = env.step(int(worth.argmax()))
            lines, placed = lines + reward, placed + 1
        expected.append([lines, placed])
    assert games(theta, range(3), height, 80).tolist() == expected
    assert sum(lines for lines, _ in expected) > 5
