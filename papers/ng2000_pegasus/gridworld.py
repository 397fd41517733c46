"""The paper's gridworld, its 65,536 policies, and their values: exact, and on scenarios.

    5 × 5 squares, from the lower left to the upper right; −1 a step until there; γ = 0.99, 100 steps
    a move goes where it is meant to, but with probability 0.2 in a direction drawn evenly; into a wall, nowhere
    an observation says which neighbours are wall: eight of them before the goal. A policy has one move for each: 4⁸

A deterministic simulative model turns p ~ U[0, 1) into the next state. Two that have the same law:

    plain        p < 0.05, 0.10, 0.15, 0.20: up, right, down, left; else as meant
    scrambled    the same at frac(p + shift(s, a)), the shift a number of its own for every square and move

A scenario is one sequence p₁ … p₁₀₀, which every policy meets. Under the scrambled model it means something else in every square.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numba import njit

SIDE, MOVES, STEPS, GAMMA, SLIP = 5, 4, 100, 0.99, 0.2
SQUARES, GOAL = SIDE * SIDE, SIDE * SIDE - 1
WORST = (1 - GAMMA**STEPS) / (1 - GAMMA)  # values lie in [−WORST, 0]
POLICIES = MOVES**8
ALL = np.arange(POLICIES)


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Next square `[square, move]` (up, right, down, left), and the observation `[square]`: which of four sides is wall."""
    after = np.zeros((SQUARES, MOVES), np.int64)
    walls = np.zeros(SQUARES, np.int64)
    for y in range(SIDE):
        for x in range(SIDE):
            s = y * SIDE + x
            for move, (dx, dy) in enumerate([(0, 1), (1, 0), (0, -1), (-1, 0)]):
                inside = 0 <= x + dx < SIDE and 0 <= y + dy < SIDE
                after[s, move] = (y + dy) * SIDE + x + dx if inside else s
                walls[s] += 0 if inside else 1 << move
    after[GOAL] = GOAL
    seen = sorted(set(walls[:GOAL].tolist()))
    return after, np.array([seen.index(w) if w in seen else 0 for w in walls])  # at the goal the move makes no difference


AFTER, OBS = _tables()
PLAIN = np.zeros((SQUARES, MOVES))
SCRAMBLED = np.random.default_rng(0).random((SQUARES, MOVES))


@njit(cache=True)
def moves_of(policy: int, moves: np.ndarray) -> None:
    """The digits of a policy's number to the base of 4: its move at each observation."""
    for o in range(8):
        moves[o] = policy % 4
        policy //= 4


@njit(cache=True)
def exact_values(policies: np.ndarray, after: np.ndarray, obs: np.ndarray, gamma: float, steps: int, slip: float) -> np.ndarray:
    """Each policy's value at the start, by dynamic programming."""
    found = np.zeros(len(policies))
    moves = np.zeros(8, np.int64)
    for i in range(len(policies)):
        moves_of(policies[i], moves)
        value, before = np.zeros(len(after)), np.zeros(len(after))
        for _ in range(steps):
            before[:] = value
            for s in range(len(after) - 1):
                there = (1 - slip) * before[after[s, moves[obs[s]]]]
                for move in range(4):
                    there += slip / 4 * before[after[s, move]]
                value[s] = -1 + gamma * there
        found[i] = value[0]
    return found


@njit(cache=True)
def scenario_values(
    policies: np.ndarray,
    noise: np.ndarray,
    shift: np.ndarray,
    after: np.ndarray,
    obs: np.ndarray,
    gamma: float,
    slip: float,
) -> np.ndarray:
    """V̂ of each policy, its mean return over the scenarios `noise [m, steps]`."""
    found = np.zeros(len(policies))
    moves = np.zeros(8, np.int64)
    for i in range(len(policies)):
        moves_of(policies[i], moves)
        for scenario in range(len(noise)):
            s, weight = 0, 1.0
            for t in range(noise.shape[1]):
                if s == len(after) - 1:
                    break
                found[i] -= weight
                weight *= gamma
                move = moves[obs[s]]
                p = (noise[scenario, t] + shift[s, move]) % 1.0
                s = after[s, int(4 * p / slip) if p < slip else move]
        found[i] /= len(noise)
    return found


def exact(policies: np.ndarray | None = None) -> np.ndarray:
    """V of each policy; without any, of all."""
    return exact_values(ALL if policies is None else policies, AFTER, OBS, GAMMA, STEPS, SLIP)


def on_scenarios(count: int, seed: int, shift: np.ndarray = PLAIN, policies: np.ndarray | None = None) -> np.ndarray:
    """V̂ of each policy on `count` scenarios drawn with `seed`."""
    noise = np.random.default_rng([seed, count]).random((count, STEPS))
    return scenario_values(ALL if policies is None else policies, noise, shift, AFTER, OBS, GAMMA, SLIP)


def law(shift: np.ndarray, parts: int = 20) -> np.ndarray:
    """P(next | square, move) that the model gives `[square, move, next]`, exactly: the lengths of p's intervals, cut at the
    ends of every interval."""
    found = np.zeros((SQUARES, MOVES, SQUARES))
    for s in range(SQUARES):
        for move in range(MOVES):
            ends = np.unique(np.concatenate([[0.0, 1.0], (np.arange(parts) / parts - shift[s, move]) % 1.0]))
            for low, high in pairwise(ends):
                p = ((low + high) / 2 + shift[s, move]) % 1.0
                found[s, move, AFTER[s, int(4 * p / SLIP) if p < SLIP else move]] += high - low
    return found


def transition() -> np.ndarray:
    """P(next | square, move) of the decision process."""
    found = np.zeros((SQUARES, MOVES, SQUARES))
    for s in range(SQUARES):
        for move in range(MOVES):
            found[s, move, AFTER[s, move]] += 1 - SLIP
            for other in range(MOVES):
                found[s, move, AFTER[s, other]] += SLIP / MOVES
    return found
