"""The search agents as agents: a restart gives the same bits, failures are reported, steps are the papers'."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from scg.agents import AGENTS, config_type
from scg.agents.common.agent import Agent
from scg.agents.environments import envs
from scg.agents.execution.options import OptionError
from scg.agents.experience.rollout import Rollout
from scg.agents.pes import PES
from scg.agents.power import Pool, PoWER
from scg.agents.search import credits
from scg.agents.search.agent import Generation
from scg.agents.search.distributions import DiagonalGaussian
from scg.agents.search.perturbations import Perturbations
from scg.agents.search.population import Returns
from scg.agents.search.unroll import Lives
from scg.agents.training.loop import train
from scg.agents.training.presets import preset
from scg.agents.training.run_directory import RunConfig, RunDirectory
from scg.agents.updates.metrics import NotFinite

from . import worlds  # noqa: F401  registers what follows

SEARCH = [name for name in sorted(AGENTS) if config_type(name).family == "search"]
OBS, ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Box(-np.inf, np.inf, (1,), np.float32)


def started(name: str, env_id: str, **options: Any) -> tuple[Agent, Rollout, envs.Environments]:
    vector = envs.make(env_id, 4)
    config = config_type(name)(**options)
    agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
    return agent, Rollout(vector, [0, 1, 2, 3], Generator().manual_seed(1)), vector


def advance(agent: Agent, rollout: Rollout, times: int) -> None:
    for _ in range(times):
        agent.update(agent.collect(rollout, 10**6), 0.5)


def same(one: Any, other: Any) -> bool:
    """To the bit, whatever is inside what."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


OPTIONS = {name: {} if name == "pes" else {"population": 10} for name in SEARCH} | {
    "ars": {"population": 10, "best": 3, "normalise_obs": True},
    "cma-es": {"population": 10, "restarts": True},
    "fd": {},
    "pes": {"window": 7},
}


@pytest.mark.parametrize("name", SEARCH)
def test_a_restart_between_generations_gives_the_same_bits(name: str) -> None:
    world = "CartPole-v1" if name == "pes" else "Peak-v0"  # whose members live on, in environments that can be saved
    agent, rollout, _ = started(name, world, **OPTIONS[name])
    advance(agent, rollout, 3)
    saved = copy.deepcopy((agent.state_dict(), rollout.state_dict()))
    advance(agent, rollout, 3)
    again, after, _ = started(name, world, **OPTIONS[name])
    again.load_state_dict(saved[0])
    after.load_state_dict(saved[1])
    advance(again, after, 3)
    for part, state in agent.state_dict().items():
        assert same(again.state_dict()[part], state), part
    assert torch.equal(again.policy.theta, agent.policy.theta)
    assert not torch.equal(agent.policy.theta, started(name, world, **OPTIONS[name])[0].policy.theta)


def test_a_run_that_is_killed_and_resumed_ends_in_the_same_bits(tmp_path: Path) -> None:
    options = RunConfig(env="Peak-v0", steps=96, envs=4, evaluations=1, eval_episodes=1, checkpoints=3, keep_checkpoints=0)
    config = config_type("es")(population=8)
    whole = RunDirectory.create("es", options, config, tmp_path / "whole")
    train(whole, quiet=True)
    torn = RunDirectory.create("es", options, config, tmp_path / "torn")
    train(torn, quiet=True)
    for path in torn.checkpoints.paths()[2:]:
        path.unlink()
    train(torn, resume=True, quiet=True)
    last = [torch.load(run.checkpoints.paths()[-1], weights_only=True)["agent"] for run in (whole, torn)]
    assert same(last[0], last[1])


def test_nothing_of_the_size_of_a_population_is_saved() -> None:
    for name in SEARCH:
        if name in ("cma-es", "pes"):  # a covariance; the running sums of members that live on
            continue
        agent, rollout, _ = started(name, "Peak-v0", **{**OPTIONS[name], "hidden": (16,)})
        dim = len(agent.policy.theta)
        advance(agent, rollout, 1)
        found = [value.numel() for part in agent.state_dict().values() for value in _tensors(part)]
        assert max(found) == dim, name


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in inner for tensor in _tensors(item)]


