"""`check_answers`: right losses pass, wrong ones are told by scale or direction, and what has a name is found by it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from scg.commands.check import check
from scg.testing import AnswerTask, check_answers
from scg.testing.losses.audit import mean_gradient


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Table(nn.Module):
    """Logits for each prompt and prefix of up to two tokens of two."""

    def __init__(self, seed: int = 0, leak: float = 0.0) -> None:
        super().__init__()
        self.rows, self.leak = nn.Parameter(torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(seed))), leak

    def forward(self, tokens: Tensor) -> Tensor:
        prompt, code = tokens[..., 0], torch.zeros_like(tokens[..., 0])
        found = [self.rows[prompt, code]]
        for i in range(1, tokens.shape[-1]):
            code = 2 * code + tokens[..., i] + 1
            found.append(self.rows[prompt, code])
        seen = torch.stack(found, -2)
        return seen + self.leak * tokens.double().mean(-1)[..., None, None] * torch.tensor([1.0, 0.0])


def reward(prompt: Tensor, answer: Tensor) -> Tensor:
    return torch.tensor([[0.9, 0.2, -0.5], [0.1, 1.0, 0.4]])[
        prompt[..., 0], torch.where(answer[..., 0] == 1, 0, 1 + answer[..., 1])
    ]


def task(**changes) -> AnswerTask:
    settings = {"policy": Table(), "prompts": torch.tensor([[0], [1]]), "reward": reward, "steps": 2, "answers": 2, "end": 1}
    return AnswerTask(**{**settings, **changes})


def advantage(b) -> Tensor:
    return (b.rewards - b.rewards.flip(-1)).unsqueeze(-1)


def rloo(b) -> Tensor:
    return -(advantage(b) * b.log_probs * b.mask).sum(-1).mean()


def test_the_objective_is_the_sum_over_all_answers():
    """Each answer's probability from its own prefixes, one after another."""
    held = task(reference=Table(1), kl=0.4)
    total = torch.zeros(())
    for prompt in held.prompts:
        for answer in ([1, 0], [0, 0], [0, 1]):
            p, cost, prefix = torch.ones(()), -reward(prompt, torch.tensor(answer)), prompt.tolist()
            for token in answer[: 1 if answer[0] == 1 else 2]:
                pi, other = (m(torch.tensor(prefix))[-1].log_softmax(-1) for m in (held.policy, held.reference))
                cost = cost + 0.4 * (pi.exp() * (pi - other)).sum()
                p, prefix = p * pi.exp()[token], [*prefix, token]
            total = total + p * cost / 2
    torch.testing.assert_close(held.value(), total)
    assert held.every.tolist() == [[0, 0], [0, 1], [1, 0]]
    torch.testing.assert_close(held.constants["probability"].sum(-1), torch.ones(2))


def test_the_mean_gradient_is_that_of_the_mean_loss():
    """The loss of every group, weighed with its probability at the policy as it is, differentiated in one go."""
    held = task()
    total = torch.zeros(())
    logits = held.logits(held.policy)
    taken = held.taken(logits)
    for numbers in itertools.product(range(3), repeat=4):
        chosen = torch.tensor(numbers).reshape(2, 2)
        p = held.constants["probability"].gather(1, chosen).prod()
        total = total + p * rloo(held.batch(chosen, taken, logits))
    (expected,) = torch.autograd.grad(total, held.policy.rows)
    torch.testing.assert_close(mean_gradient(rloo, held), expected.flatten())
    report = check_answers(rloo, held)
    assert report.ok and report.groups == 81 and report.sampled == "unbiased", report


@pytest.mark.parametrize(("factor", "verdict", "scale"), [(1.0, "unbiased", 1.0), (0.5, "scale", 0.5), (-1.0, "scale", -1.0)])
def test_scale(factor, verdict, scale):
    report = check_answers(lambda b: factor * rloo(b), task())
    assert (report.verdict, round(report.scale, 9)) == (verdict, scale)
    assert report.ok == (factor == 1.0) and (report.sampled == "unbiased") == (factor == 1.0)


