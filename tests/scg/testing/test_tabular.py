"""The identities that policy optimisation rests on, on random tabular processes and policies; and twins that are wrong.

    ∇η(π) = Σ_s ρ_π(s) Σ_a ∇π(a|s) Q_π(s, a)                      the policy-gradient theorem
    η(π̃) = η(π) + Σ_s ρ_π̃(s) Σ_a π̃(a|s) A_π(s, a)                performance difference
    L_π(π) = η(π),  ∇L_π = ∇η at π                                 first-order agreement
    η(π̃) ≥ L_π(π̃) − 4εγ/(1−γ)² max_s KL(π ‖ π̃)                   minorisation

Exact, no sampling. Sutton et al. (2000); Kakade & Langford (2002); Schulman et al. (2015), "Trust region policy optimization".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.autograd.functional import jacobian

import scg
from scg.estimators.credit import MonteCarlo
from scg.testing import per_path
from scg.testing.tabular import (
    Process,
    Table,
    divergence,
    each_gradient,
    episodes,
    every_path,
    expected_gradient,
    gradient,
    policy_gradient,
)


def softmax(theta: Tensor) -> Tensor:
    return theta.softmax(-1)


@dataclass(frozen=True)
class Case:
    process: Process
    theta: Tensor
    direction: Tensor

    @property
    def pi(self) -> Tensor:
        return softmax(self.theta)

    def moved(self, length: float = 1.0) -> Tensor:
        return softmax(self.theta + length * self.direction)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    states, actions = draw(st.integers(2, 5)), draw(st.integers(2, 4))
    process = Process.random(draw(st.integers(0, 10_000)), states, actions, draw(st.sampled_from([0.0, 0.5, 0.9, 0.99])))
    g = Generator().manual_seed(draw(st.integers(0, 10_000)))
    kinds = {"generator": g, "dtype": torch.float64}
    return Case(process, 2 * torch.randn(states, actions, **kinds), torch.randn(states, actions, **kinds))


def some(count: int = 30, gamma: float = 0.9) -> list[Case]:
    found = []
    for seed in range(count):
        g = Generator().manual_seed(seed)
        theta, direction = (torch.randn(3, 2, generator=g, dtype=torch.float64) for _ in range(2))
        found.append(Case(Process.random(seed, 3, 2, gamma), theta, direction))
    return found


def close(found: Tensor, exact: Tensor, process: Process) -> bool:
    """To rounding: 1e-12 of the scale 1/(1 − γ)² that sums over a discounted life, and their derivatives, have."""
    return bool((found - exact).abs().max() < 1e-11 / (1 - process.gamma) ** 2)


# -- values and visits are what their names say ------------------------------------------------------------------------


@given(cases())
def test_values_and_visits_are_sums_over_a_discounted_life(case: Case) -> None:
    """Of 2¹² steps, summed by doubling: Σ_{t<2n} Mᵗ = (1 + Mⁿ) Σ_{t<n} Mᵗ with M = γ P_π."""
    process, pi = case.process, case.pi
    power, total = process.gamma * process.step(pi), torch.eye(process.states)
    for _ in range(12):
        total = total + power @ total
        power = power @ power
    assert torch.allclose(process.start @ total, process.visits(pi), rtol=1e-10, atol=1e-12)
    assert torch.allclose(total @ (pi * process.reward).sum(-1), process.value(pi), rtol=1e-10, atol=1e-10)
    assert float(process.visits(pi).sum()) == pytest.approx(1 / (1 - process.gamma))
    assert (pi * process.advantage(pi)).sum(-1).abs().max() < 1e-11 / (1 - process.gamma)


def test_the_graph_of_an_episode_has_the_gradient_of_its_return() -> None:
    """Summed over all trajectories; the process as a graph is the process of the linear solves."""
    process, theta = Process.random(3, gamma=1.0 - 1e-9), torch.randn(3, 2)
    paths = every_path(process, softmax(theta), 3)
    assert float(paths.p.sum()) == pytest.approx(1.0, abs=1e-12)

    def finite(theta: Tensor) -> Tensor:
        pi, occupied, total = softmax(theta), process.start, torch.zeros(())
        for _ in range(3):
            total = total + occupied @ (pi * process.reward).sum(-1)
            occupied = occupied @ process.step(pi)
        return total

    each = each_gradient(episodes(), paths, theta)
    assert torch.allclose(paths.mean(each), -gradient(finite, theta), rtol=1e-12, atol=1e-14)


# -- the policy-gradient theorem ---------------------------------------------------------------------------------------


@given(cases())
def test_the_policy_gradient_theorem(case: Case) -> None:
    """Against the derivative of the linear solve, which knows nothing of visits or action values."""
    exact = gradient(lambda theta: case.process.objective(softmax(theta)), case.theta)
    assert close(policy_gradient(case.process, softmax, case.theta), exact, case.process)


@given(cases())
def test_the_advantage_may_stand_for_the_action_value(case: Case) -> None:
    process, fixed = case.process, case.pi

    def with_advantage(theta: Tensor) -> Tensor:
        return (process.visits(fixed).unsqueeze(-1) * softmax(theta) * process.advantage(fixed)).sum()

    assert close(gradient(with_advantage, case.theta), policy_gradient(process, softmax, case.theta), process)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda p, pi: (p.visits(pi), p.reward), id="reward for action value"),
        pytest.param(lambda p, pi: (replace(p, gamma=0.0).visits(pi), p.action_value(pi)), id="first step's states only"),
        pytest.param(lambda p, pi: (replace(p, gamma=0.999).visits(pi) / 100, p.action_value(pi)), id="undiscounted states"),
    ],
)
def test_a_wrong_policy_gradient_is_caught(wrong: Callable[[Process, Tensor], tuple[Tensor, Tensor]]) -> None:
    for case in some():
        visits, q = wrong(case.process, case.pi)
        found = gradient(lambda theta, visits=visits, q=q: (visits.unsqueeze(-1) * softmax(theta) * q).sum(), case.theta)
        exact = policy_gradient(case.process, softmax, case.theta)
        assert (found - exact).norm() > 1e-3 * exact.norm()


# -- performance difference, and its local approximation ---------------------------------------------------------------


def difference(process: Process, pi: Tensor, new: Tensor, met_by: Tensor) -> Tensor:
    return (process.visits(met_by).unsqueeze(-1) * new * process.advantage(pi)).sum()


@given(cases())
def test_the_performance_difference(case: Case) -> None:
    process, pi, new = case.process, case.pi, case.moved()
    gained = process.objective(new) - process.objective(pi)
    assert close(difference(process, pi, new, met_by=new), gained, process)


def test_the_performance_difference_needs_the_new_policys_states() -> None:
    gaps = [
        float(
            difference(c.process, c.pi, c.moved(), met_by=c.pi) - (c.process.objective(c.moved()) - c.process.objective(c.pi))
        )
        for c in some()
    ]
    assert min(abs(gap) for gap in gaps) > 1e-6
    assert max(abs(gap) for gap in gaps) > 0.1


@given(cases())
def test_the_local_objective_agrees_to_first_order(case: Case) -> None:
    process, pi = case.process, case.pi
    assert close(process.local(pi, pi), process.objective(pi), process)
    local = gradient(lambda theta: process.local(pi, softmax(theta)), case.theta)
    assert close(local, gradient(lambda theta: process.objective(softmax(theta)), case.theta), process)


def test_the_local_objective_errs_in_second_order_and_no_lower() -> None:
    """Half the step, a quarter of the error; away from π the slopes differ."""
    ratios = []
    for case in some():
        process, pi = case.process, case.pi
        error = [abs(float(process.local(pi, case.moved(h)) - process.objective(case.moved(h)))) for h in (1e-3, 5e-4)]
        ratios.append(error[0] / error[1])
        away = case.theta + case.direction
        slopes = [gradient(f, away) for f in (lambda t: process.local(pi, softmax(t)), lambda t: process.objective(softmax(t)))]
        assert (slopes[0] - slopes[1]).norm() > 1e-3 * slopes[1].norm()
    assert sorted(ratios)[len(ratios) // 2] == pytest.approx(4.0, abs=0.02)


# -- the bound ---------------------------------------------------------------------------------------------------------


@given(cases(), st.sampled_from([0.01, 0.3, 1.0, 5.0]))
def test_the_penalised_local_objective_is_a_lower_bound(case: Case, length: float) -> None:
    process, pi, new = case.process, case.pi, case.moved(length)
    rounding = 1e-11 / (1 - process.gamma) ** 2
    assert process.objective(new) >= process.minorant(pi, new) - rounding
    assert close(process.minorant(pi, pi), process.objective(pi), process)


def slow_walk(states: int = 31, gamma: float = 0.99) -> tuple[Process, Tensor, Tensor]:
    """A walk between two walls; the new policy leans to the right, where leaning costs: L takes it to be there half the time."""
    transition, reward = torch.zeros(states, 2, states), torch.zeros(states, 2)
    for s in range(states):
        transition[s, 0, max(s - 1, 0)] = 1
        transition[s, 1, min(s + 1, states - 1)] = 1
    reward[states // 2 :, 0], reward[states // 2 :, 1] = 1.0, -1.0
    start = torch.eye(states)[states // 2]
    pi = torch.full((states, 2), 0.5)
    return Process(transition, reward, start, gamma), pi, pi + 1e-3 * torch.tensor([-1.0, 1.0])


def bound(process: Process, pi: Tensor, new: Tensor, share: float) -> float:
    """η(π̃) less its bound with `share` of the penalty: negative where that is none."""
    penalty = share * process.penalty(pi) * divergence(pi, new).max()
    return float(process.objective(new) - process.local(pi, new) + penalty)


def test_without_the_penalty_there_is_no_bound() -> None:
    below = [bound(c.process, c.pi, c.moved(), share=0.0) < -1e-9 for c in some(100)]
    assert 0.2 < sum(below) / len(below) < 0.8


def test_one_factor_of_the_horizon_is_not_enough() -> None:
    """4εγ/(1−γ) in place of 4εγ/(1−γ)² is no bound where policies drift apart slowly; the square is, with room."""
    process, pi, new = slow_walk()
    assert bound(process, pi, new, share=1 - process.gamma) < 0
    assert bound(process, pi, new, share=1.0) > 0


def test_no_factor_of_the_horizon_is_not_enough() -> None:
    cases = some(100, gamma=0.99)
    assert min(bound(c.process, c.pi, c.moved(0.1), share=(1 - 0.99) ** 2) for c in cases) < -1e-9


@given(cases())
def test_with_visits_that_sum_to_one_a_factor_of_the_horizon_goes_from_all_terms(case: Case) -> None:
    """E_{s~ρ̄}[…] − 4εγ/(1−γ) KL, ρ̄ = (1−γ)ρ, is the same bound times 1 − γ: one factor there, two here."""
    process, pi, new = case.process, case.pi, case.moved()
    normal = (1 - process.gamma) * process.visits(pi)
    epsilon = process.advantage(pi).abs().max()
    penalty = 4 * epsilon * process.gamma / (1 - process.gamma) * divergence(pi, new).max()
    normalised = (normal.unsqueeze(-1) * new * process.advantage(pi)).sum() - penalty
    gained = process.minorant(pi, new) - process.objective(pi)
    assert close(normalised, (1 - process.gamma) * gained, process)


def test_what_raises_the_bound_raises_the_return() -> None:
    """The step that is best for M_π, of some along its gradient (Schulman et al. 2015, Algorithm 1)."""
    for case in some():
        process, pi = case.process, case.pi
        uphill = policy_gradient(process, softmax, case.theta)
        steps = [softmax(case.theta + 2.0**-k * uphill) for k in range(0, 40, 3)]
        best = max(steps, key=lambda new, process=process, pi=pi: float(process.minorant(pi, new)))
        assert process.objective(best) >= process.minorant(pi, best) > process.objective(pi)


# -- agents' graphs on episodes of a few steps -----------------------------------------------------------------------


def agents_graph(policy: torch.nn.Module, credit: object = None) -> scg.Graph:
    graph = scg.Graph()
    with graph.sequence(first="first"):
        graph.observed("first")
        graph.observed("obs", parents=[scg.prev("obs"), scg.prev("action")])
        graph.stochastic(scg.ScoreFunction(), policy, name="action", parents=["obs"], credit=credit)
        graph.observed("reward", parents=["obs", "action"])
        graph.reward(lambda reward: reward, name="gain", trains=policy)
    return graph


def proved(credit: object, gamma: float, leading: bool, steps: int = 3) -> bool:
    process, table = replace(Process.random(0), gamma=gamma), Table.random(1)
    paths = every_path(process, table.pi, steps)
    copies = table.copies(len(paths.p))
    graph = agents_graph(copies, credit)
    found = expected_gradient(graph, paths.block(), copies, paths.p)
    return per_path.close(found, process.gradient(table, steps, leading))


def test_an_agents_graph_is_proved_in_five_lines_and_a_wrong_one_is_not():
    assert proved(None, 1.0, True)
    assert proved(MonteCarlo(0.9), 0.9, False)
    assert not proved(MonteCarlo(0.9), 0.9, True)  # the leading factor is dropped
    assert not proved(MonteCarlo(0.8), 0.9, False)


def test_the_gradient_and_the_hessian_of_episodes_are_those_of_their_cost():
    process, table = Process.random(3), Table.random(4)
    paths = every_path(process, table.pi, 3)
    seen = (paths.p * (process.gamma ** torch.arange(3.0).unsqueeze(-1) * -paths.rewards).sum(0)).sum()
    assert torch.allclose(process.cost(table.pi, 3), seen)
    flat = table.theta.detach().flatten()
    cost = lambda theta: process.cost(theta.view(3, 2).softmax(-1), 3)  # noqa: E731
    assert torch.allclose(process.gradient(table, 3), jacobian(cost, flat))
    step = 1e-5 * torch.eye(6)
    slopes = [(jacobian(cost, flat + e) - jacobian(cost, flat - e)) / 2e-5 for e in step]
    assert torch.allclose(process.hessian(table, 3), torch.stack(slopes), atol=1e-7)
