"""NPG: the natural policy gradient, each step as long as the KL divergence allows.

    obs_t → (action_t ~ π) → reward_t                g = mean_t A_t ∇ log π(action_t|obs_t)
    obs_t → value_t → ⟨(value_t − target_t)²⟩        θ ← θ − √(2δ / gᵀF⁻¹g) F⁻¹g

The graph is A2C's; what differs is the metric. F is the Fisher matrix of the policy at the block's states, F⁻¹g by
conjugate gradient on Hessian-vector products of the KL. One step a block; the critic is regressed several times.

Kakade (2001); Rajeswaran et al. (2017) for the normalised step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from scg.agents.a2c import a2c
from scg.agents.common.agent import Agent
from scg.agents.common.on_policy import ActorCritic, OnPolicy, advantages, predicted
from scg.agents.common.trust_region import assign, detached, distribution, divergence, fisher_product, flat, natural_step
from scg.agents.execution.options import check_options
from scg.agents.experience.rollout import Block
from scg.agents.updates.metrics import Metrics, NotFinite, explained_variance, parts_signal_to_noise
from scg.agents.updates.minibatches import Shuffle
from scg.agents.updates.optimiser import Adam
from scg.trace import Trace


@dataclass(frozen=True)
class Natural(OnPolicy):
    """Hyperparameters of the agents that measure their steps by KL."""

    kl: float = 0.01
    """δ, the KL divergence of a step"""
    damping: float = 0.1
    """multiple of the identity added to the Fisher matrix"""
    cg_iterations: int = 10
    """steps of conjugate gradient"""
    value_lr: float = 1e-3
    """learning rate of the critic, falling linearly to zero"""
    value_epochs: int = 10
    """passes of the critic over each block"""
    minibatch: int = 128
    """steps in each of its minibatches"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self, "cg_iterations value_epochs minibatch", "kl damping value_lr")

    def by(
        self,
        nets: ActorCritic,
        generator: Generator,
        step: Callable[[Trace, Sequence[Tensor], Tensor, Callable[[], Trace]], Metrics],
    ) -> Agent:
        """An actor-critic whose policy takes `step(trace, parameters, gradient, replay)`, then its critic is regressed."""
        policy, value = nets.policy, nets.value
        graph, parameters = a2c(policy, value, self.credit()), [*policy.parameters()]
        adam, shuffle = Adam(value.parameters()), Shuffle(generator)
        regression = nets.updates.minibatch(graph, adam, ["regression"], self.minibatch)

        def update(block: Block, progress: float) -> Metrics:
            adam.rate.fill_(self.value_lr * (1 - progress))
            given = nets.recording(block)
            rows = advantages(graph, value, given)
            metrics = {"explained_variance": explained_variance(predicted(value, rows), rows["target"])}
            snr = parts_signal_to_noise(graph, rows, parameters, "gain")
            metrics |= self._policy_step(lambda: graph.replay(rows), parameters, step)
            metrics["grad_snr"] = snr
            for _ in range(self.value_epochs):
                for minibatch in shuffle(block.steps, self.minibatch):
                    regression(rows, minibatch)
            metrics["value_grad_norm"] = regression.mean_norm()
            nets.absorb(given)
            return {**metrics, "entropy": float(-given["action.log_prob"].mean())}

        return Agent(graph, policy, nets.collect, update, {**nets.state, "adam": adam, "shuffle": shuffle})

    @staticmethod
    def _policy_step(replay: Callable[[], Trace], parameters: Sequence[Tensor], step: Callable[..., Metrics]) -> Metrics:
        trace = replay()
        loss = trace.surrogate("gain", reduce="mean")
        gradient = flat(torch.autograd.grad(loss, parameters, retain_graph=True))
        norm = float(gradient.norm())
        if not norm < float("inf"):
            raise NotFinite(f"objective 'gain': gradient norm {norm}, loss {loss.item()}.")
        return {"grad_norm": norm, **step(trace, parameters, gradient, replay)}


@dataclass(frozen=True)
class NPG(Natural):
    """Hyperparameters."""

    def around(self, nets: ActorCritic, generator: Generator) -> Agent:
        def step(trace: Trace, parameters: Sequence[Tensor], gradient: Tensor, replay: Callable[[], Trace]) -> Metrics:
            now = distribution(trace, "action")
            change = natural_step(fisher_product(now, parameters, self.damping), gradient, self.kl, self.cg_iterations)
            before = detached(now)
            assign(parameters, flat(parameters).detach() - change)
            with torch.no_grad():
                return {"kl": float(divergence(before, distribution(replay(), "action")))}

        return self.by(nets, generator, step)