def test_failures_are_counted_and_said_and_the_run_goes_on() -> None:
    agent, rollout, _ = started("cem", "Fragile-v0", population=20, scale=1.5)
    before, generation = agent.policy.theta.clone(), agent.collect(rollout, 10**6)
    with pytest.warns(UserWarning, match=r"generation 0: \d+ of 20 members failed; member \d+: step \d"):
        metrics = agent.update(generation, 0.0)
    utility = generation.utility  # type: ignore[attr-defined]
    kept = utility[~utility.isnan()]
    assert 0 < metrics["failed"] == 20 - len(kept) < 20
    assert metrics["population_best"] == float(kept.max())
    assert metrics["population_mean"] == pytest.approx(float(kept.mean()))
    assert not torch.equal(agent.policy.theta, before)
    agent.check_finite()


def fake(theta: Tensor, noise: Tensor, utility: Tensor, number: int = 0) -> Generation:
    returns = Returns(utility.numpy(), len(utility), [], {}, (0, np.zeros(2), np.zeros(2)))
    return Generation(number, returns, lambda g, which: theta[list(which)], lambda g, which: noise[list(which)])


def stepped(name: str, utility: Tensor, **options: Any) -> tuple[Tensor, Tensor, Agent]:
    """The mean before is 0; one step on these returns: the members' noise, the mean after, the agent."""
    agent = config_type(name)(**options).build(OBS, ACTION, Generator().manual_seed(0))
    with envs.make("Fragile-v0", 2) as vector:
        real = agent.collect(Rollout(vector, [0, 1], Generator()), 1)
    agent.update(fake(real.theta(), real.noise(), utility), 0.0)
    return real.noise(), agent.policy.theta, agent


UTILITY = torch.tensor([3.0, 1, 4, 1, 5, 9, 2, 6], dtype=torch.float64)


def test_ars_takes_the_papers_step() -> None:
    noise, mean, _ = stepped("ars", UTILITY, population=8, best=2, rate=0.3, scale=0.05)
    plus, minus = UTILITY[0::2], UTILITY[1::2]
    best = torch.maximum(plus, minus).argsort(descending=True)[:2]
    spread = torch.cat([plus[best], minus[best]]).std(correction=0)
    step = 0.3 / (2 * spread) * ((plus - minus)[best, None] * noise[0::2][best]).sum(0)
    assert torch.allclose(mean, step, rtol=1e-9)


def test_fd_follows_central_differences() -> None:
    utility = torch.tensor([3.0, 1, 4, 1, 5, 9], dtype=torch.float64)
    _, _, agent = stepped("fd", utility, scale=0.1)
    assert torch.allclose(-agent.state["distribution"].mean.grad, (utility[0::2] - utility[1::2]) / 0.2, rtol=1e-9)


def test_spsa_averages_simultaneous_differences() -> None:
    noise, mean, _ = stepped("spsa", UTILITY, population=8, scale=0.1, rate=0.3)
    slopes = ((UTILITY[0::2] - UTILITY[1::2]) / 0.2)[:, None] / noise[0::2]
    assert torch.allclose(mean, 0.3 * slopes.mean(0) / UTILITY.std(correction=0), rtol=1e-9)


def test_pgpe_moves_scales_with_the_gradient() -> None:
    noise, mean, agent = stepped("pgpe", UTILITY, population=8, scale=0.5, scale_rate=0.4, lr=0.1)
    rank = credits.centred_ranks(UTILITY)
    along = (rank[:, None] * noise).mean(0)
    assert torch.allclose(mean, 0.1 * along / along.norm(), rtol=1e-9)
    slope = (rank[:, None] * (noise.square() - 1)).mean(0)
    expected = math.log(0.5) + (0.4 * slope).clamp(-0.2, 0.2)
    assert torch.allclose(agent.state["distribution"].log_scale, expected, rtol=1e-9)


