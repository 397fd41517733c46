"""Ten right losses and ten twins whose bugs were written after `check_gradient`'s catalogue, to measure and not to mend it by.

The bugs are of kinds that `benchmarks.hand_losses` does not have. Three of them are no change of the catalogue's (`cause` is ""):
there nothing should be named, and a name is a false lead.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Normal

import scg
from benchmarks.hand_losses import (
    ACTIONS,
    DOUBLE,
    EYE,
    REWARD,
    STATES,
    TRANSITION,
    Case,
    _linear,
    _random,
    after,
    expected_cost,
    rollout,
    to_go,
)
from scg import Pathwise


def reinforce_cases() -> list[Case]:
    policy = _linear(STATES, ACTIONS, 43)

    def reinforce(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        log_prob = policy(obs).log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return -(log_prob * to_go(rewards)).sum(0).mean()

    def so_far(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        log_prob = policy(obs).log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return -(log_prob * rewards.cumsum(0)).sum(0).mean()

    def over_the_batch(batch: int = 128) -> Tensor:
        obs, actions, rewards = rollout(policy, batch)
        log_prob = policy(obs).log_softmax(1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return -(log_prob * to_go(rewards)).sum(0).mean()

    def objective() -> Tensor:
        return expected_cost(policy)

    return [
        Case("REINFORCE", "rewards until now for rewards to go", "", reinforce, so_far, objective),
        Case("REINFORCE", "log-softmax over the batch", "a wrong mean over an axis", reinforce, over_the_batch, objective),
    ]


def a2c_cases() -> list[Case]:
    critic, gamma, over = _linear(STATES, 1, 47), 0.9, 2
    frozen = copy.deepcopy(critic).requires_grad_(False)

    def recording(batch: int = 64) -> dict[str, Tensor]:
        state, action = torch.randint(STATES, (batch,)), torch.randint(ACTIONS, (batch,))
        following = after(state, action)
        return {"obs": EYE[state], "reward": REWARD[state, action], "next_obs": EYE[following], "terminated": following == over}

    def regression() -> Tensor:
        """Of the critic on one-step targets, up to what the parameters do not move."""
        alive = (torch.arange(STATES) != over).to(DOUBLE)
        target = (REWARD + gamma * TRANSITION @ (alive * frozen(EYE).squeeze(-1))).mean(1)
        return 0.5 * (critic(EYE).squeeze(-1) - target).square().mean()

    def td(batch: dict[str, Tensor]) -> Tensor:
        value, following = critic(batch["obs"]).squeeze(-1), critic(batch["next_obs"]).squeeze(-1)
        target = batch["reward"] + gamma * (1 - batch["terminated"].to(DOUBLE)) * following
        return 0.5 * (value - target.detach()).square().mean()

    def endless(batch: dict[str, Tensor]) -> Tensor:
        value, following = critic(batch["obs"]).squeeze(-1), critic(batch["next_obs"]).squeeze(-1)
        target = batch["reward"] + gamma * following
        return 0.5 * (value - target.detach()).square().mean()

    def moving(batch: dict[str, Tensor]) -> Tensor:
        value, following = critic(batch["obs"]).squeeze(-1), critic(batch["next_obs"]).squeeze(-1)
        target = batch["reward"] + gamma * (1 - batch["terminated"].to(DOUBLE)) * following
        return 0.5 * (value - target).square().mean()

    return [
        Case("A2C", "no end at terminations", "bootstraps beyond a termination", td, endless, regression, given=recording),
        Case("A2C", "the critic's target not detached", "missing detach", td, moving, regression, given=recording),
    ]


def ppo_cases() -> list[Case]:
    policy, behaviour = _linear(STATES, ACTIONS, 53), _linear(STATES, ACTIONS, 53)
    with torch.no_grad():
        behaviour.weight += 0.25 * _random(ACTIONS, STATES, seed=55)
    advantages, mu = _random(STATES, ACTIONS, seed=56), behaviour(EYE).softmax(-1).detach()

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

    def upside_down(batch: dict[str, Tensor]) -> Tensor:
        log_prob = Categorical(logits=policy(batch["obs"])).log_prob(batch["action"])
        ratio = (batch["log_prob"] - log_prob).exp()
        return -torch.min(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"]).mean()

    def greedy(batch: dict[str, Tensor]) -> Tensor:
        dist = Categorical(logits=policy(batch["obs"]))
        ratio = (dist.log_prob(dist.logits.argmax(-1)) - batch["log_prob"]).exp()
        return -torch.min(ratio * batch["advantage"], ratio.clamp(0.8, 1.2) * batch["advantage"]).mean()

    return [
        Case("PPO", "the ratio upside down", "a wrong sign", ppo, upside_down, clipped, given=recording),
        Case("PPO", "log-probability of the greedy action", "log-probability of the wrong action", ppo, greedy, clipped, given=recording),
    ]  # fmt: skip


def dqn_cases() -> list[Case]:
    q_net, target_net, gamma, over = _linear(STATES, ACTIONS, 59), _linear(STATES, ACTIONS, 61), 0.9, 2
    target_net.requires_grad_(False)

    def recording(batch: int = 64) -> dict[str, Tensor]:
        state, action = torch.randint(STATES, (batch,)), torch.randint(ACTIONS, (batch,))
        following = after(state, action)
        return {
            "obs": EYE[state], "action": action, "reward": REWARD[state, action], "next_obs": EYE[following],
            "terminated": following == over,
        }  # fmt: skip

    def bellman() -> Tensor:
        alive = (torch.arange(STATES) != over).to(DOUBLE)
        target = REWARD + gamma * TRANSITION @ (alive * target_net(EYE).amax(-1))
        return 0.5 * (q_net(EYE) - target).square().mean()

    def dqn(batch: dict[str, Tensor]) -> Tensor:
        q = q_net(batch["obs"]).gather(1, batch["action"].unsqueeze(1)).squeeze(1)
        done = batch["terminated"].to(DOUBLE)
        return 0.5 * F.mse_loss(q, batch["reward"] + gamma * (1 - done) * target_net(batch["next_obs"]).amax(1))

    def best_value(batch: dict[str, Tensor]) -> Tensor:
        q = q_net(batch["obs"]).amax(1)
        done = batch["terminated"].to(DOUBLE)
        return 0.5 * F.mse_loss(q, batch["reward"] + gamma * (1 - done) * target_net(batch["next_obs"]).amax(1))

    return [Case("DQN", "the best action's value for the taken one's", "", dqn, best_value, bellman, given=recording)]


def sac_cases() -> list[Case]:
    policy, alpha, obs = _linear(2, 4, 67), 0.3, _random(32, 2, seed=69)
    aim = _random(32, 2, seed=70)

    def dist() -> Normal:
        loc, log_scale = policy(obs).chunk(2, -1)
        return Normal(loc, log_scale.clamp(-2, 1).exp())

    def objective() -> Tensor:
        """Of actions in the plane, the value −|a − aim|², exactly."""
        pi = dist()
        entropy = (0.5 * math.log(2 * math.pi * math.e) + pi.scale.log()).sum(-1)
        return (((pi.loc - aim).square() + pi.scale.square()).sum(-1) - alpha * entropy).mean()

    def sac() -> Tensor:
        pi = dist()
        action = pi.rsample()
        return (alpha * pi.log_prob(action).sum(-1) + (action - aim).square().sum(-1)).mean()

    def detached() -> Tensor:
        pi = dist()
        action = pi.rsample()
        return (alpha * pi.log_prob(action).sum(-1).detach() + (action - aim).square().sum(-1)).mean()

    def averaged() -> Tensor:
        pi = dist()
        action = pi.rsample()
        return (alpha * pi.log_prob(action).mean(-1) + (action - aim).square().sum(-1)).mean()

    return [
        Case("SAC", "the entropy term detached", "a detach too many", sac, detached, objective),
        Case("SAC", "log-probabilities averaged over dimensions", "a wrong mean over an axis", sac, averaged, objective),
    ]


def vae_cases() -> list[Case]:
    encoder, decoder = _linear(5, 2, 71), _linear(1, 5, 73)
    data = (_random(32, 5, seed=75) > 0).to(DOUBLE)

    def posterior(data: Tensor) -> Normal:
        loc, log_scale = encoder(data).unbind(-1)
        return Normal(loc, log_scale.clamp(-2, 1).exp())

    def nats(data: Tensor, z: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(decoder(z.unsqueeze(-1)), data.expand(*z.shape, 5), reduction="none").sum(-1)

    graph = scg.Graph()
    graph.stochastic(Pathwise(), posterior, name="z", parents=["data"])
    graph.cost(nats, name="reconstruction", parents=["data", "z"])
    graph.cost(
        lambda data: torch.distributions.kl_divergence(posterior(data), Normal(torch.zeros(len(data), dtype=DOUBLE), 1.0)),
        name="kl",
        parents=["data"],
    )

    def vae() -> Tensor:
        q = posterior(data)
        kl = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).mean()
        return nats(data, q.rsample()).mean() + kl

    def half_a_logarithm() -> Tensor:
        q = posterior(data)
        kl = 0.5 * (q.loc**2 + q.scale**2 - 1 - q.scale.log()).mean()
        return nats(data, q.rsample()).mean() + kl

    return [Case("VAE", "log σ for log σ² in the divergence", "", vae, half_a_logarithm, (graph, {"data": data}))]


def cases() -> list[Case]:
    return [*reinforce_cases(), *a2c_cases(), *ppo_cases(), *dqn_cases(), *sac_cases(), *vae_cases()]
