"""The regulator behind DDPG's exact claims, the claims, and the report on runs that are known."""

from __future__ import annotations

import json

import pytest
import torch

from scg.papers.cli import paper
from scg.papers.learning import CONTRARY, UNDECIDED
from scg.papers.lillicrap2016_ddpg import exact, run
from scg.papers.lillicrap2016_ddpg.regulator import LQR, Critic, largest_rate, normal_grid, points, radius, regression
from scg.papers.lillicrap2016_ddpg.run import CART, CHEETAH, PENDULUM
from scg.papers.report import REPRODUCED
from tests.papers.critics_seen import instead

EACH = ["--seeds", "3", "--cart_seeds", "3", "--cheetah_seeds", "3"]


def written(tmp_path, monkeypatch, value, bias, *arguments):
    monkeypatch.setattr(run, "learn_all", instead(value, bias))
    monkeypatch.setattr(exact, "PROBLEMS", 5)
    paper(["lillicrap2016_ddpg", "--out", str(tmp_path), "--runs", "kept", *arguments])
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert "kept" not in json.dumps(results)
    return {row["claim"]: row for row in results["rows"]}


def test_runs_like_the_papers_are_called_reproduced(tmp_path, monkeypatch):
    rows = written(
        tmp_path,
        monkeypatch,
        lambda o: (10.0 if "tau" in o else 100.0) + o["seed"],
        lambda o: {PENDULUM: 0.1, CART: 1.0, CHEETAH: 30.0}[o["env"]] + o["seed"],
        *EACH,
    )
    assert len(rows) == 7 + 5 + 2 + 3 + 1
    assert {row["verdict"] for row in rows.values()} == {REPRODUCED, "measured"}
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "targets.png").stat().st_size > 10_000


def test_runs_unlike_the_papers_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "targets", lambda out: ("targets", "", "", True, {}))
    rows = written(
        tmp_path,
        monkeypatch,
        lambda o: (
            (100.0 if o["env"] == PENDULUM else 50.0 + 2 * (o["seed"] % 2)) + (20.0 if "tau" in o else 21.0 * (o["seed"] % 2))
        ),
        lambda o: 1.0 if o["env"] == CHEETAH else 20.0,
        *EACH,
    )
    (figure,) = (row for claim, row in rows.items() if claim.startswith("Figure 3: on a simple task"))
    assert figure["verdict"] == CONTRARY
    verdicts = {
        env: row["verdict"] for claim, row in rows.items() for env in (PENDULUM, CART) if claim.endswith(f"environments: {env}")
    }
    assert verdicts == {PENDULUM: UNDECIDED, CART: UNDECIDED}


def test_the_harder_environments_may_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "targets", lambda out: ("targets", "", "", True, {}))
    rows = written(tmp_path, monkeypatch, lambda o: 1.0, lambda o: 1.0, "--cart_seeds", "0", "--cheetah_seeds", "0")
    assert not [claim for claim in rows if CART in claim or CHEETAH in claim]


def test_a_failing_gradient_is_seen(monkeypatch):
    monkeypatch.setattr(exact, "PROBLEMS", 3)
    assert exact.theorem()[3] is True
    visits = LQR.visits
    monkeypatch.setattr(LQR, "visits", lambda self, k, scale=0.0: visits(self, k, scale) + torch.eye(3))
    assert exact.theorem()[3] is False


def test_a_critic_of_the_costs_is_not_where_the_regression_rests(monkeypatch):
    """A target that takes the noise for none."""
    monkeypatch.setattr(exact, "PROBLEMS", 3)
    value = LQR.action_value
    monkeypatch.setattr(LQR, "action_value", lambda self, k, scale=0.0: (value(self, k, scale)[0], torch.zeros(()).double()))
    assert exact.critic_goal()[3] is False


def test_the_regulators_values_are_those_of_a_long_rollout():
    """Moments by recursion over 400 steps, the reward of each, and noise in the actions."""
    lqr, scale = LQR.random(3), 0.5
    k, moment, total = lqr.gain(4), lqr.start, torch.zeros(()).double()
    for t in range(400):
        cost = (lqr.q * moment).sum() + (lqr.r * (k @ moment @ k.mT + scale**2 * torch.eye(1))).sum()
        total = total - lqr.gamma**t * cost
        closed = lqr.a + lqr.b @ k
        moment = closed @ moment @ closed.mT + scale**2 * lqr.b @ lqr.b.mT + lqr.w
    assert float(lqr.objective(k, scale)) == pytest.approx(float(total), rel=1e-10)


def test_a_values_mean_over_actions_is_the_return():
    """E[Q(s₀, K s₀ + σ ε)] = J(K, σ)."""
    lqr, scale = LQR.random(5), 0.3
    k = lqr.gain(6)
    s, weight = normal_grid(lqr.start, 4)
    critic = Critic(*lqr.action_value(k, scale)).requires_grad_(False)
    noise, chance = normal_grid(torch.eye(1).double(), 4)
    q = sum(p * critic.first(s, s @ k.mT + scale * e) for e, p in zip(noise, chance, strict=True))
    assert float(weight @ q) == pytest.approx(float(lqr.objective(k, scale)), rel=1e-10)


def test_points_and_grids_have_the_moments_asked_for():
    moment = LQR.random(0, 3).start
    x = points(moment)
    assert torch.allclose(x.mT @ x / len(x), moment)
    grid, weight = normal_grid(moment, 3)
    assert torch.allclose(grid.mT @ (weight[:, None] * grid), moment)
    assert float(weight @ grid[:, 0] ** 4) == pytest.approx(3 * float(moment[0, 0]) ** 2)


def test_the_largest_rate_is_where_the_update_ceases_to_converge():
    a, c = regression(0)
    limit = 2 / float(torch.linalg.eigvalsh(a)[-1])
    for tau in (1.0, 0.1):
        rate = largest_rate(a, c, tau)
        assert radius(a, c, (rate - 0.01) * limit, tau) < 1 < radius(a, c, (rate + 0.01) * limit, tau)
    assert largest_rate(a, 0 * c, 0.5) == pytest.approx(1.0, abs=1e-3)  # a regression on fixed targets


def test_settings_that_make_no_sense_are_refused(capsys):
    for wrong, says in (
        (["--steps", "5000"], "12000 or more"),
        (["--seeds", "1"], "2 seeds"),
        (["--workers", "0"], "at least 1"),
    ):
        assert paper(["lillicrap2016_ddpg", *wrong]) == 2
        assert says in capsys.readouterr().err