def test_power_without_reuse_is_the_formula_of_the_notes() -> None:
    noise, mean, _ = stepped("power", UTILITY, population=8, scale=0.5, reuse=0)
    assert torch.allclose(mean, (UTILITY @ (0.5 * noise)) / UTILITY.sum(), rtol=1e-9)


def test_pi2_and_rwr_weigh_exponentially() -> None:
    noise, mean, _ = stepped("pi2", UTILITY, population=8, scale=0.5, sharpness=4.0)
    weight = torch.exp(4 / 8 * UTILITY)
    assert torch.allclose(mean, weight @ (0.5 * noise) / weight.sum(), rtol=1e-9)
    noise, mean, _ = stepped("rwr", UTILITY, population=8, scale=0.5, sharpness=2.0)
    weight = torch.exp(2 * UTILITY / UTILITY.std(correction=0))
    assert torch.allclose(mean, weight @ (0.5 * noise) / weight.sum(), rtol=1e-9)


def test_power_refuses_negative_weights_and_says_what_to_do() -> None:
    with pytest.raises(OptionError, match=r"returned -2, and a weight cannot be negative. Take --weights above-worst"):
        PoWER().weight(torch.tensor([1.0, -2.0]))
    assert PoWER(weights="above-worst").weight(torch.tensor([1.0, -2.0])).tolist() == [3, 0]


def test_reused_members_estimate_the_present_expectation_without_bias() -> None:
    # Two generations of one member each over a finite grid of noise would not be Gaussian: integrate instead. The balance
    # heuristic's estimate 1/n Σ r f has mean E_now[f] when each member is averaged over its own generation's law.
    noise, mass = np.polynomial.hermite_e.hermegauss(40)
    mass = torch.from_numpy(mass / mass.sum())
    pool = Pool(Perturbations(0, 1), 2)
    old, now = DiagonalGaussian(torch.tensor([0.4]), 0.8), DiagonalGaussian(torch.tensor([0.0]), 0.7)
    pool.add(0, old, torch.zeros(3)), pool.add(1, now, torch.zeros(5))
    means = []
    for distribution in (old, now):
        theta = distribution.members(torch.from_numpy(noise)[:, None])
        means.append(float(mass @ (pool.ratio(theta) * theta[:, 0] ** 2)))
    assert (3 * means[0] + 5 * means[1]) / 8 == pytest.approx(0.7**2, rel=1e-6)
    assert float(pool.ratio(torch.linspace(-9, 9, 50, dtype=torch.float64)[:, None]).max()) <= 8 / 5 + 1e-12


def test_all_members_failing_ends_the_run_by_name() -> None:
    agent = config_type("es")(population=2).build(OBS, ACTION, Generator())
    dead = Returns(np.full(2, np.nan), 2, [], {0: "step 1: x", 1: "step 1: x"}, (0, np.zeros(2), np.zeros(2)))
    make = lambda g, which: torch.zeros(len(list(which)), 3)  # noqa: E731
    with pytest.raises(NotFinite, match="generation 4: 2 of 2 members failed; member 0: step 1: x"):
        agent.update(Generation(4, dead, make, make), 0.0)


@pytest.mark.parametrize(("scenarios", "distinct", "again"), [("fresh", 8, False), ("common", 2, False), ("fixed", 2, True)])
def test_scenarios_are_fresh_common_or_fixed(scenarios: Any, distinct: int, again: bool) -> None:
    search = config_type("es")(population=4, episodes=2, scenarios=scenarios).search(OBS, ACTION, Generator().manual_seed(0))
    first = [job.seed for job in search.jobs(4)]
    search.generations.done = 1
    assert len(set(first)) == distinct
    assert ([job.seed for job in search.jobs(4)] == first) is again


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("es", {"population": 7}, "population is 7. Mirrored pairs"),
        ("ars", {"population": 8, "best": 5}, "best is 5, of 4 directions"),
        ("cem", {"population": 5, "elite": 0.2}, "elite of fewer than 2"),
        ("es", {"scale": 0.0}, "scale is 0"),
        ("cem", {"covariance": "full", "population": 12}, ""),
    ],
)
def test_options_that_make_no_sense_say_so(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message or "needs an elite"):
        config_type(name)(**options).build(OBS, ACTION, Generator())


