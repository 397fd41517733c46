"""Trust regions: Fisher products and natural gradients against dense matrices, and a line search that restores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from scg.agents.a2c import a2c
from scg.agents.common import trust_region
from scg.agents.trpo import importance_cost, line_search
from scg.estimators.credit import GAE
from scg.trace import Trace

pytestmark = pytest.mark.usefixtures("double")


class Discrete(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, generator=Generator().manual_seed(0)))

    def forward(self, obs: Tensor) -> Categorical:
        return Categorical(logits=obs @ self.weight)


class Continuous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        g = Generator().manual_seed(0)
        self.weight, self.log_scale = nn.Parameter(torch.randn(3, 2, generator=g)), nn.Parameter(torch.tensor([-0.5, 0.2]))

    def forward(self, obs: Tensor) -> Independent:
        loc = (obs @ self.weight).tanh()
        return Independent(Normal(loc, self.log_scale.exp().expand_as(loc)), 1)


def recorded(policy: nn.Module, rows: int = 12) -> tuple[Callable[[], Trace], dict[str, Tensor]]:
    g = Generator().manual_seed(1)
    value = nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))
    obs = torch.randn(1, rows, 3, generator=g)
    with torch.no_grad():
        action = policy(obs).sample()
        log_prob = policy(obs).log_prob(action)
    no = torch.zeros(1, rows, dtype=torch.bool)
    given = {"first": ~no, "terminated": no, "obs": obs, "next_obs": obs, "action": action, "action.log_prob": log_prob}
    zeros = torch.zeros(1, rows)
    given |= {"reward": zeros, "target": zeros, "next_value": zeros, "action.credit": torch.randn(1, rows, generator=g)}
    graph = a2c(policy, value, GAE())
    return lambda: graph.replay(given), given


def dense_fisher(policy: nn.Module, obs: Tensor, parameters: list[Tensor]) -> Tensor:
    """mean_s Σ_a π ∇log π ∇log πᵀ; for Gaussians from the Jacobians of their moments: Jμᵀ σ⁻² Jμ + 2 J_{log σ}ᵀ J_{log σ}."""
    size = sum(p.numel() for p in parameters)
    total = torch.zeros(size, size)
    for row in obs.flatten(0, -2):
        p = policy(row)
        if isinstance(p, Categorical):
            for a, probability in enumerate(p.probs.detach()):
                score = trust_region.flat(torch.autograd.grad(p.log_prob(torch.tensor(a)), parameters, retain_graph=True))
                total += probability * torch.outer(score, score)
        else:
            for loc, scale in zip(p.base_dist.loc, p.base_dist.scale, strict=True):
                for moment, weight in ((loc, scale.detach() ** -2), (scale.log(), torch.tensor(2.0))):
                    grads = torch.autograd.grad(moment, parameters, retain_graph=True, allow_unused=True)
                    j = trust_region.flat(
                        [torch.zeros_like(p) if d is None else d for d, p in zip(grads, parameters, strict=True)]
                    )
                    total += weight * torch.outer(j, j)
    return total / len(obs.flatten(0, -2))


@pytest.mark.parametrize("make", [Discrete, Continuous])
def test_the_kls_hessian_vector_product_is_the_fisher_matrix(make: Callable[[], nn.Module]) -> None:
    policy = make()
    parameters = list(policy.parameters())
    replay, given = recorded(policy)
    product = trust_region.fisher_product(trust_region.distribution(replay(), "action"), parameters, damping=0.3)
    size = sum(p.numel() for p in parameters)
    found = torch.stack([product(v) for v in torch.eye(size)])
    assert torch.allclose(found, dense_fisher(policy, given["obs"], parameters) + 0.3 * torch.eye(size), atol=1e-12)


def test_conjugate_gradient_solves_as_a_dense_solver_does() -> None:
    g = Generator().manual_seed(0)
    root = torch.randn(9, 9, generator=g)
    matrix, b = root @ root.T + 0.1 * torch.eye(9), torch.randn(9, generator=g)
    exact = torch.linalg.solve(matrix, b)
    assert torch.allclose(trust_region.conjugate_gradient(lambda v: matrix @ v, b, 30, 1e-24), exact, rtol=1e-8)
    early = trust_region.conjugate_gradient(lambda v: matrix @ v, b, 3)
    assert (early - exact).norm() > 1e-3 * exact.norm()  # three steps are not nine
    assert not trust_region.conjugate_gradient(lambda v: matrix @ v, torch.zeros(9)).any()


@pytest.mark.parametrize("make", [Discrete, Continuous])
def test_the_natural_gradient_is_the_dense_one_and_its_step_has_the_kl_asked_for(make: Callable[[], nn.Module]) -> None:
    policy = make()
    parameters = list(policy.parameters())
    replay, given = recorded(policy)
    trace = replay()
    gradient = trust_region.flat(torch.autograd.grad(trace.surrogate("gain", reduce="mean"), parameters, retain_graph=True))
    now = trust_region.distribution(trace, "action")
    step = trust_region.natural_step(trust_region.fisher_product(now, parameters, 1e-9), gradient, 1e-6, 60)
    fisher = dense_fisher(policy, given["obs"], parameters)
    direction = torch.linalg.pinv(fisher, hermitian=True, rtol=1e-10) @ gradient
    expected = direction * (2e-6 / (gradient @ direction)).sqrt()
    assert torch.allclose(fisher @ step, fisher @ expected, rtol=1e-4, atol=1e-9)  # softmax weights have a free direction
    plain = gradient * (2e-6 / (gradient @ fisher @ gradient)).sqrt()
    assert (fisher @ plain - fisher @ expected).norm() > 0.05 * (fisher @ expected).norm()  # the plain gradient is caught
    before = trust_region.detached(now)
    trust_region.assign(parameters, trust_region.flat(parameters).detach() - step)
    assert trust_region.divergence(before, trust_region.distribution(replay(), "action")).item() == pytest.approx(
        1e-6, rel=0.05
    )


@pytest.mark.parametrize("make", [Discrete, Continuous])
def test_a_frozen_distribution_is_the_same_and_has_no_gradient(make: Callable[[], nn.Module]) -> None:
    policy = make()
    now = policy(torch.randn(5, 3))
    before = trust_region.detached(now)
    assert trust_region.divergence(before, now).item() == pytest.approx(0.0, abs=1e-15)
    assert not before.log_prob(now.sample()).requires_grad


def test_the_line_search_takes_the_longest_step_that_passes() -> None:
    policy = Discrete()
    parameters = list(policy.parameters())
    replay, _ = recorded(policy)
    trace = replay()
    gradient = trust_region.flat(torch.autograd.grad(trace.surrogate("gain", reduce="mean"), parameters, retain_graph=True))
    now = trust_region.distribution(trace, "action")
    change = trust_region.natural_step(trust_region.fisher_product(now, parameters, 1e-3), gradient, 0.05, 20)
    start, before, cost = trust_region.flat(parameters).detach().clone(), trust_region.detached(now), importance_cost(trace)
    found = line_search(parameters, change, before, replay, kl=0.01, tries=20)
    assert 0 < found["kl"] <= 0.01
    assert found["improvement"] == pytest.approx(cost - importance_cost(replay()))
    assert found["improvement"] > 0
    assert torch.allclose(trust_region.flat(parameters), start - found["step_size"] * change)
    trust_region.assign(parameters, start - found["step_size"] / 0.8 * change)  # the one before went too far
    assert trust_region.divergence(before, trust_region.distribution(replay(), "action")) > 0.01


@pytest.mark.parametrize("factor", [-1.0, float("nan"), 1e6])
def test_a_failed_line_search_puts_the_parameters_back(factor: float) -> None:
    """Uphill, not a number, or too far for all ten tries."""
    policy = Discrete()
    parameters = list(policy.parameters())
    replay, _ = recorded(policy)
    trace = replay()
    gradient = trust_region.flat(torch.autograd.grad(trace.surrogate("gain", reduce="mean"), parameters, retain_graph=True))
    start, before = (
        trust_region.flat(parameters).detach().clone(),
        trust_region.detached(trust_region.distribution(trace, "action")),
    )
    found = line_search(parameters, factor * gradient, before, replay, kl=0.01)
    assert found == {"kl": 0.0, "step_size": 0.0, "improvement": 0.0}
    assert torch.equal(trust_region.flat(parameters), start)


def test_no_gradient_is_no_step() -> None:
    assert not trust_region.natural_step(lambda v: v, torch.zeros(4), 0.01).any()
