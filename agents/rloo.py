"""RLOO: a transformer learns from scores of whole answers, several to a prompt, each with the others' mean as its baseline.

    prompt, token_{<t} → [logits_t] → (token_t ~ π) ≤T→ score(prompt, answer)        K_i = score_i − mean of the prompt's others
    ┄ [reference logits_t] → ⟨β KL(π ‖ reference) at step t⟩                          exactly, summed over the vocabulary

Answers are sampled step by step from the keys and values of the tokens before, and replayed in one pass. One gradient step a
batch, so nothing is clipped and no ratio appears: the mean gradient is that of the expected score, less β KL. After the end
token all is padding, whose probability is 1. Episodes of the environment are of held-out prompts, for evaluation; what is
learned from is drawn from its task. With `baseline mean` a prompt's own answer is in its baseline, which shortens the mean
gradient by 1 − 1/answers; with `standardised` differences are divided by the prompt's standard deviation besides, which
changes its direction: GRPO's (see docs/guides/language-models.md).

Kool et al. (2019); Ahmadian et al. (2024); Shao et al. (2024) for GRPO; Stiennon et al. (2020) for the KL.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.distributions import Categorical, kl_divergence

import scg
from scg import ScoreFunction, dist, prefix
from scg.agents.common.agent import Agent, AgentConfig, check_options
from scg.agents.environments.brackets import END, PAD, Closing, TokenSpace
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.experience.rollout import Episode, Rollout
from scg.agents.networks.transformer import TokenPolicy, Transformer, ended, padded
from scg.agents.updates.factory import Updates
from scg.agents.updates.metrics import Metrics
from scg.agents.updates.optimiser import Adam
from scg.estimators.credit import BatchLeaveOneOut, GroupRelative

Baseline = Literal["others", "mean", "standardised"]
CREDITS = {
    "others": BatchLeaveOneOut(),
    "mean": GroupRelative(standardise=False),
    "standardised": GroupRelative(),
}


def answers(graph: scg.Graph, model: nn.Module, baseline: Baseline = "others") -> None:
    """The sequence: tokens until the end token, then padding. Input: `prompt [prompts, answers, length]`."""

    with graph.sequence():
        graph.deterministic(Ending(model), name="logits", parents=[prefix("token", init="prompt"), "prompt"])

        @graph.stochastic(ScoreFunction(), credit=CREDITS[baseline])
        def token(logits: Tensor) -> Categorical:
            return Categorical(logits=logits)


class Ending(nn.Module):
    """A model's logits, and after the end token the certainty of padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token: Tensor, prompt: Tensor) -> Tensor:
        return padded(self.model(token), ended(token, prompt.shape[-1], END), PAD)

    def extend(self, state: Any, token: Tensor, prompt: Tensor) -> tuple[Tensor, Any]:
        kept, before = (None, None) if state is None else state
        logits, kept = self.model.extend(kept, token)  # type: ignore[operator]
        over = ended(token, prompt.shape[-1] if state is None else 0, END, before)
        return padded(logits, over, PAD), (kept, over[..., -1:])


def rloo(model: nn.Module, baseline: Baseline = "others", kl: float = 0.0, reference: nn.Module | None = None) -> scg.Graph:
    graph = scg.Graph()
    answers(graph, model, baseline)
    graph.observed("score", parents=[prefix("token")])
    graph.reward(lambda score: score, name="gain")
    if kl and reference is not None:
        with graph.sequence():
            graph.deterministic(Ending(reference), name="reference", parents=[prefix("token", init="prompt"), "prompt"])

            @graph.cost
            def nearness(reference: Tensor, pi: Any = dist("token")) -> Tensor:
                return kl * kl_divergence(pi, Categorical(logits=reference))

    return graph


@dataclass(frozen=True)
class Answers:
    """What `collect` returns: `[prompts, answers]` of them."""

    prompt: Tensor  # [prompts, answers, length]
    token: Tensor  # [time, prompts, answers]
    score: Tensor  # [prompts, answers]
    right: Tensor  # [prompts, answers]

    @property
    def steps(self) -> int:
        """Tokens, padding not counted."""
        return int((self.token != PAD).sum())

    @property
    def episodes(self) -> list[Episode]:
        lengths = (self.token != PAD).sum(0).flatten().tolist()
        return [Episode(total, length) for total, length in zip(self.right.double().flatten().tolist(), lengths, strict=True)]


@dataclass(frozen=True)
class RLOO(AgentConfig):
    """Hyperparameters. The defaults learn Brackets-v0."""

    prompts: int = 32
    """prompts in each batch"""
    answers: int = 16
    """answers to each prompt"""
    baseline: Baseline = "others"
    """what is subtracted from an answer's score: the mean of the prompt's others, of all, or that and a division by their deviation"""
    kl: float = 0.01
    """weight β of the KL to the initial policy, exact at each step; 0 has none"""
    lr: float = 2e-3
    """learning rate, falling linearly to a twentieth"""
    width: int = 64
    """width of the transformer"""
    layers: int = 2
    """its layers"""
    heads: int = 4
    """its heads"""
    max_grad_norm: float = 1.0
    """longer gradients are shortened to this; their direction stays"""

    environments = 1
    executes = ()

    def __post_init__(self) -> None:
        check_options(self, "prompts width layers heads", "lr kl max_grad_norm")

    @classmethod
    def spaces(cls) -> dict[str, tuple[gym.Space, gym.Space]]:
        task = Closing(2)
        return {"tokens": (TokenSpace(task, 2), spaces.Discrete(task.vocabulary))}

    def agent(self, obs_space: gym.Space, action_space: gym.Space, generator: Generator, updates: Updates) -> Agent:
        if not isinstance(obs_space, TokenSpace):
            raise EnvironmentFault(
                f"observation space {obs_space}: RLOO answers prompts. Take a task in tokens, as Brackets-v0 is."
            )
        task, length = obs_space.task, obs_space.prompt
        model = Transformer(task.vocabulary, self.width, self.layers, self.heads, length + task.steps, generator)
        reference = copy.deepcopy(model).requires_grad_(False) if self.kl else None
        graph, sampler = rloo(model, self.baseline, self.kl, reference), scg.Graph()
        answers(sampler, model)
        optimiser = Adam(model.parameters(), self.max_grad_norm, eps=1e-8)

        def collect(rollout: Rollout, steps_left: int) -> Answers:
            prompt = task.prompts(self.prompts, rollout.generator).unsqueeze(1).expand(-1, self.answers, -1)
            with torch.no_grad():
                token = sampler.sample(steps=task.steps, prompt=prompt, generator=rollout.generator)["token"]
            answer = token.movedim(0, -1)
            return Answers(prompt, token, task.score(prompt, answer), task.right(prompt, answer))

        def update(block: Answers, progress: float) -> Metrics:
            optimiser.rate.fill_(self.lr * max(1 - progress, 0.05))
            trace = graph.replay({"token": block.token, "score": block.score}, prompt=block.prompt)
            gradients = torch.autograd.grad(trace.surrogate(), optimiser.parameters)
            norm = optimiser.step(gradients)
            metrics = {"score": float(block.score.mean()), "entropy": -float(trace.log_prob("token").sum(0).mean())}
            if self.kl:
                metrics["kl"] = float(trace["nearness"].detach().sum(0).mean()) / self.kl
            return {**metrics, "grad_norm": float(norm)}

        return Agent(graph, TokenPolicy(model, PAD), collect, update, {"model": model, "optimiser": optimiser})
