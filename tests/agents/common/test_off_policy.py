"""What the off-policy agents share: networks, noise, the update against one written by hand, and runs that resume bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.nn.functional import relu, softplus

import scg
from scg.agents import config_type
from scg.agents.commands import cli
from scg.agents.common.off_policy import Algorithm, OffPolicyStep
from scg.agents.ddpg import DDPG
from scg.agents.environments import envs
from scg.agents.environments.action_spaces import action_dim
from scg.agents.execution.options import OptionError
from scg.agents.execution.settings import EAGER, Execution
from scg.agents.experience import acting
from scg.agents.experience.exploration import ActionNoise
from scg.agents.experience.rollout import Rollout
from scg.agents.networks.actors import DeterministicPolicy, SquashedPolicy
from scg.agents.networks.critics import QCritics
from scg.agents.networks.encoder import Encoder
from scg.agents.sac import SAC
from scg.agents.td3 import TD3
from scg.agents.training import loop
from scg.agents.training.loop import TrainingStopped
from scg.agents.training.presets import preset
from scg.agents.training.run_directory import RunConfig, RunDirectory, read_table
from scg.agents.updates.metrics import Means
from scg.agents.updates.off_policy_update import OffPolicyUpdate
from tests.agents.networks.test_networks import BOX
from tests.agents.test_off_policy_graphs import DIM, Nets, rows
from tests.agents.training.test_loop import Killed, assert_same, last_state

SMALL: dict[str, Any] = {"hidden": (8,), "batch": 8, "warmup": 40, "replay": 100, "report": 32, "horizon": 2}
LEARNING: dict[str, Any] = {"hidden": (32,), "batch": 64, "replay": 10_000, "warmup": 500, "lr": 3e-3, "horizon": 1}
CONFIGS = {
    "sac": SAC(**SMALL),
    "sac-score": SAC(**SMALL, actor="score", actor_samples=2, learn_alpha=False),
    "td3": TD3(**SMALL, prioritised=True, n_step=3),
    "ddpg": DDPG(**{**SMALL, "horizon": 4, "updates": 2}, process="ou"),
    "td3-normalised": TD3(**SMALL, normalise_obs=True),
    "ddpg-overlap": DDPG(**{**SMALL, "normalise_obs": True, "horizon": 4, "updates": 2}, process="ou"),
    "sac-overlap": SAC(**SMALL),
}


# -- networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_critics_side_by_side_are_separate_networks(count: int, double: None) -> None:
    critics = QCritics(Encoder(BOX), DIM, [8, 8], count, Generator().manual_seed(0))
    given = rows(7)
    x = torch.cat([given["obs"], given["action"]], -1)
    separate = []
    for i in range(count):
        h = x
        for layer in critics.layers[:-1]:
            h = relu(h @ layer.weight[i] + layer.bias[i])
        separate.append((h @ critics.layers[-1].weight[i] + critics.layers[-1].bias[i])[:, 0])
    q = critics(given["obs"], given["action"])
    assert torch.allclose(q, torch.stack(separate, -1))
    assert torch.allclose(critics.first(given["obs"], given["action"]), separate[0])


def test_critics_take_branches_of_actions_and_any_batch() -> None:
    critics = QCritics(Encoder(BOX), DIM, [8], 2)
    given = rows(6)
    branches = torch.stack([given["action"], -given["action"], 0 * given["action"]])
    q = critics(given["obs"], branches)
    assert q.shape == (3, 6, 2)
    assert torch.allclose(q[1], critics(given["obs"], -given["action"]), atol=1e-6)
    assert torch.allclose(critics.first(given["obs"], branches), q[..., 0], atol=1e-6)


@pytest.mark.parametrize("kind", [SquashedPolicy, DeterministicPolicy])
def test_acting_in_numpy_is_what_the_module_says(kind: Any) -> None:
    policy = kind(Encoder(BOX), DIM, [8], Generator().manual_seed(0))
    obs = torch.randn(5, 3)
    out = policy(obs)
    expected = out.mode if kind is SquashedPolicy else out
    assert np.allclose(acting.mode(policy)(obs.numpy()), expected.detach(), atol=1e-6)
    noise = policy.noise((1, 5), Generator().manual_seed(1))
    drawn = acting.sampler(policy, Generator().manual_seed(1), 1, 5)(obs.numpy())
    if kind is SquashedPolicy:
        expected = (out.loc + out.log_scale.exp() * torch.from_numpy(noise[0])).tanh()
    assert np.allclose(drawn, expected.detach(), atol=1e-6)
    actor = policy.numpy_actor()
    with torch.no_grad():
        policy.net.layers[-1].bias.add_(0.5)
    assert np.allclose(actor(obs.numpy(), None), acting.mode(policy)(obs.numpy()))  # it follows the optimiser


def test_only_bounded_boxes_of_one_axis_are_action_spaces() -> None:
    assert action_dim(spaces.Box(-2.0, 2.0, (4,))) == 4
    for space in (spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2, 2))):
        with pytest.raises(ValueError, match="needs continuous actions on one axis"):
            action_dim(space)
    with pytest.raises(ValueError, match="actions are bounded, and need bounds at most"):
        action_dim(spaces.Box(-np.inf, np.inf, (2,)))


# -- exploration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [1.0, 0.15, 0.01])
def test_noise_has_its_standard_deviation_and_its_memory(forget: float) -> None:
    """4,000 processes side by side: their moments after 30 steps, and the correlation from one step to the next."""
    x = ActionNoise(1, 0.3, forget)((30, 4000), Generator().manual_seed(0)).squeeze(-1)
    # Of 4,000 independent values: standard errors 0.0034 of σ = 0.3 and 0.016 of a correlation. Five of them:
    assert float(x[-1].std()) == pytest.approx(0.3, abs=0.017)
    assert float(torch.corrcoef(x[-2:])[0, 1]) == pytest.approx(1 - forget, abs=0.08)


def test_a_process_goes_on_where_the_last_block_left_it() -> None:
    whole, parts = ActionNoise(2, 1.0, 0.2), ActionNoise(2, 1.0, 0.2)
    g, h = Generator().manual_seed(0), Generator().manual_seed(0)
    whole((1, 3), g), parts((1, 3), h)
    other = ActionNoise(2, 1.0, 0.2)
    other.load_state_dict(parts.state_dict())
    h_state = h.get_state()
    assert torch.equal(parts((1, 3), h), other((1, 3), Generator().set_state(h_state)))
    assert not torch.equal(
        other((1, 3), Generator().set_state(h_state)), ActionNoise(2, 1.0, 0.2)((1, 3), Generator().set_state(h_state))
    )


def test_noisy_actions_stay_in_the_box_and_are_what_the_buffer_holds() -> None:
    with envs.make("Pendulum-v1", 2) as vector:
        agent = DDPG(**{**SMALL, "horizon": 8}, noise=2.0).build(
            vector.obs_space, vector.action_space, Generator().manual_seed(0)
        )
        rollout = Rollout(vector, [0, 1], Generator().manual_seed(0))
        agent.update(agent.collect(rollout, 1000), 0.0)
        block = agent.collect(rollout, 1000)
    assert block.action.abs().max() == 1.0
    assert (block.action.abs() == 1.0).float().mean() > 0.2


def made(
    graph: scg.Graph,
    objectives: dict[str, Any],
    targets: Any,
    seed: int = 0,
    execution: Execution = EAGER,
    tau: float = 0.005,
    watched: Sequence[str] = (),
    delay: int = 1,
) -> OffPolicyUpdate:
    """The update of an algorithm, by its parts that it looks at; `objectives` are the costs' optimisers."""
    algorithm = Algorithm(graph, {}, dict(targets), nn.Identity(), nn.Identity(), {}, watched=watched, delay=delay)
    return OffPolicyUpdate(OffPolicyStep(algorithm, objectives, tau), Generator().manual_seed(seed), execution)