def test_direction():
    def lengths(b):
        return -((advantage(b) * b.log_probs * b.mask).sum(-1) / b.mask.sum(-1)).mean()

    report = check_answers(lengths, task())
    assert report.verdict == "direction" and report.orthogonal > 0.05 and report.sampled == "biased"
    assert not report.findings and "wrong in direction (the sum over all 81 groups)" in str(report)


def test_a_mean_over_a_micro_batchs_tokens_depends_on_the_split():
    def tokens(b):
        return -(advantage(b) * b.log_probs * b.mask).sum() / b.mask.sum()

    report = check_answers(tokens, task())
    assert dict(report.findings).keys() == {"split"} and report.split > 0.05
    assert check_answers(rloo, task()).split == pytest.approx(0.0, abs=1e-12)
    assert check_answers(rloo, task(prompts=torch.tensor([[0]]))).split is None


def test_a_masked_token_with_gradient_is_named():
    def unmasked(b):
        return -(advantage(b) * b.log_probs).sum(-1).mean()

    def penalty(b):
        entropy = -(b.logits.softmax(-1) * b.logits.log_softmax(-1)).sum(-1)
        return rloo(b) - 0.1 * entropy.mean()

    found = dict(check_answers(unmasked, task()).findings)
    assert "the log-probability at step 1" in found["masked token"]
    assert "the logits at step 1" in dict(check_answers(penalty, task()).findings)["masked token"]


def test_a_ratio_without_the_kept_mass_is_named():
    def nucleus(logits):
        """The tokens of probability 0.3 and more."""
        return torch.where(logits.softmax(-1) >= 0.3, logits, -torch.inf)

    def ratios(b):
        r = torch.where(b.mask, b.log_probs - b.old_log_probs, 0.0).exp().prod(-1)
        return -(r * b.rewards).mean()

    settings = {"behaviour": Table(3), "sampled": nucleus, "prompts": torch.tensor([[1]])}
    wrong = check_answers(ratios, task(**settings, records="policy"))
    assert "truncation (top-p, top-k) divides by the mass that it keeps" in dict(wrong.findings)["kept mass"]
    assert "kept mass" not in dict(check_answers(ratios, task(**settings)).findings)


def test_a_temperature_is_right_when_it_is_recorded():
    def ratios(b):
        return -(torch.where(b.mask, b.log_probs - b.old_log_probs, 0.0).exp().prod(-1) * b.rewards).mean()

    assert check_answers(ratios, task(sampled=lambda x: x / 1.5)).ok
    wrong = check_answers(ratios, task(sampled=lambda x: x / 1.5, records="policy"))
    assert wrong.verdict == "direction" and dict(wrong.findings).keys() == {"kept mass"}


def test_a_policy_that_sees_later_tokens_is_named():
    found = dict(check_answers(rloo, task(policy=Table(leak=0.5))).findings)
    assert "its value at step 0 moves" in found["leak"]


def test_more_groups_than_can_be_summed():
    report = check_answers(rloo, task(answers=6), max_groups=2**11)
    assert report.groups == 0 and report.error > 0 and abs(report.scale - 1) < 5 * report.error


def test_losses_that_cannot_be_checked():
    for loss, said in (
        (lambda b: b.log_probs, "return the scalar"),
        (lambda b: b.rewards.mean(), "has no gradient"),
        (lambda b: (b.log_probs * 0 / 0).mean(), "returned nan"),
    ):
        with pytest.raises(ValueError, match=said):
            check_answers(loss, task())
    with pytest.raises(TypeError, match="AnswerTask\\(wrt="):
        check_answers(rloo, task(policy=lambda x: Table()(x)))
    with pytest.raises(ValueError, match="cannot be listed"):
        check_answers(rloo, task(steps=30))


def test_in_a_shell(capsys):
    assert check(["benchmarks/language_losses.py:rloo", "--detectable", "0.2"]) == 0
    assert "unbiased (the sum over all 729 groups)" in capsys.readouterr().out
    assert check(["benchmarks/language_losses.py:dr_grpo", "--detectable", "0.2"]) == 1
    assert "right but for its scale" in capsys.readouterr().out
