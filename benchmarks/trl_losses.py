"""TRL's own code held against the true gradient: `python -m benchmarks.trl_losses`, where `trl` and `transformers` are installed.

    recorded answers → trainer: tokenises, pads, masks, scores, standardises → trainer: loss        against   ∇ E[−reward + β KL]

The trainers are TRL's, made as a user makes them, on a GPT-2 of two layers from a config. What is replaced is where numbers come
from: a batch's answers are those that are audited, not sampled ones, and their log-probabilities are leaves, so that the gradient
of every group of answers is one backward pass. `own_log_probs` is TRL's own computation of those, which is held against ours. So
what is audited is all between: rewards, baselines, standardisation, padding, masks, ratios, clips, KLs, means.

`micro` is the change of the gradient when a batch of two prompts is cut into two micro-batches as TRL cuts it (one generation,
scored together, then split), relative to the gradient: root mean squares over groups.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.language_losses import BETA, GUIDE, PROMPTS, reward
from scg.testing import Answers, AnswerTask, check_answers
from scg.testing.losses.audit import AnswerReport

STEPS, END = 2, 1
TOKENS = ["0", "1"]  # the second one ends an answer


class GPT2(nn.Module):
    """Two layers from a config, in float64, without dropout; `distance` shifts another's parameters instead."""

    def __init__(self, seed: int, near: GPT2 | None = None, distance: float = 0.3) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=len(TOKENS), n_positions=4, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=END, eos_token_id=END, pad_token_id=0,
                    use_cache=False,
                )
            ).double()  # fmt: skip
            if near is not None:
                with torch.no_grad():
                    for mine, theirs in zip(self.parameters(), near.parameters(), strict=True):
                        mine.copy_(theirs + distance * mine)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens).logits


@cache
def tasks() -> dict[str, AnswerTask]:
    policy, common = GPT2(0), {"prompts": PROMPTS, "reward": reward, "steps": STEPS, "end": END}
    return {
        "on-policy": AnswerTask(policy, **common, answers=3),
        "recorded": AnswerTask(policy, **common, answers=3, behaviour=GPT2(1, policy)),
        "KL": AnswerTask(policy, **common, answers=2, reference=GPT2(2), kl=BETA),
    }


@dataclass(frozen=True)
class Row:
    """A trainer, its settings, and the task that it is held against."""

    name: str
    task: str
    trainer: str = "GRPO"
    settings: dict[str, Any] = field(default_factory=dict)


def row(name: str, task: str = "on-policy", trainer: str = "GRPO", **settings: Any) -> Row:
    return Row(name, task, trainer, settings)


ROWS = [
    row("RLOO", trainer="RLOO"),
    row("RLOO, normalize_advantages", trainer="RLOO", normalize_advantages=True),
    row("GRPO, defaults"),
    row("dapo, scale_rewards=none", scale_rewards="none"),
    row("grpo", loss_type="grpo"),
    row("grpo, scale_rewards=none", loss_type="grpo", scale_rewards="none"),
    row("bnpo", loss_type="bnpo"),
    row("dr_grpo", loss_type="dr_grpo"),
    row("dr_grpo, scale_rewards=batch", loss_type="dr_grpo", scale_rewards="batch"),
    row("dr_grpo, scale_rewards=none", loss_type="dr_grpo", scale_rewards="none"),
    row("luspo, sequence, scale_rewards=none", loss_type="luspo", scale_rewards="none", importance_sampling_level="sequence"),
    row("RLOO", "recorded", "RLOO", num_iterations=2),
    row("RLOO, epsilon=1e6", "recorded", "RLOO", num_iterations=2, epsilon=1e6),
    row("dr_grpo, scale_rewards=none", "recorded", loss_type="dr_grpo", scale_rewards="none", num_iterations=2),
    row("cispo, scale_rewards=none", "recorded", loss_type="cispo", scale_rewards="none", num_iterations=2, epsilon_high=5.0),
    row("RLOO, beta", "KL", "RLOO", beta=BETA),
    row("dr_grpo, scale_rewards=none, beta", "KL", loss_type="dr_grpo", scale_rewards="none", beta=BETA),
]  # fmt: skip


