"""Tetris as a choice among placements, described by what they leave behind.

    obs [34, 22]    for each way to put the present piece down: the features of the board after it, full lines removed
    action          which of them                    reward    lines removed                 ends when no placement fits

    features of Bertsekas & Tsitsiklis (1996): ten column heights, nine differences of neighbours' heights (absolute), the largest
    height, the number of holes, and 1.  A row of zeros is no placement, and choosing it ends the game.

A piece is turned and moved above the board and then falls. Pieces are drawn evenly and independently. The board is 20 high, or 10.
Boards are played by a compiled kernel, many at a time. In it a column is an integer, its lowest cell the lowest bit: a piece is four
shifts, full rows are the "and" of ten columns, and heights and holes change only below the piece. `games` plays whole games of linear
scorers in one call, the same ones as the environment's, for experiments of many millions of placements.
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
def columns_of(board: np.ndarray, columns: np.ndarray, heights: np.ndarray) -> int:
    """Fill in every column's cells and height; the number of holes, empty cells under a filled one."""
    holes = 0
    for c in range(WIDTH):
        cells, filled = 0, 0
        for y in range(len(board)):
            if board[y, c]:
                cells |= 1 << y
                filled += 1
        columns[c], heights[c] = cells, height_of(cells)
        holes += heights[c] - filled
    return holes


@njit(cache=True)
def height_of(cells: int) -> int:
    h = 0
    while cells >> h:
        h += 1
    return h


@njit(cache=True)
def without(cells: int, rows: int) -> int:
    """A column without the cells in `rows`; what is above falls down."""
    kept, to, y = 0, 0, 0
    while cells >> y:
        if not (rows >> y) & 1:
            kept |= ((cells >> y) & 1) << to
            to += 1
        y += 1
    return kept


@njit(cache=True)
def rest(heights: np.ndarray, x: int, width: int, under: np.ndarray) -> int:
    """The row of a piece's lowest cell when it has fallen."""
    base = 0
    for j in range(width):
        base = max(base, heights[x + j] - under[j])
    return base


@njit(cache=True)
def put(
    columns: np.ndarray, base: int, rows: int, x: int, width: int, under: np.ndarray, top: np.ndarray, after: np.ndarray
) -> int:
    """A piece at rest: `after [10]` are the columns with it, full rows not yet removed. Those rows, or −1 where it does not fit."""
    for j in range(width):
        if base + top[j] > rows:
            return -1
    for c in range(WIDTH):
        after[c] = columns[c]
    for j in range(width):
        after[x + j] |= ((1 << (top[j] - under[j])) - 1) << (base + under[j])
    full = -1
    for c in range(WIDTH):
        full &= after[c]
    return full


@njit(cache=True)
def count(rows: int) -> int:
    found = 0
    while rows:
        rows &= rows - 1
        found += 1
    return found


@njit(cache=True)
def features(
    columns: np.ndarray,
    heights: np.ndarray,
    holes: int,
    rows: int,
    x: int,
    width: int,
    under: np.ndarray,
    top: np.ndarray,
    after: np.ndarray,
    row: np.ndarray,
) -> bool:
    """The board after a placement, described in `row [22]`; whether there is such a placement."""
    base = rest(heights, x, width, under)
    full = put(columns, base, rows, x, width, under, top, after)
    if full < 0:
        return False
    if full:
        holes = 0
        for c in range(WIDTH):
            cells = without(after[c], full)
            row[c] = height_of(cells)
            holes += height_of(cells) - count(cells)
    else:
        for c in range(WIDTH):
            row[c] = heights[c]
        for j in range(width):
            holes += base + under[j] - heights[x + j]
            row[x + j] = base + top[j]
    highest = row[0]
    for c in range(WIDTH - 1):
        row[WIDTH + c] = abs(row[c + 1] - row[c])
        highest = max(highest, row[c + 1])
    row[2 * WIDTH - 1], row[2 * WIDTH], row[2 * WIDTH + 1] = highest, holes, 1
    return True


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
    columns, heights, after = np.zeros(WIDTH, np.int64), np.zeros(WIDTH, np.int64), np.zeros(WIDTH, np.int64)
    for i in range(len(boards)):
        p, a = pieces[i], action[i]
        columns_of(boards[i], columns, heights)
        full = -1
        if span[p, a]:
            base = rest(heights, column[p, a], span[p, a], under[p, a])
            full = put(columns, base, boards.shape[1], column[p, a], span[p, a], under[p, a], top[p, a], after)
        over[i] = full < 0
        if full >= 0:
            lines[i] = count(full)
            for c in range(WIDTH):
                cells = without(after[c], full)
                for y in range(boards.shape[1]):
                    boards[i, y, c] = (cells >> y) & 1


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
    """`obs [n, choices, 22]`, zeros before: the features after each placement of each board's piece."""
    columns, heights, after = np.zeros(WIDTH, np.int64), np.zeros(WIDTH, np.int64), np.zeros(WIDTH, np.int64)
    for i in range(len(boards)):
        holes = columns_of(boards[i], columns, heights)
        p = pieces[i]
        for a in range(column.shape[1]):
            if span[p, a] == 0:
                break
            where = column[p, a], span[p, a], under[p, a], top[p, a]
            features(columns, heights, holes, boards.shape[1], *where, after, obs[i, a])


@njit(cache=True)
def _play(
    theta: np.ndarray,
    random: np.random.Generator,
    rows: int,
    limit: int,
    column: np.ndarray,
    span: np.ndarray,
    under: np.ndarray,
    top: np.ndarray,
) -> tuple[int, int]:
    columns, heights, after = np.zeros(WIDTH, np.int64), np.zeros(WIDTH, np.int64), np.zeros(WIDTH, np.int64)
    best, row = np.zeros(WIDTH, np.int64), np.zeros(FEATURES)
    lines, holes = 0, 0
    for step in range(limit):
        p = random.integers(0, 7)
        highest, rows_full = -np.inf, -1
        for a in range(column.shape[1]):
            if span[p, a] == 0:
                break
            where = column[p, a], span[p, a], under[p, a], top[p, a]
            if features(columns, heights, holes, rows, *where, after, row):
                score = 0.0
                for k in range(FEATURES):
                    score += theta[k] * row[k]
                if score > highest:
                    highest, rows_full = score, 0
                    best[:] = after
        if rows_full < 0:
            return lines, step
        full = -1
        for c in range(WIDTH):
            full &= best[c]
        lines += count(full)
        holes = 0
        for c in range(WIDTH):
            columns[c] = without(best[c], full) if full else best[c]
            heights[c] = height_of(columns[c])
            holes += heights[c] - count(columns[c])
    return lines, limit


def games(theta: np.ndarray, seeds: Sequence[int], height: int, limit: int) -> np.ndarray:
    """Lines and placements `[n, 2]` of the games with these seeds that the linear scorers `theta [n, 22]` play: those of `Tetris`
    and `ScorePolicy`, unless two placements' scores differ by rounding alone. A game is left after `limit` placements."""
    found = np.zeros((len(theta), 2), np.int64)
    for i, (weights, seed) in enumerate(zip(theta, seeds, strict=True)):
        random = np.random.Generator(np.random.PCG64(int(seed)))  # gymnasium's generator for this seed
        found[i] = _play(weights, random, height, limit, COLUMN, SPAN, UNDER, TOP)
    return found
