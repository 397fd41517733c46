"""Tang & Munos (2025): which estimate of the KL to a reference may be differentiated, and what the others' gradients are.

Every number is a sum over all answers of a small task, so there is no sampling noise; the losses are written as trainers
write them and know nothing of the library's graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scg.papers.report import Claim, Results, Say, collect, number
from scg.papers.toy.answers import Loss, Table, nothing, summed, table, task
from scg.testing import Answers, AnswerTask, check_answers
from scg.testing.losses.audit import mean_gradient

EQUAL = 1e-9
DISTANCES = (1.0, 0.3, 0.1, 0.03)


@dataclass(frozen=True)
class Settings:
    tables: int = field(default=5, metadata={"help": "policies and references, drawn anew"})
    updates: int = field(default=200, metadata={"help": "steps down each loss's mean gradient"})
    seed: int = field(default=0, metadata={"help": "seed of everything"})

    def __post_init__(self) -> None:
        if self.tables < 1 or self.updates < 1:
            raise ValueError("--tables and --updates are at least 1")


def run(settings: Settings, out: Path, say: Say = lambda what, done: None) -> Results:
    """All claims."""
    jobs: list[tuple[str, Callable[[], Claim]]] = [
        ("one token", partial(one_token, settings)),
        ("a sequence", partial(sequence, settings)),
        ("in the reward", partial(in_reward, settings)),
        ("Rao-Blackwell", partial(rao_blackwell, settings)),
        ("near the reference", partial(near, settings)),
        ("minimised", partial(minimised, settings)),
    ]
    return collect("tang2025_kl", settings, jobs, say)


# -- losses ------------------------------------------------------------------------------------------------------------------


def k1(b: Answers) -> Tensor:
    return b.log_probs - b.reference_log_probs


def k2(b: Answers) -> Tensor:
    return k1(b).square() / 2


def k3(b: Answers) -> Tensor:
    return torch.expm1(-k1(b)) + k1(b)


def exact(b: Answers) -> Tensor:
    p = b.logits.log_softmax(-1)
    return (p.exp() * (p - b.reference_logits.log_softmax(-1))).sum(-1)


def in_loss(k: Loss) -> Loss:
    """Differentiated as it stands."""
    return lambda b: summed(k(b), b)


def as_reward(k: Loss) -> Loss:
    """Held constant; the score of the whole answer is multiplied with its sum."""
    return lambda b: summed((k(b).detach() * b.mask).sum(-1, keepdim=True) * b.log_probs, b)


def to_go(k: Loss) -> Loss:
    """Held constant; each token's score is multiplied with what is still to come, its own included."""

    def loss(b: Answers) -> Tensor:
        constant = k(b).detach() * b.mask
        return summed(constant.flip(-1).cumsum(-1).flip(-1) * b.log_probs, b)

    return loss


def whole(b: Answers) -> Tensor:
    """The exact KL of each step, and beside it the score times the exact KLs of later steps."""
    constant = exact(b).detach() * b.mask
    later = constant.flip(-1).cumsum(-1).flip(-1) - constant
    return summed(exact(b) + later * b.log_probs, b)


# -- claims ------------------------------------------------------------------------------------------------------------------


def problem(settings: Settings, i: int, steps: int, distance: float | None = None) -> AnswerTask:
    policy = table(3, steps, settings.seed + 2 * i)
    reference = table(
        3, steps, settings.seed + 2 * i + 1, 1.0 if distance is None else distance, None if distance is None else policy
    )
    return task(policy, steps, nothing, answers=1, reference=reference, kl=1.0)


def worst(settings: Settings, steps: int, loss: Loss) -> tuple[float, float]:
    """Largest |scale − 1| and largest orthogonal share, over the tables."""
    reports = [check_answers(loss, problem(settings, i, steps), detectable=0.2) for i in range(settings.tables)]
    return max(abs(r.scale - 1) for r in reports), max(r.orthogonal for r in reports)


def of_reverse(problem: AnswerTask) -> Tensor:
    """∇KL(reference ‖ π) of one token."""
    assert problem.reference is not None
    live, other = (m(problem.prompts)[:, -1].log_softmax(-1) for m in (problem.policy, problem.reference))
    value = (other.detach().exp() * (other.detach() - live)).sum()
    return torch.autograd.grad(value, list(problem.parameters().values()))[0].flatten()


def one_token(settings: Settings) -> Claim:
    zero = max(float(mean_gradient(in_loss(k1), problem(settings, i, 1)).norm()) for i in range(settings.tables))
    reverse = max(
        float((mean_gradient(in_loss(k3), p) - of_reverse(p)).norm())
        for p in (problem(settings, i, 1) for i in range(settings.tables))
    )
    second, both = worst(settings, 1, in_loss(k2)), worst(settings, 1, in_loss(k3))
    text = (
        f"k1: mean gradient {zero:.0e}<br>k3: {reverse:.0e} from ∇KL(ref‖π), and off ∇KL(π‖ref) by up to {number(both[0], 2)} in "
        f"scale, {number(both[1], 2)} of its length across<br>k2: scale off by {second[0]:.0e}, across {second[1]:.0e}"
    )
    claim = "Differentiating an unbiased estimate of the KL at sampled tokens, one token: k1 gives zero mean, k3 the gradient of the other KL; k2, a biased estimate, gives the KL's"
    right = zero < EQUAL and reverse < EQUAL and max(second) < 1e-6 and max(both) > 0.01
    return claim, "so, by proof", text, right, {"k1": zero, "k3": reverse, "k2": second, "k3 off": both}