class Audited:
    """A loss of `check_answers`: a trainer's, on answers that are given."""

    def __init__(self, row: Row) -> None:
        self.__name__ = f"{row.trainer} {row.name}"
        self.row, self.task = row, tasks()[row.task]
        self.batch: Answers | None = None
        self.trainer = _trainer(row, self.task, self._scores)
        self.trainer._generate_single_turn = self._recorded
        self.trainer._get_per_token_logps_and_entropies = self._known

    @property
    def given(self) -> Answers:
        assert self.batch is not None
        return self.batch

    def answers(self) -> list[list[int]]:
        """Each answer up to its end, as generation returns it."""
        pairs = zip(self.given.tokens.flatten(0, 1), self.given.mask.flatten(0, 1), strict=True)
        return [tokens[mask].tolist() for tokens, mask in pairs]

    def _recorded(self, prompt_ids: Any, *_: Any) -> Any:
        assert prompt_ids == self.given.prompts.flatten(0, 1).tolist(), "TRL tokenised the prompts otherwise"
        return (self.answers(), None) if self.row.trainer == "GRPO" else self.answers()

    def _scores(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert completion_ids == self.answers(), "TRL passes other answers on to be scored"
        return self.given.rewards.flatten().tolist()

    def _known(self, model: nn.Module, ids: Tensor, mask: Tensor, keep: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        """log-probabilities of the batch's tokens, for the rows that are asked for."""
        b = self.given
        if model is self.trainer.ref_model:
            found = b.reference_log_probs
        else:
            found = b.log_probs if torch.is_grad_enabled() else b.old_log_probs
        log_probs, logits = found.flatten(0, 1)[self.rows, :keep], b.logits.flatten(0, 1)[self.rows, :keep].log_softmax(-1)
        return log_probs, -(logits.exp() * logits).sum(-1), None

    def scored(self, b: Answers) -> dict[str, Any]:
        """What TRL makes of the answers before any loss."""
        self.batch, self.rows = b, slice(None)
        prompts = ["".join(TOKENS[i] for i in p) for p in b.prompts.flatten(0, 1).tolist()]
        return self.trainer._generate_and_score_completions([{"prompt": p} for p in prompts])

    def __call__(self, b: Answers) -> Tensor:
        return self.trainer.compute_loss(self.trainer.model, self.scored(b))

    def accumulated(self, b: Answers) -> Tensor:
        """The loss whose gradient two micro-batches, one for each prompt, add up to."""
        from trl.trainer.utils import split_tensor_dict

        made, trainer, each = self.scored(b), self.trainer, b.rewards.shape[1]
        trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = len(b.rewards)
        total = b.log_probs.new_zeros(())
        for i, part in enumerate(split_tensor_dict(made, len(b.rewards))):
            self.rows = slice(i * each, (i + 1) * each)
            total = total + trainer.compute_loss(trainer.model, part)
        trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = 1
        # GRPO divides by the number of micro-batches itself; for RLOO transformers.Trainer.training_step does.
        return total if self.row.trainer == "GRPO" else total / len(b.rewards)


def _trainer(row: Row, task: AnswerTask, scores: Any) -> Any:
    import datasets
    import trl
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    logging.getLogger("transformers").setLevel(logging.ERROR)
    words = Tokenizer(models.WordLevel({t: i for i, t in enumerate(TOKENS)}, unk_token=TOKENS[0]))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokeniser = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=TOKENS[END], pad_token=TOKENS[0])
    settings, beta = dict(row.settings), row.settings.get("beta", 0.0)
    settings["beta"] = 0.0  # a reference is loaded by name: it is set below
    count = len(task.prompts) * task.answers
    arguments = getattr(trl, f"{row.trainer}Config")(
        output_dir=tempfile.mkdtemp(), report_to="none", use_cpu=True, bf16=False, per_device_train_batch_size=count,
        num_generations=task.answers, max_completion_length=task.steps, gradient_accumulation_steps=1, **settings,
    )  # fmt: skip
    data = datasets.Dataset.from_list([{"prompt": TOKENS[0]}, {"prompt": TOKENS[1]}])
    made = getattr(trl, f"{row.trainer}Trainer")(
        model=task.policy.model, reward_funcs=scores, args=arguments, train_dataset=data, processing_class=tokeniser
    )
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    if beta:
        made.beta, made.ref_model = beta, task.reference.model
    return made


def own_log_probs(task: AnswerTask) -> tuple[Tensor, Tensor]:
    """TRL's and our log-probabilities of every answer's tokens, `[prompt, answer, time]`, differentiable."""
    trainer = _trainer(row("GRPO"), task, lambda **_: [])
    shape = task.mask.expand(len(task.prompts), -1, -1)
    prompts = task.prompts.unsqueeze(1).expand(-1, len(task.every), -1)
    tokens = torch.cat([prompts, task.every.expand(*shape.shape)], -1).flatten(0, 1)
    mask = torch.cat([torch.ones_like(prompts), shape.long()], -1).flatten(0, 1)
    found, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, tokens, mask, task.steps)
    return found.unflatten(0, shape.shape[:2]) * shape, task.taken(task.logits(task.policy)) * shape


