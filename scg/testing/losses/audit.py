"""`check_answers`: a language model's loss as trainers write it, its mean gradient against the objective's.

    Σ_groups P(group) ∇loss(group)     against     ∇ E[−reward + kl KL]

Where the groups of answers can be counted the mean is a sum, without noise; and groups are drawn besides, for the sequential
test of `check_gradient`. What is looked for by name: a policy whose mask leaks, a masked token with a gradient, recorded
log-probabilities that lack the kept mass of top-p, a gradient that depends on how the batch is split.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scg.tables import Tabular
from scg.testing.losses.answers import Answers, AnswerTask
from scg.testing.oracle import Oracle
from scg.testing.parameters import Parameters
from scg.testing.sequential import Verdict, judge
from scg.testing.unbiased import DETECTABLE, FALSE_ALARM, FLOOR

AnswerLoss = Callable[[Answers], Tensor]
COUNTED = 20_000  # groups of answers, summed one by one
EQUAL = 1e-6  # of the true gradient's length
SPLITS = 64  # groups on which splitting is tried
EACH = 16  # groups to an observation of the sequential test


@dataclass(frozen=True)
class AnswerReport(Tabular):
    """The verdict on a loss. Its truth value says that the gradient is right and nothing was found.

    verdict      "unbiased"; "scale": right but for a factor; "direction": not even that
    scale        the mean gradient projected on the true one, in units of it
    orthogonal   what is left beside it, in the same units
    groups       how many groups were summed over; 0 where the numbers are from draws, whose standard error `error` is
    variance     of one batch's gradient: the trace of its covariance over the squared length of the true gradient
    sampled      the verdict of the sequential test, and how many groups it drew
    split        root mean square of the gradient's change when the prompts are taken one by one, relative to the gradient's
    findings     (name, what) of what was found by name
    """

    loss: str
    verdict: Literal["unbiased", "scale", "direction", "undecided"]
    scale: float
    orthogonal: float
    error: float
    groups: int
    variance: float
    sampled: Verdict
    draws: int
    split: float | None
    findings: tuple[tuple[str, str], ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return self.verdict == "unbiased" and not self.findings

    def __bool__(self) -> bool:
        return self.ok

    @property
    def cosine(self) -> float:
        length = math.hypot(self.scale, self.orthogonal)
        return self.scale / length if length else math.nan

    def as_dict(self) -> dict[str, Any]:
        return {**{k: v for k, v in vars(self).items() if k != "findings"}, "findings": dict(self.findings)}

    def shown(self) -> Iterator[str]:
        words = {
            "unbiased": "unbiased",
            "scale": "right but for its scale",
            "direction": "wrong in direction",
            "undecided": "undecided",
        }
        how = f"the sum over all {self.groups:,} groups" if self.groups else f"from {self.draws:,} groups, ± {self.error:.2g}"
        yield f"mean gradient of {self.loss}: {words[self.verdict]} ({how})"
        yield f"{'scale':12} {self.scale:.4g} of the true gradient, along it"
        yield f"{'direction':12} {self.orthogonal:.3g} of its length is orthogonal to it (cosine {self.cosine:.4f})"
        yield f"{'variance':12} {self.variance:.3g} of one batch, over the squared length of the true gradient"
        yield f"{'sampled':12} the sequential test says {self.sampled} after {self.draws:,} groups"
        for name, what in self.findings:
            yield f"{name:12} {what}"


def check_answers(
    loss: AnswerLoss,
    task: AnswerTask,
    *,
    false_alarm: float = FALSE_ALARM,
    detectable: float = DETECTABLE,
    max_groups: int | None = None,
    seed: int = 0,
) -> AnswerReport:
    """Hold `loss(answers) → scalar` against the task's objective.

    false_alarm, detectable    of the sequential test, as in `check_gradient`
    max_groups                 when it gives up: by default after 2^24 groups where all are known, 2^15 where each is a call

    The loss is a function of its batch: it draws nothing. Gradients reach it through `log_probs` and `logits`.
    """
    begun = time.perf_counter()
    held = _Held(loss, task)
    findings = [("leak", f"of the policy: {f.message}") for f in task.leaks()]
    truth = held.parameters.derivative(task.value())
    sizes = len(task.every) ** (len(task.prompts) * task.answers)
    groups = sizes if sizes <= COUNTED else 0
    every = held.every() if groups else None
    outcome, rows = held.drawn(every, truth, false_alarm, detectable, max_groups, seed)
    if every is not None:
        mean, error = every.mean, 0.0
        variance = float(every.probability @ (every.rows - mean).square().sum(1))
    else:
        mean, variance = rows.mean(0), float(rows.var(0).sum()) * EACH
        error = math.sqrt(variance / EACH / len(rows)) / float(truth.norm())
    scale, orthogonal = _against(mean, truth)
    if groups:
        right = abs(scale - 1) <= EQUAL and orthogonal <= EQUAL
        verdict: Any = "unbiased" if right else "scale" if orthogonal <= EQUAL else "direction"
    elif outcome.verdict != "biased":
        verdict = "unbiased" if outcome.verdict == "unbiased" else "undecided"
    else:
        verdict = "scale" if orthogonal <= 4 * error else "direction"
    findings += held.masked(seed) + held.kept() + (split := held.split(seed))[1]
    return AnswerReport(
        held.name, verdict, scale, orthogonal, error, groups, variance / float(truth.square().sum()), outcome.verdict, outcome.draws, split[0], tuple(findings),
        time.perf_counter() - begun,
    )  # fmt: skip


def mean_gradient(loss: AnswerLoss, task: AnswerTask) -> Tensor:
    """`Σ_groups P(group) ∇loss(group)`, flat: the task's parameters one after another."""
    return _Held(loss, task).every().mean


