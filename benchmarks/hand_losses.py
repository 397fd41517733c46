"""Losses as people write them, in plain PyTorch: twelve right ones and their twelve twins with a planted bug.

    REINFORCE, A2C      three states, two or three actions, three steps; the true return is a sum over all states and steps
    PPO                 recorded actions of another policy, advantages known; the clipped objective is a sum over all actions
    DQN                 recorded transitions, of which some are cut by a time limit
    SAC, VAE            one Gaussian sample a batch element; the objectives are graphs, integrated by quadrature

Each `Case` knows the loss, what its gradient is that of, and the bug. `benchmarks.losses` prints what is found of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

import scg
from scg import Pathwise

DOUBLE = torch.float64
STATES, ACTIONS, STEPS = 3, 2, 3


@dataclass(frozen=True)
class Case:
    """A right loss, its twin, and the cause that should be named. `given` makes recordings."""

    name: str
    bug: str
    cause: str
    right: Callable[..., Tensor]
    wrong: Callable[..., Tensor]
    objective: Any
    wrt: Any = None
    given: Callable[[], dict[str, Tensor]] | None = None


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def _linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, dtype=DOUBLE)
    with torch.no_grad():
        layer.weight.copy_(0.7 * _random(outputs, inputs, seed=seed))
        layer.bias.copy_(0.3 * _random(outputs, seed=seed + 1))
    return layer


# -- a small decision process ----------------------------------------------------------------------------------

TRANSITION = (2 * _random(STATES, ACTIONS, STATES, seed=1)).softmax(-1)
REWARD = 1.0 + 2.0 * _random(STATES, ACTIONS, seed=2)
EYE = torch.eye(STATES, dtype=DOUBLE)


def expected_cost(policy: nn.Module) -> Tensor:
    """Minus the expected return of `STEPS` steps from a uniform state."""
    pi, value = policy(EYE).softmax(-1), torch.zeros(STATES, dtype=DOUBLE)
    for _ in range(STEPS):
        value = (pi * (REWARD + TRANSITION @ value)).sum(-1)
    return -value.mean()


def rollout(policy: nn.Module, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """States (one-hot), actions and rewards, `[time, batch]`, as an environment gives them."""
    obs, actions, rewards = [], [], []
    with torch.no_grad():
        probs = policy(EYE).softmax(-1)
    state = torch.randint(STATES, (batch,))
    for _ in range(STEPS):
        action = torch.multinomial(probs[state], 1).squeeze(-1)
        obs.append(EYE[state]), actions.append(action), rewards.append(REWARD[state, action])
        state = after(state, action)
    return torch.stack(obs), torch.stack(actions), torch.stack(rewards)


def after(state: Tensor, action: Tensor) -> Tensor:
    return torch.multinomial(TRANSITION[state, action], 1).squeeze(-1)


def to_go(rewards: Tensor) -> Tensor:
    return rewards.flip(0).cumsum(0).flip(0)


def reinforce_cases() -> list[Case]:
    policy = _linear(STATES, ACTIONS, 3)

    def leave_one_out(groups: int = 32, size: int = 4) -> Tensor:
        obs, actions, rewards = rollout(policy, groups * size)
        returns = to_go(rewards).unflatten(1, (groups, size))
        baseline = (returns.sum(-1, keepdim=True) - returns) / (size - 1)
        log_prob = Categorical(logits=policy(obs)).log_prob(actions)
        return -(log_prob * (returns - baseline).flatten(1)).sum(0).mean()

    def group_baseline(groups: int = 32, size: int = 4) -> Tensor:
        obs, actions, rewards = rollout(policy, groups * size)
        returns = to_go(rewards).unflatten(1, (groups, size))
        baseline = returns.mean(-1, keepdim=True)
        log_prob = Categorical(logits=policy(obs)).log_prob(actions)
        return -(log_prob * (returns - baseline).flatten(1)).sum(0).mean()

    def one_action(batch: int = 128) -> Tensor:
        state, log_probs, rewards = torch.randint(STATES, (batch,)), [], []
        for _ in range(STEPS):
            dist = Categorical(logits=policy(EYE[state]))
            action = dist.sample()
            log_probs.append(dist.log_prob(action)), rewards.append(REWARD[state, action])
            state = after(state, action)
        return -(torch.stack(log_probs) * to_go(torch.stack(rewards))).sum(0).mean()

    def sampled_again(batch: int = 128) -> Tensor:
        state, log_probs, rewards = torch.randint(STATES, (batch,)), [], []
        for _ in range(STEPS):
            dist = Categorical(logits=policy(EYE[state]))
            action = dist.sample()
            log_probs.append(dist.log_prob(dist.sample())), rewards.append(REWARD[state, action])
            state = after(state, action)
        return -(torch.stack(log_probs) * to_go(torch.stack(rewards))).sum(0).mean()

    def summed_over_time(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        log_probs = policy(obs).log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return -(log_probs * to_go(rewards)).sum(0).mean()

    def averaged_over_time(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        log_probs = policy(obs).log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return -(log_probs * to_go(rewards)).mean()

    def objective() -> Tensor:
        return expected_cost(policy)

    return [
        Case("REINFORCE", "the mean of four episodes as their baseline", "own sample in the baseline", leave_one_out, group_baseline, objective),
        Case("REINFORCE", "log-probability of a second sample", "log-probability of the wrong action", one_action, sampled_again, objective),
        Case("REINFORCE", "mean over time and batch", "a wrong mean over an axis", summed_over_time, averaged_over_time, objective),
    ]  # fmt: skip


def a2c_cases() -> list[Case]:
    policy, critic = _linear(STATES, ACTIONS, 5), _linear(STATES, 1, 7)
    with torch.no_grad():  # where the critic's targets come from does not move with the policy
        pi = policy(EYE).softmax(-1)
        visits, following = [torch.full((STATES,), 1 / STATES, dtype=DOUBLE)], [torch.zeros(STATES, dtype=DOUBLE)]
        for _ in range(STEPS):
            visits.append(torch.einsum("s,sa,sax->x", visits[-1], pi, TRANSITION))
            following.insert(0, (pi * (REWARD + TRANSITION @ following[0])).sum(-1))

    def objective() -> Tensor:
        value = critic(EYE).squeeze(-1)
        regression = sum(
            ((d * (value.square() - 2 * value * g)).sum() for d, g in zip(visits[:STEPS], following[:STEPS], strict=True))
        )
        return expected_cost(policy) + 0.5 * regression

    def a2c(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        returns, value = to_go(rewards), critic(obs).squeeze(-1)
        advantage = returns - value
        log_prob = Categorical(logits=policy(obs)).log_prob(actions)
        actor = -(log_prob * advantage.detach()).sum(0).mean()
        return actor + 0.5 * advantage.square().sum(0).mean()

    def undetached(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        returns, value = to_go(rewards), critic(obs).squeeze(-1)
        advantage = returns - value
        log_prob = Categorical(logits=policy(obs)).log_prob(actions)
        actor = -(log_prob * (returns - value)).sum(0).mean()
        return actor + 0.5 * advantage.square().sum(0).mean()

    def plain(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        advantage = to_go(rewards) - critic(obs).squeeze(-1).detach()
        log_prob = Categorical(logits=policy(obs)).log_prob(actions)
        return -(log_prob * advantage).sum(0).mean()

    def normalised(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        advantage = to_go(rewards) - critic(obs).squeeze(-1).detach()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        log_prob = Categorical(logits=policy(obs)).log_prob(actions)
        return -(log_prob * advantage).sum(0).mean()

    return [
        Case("A2C", "the actor's advantage not detached", "missing detach", a2c, undetached, objective),
        Case("A2C", "advantages normalised over the batch", "normalised advantages", plain, normalised, lambda: expected_cost(policy)),
    ]  # fmt: skip


# -- recorded ----------------------------------------------------------------------------------------------------


def ppo_cases() -> list[Case]:
    policy, behaviour = _linear(STATES, ACTIONS, 11), _linear(STATES, ACTIONS, 11)
    with torch.no_grad():
        behaviour.weight += 0.25 * _random(ACTIONS, STATES, seed=13)
    advantages, mu = _random(STATES, ACTIONS, seed=14), behaviour(EYE).softmax(-1).detach()

    def recording(batch: int = 128) -> dict[str, Tensor]:
        state = torch.randint(STATES, (batch,))
        dist = Categorical(probs=mu[state])
        action = dist.sample()
        return {"obs": EYE[state], "action": action, "log_prob": dist.log_prob(action), "advantage": advantages[state, action]}

    def clipped() -> Tensor:
        ratio = policy(EYE).softmax(-1) / mu
        return -(mu * torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)).sum(-1).mean()

    def ppo(batch: dict[str, Tensor]) -> Tensor:
        log_prob = Categorical(logits=policy(batch["obs"])).log_prob(batch["action"])
        ratio = (log_prob - batch["log_prob"]).exp()
        return -torch.min(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"]).mean()

    def optimistic(batch: dict[str, Tensor]) -> Tensor:
        log_prob = Categorical(logits=policy(batch["obs"])).log_prob(batch["action"])
        ratio = (log_prob - batch["log_prob"]).exp()
        return -torch.max(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"]).mean()

    def on_policy() -> Tensor:
        return -(policy(EYE).softmax(-1) * advantages).sum(-1).mean()

    def current(batch: int = 128) -> Tensor:
        state = torch.randint(STATES, (batch,))
        dist = Categorical(logits=policy(EYE[state]))
        action = dist.sample()
        old = dist.log_prob(action).detach()
        ratio = (dist.log_prob(action) - old).exp()
        return -(ratio * advantages[state, action]).mean()

    def old_undetached(batch: int = 128) -> Tensor:
        state = torch.randint(STATES, (batch,))
        dist = Categorical(logits=policy(EYE[state]))
        action = dist.sample()
        old = dist.log_prob(action)
        ratio = (dist.log_prob(action) - old).exp()
        return -(ratio * advantages[state, action]).mean()

    return [
        Case("PPO", "max for min", "a wrong sign", ppo, optimistic, clipped, given=recording),
        Case("PPO", "the old log-probability not detached", "missing detach", current, old_undetached, on_policy),
    ]


def dqn_cases() -> list[Case]:
    q_net, target_net, gamma, over = _linear(STATES, ACTIONS, 17), _linear(STATES, ACTIONS, 19), 0.9, 2
    target_net.requires_grad_(False)

    def recording(batch: int = 64) -> dict[str, Tensor]:
        state, action = torch.randint(STATES, (batch,)), torch.randint(ACTIONS, (batch,))
        following = after(state, action)
        return {
            "obs": EYE[state], "action": action, "reward": REWARD[state, action], "next_obs": EYE[following],
            "terminated": following == over, "truncated": torch.rand(batch) < 0.4,
        }  # fmt: skip

    def bellman() -> Tensor:
        """Up to what the parameters do not move."""
        alive = (torch.arange(STATES) != over).to(DOUBLE)
        target = REWARD + gamma * TRANSITION @ (alive * target_net(EYE).amax(-1))
        return 0.5 * (q_net(EYE) - target).square().mean()

    def dqn(batch: dict[str, Tensor]) -> Tensor:
        q = q_net(batch["obs"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
        done = batch["terminated"].to(DOUBLE)
        target = batch["reward"] + gamma * (1 - done) * target_net(batch["next_obs"]).amax(1)
        return 0.5 * F.mse_loss(q, target)

    def cut_off(batch: dict[str, Tensor]) -> Tensor:
        q = q_net(batch["obs"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
        done = (batch["terminated"] | batch["truncated"]).to(DOUBLE)
        target = batch["reward"] + gamma * (1 - done) * target_net(batch["next_obs"]).amax(1)
        return 0.5 * F.mse_loss(q, target)

    def spread(batch: dict[str, Tensor]) -> Tensor:
        q = q_net(batch["obs"]).gather(1, batch["action"].unsqueeze(1))
        done = batch["terminated"].to(DOUBLE)
        target = batch["reward"] + gamma * (1 - done) * target_net(batch["next_obs"]).amax(1)
        return 0.5 * (q - target).square().mean()

    return [
        Case(
            "DQN",
            "truncated transitions not bootstrapped",
            "truncation treated as termination",
            dqn,
            cut_off,
            bellman,
            given=recording,
        ),
        Case("DQN", "[n, 1] less [n]", "a wrong mean over an axis", dqn, spread, bellman, given=recording),
    ]


# -- pathwise ------------------------------------------------------------------------------------------------------


def sac_cases() -> list[Case]:
    policy, critic, alpha = _linear(2, 2, 23), _linear(3, 1, 25), 0.3
    critic.requires_grad_(False)
    obs = _random(64, 2, seed=27)  # a minibatch

    def dist(obs: Tensor) -> Normal:
        loc, log_scale = policy(obs).unbind(-1)
        return Normal(loc, log_scale.clamp(-2, 1).exp())

    def value(obs: Tensor, action: Tensor) -> Tensor:
        return -(critic(torch.cat([obs, action.unsqueeze(-1)], -1)).squeeze(-1) - 1).square()

    graph = scg.Graph()
    graph.stochastic(Pathwise(), dist, name="action", parents=["obs"])
    graph.cost(lambda pi, action: alpha * pi.log_prob(action), name="entropy", parents=[scg.dist("action"), "action"])
    graph.cost(lambda obs, action: -value(obs, action), name="q", parents=["obs", "action"])

    def sac() -> Tensor:
        pi = dist(obs)
        action = pi.rsample()
        return (alpha * pi.log_prob(action) - value(obs, action)).mean()

    def not_reparameterised() -> Tensor:
        pi = dist(obs)
        action = pi.sample()
        return (alpha * pi.log_prob(action) - value(obs, action)).mean()

    def low_entropy() -> Tensor:
        pi = dist(obs)
        action = pi.rsample()
        return (-alpha * pi.log_prob(action) - value(obs, action)).mean()

    objective = (graph, {"obs": obs})
    return [
        Case("SAC", "sample() for rsample()", "a detach too many", sac, not_reparameterised, objective),
        Case("SAC", "minus the entropy's weight", "a wrong sign", sac, low_entropy, objective),
    ]


def vae_cases() -> list[Case]:
    encoder, decoder = _linear(5, 2, 29), _linear(1, 5, 31)
    data = (_random(32, 5, seed=33) > 0).to(DOUBLE)

    def posterior(data: Tensor) -> Normal:
        loc, log_scale = encoder(data).unbind(-1)
        return Normal(loc, log_scale.clamp(-2, 1).exp())

    def nats(data: Tensor, z: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(decoder(z.unsqueeze(-1)), data.expand(*z.shape, 5), reduction="none").sum(-1)

    def divergence(data: Tensor) -> Tensor:
        return torch.distributions.kl_divergence(posterior(data), Normal(torch.zeros(len(data), dtype=DOUBLE), 1.0))

    graph = scg.Graph()
    graph.stochastic(Pathwise(), posterior, name="z", parents=["data"])
    graph.cost(nats, name="reconstruction", parents=["data", "z"])
    graph.cost(divergence, name="kl", parents=["data"])

    def vae() -> Tensor:
        q = posterior(data)
        logits = decoder(q.rsample().unsqueeze(-1))
        reconstruction = F.binary_cross_entropy_with_logits(logits, data, reduction="sum") / len(data)
        kl = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).mean()
        return reconstruction + kl

    def averaged() -> Tensor:
        q = posterior(data)
        logits = decoder(q.rsample().unsqueeze(-1))
        reconstruction = F.binary_cross_entropy_with_logits(logits, data)
        kl = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).mean()
        return reconstruction + kl

    return [Case("VAE", "mean over pixels", "a wrong mean over an axis", vae, averaged, (graph, {"data": data}))]


def cases() -> list[Case]:
    return [*reinforce_cases(), *a2c_cases(), *ppo_cases(), *dqn_cases(), *sac_cases(), *vae_cases()]
