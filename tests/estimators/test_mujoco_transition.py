"""MuJoCo as a node: values of the environment to the bit, gradients against Richardson's differences of the simulator itself.

The reference knows nothing of the node: it sets qpos, qvel, act and ctrl of a fresh `MjData` and steps. Its own error is
estimated by comparing two step sizes, and asserted to be smaller than what is allowed to the node.
"""

import copy
import runpy
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from torch.distributions import Normal

import scg
from scg import GraphError, prev
from scg.estimators import MujocoTransition, Pathwise

mujoco = pytest.importorskip("mujoco")
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "mujoco_pathwise.py"
ENVS = ["InvertedPendulum-v5", "Hopper-v5"]

TUMBLER = """
<mujoco>
  <option integrator="{integrator}" timestep="0.01"/>
  <worldbody>
    <body pos="0 0 2">
      <freejoint/>
      <geom type="box" size=".1 .2 .3" mass="1"/>
      <body pos="0 0 .4">
        <joint type="ball"/>
        <geom type="capsule" fromto="0 0 0 0 .1 .3" size=".05"/>
        <body pos="0 .1 .3">
          <joint name="h" type="hinge" axis="1 0 0"/>
          <geom type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="h" ctrlrange="-1 1" ctrllimited="true"/>
    <general joint="h" dyntype="filter" dynprm=".1" gainprm="2" biastype="none"/>
  </actuator>
</mujoco>
"""


def environment(name, seed=0):
    env = gymnasium.make(name).unwrapped
    env.reset(seed=seed)
    return env


def visited(env, steps, seed=0, size=0.5):
    """A state on the way of random actions; for the Hopper after 60 steps, with a foot on the ground."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        env.do_simulation(rng.uniform(-size, size, env.model.nu), env.frame_skip)
    return env


def stepped(model, frames, x, warm):
    """The simulator: (qpos, qvel, act, ctrl) → (qpos, qvel, act)."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.act[:], data.ctrl[:] = np.split(x, np.cumsum([model.nq, model.nv, model.na]))
    data.qacc_warmstart[:] = warm
    mujoco.mj_step(model, data, nstep=frames)
    return np.concatenate([data.qpos, data.qvel, data.act])


def richardson(f, x, h):
    """Jacobian by central differences of h and h/2 combined, and how far the two were apart."""
    columns, gaps = [], []
    for i in range(len(x)):
        e = np.zeros(len(x))
        e[i] = h
        wide, narrow = ((f(x + e * k) - f(x - e * k)) / (2 * h * k) for k in (1.0, 0.5))
        columns.append((4 * narrow - wide) / 3)
        gaps.append(np.abs(narrow - wide).max())
    return np.stack(columns, -1), max(gaps)


def jacobian(f, *arguments):
    live = [a.clone().requires_grad_() for a in arguments]
    rows = [torch.cat(torch.autograd.grad(y, live, retain_graph=True)) for y in f(*live)]
    return torch.stack(rows).numpy()


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENVS)
@pytest.mark.parametrize("gradient", [False, True], ids=["value", "with gradient"])
def test_a_rollout_has_the_environments_states_to_the_bit(name, gradient):
    env = environment(name)
    transition = MujocoTransition(env.model, env.frame_skip, warm_start=True)
    rng, state = np.random.default_rng(0), transition.state_of(env.data)
    touched = 0
    for _ in range(40):
        action = rng.uniform(-1.2, 1.2, env.model.nu)  # beyond the Hopper's control range, too
        env.step(action)
        touched += env.data.ncon
        state = transition(state.requires_grad_(gradient), torch.from_numpy(action)).detach()
        assert torch.equal(state, transition.state_of(env.data))
    assert touched or name != "Hopper-v5"


@pytest.mark.parametrize("name", ENVS)
def test_from_a_reset_no_warm_start_is_needed_for_the_first_step(name):
    env = environment(name)
    transition = MujocoTransition(env.model, env.frame_skip)
    action = np.full(env.model.nu, 0.3)
    following = transition(transition.state_of(env.data), torch.from_numpy(action))
    env.step(action)
    assert torch.equal(following, transition.state_of(env.data))


