"""The 2020 paper: exact variances of joint bits against brute force, and the whole of it with few steps."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from scg import Branches
from scg.estimators import ARM, DisARM, LeaveOneOut
from scg.papers.cli import paper
from scg.papers.dong2020_disarm import joint, vae
from scg.papers.dong2020_disarm.run import UNDECIDED, Settings, Trained, bounds, case, drawn, one_that_counts, ratios, sampled
from scg.papers.report import FAILED, REFUTED
from scg.papers.toy import exact


@pytest.fixture(autouse=True)
def as_it_is_run():
    """Single precision and one thread: the VAEs' numbers are then those of a run. What is exact says its own precision."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("logit", [-2.0, -0.3, 0.0, 1.1])
def test_one_bit_of_a_joint_has_the_closed_forms(logit):
    theta, costs = torch.tensor([logit], dtype=torch.float64), torch.tensor([0.09, 0.49], dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    found = joint.variances(theta, costs)
    assert found.arm == pytest.approx(exact.arm(theta, t).item(), abs=1e-14)
    assert found.disarm == pytest.approx(exact.disarm(theta, t).item(), abs=1e-14)
    assert found.leave_one_out == pytest.approx(exact.leave_one_out(theta, t).item(), abs=1e-14)
    assert found.score == pytest.approx(exact.score_function(theta, t).item() / 2, abs=1e-14)


def test_arms_second_moment_is_the_integral_over_its_noise():
    theta, costs = torch.tensor([0.7, -1.2], dtype=torch.float64), case(3)[1][0]
    points, weights = np.polynomial.legendre.leggauss(2)  # exact for the square of u − ½ on each interval
    total = 0.0
    axes = []
    for p in torch.sigmoid(theta).tolist():
        edges = [0.0, *sorted((p, 1 - p)), 1.0]
        axes.append(
            [
                ((b + a) / 2 + (b - a) / 2 * x, (b - a) / 2 * w)
                for a, b in itertools.pairwise(edges)
                for x, w in zip(points, weights)
            ]
        )
    for noise in itertools.product(*axes):
        u, w = torch.tensor([n[0] for n in noise], dtype=torch.float64), np.prod([n[1] for n in noise])
        b, b_tilde = (1 - u < torch.sigmoid(theta)).double(), (u < torch.sigmoid(theta)).double()
        gap = joint.at(costs, b[None]) - joint.at(costs, b_tilde[None])
        total += w * (gap**2 * (u - 0.5).square().sum()).item()
    assert joint.antithetic(theta, costs)[0].item() == pytest.approx(total, abs=1e-12)


def test_disarm_never_has_more_variance_than_arm_and_may_have_more_than_independent_samples():
    cases = [joint.variances(*case(seed)) for seed in range(200)]
    assert all(c.disarm < c.arm for c in cases)
    assert all(c.disarm < c.leave_one_out for c in cases)
    lonely = joint.variances(*one_that_counts())
    assert lonely.leave_one_out < lonely.disarm < lonely.arm


def test_the_librarys_variances_are_the_exact_ones():
    assert sampled(Settings(seed=5))[3] is True


def test_a_wrong_estimator_is_not_called_reproduced(monkeypatch):
    class Halved(DisARM):
        def branch(self, distribution):
            drawn = super().branch(distribution)
            return Branches(drawn.values, drawn.n, 0.5 + (drawn.weights - 0.5) * 0.9)

    monkeypatch.setitem(sampled.__globals__["PAIR"], "DisARM", Halved())
    assert sampled(Settings(seed=5))[3] is False


def test_a_draw_is_one_gradient_an_element():
    theta, costs = case(1)
    g = drawn(LeaveOneOut(2), theta, costs, 50_000, 0)
    truth = joint.gradient(theta, costs)
    assert g.shape == (50_000, 3)
    assert ((g.mean(0) - truth) / (g.std(0) / 50_000**0.5)).abs().max() < 4.5


def test_half_the_squared_difference_of_two_gradients_has_the_variance_as_mean():
    data = vae.images(50, 0)
    model = vae.Model(False, data.mean(0), 0)
    graph = vae.vae(model, DisARM())
    encoder = list(model.encoder.parameters())
    noise = torch.Generator().manual_seed(1)
    draws = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(graph.surrogate(x=data[:5], generator=noise), encoder)])
            for _ in range(200)
        ]
    )
    found = vae.scatter(model, DisARM(), data[:5], 100, 2)
    assert abs(found.variance - draws.var(0).sum().item()) < 5 * 2**0.5 * found.error


def test_estimators_are_trained_from_the_same_weights_on_the_same_images():
    study = Trained(Settings(steps=8, points=2, seeds=2, images=60, draws=8), nonlinear=False)
    study.train()
    firsts = {name: [curve.elbo[0] for curve in curves] for name, curves in study.curves.items()}
    assert len({tuple(f) for f in firsts.values()}) == 1
    assert firsts["ARM"][0] != firsts["ARM"][1]
    again = vae.train(study.model(0), ARM(), study.data, study.test, 8, 2, 0)
    assert again.elbo == study.curves["ARM"][0].elbo


def test_training_raises_the_bound():
    data, test = vae.images(300, 0), vae.images(100, 1)
    curve = vae.train(vae.Model(False, data.mean(0), 0), DisARM(), data, test, 60, 2, 0)
    assert curve.elbo[-1] > curve.elbo[0] + 10


def test_a_ratio_of_variances_has_the_error_of_both():
    ((ratio, error),) = ratios([vae.Scatter(6.0, 0.6)], [vae.Scatter(3.0, 0.3)])
    assert ratio == 2.0
    assert error == pytest.approx(2 * 0.02**0.5)


@pytest.mark.parametrize(("lead", "verdict"), [(1.0, True), (0.0, UNDECIDED), (-1.0, REFUTED)])
def test_a_lead_counts_only_beyond_the_noise_of_the_seeds(monkeypatch, lead, verdict):
    study = Trained(Settings(seeds=2), nonlinear=False)
    study.curves = {key: [vae.Curve([0], [-100.0 + k], []) for k in range(2)] for key in ("score", "leave-one-out", "ARM")}
    study.curves["DisARM"] = [vae.Curve([0], [-100.0 + lead + 1.1 * k], []) for k in range(2)]
    monkeypatch.setattr(study, "train", lambda: None)
    assert bounds(study, "linear")[3] == verdict


def test_the_whole_paper_runs_with_few_steps(tmp_path):
    options = {"steps": 8, "seeds": 2, "points": 1, "draws": 8, "cases": 20, "images": 60, "seed": 1}
    out = tmp_path / "out"
    code = paper(["dong2020_disarm", *(f"--{k}={v}" for k, v in options.items()), "--out", str(out)])
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert len(written["rows"]) == 11
    assert code == any(row["verdict"] == FAILED for row in written["rows"])
    assert {row["verdict"] for row in written["rows"][:3]} == {"reproduced"}
    assert written["settings"] == options
    assert (out / "training.png").stat().st_size > 3000


@pytest.mark.parametrize("option", [{"steps": 4}, {"points": 0}, {"seeds": 1}, {"draws": 7}, {"cases": 0}, {"images": 49}])
def test_settings_that_make_no_sense_are_refused(option, capsys):
    (name, value), *_ = option.items()
    assert paper(["dong2020_disarm", f"--{name}={value}"]) == 2
    assert f"--{name} {value}" in capsys.readouterr().err
    Settings(**{name: value + 1})
