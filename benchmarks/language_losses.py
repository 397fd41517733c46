"""Losses that language models are trained with, and a table of what their mean gradients are: `python -m benchmarks.language_losses`.

    scg check benchmarks/language_losses.py:grpo          one cell

Each is written as trainers write it, on a batch of answers `[prompt, answer, time]`. The tasks are so small that every group of
answers can be summed over: two tokens, of which one ends an answer, two steps, two prompts, two or three answers to each. The
policy is a table with logits of its own for every prefix, so nothing is approximated by a network. What a verdict says of a
loss it says of its formula; how large a bias is depends on the task.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from scg.testing import Answers, AnswerTask, check_answers

torch.set_default_dtype(torch.float64)
GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "language-models.md"
BETA = 0.3  # weight of the KL
REWARD = torch.tensor([[0.9, 0.2, -0.5], [0.1, 1.0, 0.4]])  # [prompt, answer]: "1", "00", "01", the token 1 ends one
Loss = Callable[[Answers], Tensor]


class Table(nn.Module):
    """Logits of its own for every prompt of one token and every prefix of at most two."""

    def __init__(self, seed: int, near: nn.Module | None = None, distance: float = 1.0) -> None:
        super().__init__()
        rows = distance * torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(seed))
        self.rows = nn.Parameter(rows if near is None else rows + near.rows.detach())  # type: ignore[union-attr,operator]

    def forward(self, tokens: Tensor) -> Tensor:
        prompt, code = tokens[..., 0], torch.zeros_like(tokens[..., 0])
        found = [self.rows[prompt, code]]
        for i in range(1, tokens.shape[-1]):
            code = 2 * code + tokens[..., i] + 1
            found.append(self.rows[prompt, code])
        return torch.stack(found, -2)


def reward(prompt: Tensor, answer: Tensor) -> Tensor:
    return REWARD[prompt[..., 0], torch.where(answer[..., 0] == 1, 0, 1 + answer[..., 1])]


POLICY, PROMPTS = Table(0), torch.tensor([[0], [1]])
TASK = AnswerTask(POLICY, PROMPTS, reward, steps=2, answers=3, end=1)
OFF = AnswerTask(POLICY, PROMPTS, reward, steps=2, answers=2, end=1, behaviour=Table(17, POLICY, 0.8))
FAR = AnswerTask(POLICY, PROMPTS, reward, steps=2, answers=2, end=1, reference=Table(2), kl=BETA)
NEAR = AnswerTask(POLICY, PROMPTS, reward, steps=2, answers=2, end=1, reference=Table(2, POLICY, 0.4), kl=BETA)
OFF_FAR = replace(OFF, reference=Table(2), kl=BETA)
OFF_NEAR = replace(OFF, reference=Table(2, POLICY, 0.4), kl=BETA)


def checked(task: AnswerTask, *others: AnswerTask) -> Callable[[Loss], Loss]:
    """The task that a loss is held against by `scg check`, and those that it has rows for besides."""

    def mark(loss: Loss) -> Loss:
        loss.objective, loss.tasks = task, (task, *others)  # type: ignore[attr-defined]
        return loss

    return mark


# -- advantages `[prompt, answer, 1]`, in reward units -----------------------------------------------------------------------


def others(rewards: Tensor) -> Tensor:
    count = rewards.shape[-1]
    return ((rewards - rewards.mean(-1, keepdim=True)) * count / (count - 1)).unsqueeze(-1)


def centred(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean(-1, keepdim=True)).unsqueeze(-1)


def standardised(rewards: Tensor) -> Tensor:
    return centred(rewards) / (rewards.std(-1, keepdim=True).unsqueeze(-1) + 1e-4)


# -- means over tokens of `[prompt, answer, time]` ---------------------------------------------------------------------------


def summed(x: Tensor, b: Answers) -> Tensor:
    """Σ over an answer's tokens, mean over answers: a constant divisor would change the scale alone."""
    return (x * b.mask).sum(-1).mean()


def by_sequence(x: Tensor, b: Answers) -> Tensor:
    return ((x * b.mask).sum(-1) / b.mask.sum(-1)).mean()


def by_token(x: Tensor, b: Answers) -> Tensor:
    return (x * b.mask).sum() / b.mask.sum()


# -- baselines and means -----------------------------------------------------------------------------------------------------


@checked(TASK)
def reinforce(b: Answers) -> Tensor:
    return -summed(b.rewards.unsqueeze(-1) * b.log_probs, b)


@checked(TASK)
def rloo(b: Answers) -> Tensor:
    return -summed(others(b.rewards) * b.log_probs, b)


@checked(TASK)
def dr_grpo(b: Answers) -> Tensor:
    return -summed(centred(b.rewards) * b.log_probs, b)


@checked(TASK)
def standardised_sum(b: Answers) -> Tensor:
    return -summed(standardised(b.rewards) * b.log_probs, b)