def test_without_a_warm_start_it_is_a_function_of_state_and_action():
    env = visited(environment("Hopper-v5"), 60)
    transition = MujocoTransition(env.model, env.frame_skip)
    state, action = transition.state_of(env.data), torch.full((3,), 0.2)
    before = transition(state, action)
    transition(state * 1.01, -action)
    assert torch.equal(transition(state, action), before)


def test_batches_threads_and_dtypes_change_nothing():
    env = visited(environment("Hopper-v5"), 60)
    one, two = (MujocoTransition(env.model, env.frame_skip, threads=t) for t in (1, 2))
    state = one.state_of(env.data) + 0.01 * torch.randn(3, 2, 12)
    action = torch.rand(2, 3) - 0.5
    found = [f(state.requires_grad_(), action) for f in (one, two)]
    slopes = [torch.autograd.grad(y.square().sum(), state)[0] for y in found]
    assert torch.equal(*found) and torch.equal(*slopes)
    each = torch.stack([torch.stack([one(state[i, j].detach(), action[j]) for j in range(2)]) for i in range(3)])
    assert torch.equal(found[0], each)
    single = state.detach().float().requires_grad_()
    value = one(single, action.float())
    assert value.dtype == torch.float32 == torch.autograd.grad(value.sum(), single)[0].dtype


# -- gradients ---------------------------------------------------------------------------------------------------


def error_on(env, integrator, kind=MujocoTransition):
    """Largest error of the node's Jacobian, and the reference's own, relative to the largest entry."""
    model = copy.copy(env.model)
    model.opt.integrator = getattr(mujoco.mjtIntegrator, f"mjINT_{integrator.upper()}")
    transition = kind(model, env.frame_skip, warm_start=True)
    state, n = transition.state_of(env.data), model.nq + model.nv
    action = 0.4 * torch.linspace(-1, 1, model.nu + 1)[1:]
    warm = state[n:].numpy()
    exact, gap = richardson(lambda x: stepped(model, env.frame_skip, x, warm), np.concatenate([state[:n], action]), 2e-5)
    ours, scale = jacobian(transition, state, action), np.abs(exact).max()
    assert not ours[n:].any() and not ours[:, n : n + model.nv].any()  # the solver's start is no part of the function
    columns = [*range(n), *range(n + model.nv, n + model.nv + model.nu)]
    return np.abs(ours[:n, columns] - exact).max() / scale, gap / scale


@pytest.mark.parametrize("integrator", ["RK4", "Euler", "implicitfast"])
@pytest.mark.parametrize("name", ENVS)
def test_the_gradient_is_that_of_the_simulator(name, integrator):
    """The environments' own integrator (RK4), and those that `mjd_transitionFD` knows, the Hopper in contact. Largest error 1e-8
    of the largest entry; the reference's own estimated error is less than that."""
    env = visited(environment(name), 60 if name == "Hopper-v5" else 5)
    error, own = error_on(env, integrator)
    assert own < 1e-8
    assert error < 1e-8
    assert env.data.ncon or name != "Hopper-v5"  # the foot is on the ground


class OneControl(MujocoTransition):
    """A wrong twin: the control is differentiated in the last of the steps only."""

    def _chained(self, data, state, action):
        a, _ = super()._chained(data, state, action)
        step = np.zeros((2 * self.model.nv, self.model.nu))
        mujoco.mjd_transitionFD(self.model, data[1], self.eps, True, None, step, None, None)
        return a, step


def test_a_wrong_chain_of_steps_would_be_found():
    assert error_on(visited(environment("Hopper-v5"), 60), "Euler", OneControl)[0] > 1e-3