# -- the update ------------------------------------------------------------------------------------------------


def adam_reference(parameters: list[Tensor], gradients: tuple[Tensor, ...], lr: float) -> list[Tensor]:
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    optimiser = torch.optim.Adam(copies, lr)
    for p, gradient in zip(copies, gradients, strict=True):
        p.grad = gradient
    optimiser.step()
    return [p.detach() for p in copies]


def test_one_step_of_sac_is_the_one_written_by_hand(double: None) -> None:
    """Same noise, float64: every parameter after Adam, and every target after Polyak's average."""
    nets, given, config = Nets(), rows(16), SAC(lr=1e-2)
    objectives = {
        "bellman": config.optimiser(nets.critics), "soft_policy": config.optimiser(nets.policy), "entropy_gap": config.optimiser(nets.temperature),
    }  # fmt: skip
    targets = [(nets.target_critics, nets.critics)]
    learner = made(nets.sac(), objectives, targets, 5, tau=0.1, watched=["q"])
    learner.examine(rows(4, seed=9))
    before = copy.deepcopy(nets)
    noise = Generator()
    noise.set_state(learner.generator.get_state())
    (metrics,), error = learner(given)

    def draw(policy: SquashedPolicy, obs: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = policy.net(obs).chunk(2, -1)
        u = loc + log_scale.exp() * torch.randn(loc.shape, generator=noise)
        normal = torch.distributions.Normal(loc, log_scale.exp()).log_prob(u)
        return u.tanh(), (normal - 2 * (np.log(2) - u - softplus(-2 * u))).sum(-1)

    alpha = before.temperature.log.exp().detach()
    next_action, next_log_prob = draw(before.policy, given["next_obs"])
    soft_value = before.target_critics(given["next_obs"], next_action).amin(-1) - alpha * next_log_prob
    y = (given["reward"] + given["discount"] * soft_value).detach()
    q = before.critics(given["obs"], given["action"])
    bellman = ((q[:, 0] - y) ** 2 / 2 + (q[:, 1] - y) ** 2 / 2).mean()
    action, log_prob = draw(before.policy, given["obs"])
    soft_policy = (alpha * log_prob - before.critics(given["obs"], action).amin(-1)).mean()
    gap = -(before.temperature.log * (log_prob.detach() - 2.0)).mean()
    for module, loss, name in (
        ("critics", bellman, "bellman"),
        ("policy", soft_policy, "soft_policy"),
        ("temperature", gap, "entropy_gap"),
    ):
        parameters = list(getattr(before, module).parameters())
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        for mine, reference in zip(
            getattr(nets, module).parameters(), adam_reference(parameters, gradients, 1e-2), strict=True
        ):
            assert torch.allclose(mine, reference, atol=1e-10), module
        assert metrics[name] == pytest.approx(loss.item())
        assert metrics[f"{name}_grad_norm"] == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item())
    for slow, was, fast in zip(
        nets.target_critics.parameters(), before.target_critics.parameters(), nets.critics.parameters(), strict=True
    ):
        assert torch.allclose(slow, was + 0.1 * (fast - was))
    assert metrics["q"] == pytest.approx(q.mean().item())
    assert torch.allclose(error, (q - y[:, None]).abs().mean(-1))


