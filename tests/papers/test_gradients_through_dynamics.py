"""The papers on gradients through dynamics, with fewer repeats: PIPPS, SVG, and the food for thought."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch

from scg.papers.abbeel_food_for_thought import run as food
from scg.papers.heess2015_svg import run as heess
from scg.papers.parmas2018_pipps import run as parmas
from scg.testing.lqr import LQR


def test_the_rotors_moments_are_those_of_its_roll_outs(tmp_path: Path) -> None:
    settings = parmas.Settings(paths=20_000, repeats=3, batch=10)
    results = parmas.run(settings, tmp_path)
    assert [row.verdict for row in results.rows[:3]] == ["reproduced"] * 3
    assert (tmp_path / "horizon.png").exists()


def test_the_growth_of_a_rotor_without_kicks_is_none() -> None:
    """The slope of a step is 1 everywhere: D is the number of steps, and nothing explodes."""
    calm = parmas.Exact(0.0)
    assert math.exp(calm.growth) == pytest.approx(1, abs=1e-9)
    assert calm.lyapunov == pytest.approx(0, abs=1e-9)
    gap = calm.moments["path"] - calm.moments["ratio"]
    assert float(gap.abs().max()) < 1e-9


def test_svgs_claims_hold_with_few_paths(tmp_path: Path) -> None:
    results = heess.run(heess.Settings(paths=256), tmp_path)
    assert not results.failed, results.failed
    assert (tmp_path / "model.png").exists()


def test_a_fitted_model_of_the_right_kind_becomes_the_process() -> None:
    lqr, g = food.process(), torch.Generator().manual_seed(0)
    s, a = torch.randn(5, 400, 2, generator=g), torch.randn(5, 400, 1, generator=g)
    after = s @ lqr.a.mT + a @ lqr.b.mT
    found: LQR = food.fitted(lqr, s, a, after)
    torch.testing.assert_close(found.a, lqr.a)
    torch.testing.assert_close(found.b, lqr.b)
    wrong = food.fitted(lqr, s, a, after, known_inertia=False)
    assert float((wrong.gradient(food.policy())[:2] - food.truth()).norm()) > 0.1 * float(food.truth().norm())


@pytest.mark.parametrize("way", [food.differences, partial(food.evolution, pairs=2)], ids=["differences", "evolution"])
def test_ways_without_a_graph_have_the_true_mean(way: food.Way) -> None:
    g = torch.Generator().manual_seed(0)
    found = torch.stack([way(g) for _ in range(100)])
    error = found.std(0) / 10
    assert bool(((found.mean(0) - food.truth()).abs() < 4.5 * error).all())


@pytest.mark.parametrize("settings", [food.Settings, parmas.Settings])
def test_settings_that_make_no_sense_are_refused(settings: type) -> None:
    with pytest.raises(ValueError, match="--repeats 1"):
        settings(repeats=1)