@pytest.mark.parametrize("integrator", ["RK4", "Euler"])
def test_quaternions_and_activations_are_differentiated_as_the_simulator_reads_them(integrator):
    """A free body, a ball joint, a hinge and an actuator with a state; a quaternion counts up to its length."""
    model = mujoco.MjModel.from_xml_string(TUMBLER.format(integrator=integrator))
    transition, data, rng = MujocoTransition(model, 3), mujoco.MjData(model), np.random.default_rng(1)
    mujoco.mj_integratePos(model, data.qpos, rng.normal(size=model.nv), 1.0)
    data.qvel[:], data.act[:] = rng.normal(size=model.nv), 0.3
    state, action = transition.state_of(data), torch.tensor([0.3, -0.4])

    def normalised(x):
        x = x.copy()
        for at in (3, 7):
            x[at : at + 4] /= np.linalg.norm(x[at : at + 4])
        return stepped(model, 3, x, 0.0)

    exact, gap = richardson(normalised, np.concatenate([state, action]), 1e-4)
    assert gap < 1e-5 * np.abs(exact).max()
    assert np.abs(jacobian(transition, state, action) - exact).max() < 1e-6 * np.abs(exact).max()
    assert np.abs(exact[-1]).max() > 0.05  # the activation's own row


@pytest.mark.parametrize("integrator", ["RK4", "Euler"])
def test_a_control_outside_of_its_range_has_no_derivative_and_one_at_the_end_the_inner_one(integrator):
    model = copy.copy(environment("Hopper-v5").model)
    model.opt.integrator = getattr(mujoco.mjtIntegrator, f"mjINT_{integrator.upper()}")
    transition = MujocoTransition(model, 4)
    state = torch.cat([torch.from_numpy(model.qpos0), torch.zeros(6)])
    state[1] += 0.5  # in the air
    slopes = {}
    for u in (0.999, 1.0, 1.0 + 1e-9, 1.5, -1.0, -1.2):
        slopes[u] = jacobian(transition, state, torch.full((3,), u))[:, -3:]
    assert np.abs(slopes[0.999]).max() > 0.1
    assert np.allclose(slopes[1.0], slopes[0.999], rtol=1e-2, atol=1e-4)
    assert np.abs(slopes[-1.0]).max() > 0.1
    assert not any(slopes[u].any() for u in (1.0 + 1e-9, 1.5, -1.2))
    assert torch.equal(transition(state, torch.full((3,), 1.5)), transition(state, torch.full((3,), 1.0)))


# -- in a graph --------------------------------------------------------------------------------------------------


def svg(env, reward):
    """A linear Gaussian policy, the model, a reward: pathwise through all of it, as in SVG."""
    graph, transition = scg.Graph(), MujocoTransition(env.model, env.frame_skip)
    with graph.sequence():
        graph.stochastic(Pathwise(), lambda gain, s=prev("s", init="s0"): around(s @ gain.mT), name="a")
        graph.deterministic(transition, name="s", parents=[prev("s", init="s0"), "a"])
        graph.reward(reward, name="r")
    return graph, transition


def around(mean):
    return torch.distributions.Independent(Normal(mean, 0.05), 1)


def pendulum_reward(s, a):
    return -(s[..., 1] ** 2) - 0.1 * s[..., 0] ** 2 - 0.01 * a.square().sum(-1)


def hopper_reward(s, a):
    return s[..., 6] + 1.0 - 1e-3 * a.square().sum(-1)


@pytest.mark.parametrize(
    ("name", "reward", "steps", "allowed"),
    [("InvertedPendulum-v5", pendulum_reward, 20, 2e-8), ("Hopper-v5", hopper_reward, 6, 2e-8)],
)
def test_the_pathwise_gradient_of_a_return_is_that_of_the_simulated_return(name, reward, steps, allowed):
    """For the policy's gains and the first state, on the same noise, against Richardson's differences of a plain rollout. Errors
    relative to the largest entry; the reference's own estimated error is asserted to be a third of what is allowed."""
    env = visited(environment(name), 60 if name == "Hopper-v5" else 3, size=0.1)
    graph, transition = svg(env, reward)
    nu, n = env.model.nu, transition.size
    gain = (0.1 * torch.randn(nu, n)).requires_grad_()
    s0 = transition.state_of(env.data).requires_grad_()
    surrogate = graph.surrogate(gain=gain, s0=s0, steps=steps, generator=torch.Generator().manual_seed(5))
    ours = torch.cat([g.flatten() for g in torch.autograd.grad(surrogate, [gain, s0])]).numpy()
    with scg.randomness(torch.Generator().manual_seed(5)):
        noise = [torch.randn(nu).numpy() for _ in range(steps)]

    def rollout(x):
        gain, s, total = x[: nu * n].reshape(nu, n), x[nu * n :], 0.0
        for t in range(steps):
            a = gain @ s + 0.05 * noise[t]
            s = stepped(env.model, env.frame_skip, np.concatenate([s, a]), 0.0)
            total -= float(reward(torch.from_numpy(s), torch.from_numpy(a)))
        return np.array([total])

    x = np.concatenate([gain.detach().flatten(), s0.detach()])
    assert float(surrogate.detach()) == pytest.approx(rollout(x)[0], rel=1e-12)
    exact, gap = richardson(rollout, x, 1e-5)
    scale = np.abs(exact).max()
    assert gap < allowed / 3 * scale
    assert np.abs(ours - exact[0]).max() < allowed * scale


