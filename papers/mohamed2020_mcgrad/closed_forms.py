"""The variance of one estimate of ∇ E[f(x)], x ~ N(μ, σ²), for f = (x − k)², exp(−kx²) and cos(kx), in closed form.

    x = μ + σε                       for μ                               for σ
    gradient                         E[ε f] / σ                          E[(ε² − 1) f] / σ
    score function, baseline b       (f − b) ε/σ                         (f − b) (ε² − 1)/σ
    pathwise                         f'                                  ε f'
    measure-valued                   (f(μ+σw) − f(μ−σw')) / (σ√2π)       (f(μ+σm) − f(x)) / σ
                                     w, w' Rayleigh, w' = w if coupled   m Maxwell, x = μ + σum if coupled

Each f, f² and f'² is a sum of polynomials in ε times an exponential of a quadratic of ε, and so times a normal density of
another mean and variance (a *tilt*; imaginary mean for cosines), whose moments are known. Only two kinds of integrals are not moments:
|ε| times these (Rayleigh's density is √2π |ε| φ(ε)), and E[f(μ+σm) f(μ+σum)], which each family answers for itself:

    cos      ½ cos 2kμ (2e^(−2a²) − e^(−a²/2)) + ½ e^(−a²/2),   a = kσ;     d/dc [c e^(−a²c²/2)] = E[cos(acm)], c = 1 ± u
    exp      (e^(−2kμ²/(1+2s)) / √(1+2s) − b √(2π/(s(1+s))) e^(−kμ²/(1+s)) (Φ(−b/√s) − Φ(−b/√(s(1+s)(1+2s))))) / (1+s),
             s = 2kσ²,  b = 2kμσ;     y = um is uniform between 0 and m: integrate m first, by parts

Arrays over k (and μ, σ) throughout.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import dawsn, erf, ndtr

Array = Any
Polynomial = Sequence[Array]
"""Coefficients of 1, ε, ε², …"""


def times(p: Polynomial, q: Polynomial) -> Polynomial:
    product: list[Array] = [0.0] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            product[i + j] = product[i + j] + a * b
    return product


@dataclass(frozen=True)
class Tilt:
    """g(ε) with E[g(ε) h(ε)] = mass · E[h(ε')], ε' ~ N(mean, var); the real part where the mean is imaginary."""

    mass: Array = 1.0
    mean: Array = 0.0
    var: Array = 1.0

    def expect(self, p: Polynomial) -> Array:
        moments = [1.0, self.mean]
        for n in range(2, len(p)):
            moments.append(self.mean * moments[-1] + (n - 1) * self.var * moments[-2])
        return np.real(self.mass * sum(a * m for a, m in zip(p, moments)))


def exponential(rate: Array, mu: Array, sigma: Array) -> Tilt:
    """exp(−rate·x²)."""
    a = 1 + 2 * rate * sigma**2
    return Tilt(np.exp(-rate * mu**2 / a) / np.sqrt(a), -2 * rate * mu * sigma / a, 1 / a)


def wave(frequency: Array, mu: Array, sigma: Array) -> Tilt:
    """cos(frequency·x), the real part of exp(i·frequency·x)."""
    a = frequency * sigma
    return Tilt(np.exp(1j * frequency * mu - a**2 / 2), 1j * a, 1.0)


Terms = Sequence[tuple[Polynomial, Tilt]]


def expect(p: Polynomial, terms: Terms) -> Array:
    """E[p(ε) Σ polynomial · tilt]."""
    return sum(tilt.expect(times(p, q)) for q, tilt in terms)


@dataclass(frozen=True)
class Family(ABC):
    """A cost under N(μ, σ²): E[f], f², f'² in ε, and the three integrals that are not moments."""

    mu: Array
    sigma: Array
    k: Array

    @property
    @abstractmethod
    def cost(self) -> Terms:
        """f."""

    @property
    @abstractmethod
    def square(self) -> Terms:
        """f²."""

    @property
    @abstractmethod
    def slope_square(self) -> Terms:
        """f'²."""

    @abstractmethod
    def folded(self, power: int) -> Array:
        """E[|ε| f^power], power 1 or 2."""

    @abstractmethod
    def mirrored(self) -> Array:
        """E[f(μ + σw) f(μ − σw)], w Rayleigh."""

    @abstractmethod
    def scaled(self) -> Array:
        """E[f(μ + σm) f(μ + σum)], m Maxwell with a sign, u uniform."""

    def gradient(self, parameter: str) -> Array:
        return expect(SCORE[parameter], self.cost) / self.sigma

    def level(self) -> Array:
        """E[f]."""
        return expect([1.0], self.cost)

    def variance(self, estimator: str, parameter: str) -> Array:
        """Of one estimate; `estimator` is one of ESTIMATORS."""
        return self.second_moment(estimator, parameter) - self.gradient(parameter) ** 2

    def second_moment(self, estimator: str, parameter: str) -> Array:
        score = times(SCORE[parameter], SCORE[parameter])
        if estimator == "score function":
            return expect(score, self.square) / self.sigma**2
        if estimator == "score function, b = E[f]":
            b = self.level()
            centred = expect(score, self.square) - 2 * b * expect(score, self.cost) + b**2 * Tilt().expect(score)
            return centred / self.sigma**2
        if estimator == "pathwise":
            return expect([1.0] if parameter == "mu" else [0.0, 0.0, 1.0], self.slope_square)
        coupled = {"measure-valued, coupled": True, "measure-valued, independent": False}[estimator]
        if parameter == "mu":
            size = self.sigma * math.sqrt(2 * math.pi)
            both, gap = math.sqrt(2 * math.pi) * self.folded(1), self.gradient("mu") * size
            cross = self.mirrored() if coupled else (both**2 - gap**2) / 4
            return (math.sqrt(2 * math.pi) * self.folded(2) - 2 * cross) / size**2
        minus = self.level()
        plus = minus + self.sigma * self.gradient("sigma")
        cross = self.scaled() if coupled else plus * minus
        return (expect([1.0, 0.0, 1.0], self.square) - 2 * cross) / self.sigma**2


SCORE: dict[str, Polynomial] = {"mu": [0.0, 1.0], "sigma": [-1.0, 0.0, 1.0]}
ESTIMATORS = (
    "score function",
    "score function, b = E[f]",
    "pathwise",
    "measure-valued, independent",
    "measure-valued, coupled",
)


class Quadratic(Family):
    """(x − k)²."""

    @property
    def root(self) -> Polynomial:
        return [self.mu - self.k, self.sigma]

    @property
    def cost(self) -> Terms:
        return [(times(self.root, self.root), Tilt())]

    @property
    def square(self) -> Terms:
        squared = times(self.root, self.root)
        return [(times(squared, squared), Tilt())]

    @property
    def slope_square(self) -> Terms:
        return [(times([4.0], times(self.root, self.root)), Tilt())]

    def folded(self, power: int) -> Array:
        ((p, _),) = self.cost if power == 1 else self.square
        moments = [math.sqrt(2 / math.pi) * m for m in (1.0, 2.0, 8.0)]  # E|ε|, E|ε|³, E|ε|⁵; odd powers of ε cancel
        return sum(a * m for a, m in zip(p[::2], moments))

    def mirrored(self) -> Array:
        d, s = self.mu - self.k, self.sigma
        return d**4 - 4 * d**2 * s**2 + 8 * s**4

    def scaled(self) -> Array:
        d, s = self.mu - self.k, self.sigma
        return d**4 + 10 * d**2 * s**2 + 5 * s**4


class Exponential(Family):
    """exp(−kx²), k > 0."""

    def tilt(self, power: int) -> Tilt:
        return exponential(power * self.k, self.mu, self.sigma)

    @property
    def cost(self) -> Terms:
        return [([1.0], self.tilt(1))]

    @property
    def square(self) -> Terms:
        return [([1.0], self.tilt(2))]

    @property
    def slope_square(self) -> Terms:
        x = [self.mu, self.sigma]
        return [(times([4 * self.k**2], times(x, x)), self.tilt(2))]

    def folded(self, power: int) -> Array:
        tilt = self.tilt(power)
        at = tilt.mean / np.sqrt(2 * tilt.var)
        return tilt.mass * (np.sqrt(2 * tilt.var / np.pi) * np.exp(-(at**2)) + tilt.mean * erf(at))

    def mirrored(self) -> Array:
        return np.exp(-2 * self.k * self.mu**2) / (1 + 4 * self.k * self.sigma**2)

    def scaled(self) -> Array:
        s, b, centre = 2 * self.k * self.sigma**2, 2 * self.k * self.mu * self.sigma, self.k * self.mu**2
        edge = np.exp(-2 * centre / (1 + 2 * s)) / np.sqrt(1 + 2 * s)
        wedge = np.exp(-centre / (1 + s)) * (ndtr(-b / np.sqrt(s)) - ndtr(-b / np.sqrt(s * (1 + s) * (1 + 2 * s))))
        return (edge - b * np.sqrt(2 * np.pi / (s * (1 + s))) * wedge) / (1 + s)


class Cosine(Family):
    """cos(kx)."""

    @property
    def cost(self) -> Terms:
        return [([1.0], wave(self.k, self.mu, self.sigma))]

    @property
    def square(self) -> Terms:
        return [([0.5], Tilt()), ([0.5], wave(2 * self.k, self.mu, self.sigma))]

    @property
    def slope_square(self) -> Terms:
        half = 0.5 * self.k**2
        return [([half], Tilt()), ([-half], wave(2 * self.k, self.mu, self.sigma))]

    def folded(self, power: int) -> Array:
        def at(frequency: Array) -> Array:
            """E[|ε| cos(frequency·x)]."""
            a = frequency * self.sigma
            return np.cos(frequency * self.mu) * (math.sqrt(2 / math.pi) - 2 / math.sqrt(math.pi) * a * dawsn(a / math.sqrt(2)))

        return at(self.k) if power == 1 else (math.sqrt(2 / math.pi) + at(2 * self.k)) / 2

    def mirrored(self) -> Array:
        a = 2 * self.k * self.sigma
        return (np.cos(2 * self.k * self.mu) + 1 - math.sqrt(2) * a * dawsn(a / math.sqrt(2))) / 2

    def scaled(self) -> Array:
        a = self.k * self.sigma
        near = np.exp(-(a**2) / 2)
        return (np.cos(2 * self.k * self.mu) * (2 * np.exp(-2 * a**2) - near) + near) / 2


FAMILIES: dict[str, type[Family]] = {"(x − k)²": Quadratic, "exp(−kx²)": Exponential, "cos(kx)": Cosine}


def spaced(name: str, points: int) -> Array:
    """The figures' range of k: linear for (x − k)², logarithmic for the others."""
    low, high = {"(x − k)²": (-3.0, 3.0), "exp(−kx²)": (0.1, 10.0), "cos(kx)": (0.5, 5.0)}[name]
    return np.linspace(low, high, points) if name == "(x − k)²" else np.geomspace(low, high, points)
