"""The regulator of Dean et al. (2017) that the paper searches: three coupled, slightly unstable states; cost and gradient exact.

    x_{t+1} = A x_t + u_t + w_t,  u = K x,  w ~ N(0, I)           cost, in the long run E[xᵀQx + uᵀRu],  Q = 10⁻³ I, R = I

    J(K) = tr(Q + KᵀRK) Σ,   Σ = (A + K) Σ (A + K)ᵀ + I           ∇J = 2 (R K + P (A + K)) Σ,   P = Q + KᵀRK + (A + K)ᵀ P (A + K)

J is infinite where A + K is not stable. (Fazel et al. 2018 for the gradient.)
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov

A = np.array([[1.01, 0.01, 0.0], [0.01, 1.01, 0.01], [0.0, 0.01, 1.01]])
Q, R, I = 1e-3 * np.eye(3), np.eye(3), np.eye(3)
START = -0.3 * I


def cost(gain: np.ndarray) -> np.ndarray:
    """J of gains `[*, 3, 3]`."""
    flat = gain.reshape(-1, 3, 3)
    closed = A + flat
    stable = np.abs(np.linalg.eigvals(closed)).max(-1) < 1
    kron = np.einsum("nij,nkl->nikjl", closed, closed).reshape(-1, 9, 9)
    system = np.where(stable[:, None, None], np.eye(9) - kron, np.eye(9))
    sigma = np.linalg.solve(system, np.broadcast_to(I.reshape(9, 1), (len(flat), 9, 1)))[..., 0].reshape(-1, 3, 3)
    weight = Q + flat.swapaxes(1, 2) @ R @ flat
    found = np.einsum("nij,nji->n", weight, sigma)
    return np.where(stable, found, np.inf).reshape(gain.shape[:-2])


def gradient(gain: np.ndarray) -> np.ndarray:
    """∇J of one stable gain."""
    closed = A + gain
    sigma = solve_discrete_lyapunov(closed, I)
    value = solve_discrete_lyapunov(closed.T, Q + gain.T @ R @ gain)
    return 2 * (R @ gain + value @ closed) @ sigma


def best_gain() -> np.ndarray:
    value = solve_discrete_are(A, I, Q, R)
    return -np.linalg.solve(R + value, value @ A)


BEST = float(cost(best_gain()))