def micro(loss: Audited, groups: int = 64) -> float:
    """Relative change of the gradient for the log-probabilities by TRL's own splitting."""
    task, generator = loss.task, torch.Generator().manual_seed(0)
    with torch.no_grad():
        logits = task.logits(task.policy)
        log_probs = task.taken(logits)
    log_probs.requires_grad_()
    change = size = 0.0
    for _ in range(groups):
        p = task.constants["probability"]
        chosen = torch.multinomial(p, task.answers, replacement=True, generator=generator)
        whole, parts = (
            torch.autograd.grad(value(task.batch(chosen, log_probs, logits)), log_probs)[0]
            for value in (loss, loss.accumulated)
        )
        change, size = change + float((whole - parts).square().sum()), size + float(whole.square().sum())
    return (change / size) ** 0.5


def audit(row: Row, max_groups: int | None = None) -> tuple[AnswerReport, float]:
    loss = Audited(row)
    return check_answers(loss, loss.task, max_groups=max_groups), micro(loss)


def table(rows: list[Row]) -> Iterator[str]:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("trl", "transformers"))
    yield f"| {versions} | task | verdict | scale | orthogonal | sequential test | variance | `micro` | found by name |"
    yield "|---|---|---|---|---|---|---|---|---|"
    words = {"unbiased": "unbiased", "scale": "scale only", "direction": "**direction**", "undecided": "undecided"}
    for r in rows:
        report, cut = audit(r)
        agrees = "" if (report.verdict == "unbiased") == (report.sampled == "unbiased") else " (disagrees)"
        names = "; ".join(what for what, _ in report.findings) or "—"
        yield (
            f"| {r.trainer if r.trainer not in r.name else ''} `{r.name}` | {r.task} | {words[report.verdict]} | {report.scale:.3f} | "
            f"{report.orthogonal:.3f} | {report.sampled} after {report.draws:,}{agrees} | {report.variance:.3g} | {cut:.2g} | {names} |"
        ).replace("|  `", "| `")


def main() -> None:
    lines = []
    for line in table(ROWS):
        print(line, flush=True)
        lines.append(line)
    text = GUIDE.read_text(encoding="utf-8")
    whole = "<!-- trl -->\n" + "\n".join(lines) + "\n<!-- /trl -->"
    GUIDE.write_text(re.sub(r"<!-- trl -->.*?<!-- /trl -->", lambda _: whole, text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
