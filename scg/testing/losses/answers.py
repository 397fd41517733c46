"""What a language model's loss is called with, and every answer that a small task has.

    prompt p, answers g = 1 … G          a_pg ~ μ(·|p), token by token; after `end` all is `pad`
    objective                            mean over p of  E_π[−reward(p, a) + kl · Σ_t KL(π ‖ reference at step t)]

A task is small: all its answers are listed, so the objective and a loss's mean gradient over groups of answers are sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

import scg
from scg.checks.finding import Finding

Policy = Callable[[Tensor], Tensor]  # tokens [batch, length] → logits [batch, length, vocabulary]
MOST = 20_000  # answers to a prompt


@dataclass(frozen=True)
class Answers:
    """A batch as trainers have it, every tensor `[prompt, answer, time]` unless it says otherwise.

    log_probs              of the tokens, under the policy that is trained: what carries the gradient
    logits                 `[prompt, answer, time, vocabulary]`, likewise; for entropies and exact KLs
    old_log_probs          as recorded when the answers were sampled; constants
    reference_log_probs    under the reference, and `reference_logits`; constants, zeros without a reference
    mask                   true up to the end token and on it
    rewards                `[prompt, answer]`
    """

    prompts: Tensor
    tokens: Tensor
    mask: Tensor
    log_probs: Tensor
    logits: Tensor
    old_log_probs: Tensor
    reference_log_probs: Tensor
    reference_logits: Tensor
    rewards: Tensor

    def prompt(self, p: int) -> Answers:
        """The answers to one prompt alone, as a micro-batch."""
        return replace(self, **{name: value[p : p + 1] for name, value in vars(self).items()})


@dataclass(frozen=True)
class AnswerTask:
    """A task so small that all its answers are listed.

    policy      what is trained: a causal module from tokens to logits
    prompts     `[prompts, length]`
    reward      of a prompt `[…, length]` and an answer `[…, steps]`
    steps       tokens of an answer; `end`, if given, ends it earlier, and `pad` fills it up
    answers     to each prompt in a batch
    behaviour   what the answers are sampled from, where it is another policy
    sampled     changes the logits that are sampled from: top-p, a temperature
    records     whether the recorded log-probabilities are those that were "sampled" from, or the "policy"'s before `sampled`
    reference   of the KL, and `kl` its weight in the objective
    """

    policy: Policy
    prompts: Tensor
    reward: Callable[[Tensor, Tensor], Tensor]
    steps: int
    answers: int = 2
    end: int | None = None
    pad: int = 0
    behaviour: Policy | None = None
    sampled: Callable[[Tensor], Tensor] | None = None
    records: Literal["sampled", "policy"] = "sampled"
    reference: Policy | None = None
    kl: float = 0.0
    wrt: Any = field(default=None)

    def parameters(self) -> dict[str, Tensor]:
        """What is differentiated, by name."""
        if isinstance(self.wrt, dict):
            return self.wrt
        if isinstance(self.policy, nn.Module):
            return {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        raise TypeError("a policy that is no nn.Module does not say what its parameters are: AnswerTask(wrt={name: tensor})")

    @cached_property
    def _like(self) -> Tensor:
        """Logits of the prompts alone: for sizes and types."""
        with torch.no_grad():
            return self.policy(self.prompts)

    @property
    def vocabulary(self) -> int:
        return int(self._like.shape[-1])

    @cached_property
    def every(self) -> Tensor:
        """All answers `[answer, time]`: those that go on after `end` with anything but padding are none."""
        if self.vocabulary**self.steps > 50 * MOST:
            raise ValueError(f"{self.vocabulary}^{self.steps} answers cannot be listed: take fewer tokens or steps")
        found = torch.tensor(list(itertools.product(range(self.vocabulary), repeat=self.steps)))
        if self.end is not None:
            found = found[((found == self.pad) | ~self._over(found)).all(-1)]
        if len(found) > MOST:
            raise ValueError(f"{len(found):,} answers to a prompt are more than {MOST:,}: take fewer tokens or steps")
        return found

    def _over(self, answers: Tensor) -> Tensor:
        """Whether an answer was over before each step."""
        if self.end is None:
            return torch.zeros_like(answers, dtype=torch.bool)
        over = (answers == self.end).long().cumsum(-1) > 0
        return torch.cat([torch.zeros_like(over[..., :1]), over[..., :-1]], -1)

    @cached_property
    def mask(self) -> Tensor:
        """`[answer, time]`"""
        return ~self._over(self.every)

    @cached_property
    def rewards(self) -> Tensor:
        """`[prompt, answer]`"""
        count = len(self.every)
        return torch.stack([self.reward(p.expand(count, -1), self.every) for p in self.prompts]).to(self._like.dtype)

    def logits(self, policy: Policy) -> Tensor:
        """`[prompt, answer, time, vocabulary]`, each from its prefix in one pass. What lies after the end is the policy's too."""
        count, length = len(self.every), self.prompts.shape[-1]
        whole = torch.stack([torch.cat([p.expand(count, -1), self.every[:, :-1]], -1) for p in self.prompts])
        return policy(whole.flatten(0, 1))[:, length - 1 :].unflatten(0, (len(self.prompts), count))

    def taken(self, logits: Tensor) -> Tensor:
        """log-probabilities of the answers' tokens, `[prompt, answer, time]`."""
        index = self.every.unsqueeze(-1).expand(*logits.shape[:-1], 1)
        return logits.log_softmax(-1).gather(-1, index).squeeze(-1)

    def value(self) -> Tensor:
        """The objective, exactly and differentiable."""
        logits = self.logits(self.policy)
        p = torch.where(self.mask, self.taken(logits), 0.0).sum(-1).exp()
        cost = -self.rewards
        if self.kl:
            if self.reference is None:
                raise ValueError("AnswerTask(kl=…) is the weight of a KL to a reference: give reference=")
            q = logits.log_softmax(-1)
            each = (q.exp() * (q - self.logits(self.reference).detach().log_softmax(-1))).sum(-1)
            cost = cost + self.kl * torch.where(self.mask, each, 0.0).sum(-1)
        return (p * cost).sum(-1).mean()

    @cached_property
    def constants(self) -> dict[str, Tensor]:
        """What a batch has besides the policy's own: of every answer, `[prompt, answer, …]`."""
        with torch.no_grad():
            old = self.logits(self.behaviour or self.policy)
            drawn = old if self.sampled is None else self.sampled(old)
            reference = torch.zeros_like(old) if self.reference is None else self.logits(self.reference)
            sampled, full = self.taken(drawn), self.taken(old)
            return {
                "probability": torch.where(self.mask, sampled, 0.0).sum(-1).exp(),
                "sampled": sampled,
                "recorded": sampled if self.records == "sampled" else full,
                "reference": self.taken(reference),
                "reference_logits": reference,
            }

    def batch(self, chosen: Tensor, log_probs: Tensor, logits: Tensor) -> Answers:
        """The answers `chosen [prompt, answer]`, by their numbers, with the policy's own given for every answer."""
        rows = torch.arange(len(self.prompts)).unsqueeze(-1)
        known = self.constants
        return Answers(
            prompts=self.prompts.unsqueeze(1).expand(-1, chosen.shape[1], -1),
            tokens=self.every[chosen],
            mask=self.mask[chosen],
            log_probs=log_probs[rows, chosen],
            logits=logits[rows, chosen],
            old_log_probs=known["recorded"][rows, chosen],
            reference_log_probs=known["reference"][rows, chosen],
            reference_logits=known["reference_logits"][rows, chosen],
            rewards=self.rewards[rows, chosen],
        )

    def leaks(self) -> list[Finding]:
        """What is wrong with the policy as a node that reads a prefix: a mask that lets it see later tokens."""
        graph = scg.Graph()
        with graph.sequence():
            graph.deterministic(lambda x: self.policy(x), name="policy", parents=[scg.prefix("token", init="prompt")])
            graph.stochastic(scg.ScoreFunction(), _categorical, name="token", parents=["policy"])
        graph.reward(lambda x: x.double().sum(-1), name="reward", parents=[scg.prefix("token")])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = graph.check(steps=max(2, self.steps), prompt=self.prompts)
        return [f for f in found if f.severity == "error"]


def _categorical(logits: Tensor) -> torch.distributions.Categorical:
    return torch.distributions.Categorical(logits=logits)
