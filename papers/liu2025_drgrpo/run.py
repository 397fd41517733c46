"""Liu et al. (2025): what dividing by an answer's length and by the group's deviation does to GRPO's mean gradient.

Every number is a sum over all groups of answers of a small task. The losses are on-policy: clipping, which is the same in both,
is not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scg.papers.report import Claim, Results, Say, collect, number
from scg.papers.toy.answers import Loss, Table, summed, table, task
from scg.testing import Answers, AnswerTask, check_answers
from scg.testing.losses.audit import mean_gradient

STEPS = 3  # tokens of an answer, of two kinds, of which 1 ends it


@dataclass(frozen=True)
class Settings:
    policies: int = field(default=12, metadata={"help": "policies, drawn anew"})
    updates: int = field(default=40, metadata={"help": "steps up each loss's mean gradient"})
    seed: int = field(default=0, metadata={"help": "seed of everything"})

    def __post_init__(self) -> None:
        if self.policies < 2 or self.updates < 1:
            raise ValueError("--policies is at least 2, --updates at least 1")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    jobs: list[tuple[str, Callable[[], Claim]]] = [
        ("Dr. GRPO", partial(unbiased, settings)),
        ("length", partial(length, settings)),
        ("difficulty", partial(difficulty, settings)),
        ("learning", partial(learning, settings)),
    ]
    return collect("liu2025_drgrpo", settings, jobs, say)


# -- losses ------------------------------------------------------------------------------------------------------------------


def centred(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean(-1, keepdim=True)).unsqueeze(-1)


def standardised(rewards: Tensor) -> Tensor:
    return centred(rewards) / (rewards.std(-1, keepdim=True).unsqueeze(-1) + 1e-4)


def dr_grpo(b: Answers) -> Tensor:
    return -summed(centred(b.rewards) * b.log_probs, b)


def by_length(b: Answers) -> Tensor:
    return -((centred(b.rewards) * b.log_probs * b.mask).sum(-1) / b.mask.sum(-1)).mean()


def by_deviation(b: Answers) -> Tensor:
    return -summed(standardised(b.rewards) * b.log_probs, b)


def grpo(b: Answers) -> Tensor:
    return -((standardised(b.rewards) * b.log_probs * b.mask).sum(-1) / b.mask.sum(-1)).mean()


# -- claims ------------------------------------------------------------------------------------------------------------------


def short_is_right(prompt: Tensor, answer: Tensor) -> Tensor:
    """1 for the answer `0 1`, of two tokens."""
    return ((answer[..., 0] == 0) & (answer[..., 1] == 1)).double()


def problem(policy: Table, answers: int = 3) -> AnswerTask:
    return task(policy, STEPS, short_is_right, answers=answers)


def policies(settings: Settings) -> list[Table]:
    return [table(2, STEPS, settings.seed + i, 0.7) for i in range(settings.policies)]


def unbiased(settings: Settings) -> Claim:
    lines, right, numbers = [], True, {}
    for n in (2, 3, 4):
        reports = [check_answers(dr_grpo, problem(p, n), detectable=0.2) for p in policies(settings)[:3]]
        scales = [r.scale for r in reports]
        right = right and all(abs(s - (1 - 1 / n)) < 1e-9 for s in scales) and all(r.orthogonal < 1e-9 for r in reports)
        numbers[str(n)] = scales
        lines.append(f"{n} answers: scale {number(scales[0], 4)}, across {max(r.orthogonal for r in reports):.0e}")
    other = [check_answers(grpo, problem(p), detectable=0.2) for p in policies(settings)]
    right = right and all(r.verdict == "direction" for r in other)
    lines.append(
        f"GRPO, 3 answers: across {number(min(r.orthogonal for r in other), 3)} to {number(max(r.orthogonal for r in other), 3)}"
    )
    claim = "Without both divisions (Dr. GRPO) the gradient is the policy gradient's, up to a constant; GRPO's is not"
    return claim, "unbiased", "<br>".join(lines), right, numbers


def wrong_length(policy: Table) -> Tensor:
    """E[length | wrong], differentiable."""
    made = problem(policy)
    p = torch.where(made.mask, made.taken(made.logits(policy)), 0.0).sum(-1).exp()[0]
    wrong = p * (1 - made.rewards[0])
    return (wrong * made.mask.sum(-1)).sum() / wrong.sum()


def length(settings: Settings) -> Claim:
    """How a step of unit length down each mean gradient changes the expected length of a wrong answer."""
    found: dict[str, list[float]] = {"Dr. GRPO": [], "divided by length": []}
    for policy in policies(settings):
        (slope,) = torch.autograd.grad(wrong_length(policy), [policy.rows])
        for name, loss in (("Dr. GRPO", dr_grpo), ("divided by length", by_length)):
            step = -mean_gradient(loss, problem(policy))
            found[name].append(float(slope.flatten() @ step / step.norm()))
    gaps = [b - a for a, b in zip(*found.values(), strict=True)]
    longer = sum(gap > 0 for gap in gaps)
    text = "<br>".join(f"{name}: {number(sum(v) / len(v), 3)} tokens a unit step, on average" for name, v in found.items())
    text += f"<br>more with the division at {longer} of {len(gaps)} policies"
    claim = "Dividing by length favours longer wrong answers"
    return claim, "it increases the length of incorrect answers", text, longer == len(gaps), {**found, "longer": longer}


def difficulty(settings: Settings) -> Claim:
    """One token, success with probability p: the factor that dividing by the deviation puts before ∇p."""
    lines, numbers, gaps = [], {}, []
    for p in (0.05, 0.2, 0.5):
        rows = torch.tensor([[0.0, math.log(p / (1 - p))]], dtype=torch.float64)
        factors = []
        for n in (2, 4, 8):
            made = task(Table(2, 1, rows), 1, lambda prompt, answer: answer[..., 0].double(), answers=n)
            factors.append(check_answers(by_deviation, made, detectable=0.2).scale)
        numbers[str(p)] = factors
        limit = 1 / math.sqrt(p * (1 - p))
        gaps.append(abs(factors[-1] / limit - 1))
        lines.append(f"success {p:g}: {', '.join(number(f, 3) for f in factors)}, to 1/√(p(1−p)) = {number(limit, 3)}")
    claim = "Dividing by the deviation weighs prompts by their difficulty: those nearly always or never solved count for more"
    text = "factor of ∇p with 2, 4, 8 answers to a prompt<br>" + "<br>".join(lines)
    last = [v[-1] for v in numbers.values()]
    ratio = [v[-1] / v[0] for v in numbers.values()]
    return (
        claim,
        "larger weights for easy or hard prompts",
        text,
        last[0] > last[1] > last[2] and all(r > 1 for r in ratio),
        {**numbers, "gaps": gaps},
    )


def learning(settings: Settings) -> Claim:
    """Steps of length 0.3 down each mean gradient: the expected length of wrong answers, and success."""
    found: dict[str, list[float]] = {}
    for name, loss in (("Dr. GRPO", dr_grpo), ("GRPO", grpo)):
        found[name] = climbed(loss, settings)
    text = (
        f"after {settings.updates} steps of length 0.3, from a policy whose wrong answers have {number(float(wrong_length(policies(settings)[0]).detach()), 2)} tokens<br>"
        + "<br>".join(
            f"{name}: success {number(v[0], 3)}, wrong answers of {number(v[1], 2)} tokens" for name, v in found.items()
        )
    )
    claim = "While learning, wrong answers grow longer under GRPO than under Dr. GRPO"
    return (
        claim,
        "Dr. GRPO prevents progressively longer incorrect answers",
        text,
        found["GRPO"][1] > found["Dr. GRPO"][1],
        found,
    )


def climbed(loss: Loss, settings: Settings) -> list[float]:
    policy = policies(settings)[0]
    for _ in range(settings.updates):
        step = mean_gradient(loss, problem(policy))
        with torch.no_grad():
            policy.rows.sub_(0.3 * (step / step.norm()).view_as(policy.rows))
    return [-float(problem(policy).value().detach()), float(wrong_length(policy).detach())]
