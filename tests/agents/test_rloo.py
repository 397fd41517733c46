"""RLOO: its graph's gradient is the loss written by hand, answers end, evaluation is of prompts that were held out, runs resume."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from scg.agents.commands import cli
from scg.agents.environments import envs
from scg.agents.environments.brackets import END, PAD, Closing, TokenSpace
from scg.agents.environments.faults import EnvironmentFault
from scg.agents.networks.transformer import TokenPolicy, Transformer
from scg.agents.rloo import RLOO, rloo


class Rolling:
    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)


def agent(**options):
    task = Closing(2)
    settings = {"prompts": 3, "answers": 4, "width": 16, "heads": 2, **options}
    return RLOO(**settings).build(TokenSpace(task, 2), spaces.Discrete(task.vocabulary), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("baseline", ["others", "mean", "standardised"])
def test_the_gradient_is_that_of_the_loss_by_hand(baseline):
    torch.manual_seed(2)
    model = Transformer(12, width=8, layers=2, heads=2, context=8).double()
    prompt = torch.tensor([[3, 4], [5, 6]]).unsqueeze(1).expand(2, 4, 2)
    answer = torch.tensor(
        [[[7, END, PAD], [1, 2, 3], [END, PAD, PAD], [8, 8, END]], [[1, 1, 1], [9, END, PAD], [2, 3, END], [4, 5, 6]]]
    )
    score = torch.randn(2, 4, dtype=torch.float64)
    trace = rloo(model, baseline).replay({"token": answer.movedim(-1, 0), "score": score}, prompt=prompt)
    found = torch.autograd.grad(trace.surrogate(), list(model.parameters()))

    logits = model(torch.cat([prompt, answer], -1)[..., :-1])[..., 1:, :]
    taken = logits.log_softmax(-1).gather(-1, answer.unsqueeze(-1)).squeeze(-1)
    over = (answer == END).long().cumsum(-1) - (answer == END).long()
    centred = score - score.mean(-1, keepdim=True)
    advantage = {"others": centred * 4 / 3, "mean": centred, "standardised": centred / (score.std(-1, keepdim=True) + 1e-4)}
    loss = -(advantage[baseline].unsqueeze(-1) * taken * (over == 0)).sum(-1).mean()
    for a, b in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b)


def test_answers_end_and_their_tokens_are_counted():
    made = agent()
    block = made.collect(Rolling(), 1000)
    assert block.prompt.shape == (3, 4, 2) and block.token.shape == (3, 3, 4)
    tokens = block.token.clone()
    tokens[0, 0, 0] = END
    ended = type(block)(
        block.prompt, torch.where((tokens == END).cumsum(0) > (tokens == END), 0, tokens), block.score, block.right
    )
    assert ended.steps == int((ended.token != PAD).sum())
    assert next(iter(ended.episodes)).length == 1
    with torch.no_grad():
        made.policy.model.embedding.weight[END] = 5.0 * made.policy.model.norm.weight  # an end is likely
        made.policy.model.norm.bias.fill_(1.0)
    drawn = made.collect(Rolling(), 1000).token
    over = (drawn == END).cumsum(0) > (drawn == END)
    assert (drawn == END).any() and (drawn[over] == PAD).all()


def test_an_update_learns_from_the_scores_and_reports_the_kl():
    made = agent(kl=0.1)
    before = [p.clone() for p in made.policy.parameters()]
    metrics = made.update(made.collect(Rolling(), 1000), 0.0)
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(before, made.policy.parameters(), strict=True))
    assert made.update(made.collect(Rolling(), 1000), 0.5)["kl"] > 0


def test_held_out_prompts_are_not_learned_from():
    task = Closing(3)
    learned, out = ({tuple(p.tolist()) for p in x} for x in (task.learned, task.held_out))
    assert not learned & out and len(learned | out) == 64 and len(out) == 13
    drawn = task.prompts(200, torch.Generator().manual_seed(0))
    assert {tuple(p.tolist()) for p in drawn} <= learned
    right = task.solution(drawn)
    assert task.right(drawn, right).all() and (task.score(drawn, right) == 1).all()
    wrong = right.clone()
    wrong[:, 2] = 0
    assert not task.right(drawn, wrong).any() and torch.allclose(task.score(drawn, wrong), torch.tensor(0.25))


def test_the_environment_rewards_a_right_answer_at_its_end():
    with envs.make("Brackets-v0", 2) as made:
        task, obs = made.obs_space.task, made.reset([0, 1])
        held = {tuple(p.tolist()) for p in task.held_out}
        assert all(tuple(row[:4].astype(int)) in held for row in obs)
        right = task.solution(torch.tensor(obs[:, :4])).numpy()
        total = np.zeros(2)
        for t in range(5):
            action = right[:, t].copy()
            action[1] = right[1, t] if t != 2 else 65
            step = made.step(action)
            total += step.reward
        assert step.terminated.all() and total.tolist() == [1.0, 0.0]


def test_a_policy_reads_what_is_there_and_no_padding():
    model = Transformer(12, width=8, layers=1, heads=2, context=8)
    policy = TokenPolicy(model, 0)
    obs = torch.tensor([[3.0, 4, 5, 0, 0, 0], [3, 4, 0, 0, 0, 0]])
    torch.testing.assert_close(policy(obs).logits[0], torch.log_softmax(model(torch.tensor([3, 4, 5]))[-1], -1))
    torch.testing.assert_close(policy(obs).logits[1], torch.log_softmax(model(torch.tensor([3, 4]))[-1], -1))
    with pytest.raises(ValueError, match="context=8"):
        model(torch.zeros(9, dtype=torch.long))


def test_other_spaces_are_refused():
    with pytest.raises(EnvironmentFault, match="RLOO answers prompts"):
        RLOO().build(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), torch.Generator())


def test_an_agent_goes_on_from_its_state_in_the_same_bits():
    rolling, first = Rolling(4), agent(kl=0.1)
    first.update(first.collect(rolling, 1000), 0.0)
    second, again = agent(kl=0.1), Rolling()
    second.load_state_dict(torch.load(saved(first.state_dict())))
    again.generator.set_state(rolling.generator.get_state())
    for made, source in ((first, rolling), (second, again)):
        made.update(made.collect(source, 1000), 0.5)
    for a, b in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def saved(state) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_a_run_from_the_command_line(tmp_path):
    out = tmp_path / "run"
    options = [
        "--prompts",
        "2",
        "--answers",
        "4",
        "--width",
        "16",
        "--heads",
        "2",
        "--eval-episodes",
        "2",
        "--evaluations",
        "1",
    ]
    assert cli.train(["rloo", "--env", "Brackets-v0", *options, "--steps", "80", "--checkpoints", "1", "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["agent"] == "rloo"
    assert cli.train(["--resume", str(out), "--steps", "160"]) == 0
    assert cli.evaluate([str(out), "--episodes", "2"]) == 0