@checked(TASK)
def whitened_batch(b: Answers) -> Tensor:
    """Rewards standardised over all prompts together."""
    flat = (b.rewards - b.rewards.mean()) / (b.rewards.std() + 1e-4)
    return -summed(flat.unsqueeze(-1) * b.log_probs, b)


@checked(TASK)
def rloo_sequence_mean(b: Answers) -> Tensor:
    return -by_sequence(others(b.rewards) * b.log_probs, b)


@checked(TASK)
def rloo_token_mean(b: Answers) -> Tensor:
    return -by_token(others(b.rewards) * b.log_probs, b)


@checked(TASK)
def grpo(b: Answers) -> Tensor:
    return -by_sequence(standardised(b.rewards) * b.log_probs, b)


@checked(TASK)
def dapo(b: Answers) -> Tensor:
    return -by_token(standardised(b.rewards) * b.log_probs, b)


@checked(TASK)
def rloo_unmasked(b: Answers) -> Tensor:
    return -(others(b.rewards) * b.log_probs).sum(-1).mean()


# -- from a recording of another policy --------------------------------------------------------------------------------------


def ratio(b: Answers) -> Tensor:
    return torch.where(b.mask, (b.log_probs - b.old_log_probs), 0.0).exp()


@checked(OFF)
def sequence_ratio(b: Answers) -> Tensor:
    """The product of an answer's ratios, differentiated: importance sampling."""
    return -(ratio(b).prod(-1) * b.rewards).mean()


@checked(OFF)
def token_ratio(b: Answers) -> Tensor:
    return -summed(ratio(b) * others(b.rewards), b)


@checked(OFF)
def no_ratio(b: Answers) -> Tensor:
    return rloo(b)


@checked(OFF)
def ppo_clip(b: Answers) -> Tensor:
    r, a = ratio(b), others(b.rewards)
    return -summed(torch.minimum(r * a, r.clamp(0.8, 1.2) * a), b)


@checked(OFF)
def dapo_clip(b: Answers) -> Tensor:
    r, a = ratio(b), others(b.rewards)
    return -summed(torch.minimum(r * a, r.clamp(0.8, 1.28) * a), b)


@checked(OFF)
def cispo(b: Answers) -> Tensor:
    return -summed(ratio(b).clamp(max=1.28).detach() * others(b.rewards) * b.log_probs, b)


@checked(OFF)
def truncated_sequence(b: Answers) -> Tensor:
    """The product of ratios, cut off at 1.5 and held constant."""
    whole = ratio(b).prod(-1, keepdim=True).clamp(max=1.5).detach()
    return -summed(whole * others(b.rewards) * b.log_probs, b)


@checked(OFF)
def gspo(b: Answers) -> Tensor:
    s = ((torch.where(b.mask, b.log_probs - b.old_log_probs, 0.0)).sum(-1) / b.mask.sum(-1)).exp()
    a = others(b.rewards).squeeze(-1)
    return -torch.minimum(s * a, s.clamp(0.8, 1.2) * a).mean()


# -- the KL to a reference ---------------------------------------------------------------------------------------------------


def k1(b: Answers) -> Tensor:
    return b.log_probs - b.reference_log_probs


def k2(b: Answers) -> Tensor:
    return k1(b).square() / 2


def k3(b: Answers) -> Tensor:
    return torch.expm1(-k1(b)) + k1(b)


def exact(b: Answers) -> Tensor:
    p = b.logits.log_softmax(-1)
    return (p.exp() * (p - b.reference_logits.log_softmax(-1))).sum(-1)


def in_reward(b: Answers, k: Tensor) -> Tensor:
    total = b.rewards - BETA * (k.detach() * b.mask).sum(-1)
    return -summed(others(total) * b.log_probs, b)


def in_loss(b: Answers, k: Tensor) -> Tensor:
    return rloo(b) + BETA * summed(k, b)


def later(k: Tensor, b: Answers) -> Tensor:
    """Σ_{s > t} k_s, held constant."""
    live = (k * b.mask).detach()
    return live.sum(-1, keepdim=True) - live.cumsum(-1)


@checked(FAR, NEAR)
def k1_in_reward(b: Answers) -> Tensor:
    return in_reward(b, k1(b))


@checked(FAR, NEAR)
def k2_in_reward(b: Answers) -> Tensor:
    return in_reward(b, k2(b))


@checked(FAR, NEAR)
def k3_in_reward(b: Answers) -> Tensor:
    return in_reward(b, k3(b))


@checked(FAR, NEAR)
def k1_in_loss(b: Answers) -> Tensor:
    return in_loss(b, k1(b))


@checked(FAR, NEAR)
def k2_in_loss(b: Answers) -> Tensor:
    return in_loss(b, k2(b))


@checked(FAR, NEAR)
def k3_in_loss(b: Answers) -> Tensor:
    return in_loss(b, k3(b))