def test_every_search_agent_has_slots_for_its_members() -> None:
    assert all(preset(name, "CartPole-v1", 1000).run["envs"] >= 32 for name in SEARCH)


def windows(lives: Lives, ends: dict[tuple[int, int], bool], slots: int = 2, count: int = 3) -> list[Tensor]:
    found = []
    for window in range(count):
        lives.open()
        for slot in range(slots):
            if ends.get((window, slot)):
                lives.end(slot)
        found.append(lives.due.clone())
    return found


def test_persistent_perturbations_add_up_and_begin_anew_with_an_episode() -> None:
    noise = Perturbations(0, 3, mirrored=True)
    rows = [noise.rows(window, range(2)) for window in range(3)]
    first, second, third = windows(Lives(noise, 2, reused=False), {(1, 0): True})
    assert torch.equal(first, rows[0])
    assert torch.equal(second, torch.stack([rows[1][0], rows[0][1] + rows[1][1]]))
    assert torch.equal(third, second + rows[2])


def test_reused_perturbations_stay_until_the_episode_ends() -> None:
    noise = Perturbations(0, 3, mirrored=True)
    first, second, third = windows(Lives(noise, 2, reused=True), {(1, 0): True})
    assert torch.equal(first[0], -first[1])
    assert torch.equal(second[1], first[1]) and torch.equal(third, second)
    assert torch.equal(second[0], torch.from_numpy(noise.row(1, 0)))


def unrolled_gradient(counted: str) -> tuple[float, float]:
    """A chain of two windows, `s₁ = θ₁`, `s₂ = s₁ + θ₂`, costs s₁⁴ and s₂⁴: the estimate's mean and the smoothed gradient."""
    x, w = np.polynomial.hermite_e.hermegauss(12)
    w = w / w.sum()
    mean, scale, estimate = 0.3, 0.2, 0.0
    for (e1, p1), (e2, p2) in ((a, b) for a in zip(x, w, strict=True) for b in zip(x, w, strict=True)):
        s1 = mean + scale * e1
        s2 = s1 + mean + scale * e2
        due = {"persistent": e1 + e2, "truncated": e2}[counted]
        estimate += p1 * p2 * (s1**4 * e1 + s2**4 * due) / scale
    h = 1e-5

    def smoothed(m: float) -> float:
        return sum(
            p1 * p2 * ((m + scale * e1) ** 4 + (2 * m + scale * (e1 + e2)) ** 4)
            for e1, p1 in zip(x, w, strict=True)
            for e2, p2 in zip(x, w, strict=True)
        )

    return estimate, (smoothed(mean + h) - smoothed(mean - h)) / (2 * h)


def test_summed_perturbations_give_the_whole_gradient_and_the_last_alone_do_not() -> None:
    estimate, exact = unrolled_gradient("persistent")
    assert estimate == pytest.approx(exact, rel=1e-8)
    biased, _ = unrolled_gradient("truncated")
    assert abs(biased - exact) > 0.4 * abs(exact)


@pytest.mark.parametrize("noise", ["persistent", "reused"])
def test_pes_steps_along_rewards_times_what_they_are_due_to(noise: Any) -> None:
    agent, rollout, _ = started("pes", "Counting-v0", window=4, noise=noise, scale=0.3)
    window = agent.collect(rollout, 1)
    assert window.steps == 16 and len(window.reward) == len(window.due) > 4  # episodes ended inside
    agent.update(window, 0.0)
    expected = (window.reward[:, None] * window.due).sum(0) / (4 * 0.3)
    assert torch.allclose(-agent.state["distribution"].mean.grad, expected, rtol=1e-9)
    assert isinstance(PES(), PES)