def test_a_second_derivative_is_refused():
    env = environment("InvertedPendulum-v5")
    transition = MujocoTransition(env.model, 2)
    action = torch.zeros(1, requires_grad=True)
    (gradient,) = torch.autograd.grad(transition(transition.state_of(env.data), action).sum(), action, create_graph=True)
    with pytest.raises(GraphError, match="second derivative was asked through MujocoTransition"):
        torch.autograd.grad(gradient.sum(), action)


# -- refusals ----------------------------------------------------------------------------------------------------


def test_what_is_no_model_or_no_setting_is_refused():
    model = environment("InvertedPendulum-v5").model
    with pytest.raises(TypeError, match=r"takes an mujoco.MjModel \(env.unwrapped.model, say\), got str"):
        MujocoTransition("hopper.xml")
    with pytest.raises(ValueError, match=r"frame_skip=0\): an integer, at least 1"):
        MujocoTransition(model, 0)
    with pytest.raises(ValueError, match=r"threads=0\): an integer, at least 1"):
        MujocoTransition(model, threads=0)
    with pytest.raises(ValueError, match="the step is a positive number"):
        MujocoTransition(model, eps=0.0)
    moved = mujoco.MjModel.from_xml_string("<mujoco><worldbody><body mocap='true'/></worldbody></mujoco>")
    with pytest.raises(ValueError, match="the model has nmocap=1, so that its next state depends on more"):
        MujocoTransition(moved)


def test_states_and_actions_of_another_size_are_refused():
    transition = MujocoTransition(environment("InvertedPendulum-v5").model)
    with pytest.raises(ValueError, match="argument 'state' has 3 on its event axis '4', which is 4"):
        transition(torch.zeros(3), torch.zeros(1))
    with pytest.raises(ValueError, match="argument 'action' has 2 on its event axis '1', which is 1"):
        transition(torch.zeros(4), torch.zeros(2))


def test_a_simulation_that_breaks_down_is_an_error_not_a_reset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of its warnings
    transition = MujocoTransition(environment("InvertedPendulum-v5").model)
    state = torch.zeros(2, 4)
    state[1, 3] = 1e12
    with pytest.raises(ValueError, match="the simulation broke down .* element 1 of the batch"):
        transition(state, torch.zeros(1))
    with pytest.raises(ValueError, match="the simulation broke down"):
        transition(torch.full((4,), torch.nan), torch.zeros(1))


def test_a_quaternion_of_another_length_is_refused():
    model = mujoco.MjModel.from_xml_string(TUMBLER.format(integrator="Euler"))
    transition = MujocoTransition(model)
    state = transition.state_of(mujoco.MjData(model))
    transition(state, torch.zeros(2))
    state[7:11] *= 1.001
    with pytest.raises(ValueError, match=r"the quaternion at qpos\[7:11\] of batch element 0 has norm 1.001"):
        transition(state, torch.zeros(2))


def test_mujoco_is_imported_by_those_who_use_it_only():
    code = "import sys, estimators; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_catches_the_pole():
    costs, states = runpy.run_path(str(EXAMPLE))["catch"](40)
    assert costs[0] > 10 * costs[-1]
    assert float(states[:, 1].abs().max()) < 0.5  # left alone, it falls to π/2