@checked(FAR, NEAR)
def exact_in_loss(b: Answers) -> Tensor:
    return in_loss(b, exact(b))


@checked(FAR, NEAR)
def k3_in_both(b: Answers) -> Tensor:
    """In the reward, and differentiated besides: the gradient of its mean."""
    return in_reward(b, k3(b)) + BETA * summed(k3(b), b)


@checked(FAR, NEAR)
def exact_as_cost(b: Answers) -> Tensor:
    """Differentiated, and charged to the tokens before: Rao-Blackwellised."""
    return in_loss(b, exact(b)) + BETA * summed(later(exact(b), b) * b.log_probs, b)


# -- the same from a recording of another policy: the ratio of the token, of those until now, or of the whole answer ---------


def recorded_kl(b: Answers, weighed: Tensor) -> Tensor:
    """The reward with the product of ratios, and the steps' KL with ratios of its own."""
    return -(ratio(b).prod(-1) * b.rewards).mean() + BETA * summed(weighed, b)


@checked(OFF_FAR, OFF_NEAR)
def k3_token_ratio(b: Answers) -> Tensor:
    return -summed(ratio(b) * others(b.rewards), b) + BETA * summed(ratio(b) * k3(b), b)


@checked(OFF_FAR, OFF_NEAR)
def k3_token_ratio_in_kl(b: Answers) -> Tensor:
    """The same, beside a reward that is right."""
    return recorded_kl(b, ratio(b) * k3(b))


@checked(OFF_FAR, OFF_NEAR)
def k1_prefix_ratio(b: Answers) -> Tensor:
    return recorded_kl(b, ratio(b).cumprod(-1) * k1(b))


@checked(OFF_FAR, OFF_NEAR)
def k2_prefix_ratio(b: Answers) -> Tensor:
    return recorded_kl(b, ratio(b).cumprod(-1) * k2(b))


@checked(OFF_FAR, OFF_NEAR)
def k3_prefix_ratio(b: Answers) -> Tensor:
    return recorded_kl(b, ratio(b).cumprod(-1) * k3(b))


@checked(OFF_FAR, OFF_NEAR)
def k3_sequence_ratio(b: Answers) -> Tensor:
    return recorded_kl(b, ratio(b).prod(-1, keepdim=True) * k3(b))


@checked(OFF_FAR, OFF_NEAR)
def k1_in_reward_sequence_ratio(b: Answers) -> Tensor:
    total = b.rewards - BETA * (k1(b).detach() * b.mask).sum(-1)
    return -(ratio(b).prod(-1) * total).mean()


@checked(OFF_FAR, OFF_NEAR)
def exact_prefix_ratio(b: Answers) -> Tensor:
    """Each step's KL with the ratios of the tokens before it: exact, and per decision."""
    r = ratio(b)
    return recorded_kl(b, (r.cumprod(-1) / r) * exact(b))


LOSSES = {name: thing for name, thing in globals().items() if hasattr(thing, "tasks")}
DETECTABLE = {id(NEAR): 0.01, id(OFF_NEAR): 0.01}  # near the reference little is left to be wrong
PLACES = {
    id(TASK): "on-policy",
    id(OFF): "recorded",
    id(FAR): "far",
    id(NEAR): "near",
    id(OFF_FAR): "recorded, far",
    id(OFF_NEAR): "recorded, near",
}


def rows(names: list[str]) -> list[str]:
    found = []
    for name in names or list(LOSSES):
        loss = LOSSES[name]
        for task in loss.tasks:  # type: ignore[attr-defined]
            report = check_answers(loss, task, detectable=DETECTABLE.get(id(task), 0.05))
            words = {"unbiased": "unbiased", "scale": "scale only", "direction": "**direction**"}[report.verdict]
            agrees = (report.verdict == "unbiased") == (report.sampled == "unbiased")
            beside = "; ".join(what for what, _ in report.findings) or "—"
            found.append(
                f"| `{name}` | {PLACES[id(task)]} | {words} | {report.scale:.3f} | {report.orthogonal:.3f} | {report.sampled} after "
                f"{report.draws:,}{'' if agrees else ' (disagrees)'} | {report.variance:.3g} | {beside} |"
            )
            print(found[-1], file=sys.stderr)
    return found


def main(names: list[str]) -> None:
    head = [
        "| loss | task | verdict | scale | orthogonal | sequential test | variance | found by name |",
        "|---|---|---|---|---|---|---|---|",
    ]
    table = "\n".join([*head, *rows(names)])
    print(table)
    if not names and GUIDE.exists():
        text = GUIDE.read_text(encoding="utf-8")
        GUIDE.write_text(
            re.sub(
                r"<!-- verdicts -->.*?<!-- /verdicts -->",
                lambda _: f"<!-- verdicts -->\n{table}\n<!-- /verdicts -->",
                text,
                flags=re.S,
            ),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