def sequence(settings: Settings) -> Claim:
    found = {
        "exact per token": worst(settings, 3, in_loss(exact)),
        "k2": worst(settings, 3, in_loss(k2)),
        "with later steps' part": worst(settings, 3, whole),
    }
    text = "<br>".join(f"{name}: scale off by up to {number(a, 3)}, across {number(b, 3)}" for name, (a, b) in found.items())
    claim = "Over a sequence, losses of tokens give a partial gradient: what a token does to later tokens' KL is left out"
    right = found["exact per token"][1] > 0.01 and found["k2"][1] > 0.01 and max(found["with later steps' part"]) < 1e-6
    return claim, "partial at best", text, right, {k: list(v) for k, v in found.items()}


def in_reward(settings: Settings) -> Claim:
    found = {name: worst(settings, 3, as_reward(k)) for name, k in (("k1", k1), ("k2", k2), ("k3", k3))}
    text = "<br>".join(f"{name}: scale off by up to {number(a, 3)}, across {number(b, 3)}" for name, (a, b) in found.items())
    claim = "In the reward, held constant: k1 is right, over sequences too; k3 is not (Shah et al. 2025, arXiv:2512.21852)"
    right = max(found["k1"]) < 1e-6 and found["k3"][1] > 0.01
    return claim, "k1 unbiased, k3 biased", text, right, {k: list(v) for k, v in found.items()}


def rao_blackwell(settings: Settings) -> Claim:
    lines, right, numbers = [], True, {}
    for name, loss in (("k1 in the reward", as_reward(k1)), ("k1 to go", to_go(k1)), ("exact, and later exact", whole)):
        reports = [check_answers(loss, problem(settings, i, 3), detectable=0.2) for i in range(settings.tables)]
        variances = [r.variance for r in reports]
        right = right and all(r.verdict == "unbiased" for r in reports)
        numbers[name] = variances
        lines.append(f"{name}: {number(min(variances), 2)} to {number(max(variances), 2)}")
    better = all(a <= b for a, b in zip(numbers["exact, and later exact"], numbers["k1 to go"], strict=True))
    claim = "The KL of each step summed over the vocabulary (Rao-Blackwellised) has an unbiased gradient of no more variance (Amini et al. 2025, arXiv:2504.10637)"
    text = "variance of one answer's gradient over the squared length of the true one, by table<br>" + "<br>".join(lines)
    return claim, "unbiased, variance at most that of sampling", text, right and better, numbers


def near(settings: Settings) -> Claim:
    lines, numbers = [], {}
    for distance in DISTANCES:
        shares = []
        for loss in (in_loss(exact), in_loss(k3)):
            reports = [check_answers(loss, problem(settings, i, 3, distance), detectable=0.2) for i in range(settings.tables)]
            shares.append(max(max(abs(r.scale - 1), r.orthogonal) for r in reports))
        numbers[str(distance)] = shares
        lines.append(f"logits {distance:g} away: exact per token {number(shares[0], 4)}, k3 {number(shares[1], 4)}")
    falls = all(
        a > b
        for i in (0, 1)
        for a, b in zip([v[i] for v in numbers.values()], [v[i] for v in numbers.values()][1:], strict=False)
    )
    claim = "Wrong losses seem to work where the KL is small: their error falls with the distance from the reference"
    text = "largest error of scale or direction, KL alone<br>" + "<br>".join(lines)
    return claim, "no number; what practice suggests", text, falls, numbers


def minimised(settings: Settings) -> Claim:
    """Steps of 0.5 down each loss's mean gradient, from a policy far from its reference."""
    found: dict[str, float] = {}
    start = float(problem(settings, 0, 3).value().detach())
    losses = (
        ("k1 in the loss", in_loss(k1)),
        ("k3 in the loss", in_loss(k3)),
        ("k3 in the reward", as_reward(k3)),
        ("k1 in the reward", as_reward(k1)),
    )
    for name, loss in losses:
        made = problem(settings, 0, 3)
        assert isinstance(made.policy, Table)
        for _ in range(settings.updates):
            fresh = task(made.policy, 3, nothing, answers=1, reference=made.reference, kl=1.0)
            gradient = mean_gradient(loss, fresh)
            with torch.no_grad():
                made.policy.rows.sub_(0.5 * gradient.view_as(made.policy.rows))
        found[name] = float(task(made.policy, 3, nothing, reference=made.reference, kl=1.0).value().detach())
    text = f"KL at first {number(start, 3)}, after {settings.updates} steps:<br>" + "<br>".join(
        f"{name}: {number(value, 4)}" for name, value in found.items()
    )
    claim = "Minimised alone: k1 in the loss does not lower the KL at all, k1 in the reward does"
    right = abs(found["k1 in the loss"] - start) < 1e-6 and found["k1 in the reward"] < 0.2 * start
    return claim, "not enforced; enforced", text, right, {"start": start, **found}
