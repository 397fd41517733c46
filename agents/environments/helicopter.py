"""Helicopter hover: a remotely controlled helicopter that is to stay where it is, in wind.

    state  position x, y, z (world: north, east, down), velocity u, v, w and rates p, q, r (body: forward, right, down), quaternion
    action aileron, elevator, rudder, collective in [−1, 1]; the collective is 0 where lift meets weight

    u̇ = −0.18 (u − wind_u) + noise                   ṗ = −12.78 p + 33.04 aileron + noise
    v̇ = −0.43 (v − wind_v) − 0.54 + noise            q̇ = −10.12 q − 33.32 elevator + noise         (−0.54: the tail rotor's thrust)
    ẇ = −0.49 w − 42.15 collective − 9.81 + noise     ṙ = −8.16 r + 70.54 rudder + noise            all plus gravity, turned

integrated at 100 Hz, ten steps to one of the controller's. The constants are those identified from flights of an XCell Tempest (Abbeel,
Coates, Quigley & Ng 2007), as in the reinforcement-learning competitions. Wind is steady and horizontal, up to 2 m/s along each axis,
with gusts (a first-order filter of white noise, 0.7 s); all of an episode's weather is drawn at its reset, so that a seed is a wind.

An observation is what a hovering pilot needs, in the helicopter's frame: position error (target less position), velocity, rates,
and the rotation vector n that would bring it level and facing north. The reward is minus the squares of position, velocity, rates and
n. Farther than 10 m or tilted by more than 60° it has crashed, and pays for the time that is left as if it stayed at the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numba import njit
from scipy.signal import lfilter

from scg.agents.environments.helicopter_view import picture

DT, INNER, STEPS = 0.01, 10, 600  # seconds of the simulator; its steps to one action; actions in an episode of a minute
GRAVITY = 9.81
DRAG = np.array([0.18, 0.43, 0.49])
DAMPING = np.array([12.78, 10.12, 8.16])
TORQUE = np.array([33.04, -33.32, 70.54])
LIFT, TAIL = -42.15, -0.54
NOISE = 2.0 * np.array([0.1941, 0.2975, 0.6058, 0.1508, 0.2492, 0.0734])  # accelerations of u, v, w, p, q, r
WIND, GUST, MEMORY = 2.0, 0.5, np.exp(-DT / 0.7)
FAR, UPRIGHT, CRASH = 10.0, 0.5, 200.0  # metres; cosine of the tilt; cost of a step after a crash


class Helicopter(gym.Env):
    """One helicopter; `step_many` steps several."""

    observation_space = spaces.Box(-np.inf, np.inf, (12,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (4,), np.float64)
    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / (DT * INNER))}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.trail: list[np.ndarray] = []  # where it was when it was drawn
        self.state = np.zeros(13)
        self.weather = np.zeros((STEPS * INNER, 8))
        self.clock = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        draw = self.np_random
        self.state = np.zeros(13)
        self.state[:3] = draw.uniform(-1.0, 1.0, 3)
        self.state[9] = 1.0
        steady = draw.uniform(-WIND, WIND, 2)
        white = draw.standard_normal((STEPS * INNER, 8))
        self.weather = white * np.concatenate([NOISE, [1.0, 1.0]])
        self.weather[:, 6:] = steady + _filtered(white[:, 6:])
        self.clock, self.trail = 0, []
        return observe(self.state[None])[0], {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """From above and from behind, `[240, 480, 3]`."""
        self.trail.append(self.state[:3].copy())
        return picture(self.state, self.weather[min(self.clock, len(self.weather) - 1), 6:], self.trail)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, terminated = self.step_many([self], np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), False, {}

    @classmethod
    def step_many(cls, envs: Sequence[Helicopter], action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        state = np.stack([env.state for env in envs])
        weather = np.stack([env.weather[env.clock : env.clock + INNER] for env in envs])
        integrate(state, np.asarray(action, np.float64), weather)
        obs = observe(state)
        reward = -np.square(obs).sum(-1)
        tilt = 1 - 2 * (state[:, 10] ** 2 + state[:, 11] ** 2)  # the body's z axis along the world's
        crashed = (np.abs(state[:, :3]).max(-1) > FAR) | (tilt < UPRIGHT)
        for i, env in enumerate(envs):
            env.state = state[i].copy()
            env.clock += INNER
            if crashed[i]:
                reward[i] = -CRASH * (1 + STEPS - env.clock // INNER)
        return obs, reward, crashed


def _filtered(white: np.ndarray) -> np.ndarray:
    """Gusts of standard deviation GUST with a memory of 0.7 s."""
    return lfilter([GUST * np.sqrt(1 - MEMORY**2)], [1.0, -MEMORY], white, axis=0)


@njit(cache=True)
def integrate(state: np.ndarray, action: np.ndarray, weather: np.ndarray) -> None:
    """INNER steps of 0.01 s in place: `state [n, 13]`, `action [n, 4]`, `weather [n, steps, 8]` (accelerations of u, v, w, p, q, r,
    then wind north and east)."""
    for i in range(len(state)):
        s = state[i]
        for k in range(weather.shape[1]):
            a, air = action[i], weather[i, k]
            u, v, w, p, q, r = s[3], s[4], s[5], s[6], s[7], s[8]
            qw, qx, qy, qz = s[9], s[10], s[11], s[12]
            # The rotation from body to world; its rows turned back are north, east and down as the helicopter sees them.
            m00, m01, m02 = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy - qw * qz), 2 * (qx * qz + qw * qy)
            m10, m11, m12 = 2 * (qx * qy + qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz - qw * qx)
            m20, m21, m22 = 2 * (qx * qz - qw * qy), 2 * (qy * qz + qw * qx), 1 - 2 * (qx * qx + qy * qy)
            north, east = air[6], air[7]
            fu = -DRAG[0] * (u - (m00 * north + m10 * east)) + GRAVITY * m20 + air[0]
            fv = -DRAG[1] * (v - (m01 * north + m11 * east)) + GRAVITY * m21 + TAIL + air[1]
            fw = -DRAG[2] * (w - (m02 * north + m12 * east)) + GRAVITY * m22 + LIFT * a[3] - GRAVITY + air[2]
            s[0] += DT * (m00 * u + m01 * v + m02 * w)
            s[1] += DT * (m10 * u + m11 * v + m12 * w)
            s[2] += DT * (m20 * u + m21 * v + m22 * w)
            # The frame turns under the velocity.
            s[3] = u + DT * (fu - (q * w - r * v))
            s[4] = v + DT * (fv - (r * u - p * w))
            s[5] = w + DT * (fw - (p * v - q * u))
            s[6] = p + DT * (-DAMPING[0] * p + TORQUE[0] * a[0] + air[3])
            s[7] = q + DT * (-DAMPING[1] * q + TORQUE[1] * a[1] + air[4])
            s[8] = r + DT * (-DAMPING[2] * r + TORQUE[2] * a[2] + air[5])
            angle = DT * np.sqrt(p * p + q * q + r * r)
            c = np.cos(angle / 2)
            d = DT / 2 if angle < 1e-9 else DT * np.sin(angle / 2) / angle
            i0, j0, k0 = d * p, d * q, d * r
            nw = qw * c - qx * i0 - qy * j0 - qz * k0
            nx = qw * i0 + qx * c + qy * k0 - qz * j0
            ny = qw * j0 - qx * k0 + qy * c + qz * i0
            nz = qw * k0 + qx * j0 - qy * i0 + qz * c
            norm = np.sqrt(nw * nw + nx * nx + ny * ny + nz * nz)
            s[9], s[10], s[11], s[12] = nw / norm, nx / norm, ny / norm, nz / norm


def observe(state: np.ndarray) -> np.ndarray:
    """`[n, 12]`: position error, velocity, rates, the rotation vector back to level; all in the helicopter's frame."""
    obs = np.empty((len(state), 12))
    _observe(np.ascontiguousarray(state), obs)
    return obs


@njit(cache=True)
def _observe(state: np.ndarray, obs: np.ndarray) -> None:
    for i in range(len(state)):
        s, o = state[i], obs[i]
        w, x, y, z = s[9], s[10], s[11], s[12]
        # The way to the target, turned back by the quaternion: e + 2 w (e × v) + 2 v × (v × e), v = (x, y, z).
        ex, ey, ez = -s[0], -s[1], -s[2]
        tx, ty, tz = 2 * (ey * z - ez * y), 2 * (ez * x - ex * z), 2 * (ex * y - ey * x)
        o[0] = ex + w * tx + (ty * z - tz * y)
        o[1] = ey + w * ty + (tz * x - tx * z)
        o[2] = ez + w * tz + (tx * y - ty * x)
        for k in range(3, 9):
            o[k] = s[k]
        if w < 0:  # the shorter way round
            w, x, y, z = -w, -x, -y, -z
        sine = np.sqrt(x * x + y * y + z * z)
        factor = -2 * (np.arctan2(sine, w) / sine if sine > 1e-8 else 1.0)
        o[9], o[10], o[11] = factor * x, factor * y, factor * z
