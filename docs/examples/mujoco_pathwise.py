"""Catch a falling pole: 25 controls of InvertedPendulum, optimised with gradients that flow through MuJoCo itself.

    control(t) → [state(t) = MuJoCo(state(t-1), control(t))] → ⟨cost⟩            python docs/examples/mujoco_pathwise.py

One rollout and its pathwise gradient an iteration: no learned model, no critic, no exploration.
"""

import gymnasium
import torch

import scg
from scg import prev
from scg.estimators import MujocoTransition

STEPS, TILT = 25, 0.15


def pendulum() -> scg.Graph:
    env = gymnasium.make("InvertedPendulum-v5").unwrapped
    graph = scg.Graph()
    with graph.sequence():
        graph.observed("control")
        graph.deterministic(
            MujocoTransition(env.model, env.frame_skip), name="state", parents=[prev("state", init="start"), "control"]
        )

        @graph.cost
        def cost(state, control):
            slide, angle, speed, spin = state.unbind(-1)
            return 10 * angle**2 + slide**2 + 0.01 * (speed**2 + spin**2) + 1e-3 * control.squeeze(-1) ** 2

    return graph


def catch(iterations: int = 60) -> tuple[list[float], torch.Tensor]:
    """Costs of all iterations, and the last rollout's states `[time, 4]`: slide, angle, and their velocities."""
    graph = pendulum()
    start = torch.tensor([0.0, TILT, 0.0, 0.0], dtype=torch.float64)
    control = torch.zeros(STEPS, 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([control], lr=0.05)
    costs = []
    for _ in range(iterations):
        trace = graph.sample(start=start, control=control)
        loss = trace.surrogate()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        costs.append(float(loss.detach()))
    return costs, graph.sample(start=start, control=control.detach())["state"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    costs, states = catch()
    for i in range(0, len(costs), 10):
        print(f"iteration {i:3d}   cost {costs[i]:8.3f}")
    print(f"the end         cost {costs[-1]:8.3f}   pole at {states[-1, 1]:+.3f} rad, it began at {TILT:+.3f}")