def test_a_delayed_actor_and_the_targets_move_at_every_second_step() -> None:
    nets, config = Nets(), TD3()
    objectives = {"bellman": config.optimiser(nets.critics), "gain": config.optimiser(nets.actor)}
    targets = [(nets.target_critics, nets.critics), (nets.target_actor, nets.actor)]
    learner = made(nets.td3(), objectives, targets, delay=2)
    learner.examine(rows())
    moved: dict[str, list[bool]] = {name: [] for name in ("critics", "actor", "target_critics", "target_actor")}
    named = []
    for i in range(4):
        before = copy.deepcopy(nets)
        named.append(set(learner(rows(seed=i))[0][0]))
        for name, steps in moved.items():
            pairs = zip(getattr(before, name).parameters(), getattr(nets, name).parameters(), strict=True)
            steps.append(any(not torch.equal(p, q) for p, q in pairs))
    assert moved["critics"] == [True] * 4
    assert moved["actor"] == moved["target_critics"] == moved["target_actor"] == [True, False, True, False]
    assert named[0] > named[1] == {"bellman", "bellman_grad_norm"}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("delay", [1, 2, 3, 8], ids=["every step", "every second", "a pattern that shifts", "rarely"])
def test_steps_together_are_steps_one_by_one(delay: int, compiled: bool, quick_compiler: None) -> None:
    minibatches = [rows(seed=i) for i in range(8)]
    found = []
    for together in (1, 4):
        nets, config = Nets(), TD3()
        objectives = {"bellman": config.optimiser(nets.critics), "gain": config.optimiser(nets.actor)}
        targets = [(nets.target_critics, nets.critics), (nets.target_actor, nets.actor)]
        learner = made(nets.td3(), objectives, targets, delay=delay, execution=Execution(compile=compiled))
        learner.examine(minibatches[0])
        metrics, errors = [], []
        for first in range(0, 8, together):
            some = minibatches[first : first + together]
            named, error = learner({name: torch.cat([x[name] for x in some]) for name in some[0]}, together)
            metrics, errors = metrics + named, [*errors, error]
        found.append((metrics, torch.cat(errors), [p for module in nets.modules().values() for p in module.parameters()]))
    (apart, each_error, each), (joined, error, parameters) = found
    assert [set(step) for step in joined] == [set(step) for step in apart]
    for one, other in zip(apart, joined, strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(error, each_error, rtol=1e-4, atol=1e-6)
    for a, b in zip(each, parameters, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


def test_td3_without_its_three_parts_is_ddpg() -> None:
    bare = {**SMALL, "lr": 1e-3}
    agents = [TD3(**bare, twin=False, smoothing=0.0, delay=1), DDPG(**bare)]
    policies = []
    for config in agents:
        with envs.make("Pendulum-v1", 1) as vector:
            agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
            rollout = Rollout(vector, [0], Generator().manual_seed(0))
            for _ in range(10):
                agent.update(agent.collect(rollout, 1000), 0.0)
        policies.append(agent.policy.state_dict())
    assert_same(*policies)


def test_a_compiled_update_is_the_eager_one(quick_compiler: None) -> None:
    """Both of the functions that a delay makes."""
    results = []
    for whole in (False, True):
        nets, config = Nets(), SAC()
        objectives = {"bellman": config.optimiser(nets.critics), "soft_policy": config.optimiser(nets.policy)}
        targets = [(nets.target_critics, nets.critics)]
        learner = made(nets.sac(), objectives, targets, delay=2, execution=Execution(compile=whole))
        learner.examine(rows())
        for i in range(5):
            learner(rows(seed=i))
        results.append([p for module in nets.modules().values() for p in module.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


# -- collecting ------------------------------------------------------------------------------------------------


def test_the_first_block_is_the_warm_up_and_later_ones_are_the_agents() -> None:
    with envs.make("Pendulum-v1", 3) as vector:
        agent = SAC(**{**SMALL, "warmup": 100, "horizon": 2, "replay": 1000}).build(
            vector.obs_space, vector.action_space, Generator().manual_seed(0)
        )
        rollout = Rollout(vector, [0, 1, 2], Generator().manual_seed(0))
        sizes = []
        for left in (1000, 898, 5):
            block = agent.collect(rollout, left)
            sizes.append(block.steps)
            agent.update(block, 0.0)
    assert sizes == [102, 6, 6]  # whole steps of three environments
    assert agent.memory is not None and len(agent.memory) == 114


def test_means_are_over_the_times_that_a_metric_was_there() -> None:
    means = Means()
    for metrics in ({"a": 1.0, "b": 5.0}, {"a": 2.0}, {"a": 6.0}):
        means.add(metrics)
    assert means.take() == {"a": 3.0, "b": 5.0}


def test_steps_in_one_call_divide_the_updates() -> None:
    with pytest.raises(OptionError, match="--together 4 does not divide --updates 6"):
        SAC(updates=6).check(Execution(together=4))


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        (SAC, {"batch": 0}, "option batch is 0. Give a number at least 1"),
        (SAC, {"tau": 1.5}, "option tau is 1.5. Give a number between 0 and 1"),
        (TD3, {"delay": 0}, "option delay is 0"),
        (DDPG, {"forget": 2.0}, "option forget is 2.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(config: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        config(**options)


# -- runs ------------------------------------------------------------------------------------------------------

SHORT = RunConfig(env="Pendulum-v1", steps=232, envs=1, evaluations=2, eval_episodes=2, checkpoints=6)


def new_run(path: Path, name: str) -> RunDirectory:
    execution = Execution(overlap=name.endswith("-overlap"))
    return RunDirectory.create(name.partition("-")[0], SHORT, CONFIGS[name], path, execution)


def whole_state(run: RunDirectory) -> dict[str, Any]:
    """The last checkpoint, and the replay buffer that it restores."""
    state = last_state(run)
    with envs.make(run.run.env, 1) as vector:
        memory = loop.build(run, vector).memory
    assert memory is not None
    memory.load(run.path / "replay", state.pop("memory"))
    return {
        **state,
        "memory": memory.rows(torch.arange(len(memory))),
        "drawn": memory.sample(32, Generator().manual_seed(0)).rows,
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_a_killed_run_resumes_to_the_same_bits_with_its_replay_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The buffer holds 100 steps, so it has wrapped by the end; the newest checkpoint is torn once."""
    whole, killed = new_run(tmp_path / "whole", name), new_run(tmp_path / "killed", name)
    loop.train(whole, quiet=True)
    update = loop._Training._update
    for i, last_step in enumerate((72, 136, 168)):

        def die(self: Any, last: int = last_step) -> None:
            if self.counters.step >= last:
                raise Killed
            update(self)

        monkeypatch.setattr(loop._Training, "_update", die)
        with pytest.raises(Killed):
            loop.train(RunDirectory.open(killed.path), resume=i > 0, quiet=True)
    newest = killed.checkpoints.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:500])
    monkeypatch.setattr(loop._Training, "_update", update)
    loop.train(RunDirectory.open(killed.path), resume=True, quiet=True)
    assert_same(whole_state(whole), whole_state(killed))
    one, other = (read_table(run.path / "evaluations.csv") for run in (whole, killed))
    assert [repr(row) for row in one] == [repr(row) for row in other]


def test_metrics_are_means_of_a_report_and_the_best_checkpoint_goes_without_the_buffer(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "td3")
    loop.train(run, quiet=True)
    table = read_table(run.path / "metrics.csv")
    assert [row["step"] for row in table] == [40, *range(72, 233, 32)]
    assert all(np.isfinite(row["gain"]) and np.isfinite(row["q"]) for row in table)
    assert table[-1]["updates"] == 97
    best = torch.load(run.checkpoints.best, weights_only=True)
    assert "memory" not in best
    assert "memory" in last_state(run)
    pieces = sum(path.stat().st_size for path in (run.path / "replay").iterdir())
    assert pieces < 60_000  # 100 slots of 8 numbers, and what the checkpoint before needs


def test_a_nan_stops_the_run_before_it_reaches_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path / "run", "sac")
    call, calls = OffPolicyUpdate.__call__, iter(range(1000))

    def poisoned(self: OffPolicyUpdate, *given: Any) -> Any:
        if next(calls) == 20:
            with torch.no_grad():
                next(iter(self.step.targets)).fill_(float("nan"))
        return call(self, *given)

    monkeypatch.setattr(OffPolicyUpdate, "__call__", poisoned)
    with pytest.raises(TrainingStopped, match=r"one of the updates 18 to 21, after step 72: node 'target'(.|\n)*step-0+40\.pt"):
        loop.train(run, quiet=True)
    assert all(torch.isfinite(value).all() for value in last_state(run)["agent"]["target_critics"].values())


def test_each_trains_evaluates_and_plots_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--env", "Pendulum-v1", "--steps", "80", "--warmup", "40", "--batch", "8", "--hidden", "8"]
    flags += ["--evaluations", "1", "--eval-episodes", "2"]
    for name in ("sac", "td3", "ddpg"):
        assert cli.train([name, *flags, "--out", str(tmp_path / name)]) == 0
        assert cli.evaluate([str(tmp_path / name), "--episodes", "2"]) == 0
        assert cli.evaluate([str(tmp_path / name), "--episodes", "2", "--best", "--actions", "sample"]) == 0
        assert cli.train(["--resume", str(tmp_path / name), "--steps", "100"]) == 0
    assert cli.plot([str(tmp_path / "sac"), str(tmp_path / "td3"), "--out", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").exists()
    assert cli.train(["sac", *flags, "--env", "CartPole-v1", "--out", str(tmp_path / "no")]) == 2
    assert "needs continuous actions" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sac", "td3", "ddpg", "sac-discrete"])
def test_presets_are_options_that_exist(name: str) -> None:
    for env_id in ("HalfCheetah-v5", "Pendulum-v1", "MountainCarContinuous-v0"):
        run, options, _ = preset(name, env_id, 1000)
        RunConfig(**run), config_type(name)(**options)
        assert run["envs"] == 1
    for steps, compiled in ((9_999, False), (10_000, True)):
        assert Execution(**preset(name, "HalfCheetah-v5", steps).execution).compile == compiled


class Matching(gym.Env):
    """One step an episode; the reward is −(a − obs/2)², so the best policy is obs/2 and its return 0."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.obs = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.obs.copy(), -float((action[0] - self.obs[0] / 2) ** 2), True, False, {}


gym.register("Matching-v0", entry_point=Matching)


@pytest.mark.parametrize(
    "config",
    [
        SAC(**{**SMALL, **LEARNING}, alpha=0.01, learn_alpha=False),
        SAC(**{**SMALL, **LEARNING}, alpha=0.01, learn_alpha=False, actor="score"),
        TD3(**{**SMALL, **LEARNING, "prioritised": True}),
        DDPG(**{**SMALL, **LEARNING}),
    ],
    ids=lambda config: f"{type(config).__name__}-{getattr(config, 'actor', '')}",
)
def test_it_learns(config: Any) -> None:
    """400 updates on a problem whose best policy is known. Without learning, the mean square stays above 0.08."""
    with envs.make("Matching-v0", 1) as vector:
        agent = config.build(vector.obs_space, vector.action_space, Generator().manual_seed(0))
        rollout = Rollout(vector, [0], Generator().manual_seed(0))
        for _ in range(400):
            agent.update(agent.collect(rollout, 10_000), 0.0)
    obs = np.linspace(-1, 1, 41, dtype=np.float32)[:, None]
    assert np.mean((acting.mode(agent.policy)(obs) - obs / 2) ** 2) < 0.01