def _against(mean: Tensor, truth: Tensor) -> tuple[float, float]:
    length = float(truth.norm())
    if not length:
        return math.nan, math.nan
    scale = float(mean @ truth) / length**2
    return scale, float((mean - scale * truth).norm()) / length


@dataclass(frozen=True)
class _Every:
    """The probability of each group of answers `[group]`, and its gradient `[group, parameter]`."""

    probability: Tensor
    rows: Tensor

    @property
    def mean(self) -> Tensor:
        return self.probability @ self.rows


class _Held:
    """A loss on groups of a task, by their numbers: its gradient for every answer's log-probabilities and logits."""

    def __init__(self, loss: AnswerLoss, task: AnswerTask) -> None:
        self.loss, self.task = loss, task
        self.name = getattr(loss, "__name__", type(loss).__name__)
        self.parameters = Parameters({}, task.parameters())
        self.live = task.logits(task.policy)  # of every answer
        self.taken = task.taken(self.live)
        if not self.live.requires_grad:
            raise ValueError("the policy's logits have no gradient: its parameters are those that require one")
        self.logits, self.log_probs = (x.detach().clone().requires_grad_() for x in (self.live, self.taken))
        self.kept_rows: dict[tuple[int, ...], Tensor] = {}
        self._jacobian: Tensor | None = None

    def gradients(self, chosen: Tensor, split: bool = False) -> tuple[Tensor, Tensor]:
        """∂loss for all log-probabilities and logits, of one group; with `split` the mean of prompt after prompt."""
        batch = self.task.batch(chosen, self.log_probs, self.logits)
        if split:
            parts = [self.loss(batch.prompt(p)) for p in range(len(self.task.prompts))]
            value = torch.stack([self._scalar(part) for part in parts]).mean()
        else:
            value = self._scalar(self.loss(batch))
        found = torch.autograd.grad(value, [self.log_probs, self.logits], allow_unused=True, materialize_grads=True)
        return found[0], found[1]

    def _scalar(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{self.name} returned {found}: return the scalar whose gradient is meant")
        if not value.requires_grad:
            raise ValueError(f"{self.name} has no gradient: it is to be differentiated through log_probs or logits")
        if not bool(torch.isfinite(value)):
            raise ValueError(f"{self.name} returned {value.item()} on the rewards {self.task.rewards.flatten()[:4].tolist()}…")
        return value.reshape(())

    def through(self, found: tuple[Tensor, Tensor]) -> Tensor:
        """∂loss/∂θ from those, flat."""
        total = (self.taken * found[0]).sum() + (self.live * found[1]).sum()
        return self.parameters.derivative(total, retain=True)

    def row(self, chosen: Tensor) -> Tensor:
        key = tuple(chosen.flatten().tolist())
        if key not in self.kept_rows:
            self.kept_rows[key] = self.through(self.gradients(chosen))
        return self.kept_rows[key]

    def every(self) -> _Every:
        """All groups that can be drawn."""
        shape = (len(self.task.prompts), self.task.answers)
        p = self.task.constants["probability"]
        numbers = itertools.product(range(len(self.task.every)), repeat=shape[0] * shape[1])
        chosen = torch.tensor(list(numbers)).reshape(-1, *shape)
        probability = p[torch.arange(shape[0]).unsqueeze(-1), chosen].flatten(1).prod(1)
        chosen, probability = chosen[probability > 0], probability[probability > 0]
        return _Every(probability, torch.stack([self.row(group) for group in chosen]))

    def sample(self, generator: torch.Generator) -> Tensor:
        p = self.task.constants["probability"]
        return torch.multinomial(p, self.task.answers, replacement=True, generator=generator)

    def drawn(
        self, every: _Every | None, truth: Tensor, false_alarm: float, detectable: float, most: int | None, seed: int
    ) -> tuple[Any, Tensor]:
        """The sequential test on groups that are drawn, and the means of `EACH` that it was given where each is a call."""
        generator, kept = torch.Generator().manual_seed(seed), list[Tensor]()

        def take(k: int) -> Tensor:
            if every is None:
                rows = torch.stack([self.row(self.sample(generator)) for _ in range(k * EACH)])
            else:
                rows = every.rows[torch.multinomial(every.probability, k * EACH, replacement=True, generator=generator)]
            means = rows.unflatten(0, (k, EACH)).mean(1)
            kept.append(means if every is None else means[:0])
            return means

        outcome = judge(
            take, EACH, Oracle.certain("value", truth), self.parameters.blocks(), false_alarm=false_alarm, detectable=detectable,
            floor=FLOOR,
            max_draws=most or (2**24 if every is not None else 2**15), epsilon=self.parameters.epsilon,
        )  # fmt: skip
        return outcome, torch.cat(kept)

    # -- by name -------------------------------------------------------------------------------------------

    def masked(self, seed: int) -> list[tuple[str, str]]:
        """Gradient at a token whose mask is false."""
        generator = torch.Generator().manual_seed(seed)
        outside = ~self.task.mask
        for _ in range(SPLITS):
            chosen = self.sample(generator)
            for found, what in zip(self.gradients(chosen), ("log-probability", "logits"), strict=True):
                size = found.abs() if found.ndim == 3 else found.abs().amax(-1)
                worst = torch.where(outside, size, 0.0).amax((0, 1))
                if float(worst.max()) > 0:
                    step = int(worst.nonzero()[0])
                    return [
                        (
                            "masked token",
                            f"the {what} at step {step} of an answer that is over has a gradient (of {float(worst[step]):.3g}): the mask "
                            "is to multiply every term before it is averaged, penalties too",
                        )
                    ]
        return []

    def kept(self) -> list[tuple[str, str]]:
        """Recorded log-probabilities that are not those of what was sampled from."""
        known = self.task.constants
        gap = torch.where(self.task.mask & torch.isfinite(known["sampled"]), known["sampled"] - known["recorded"], 0.0)
        if float(gap.abs().max()) <= EQUAL:
            return []
        worst = float(gap.flatten()[gap.abs().argmax()])
        return [
            (
                "kept mass",
                f"recorded log-probabilities are off by up to {worst:.3g} from those of the distribution that was sampled from: "
                "truncation (top-p, top-k) divides by the mass that it keeps, a temperature changes all. Ratios are wrong by "
                f"{math.exp(abs(worst)):.3g}; record log-probabilities after the change",
            )
        ]

    def split(self, seed: int) -> tuple[float | None, list[tuple[str, str]]]:
        """Whether the gradient of a batch is the mean of those of its prompts."""
        if len(self.task.prompts) < 2:
            return None, []
        generator = torch.Generator().manual_seed(seed)
        change, size = 0.0, 0.0
        for _ in range(SPLITS):
            chosen = self.sample(generator)
            whole = self.row(chosen)
            parts = self.through(self.gradients(chosen, split=True))
            change, size = change + float((whole - parts).square().sum()), size + float(whole.square().sum())
        relative = math.sqrt(change / size) if size else 0.0
        if relative <= EQUAL:
            return relative, []
        return relative, [
            (
                "split",
                f"its gradient depends on how a batch is split: {len(self.task.prompts)} prompts at once, or one by one and averaged, "
                f"differ by {relative:.2g} of its root mean square. A mean over all tokens, or a scale over the batch, does this: "
                "divide by a number that does not depend on the batch, or by the whole batch's in every part",
            )
        ]
