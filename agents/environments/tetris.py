"""Tetris as a choice among placements, described by what they leave behind.

    obs [34, 22]    for each way to put the present piece down: the features of the board after it, full lines removed
    action          which of them                    reward    lines removed                 ends when no placement fits

    features of Bertsekas & Tsitsiklis (1996): ten column heights, nine differences of neighbours' heights (absolute), the largest
    height, the number of holes, and 1.  A row of zeros is no placement, and choosing it ends the game.

A piece is turned and moved above the board and then falls. Pieces are drawn evenly and independently. The board is 20 high, or 10.
Boards are played by a compiled kernel, many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numba import njit

WIDTH, CHOICES, FEATURES = 10, 34, 22
_FORMS = {
    "I": ["####"],
    "O": ["##", "##"],
    "S": [".##", "##."],
    "Z": ["##.", ".##"],
    "T": ["###", ".#."],
    "L": ["###", "#.."],
    "J": ["###", "..#"],
}


def _turns(rows: list[str]) -> list[np.ndarray]:
    """The distinct rotations of a piece, as 0/1 arrays."""
    shape, found = np.array([[c == "#" for c in row] for row in rows]), list[np.ndarray]()
    for _ in range(4):
        if not any(np.array_equal(shape, other) for other in found):
            found.append(shape)
        shape = np.rot90(shape)
    return found


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each piece and choice: its column, and for each of four columns of the piece the height of its underside and of its
    top above its lowest row. Width 0: no choice."""
    column = np.zeros((7, CHOICES), np.int64)
    width = np.zeros((7, CHOICES), np.int64)
    under, top = np.zeros((7, CHOICES, 4), np.int64), np.zeros((7, CHOICES, 4), np.int64)
    for piece, rows in enumerate(_FORMS.values()):
        choice = 0
        for shape in _turns(rows):
            for x in range(WIDTH - shape.shape[1] + 1):
                column[piece, choice], width[piece, choice] = x, shape.shape[1]
                for j in range(shape.shape[1]):
                    filled = np.flatnonzero(shape[::-1, j])  # from the lowest row upwards; without gaps in every piece
                    under[piece, choice, j], top[piece, choice, j] = filled[0], filled[-1] + 1
                choice += 1
    return column, width, under, top


COLUMN, SPAN, UNDER, TOP = _tables()


class Tetris(gym.Env):
    """One board `[height, 10]`, the lowest row first; `step_many` plays several."""

    def __init__(self, height: int = 20) -> None:
        self.height = height
        self.observation_space = spaces.Box(0.0, float(height * WIDTH), (CHOICES, FEATURES), np.float32)
        self.action_space = spaces.Discrete(CHOICES)
        self.board, self.piece = np.zeros((height, WIDTH), np.uint8), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.board = np.zeros((self.height, WIDTH), np.uint8)
        self.piece = int(self.np_random.integers(7))
        obs = np.zeros((1, CHOICES, FEATURES), np.float32)
        describe(self.board[None], np.array([self.piece]), COLUMN, SPAN, UNDER, TOP, obs)
        return obs[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, terminated = self.step_many([self], np.array([action]))
        return obs[0], float(reward[0]), bool(terminated[0]), False, {}

    @classmethod
    def step_many(cls, envs: Sequence[Tetris], action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boards = np.stack([env.board for env in envs])
        pieces = np.array([env.piece for env in envs])
        lines, over = np.zeros(len(envs)), np.zeros(len(envs), bool)
        put_all(boards, pieces, np.asarray(action, np.int64), COLUMN, SPAN, UNDER, TOP, lines, over)
        for i, env in enumerate(envs):
            env.board = boards[i].copy()
            env.piece = pieces[i] = int(env.np_random.integers(7))
        obs = np.zeros((len(envs), CHOICES, FEATURES), np.float32)
        describe(boards, pieces, COLUMN, SPAN, UNDER, TOP, obs)
        return obs, lines, over | ~obs[:, :, -1].any(1)


@njit(cache=True)
def put(board: np.ndarray, heights: np.ndarray, x: int, width: int, under: np.ndarray, top: np.ndarray) -> int:
    """Drop a piece on `board` in place and remove full lines: how many, or −1 where it does not fit (and nothing changes)."""
    rows = board.shape[0]
    base = 0
    for j in range(width):
        base = max(base, heights[x + j] - under[j])
    for j in range(width):
        if base + top[j] > rows:
            return -1
    for j in range(width):
        for y in range(base + under[j], base + top[j]):
            board[y, x + j] = 1
    lines, to = 0, 0
    for y in range(rows):
        full = True
        for c in range(board.shape[1]):
            full = full and board[y, c] == 1
        if full:
            lines += 1
        else:
            if to != y:
                for c in range(board.shape[1]):
                    board[to, c] = board[y, c]
            to += 1
    for y in range(to, rows):
        for c in range(board.shape[1]):
            board[y, c] = 0
    return lines


@njit(cache=True)
def heights_of(board: np.ndarray, heights: np.ndarray) -> int:
    """Fill in the height of every column; the number of holes, empty cells under a filled one."""
    holes = 0
    for c in range(board.shape[1]):
        h = board.shape[0]
        while h > 0 and board[h - 1, c] == 0:
            h -= 1
        heights[c] = h
        for y in range(h):
            holes += 1 - board[y, c]
    return holes


@njit(cache=True)
def put_all(
    boards: np.ndarray,
    pieces: np.ndarray,
    action: np.ndarray,
    column: np.ndarray,
    span: np.ndarray,
    under: np.ndarray,
    top: np.ndarray,
    lines: np.ndarray,
    over: np.ndarray,
) -> None:
    """Each board's piece where its action says; `lines` removed, and whether that was no placement."""
    heights = np.zeros(boards.shape[2], np.int64)
    for i in range(len(boards)):
        p, a = pieces[i], action[i]
        heights_of(boards[i], heights)
        found = put(boards[i], heights, column[p, a], span[p, a], under[p, a], top[p, a]) if span[p, a] else -1
        lines[i], over[i] = max(found, 0), found < 0


@njit(cache=True)
def describe(
    boards: np.ndarray,
    pieces: np.ndarray,
    column: np.ndarray,
    span: np.ndarray,
    under: np.ndarray,
    top: np.ndarray,
    obs: np.ndarray,
) -> None:
    """`obs [n, choices, 22]`: the features after each placement of each board's piece; zeros where there is none."""
    wide = boards.shape[2]
    heights, after = np.zeros(wide, np.int64), np.zeros(wide, np.int64)
    board = np.zeros(boards.shape[1:], np.uint8)
    for i in range(len(boards)):
        heights_of(boards[i], heights)
        p = pieces[i]
        for a in range(column.shape[1]):
            if span[p, a] == 0:
                break
            board[:] = boards[i]
            if put(board, heights, column[p, a], span[p, a], under[p, a], top[p, a]) < 0:
                continue
            holes = heights_of(board, after)
            row, highest = obs[i, a], 0
            for c in range(wide):
                row[c] = after[c]
                highest = max(highest, after[c])
            for c in range(wide - 1):
                row[wide + c] = abs(after[c + 1] - after[c])
            row[2 * wide - 1], row[2 * wide], row[2 * wide + 1] = highest, holes, 1
