"""A MuJoCo model as a deterministic node: pathwise gradients flow through its steps.

    x' = f(x, u)        x = (qpos, qvel, act),  u = ctrl,  frame_skip steps of the simulator at one control

    δx_{i+1} = A_i δx_i + B_i δu        δ in the tangent space, δqpos = q' ⊖ q       per step, by `mjd_transitionFD`
    ∂x'/∂x = E(q') Π A_i E(q)⁺          E = ∂(q ⊕ v)/∂v: the identity but for quaternions
    ∂x'/∂u = E(q') Σ_i (Π_{j > i} A_j) B_i

The integrators that MuJoCo's own derivative does not know (RK4) are differenced here, over all the steps at once, in the
same coordinates. A control outside its range is clipped by the simulator and has derivative 0; at the bound the derivative
is the inner side's. Contacts are differentiated as the simulator computes them, stiff and one-sided.
Todorov (2014), "Convex and analytically-invertible dynamics with contacts and constraints"; Heess et al. (2015), SVG.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scg.estimators.black_box import BlackBox, Pullback
from scg.estimators.black_box_call import Call

Array = NDArray[np.float64]


class MujocoTransition(BlackBox):
    """`transition(state, action)`, `[*batch, s], [*batch, nu] → [*batch, s]`, in any graph:

        graph.deterministic(MujocoTransition(model, 4), name="state", parents=[prev("state", init="start"), "action"])

    model       an `mujoco.MjModel`, as in `env.unwrapped.model`; it is copied
    frame_skip  steps of the simulator to one call
    warm_start  carry the constraint solver's starting point as nv more numbers of the state, as a simulation that runs on
                does: then the values are those of a gymnasium environment to the bit. They carry no gradient (where the
                solver converges, nothing depends on them). Without it the solver starts from zero in every call
    eps         the difference's step; where the model is smooth, derivatives are off by about eps² + 1e-16 / eps of their scale
    threads     the batch is simulated element by element, on so many threads
    """

    def __init__(
        self, model: Any, frame_skip: int = 1, *, warm_start: bool = False, eps: float = 1e-6, threads: int = 1
    ) -> None:
        import mujoco

        if not isinstance(model, mujoco.MjModel):
            raise TypeError(f"MujocoTransition takes an mujoco.MjModel (env.unwrapped.model, say), got {type(model).__name__}")
        for what, number in (("frame_skip", frame_skip), ("threads", threads)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"MujocoTransition({what}={number!r}): an integer, at least 1")
        if not eps > 0:
            raise ValueError(f"MujocoTransition(eps={eps!r}): the step is a positive number")
        for what in ("nplugin", "nhistory", "nmocap", "nuserdata"):
            if getattr(model, what, 0):
                raise ValueError(
                    f"MujocoTransition: the model has {what}={getattr(model, what)}, so that its next state depends on more than "
                    "qpos, qvel, act and ctrl; only models without can be a function of those"
                )
        self.model, self.frame_skip, self.warm_start = copy.copy(model), frame_skip, warm_start
        self.eps, self.threads = eps, threads
        self._mj = mujoco
        self._own = int(model.opt.integrator) == int(mujoco.mjtIntegrator.mjINT_RK4)
        clamps = not int(model.opt.disableflags) & int(mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL)
        limited = np.asarray(model.actuator_ctrllimited, bool) & clamps
        self._low = np.where(limited, model.actuator_ctrlrange[:, 0], -np.inf)
        self._high = np.where(limited, model.actuator_ctrlrange[:, 1], np.inf)
        free, ball = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_BALL)
        self._quaternions = [  # where each begins, in qpos and in the tangent space
            (int(q) + 3 * (kind == free), int(v) + 3 * (kind == free))
            for q, v, kind in zip(model.jnt_qposadr, model.jnt_dofadr, map(int, model.jnt_type), strict=True)
            if kind in (free, ball)
        ]
        self._data = [(mujoco.MjData(self.model), mujoco.MjData(self.model)) for _ in range(threads)]
        self.size = model.nq + model.nv + model.na + (model.nv if warm_start else 0)
        super().__init__(self.simulate, f"({self.size}),({model.nu})->({self.size})", dtype=torch.float64)

    def __repr__(self) -> str:
        return f"MujocoTransition(nq={self.model.nq}, nv={self.model.nv}, nu={self.model.nu}, frame_skip={self.frame_skip})"

    def state_of(self, data: Any) -> Tensor:
        """The state of an `mujoco.MjData` (`env.unwrapped.data`), float64."""
        parts = [data.qpos, data.qvel, data.act, *([data.qacc_warmstart] if self.warm_start else [])]
        return torch.from_numpy(np.concatenate(parts))

    def simulate(self, state: Tensor, action: Tensor) -> Tensor:
        return self._all(state, action, differentiate=False)[0]

    def linearise(self, call: Call) -> tuple[Tensor, Pullback]:
        live = dict(zip(call.wanted, call.points(), strict=True))
        state, action = (live.get(name, value.detach().to(torch.float64)) for name, value in call.arguments.items())
        value, by_state, by_action = self._all(state, action, differentiate=True)
        matrices = {self.parameters[0]: by_state, self.parameters[1]: by_action}  # type: ignore[index]

        def pullback(grad: Tensor) -> list[Tensor]:
            return [call.transposed(matrices[name], grad, live[name]) for name in call.wanted]

        return value, pullback

    # -- simulation ------------------------------------------------------------------------------------------------

    def _all(self, state: Tensor, action: Tensor, differentiate: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Next states `[*batch, s]`, and ∂x'/∂x `[*batch, s, s]`, ∂x'/∂u `[*batch, s, nu]`."""
        batch, size, nu = state.shape[:-1], self.size, self.model.nu
        states = state.detach().cpu().reshape(-1, size).numpy()
        actions = action.detach().cpu().reshape(-1, nu).numpy()
        count = len(states)
        following = np.empty((count, size))
        by_state, by_action = (np.zeros((count if differentiate else 0, size, k)) for k in (size, nu))

        def work(thread: int) -> None:
            for i in range(thread, count, self.threads):
                following[i] = self._step(self._data[thread][0], states[i], actions[i], i)
                if differentiate:
                    by_state[i], by_action[i] = self._derivative(self._data[thread], states[i], actions[i], following[i])

        if self.threads == 1:
            work(0)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(work, range(self.threads)))
        to = state.device
        value = torch.from_numpy(following).reshape(*batch, size).to(to)
        if not differentiate:
            return value, value, value
        first, second = (torch.from_numpy(m).reshape(*batch, *m.shape[1:]).to(to) for m in (by_state, by_action))
        return value, first, second

    def _set(self, data: Any, state: Array, action: Array) -> None:
        model = self.model
        self._mj.mj_resetData(model, data)
        ends = np.cumsum([model.nq, model.nv, model.na])
        data.qpos[:], data.qvel[:], data.act[:], warm = np.split(state, ends)
        data.ctrl[:] = action
        data.qacc_warmstart[:] = warm if self.warm_start else 0.0

    def _read(self, data: Any) -> Array:
        parts = [data.qpos, data.qvel, data.act, *([data.qacc_warmstart] if self.warm_start else [])]
        return np.concatenate(parts)

    def _step(self, data: Any, state: Array, action: Array, element: int | None = None) -> Array:
        if element is not None:
            self._check_quaternions(state, element)
        self._set(data, state, action)
        self._mj.mj_step(self.model, data, nstep=self.frame_skip)
        bad = self._mj.mjtWarning
        for kind in (bad.mjWARN_BADQPOS, bad.mjWARN_BADQVEL, bad.mjWARN_BADQACC, bad.mjWARN_BADCTRL):
            if data.warning[kind].number:  # the simulator would go on from a reset state, and say nothing here
                raise ValueError(
                    f"{self!r}: the simulation broke down ({kind.name}) from the state {np.array2string(state, precision=3)} and "
                    f"the action {np.array2string(action, precision=3)}, element {element} of the batch. A shorter timestep, "
                    "or smaller actions."
                )
        return self._read(data)

    def _check_quaternions(self, state: Array, element: int) -> None:
        for q, _ in self._quaternions:
            norm = float(np.linalg.norm(state[q : q + 4]))
            if not abs(norm - 1.0) < 1e-6:
                raise ValueError(
                    f"{self!r}: the quaternion at qpos[{q}:{q + 4}] of batch element {element} has norm {norm:.6g}; a rotation has "
                    "norm 1, so normalise what a state is made from"
                )

    # -- derivatives -----------------------------------------------------------------------------------------------

    def _derivative(self, data: tuple[Any, Any], state: Array, action: Array, following: Array) -> tuple[Array, Array]:
        """∂x'/∂x and ∂x'/∂u in the state's own numbers."""
        model = self.model
        a, b = self._differenced(data[1], state, action) if self._own else self._chained(data, state, action)
        nq, nv = model.nq, model.nv
        if self._quaternions:
            before, after = self._tangent(state[:nq]), self._tangent(following[:nq])
            back = np.linalg.pinv(before)  # q scaled is the same rotation: no derivative along q
            a = np.concatenate([after @ a[:nv], a[nv:]])
            a = np.concatenate([a[:, :nv] @ back, a[:, nv:]], 1)
            b = np.concatenate([after @ b[:nv], b[nv:]])
        by_state, by_action = np.zeros((self.size, self.size)), np.zeros((self.size, model.nu))
        physics = nq + nv + model.na
        by_state[:physics, :physics], by_action[:physics] = a, b
        return by_state, by_action

    def _chained(self, data: tuple[Any, Any], state: Array, action: Array) -> tuple[Array, Array]:
        """Products of MuJoCo's own one-step derivatives, taken beside the simulation, so as not to disturb it."""
        model, mj = self.model, self._mj
        walking, aside = data
        n = 2 * model.nv + model.na
        a, b = np.eye(n), np.zeros((n, model.nu))
        step_a, step_b = np.zeros((n, n)), np.zeros((n, model.nu))
        self._set(walking, state, action)
        for i in range(self.frame_skip):
            mj.mj_resetData(model, aside)
            for field in ("qpos", "qvel", "act", "ctrl", "qacc_warmstart"):
                getattr(aside, field)[:] = getattr(walking, field)
            aside.time = walking.time
            mj.mjd_transitionFD(model, aside, self.eps, True, step_a, step_b if model.nu else None, None, None)
            a, b = step_a @ a, step_a @ b + step_b
            if i + 1 < self.frame_skip:
                mj.mj_step(model, walking)
        return a, b

    def _differenced(self, data: Any, state: Array, action: Array) -> tuple[Array, Array]:
        """Central differences of all the steps together."""
        model, eps = self.model, self.eps
        n, nu = 2 * model.nv + model.na, model.nu
        a, b = np.empty((n, n)), np.zeros((n, nu))
        for j in range(n):
            sides = [self._step(data, self._moved(state, j, s * eps), action) for s in (1, -1)]
            a[:, j] = self._gap(*sides) / (2 * eps)
        centre = self._step(data, state, action)
        for j in range(nu):
            sides, inside = [centre, centre], 0
            for k, s in enumerate((1, -1)):
                moved = action.copy()
                moved[j] += s * eps
                if self._low[j] <= min(action[j], moved[j]) and max(action[j], moved[j]) <= self._high[j]:
                    sides[k], inside = self._step(data, state, moved), inside + 1
            if inside:  # one side at the end of the range, none outside of it
                b[:, j] = self._gap(*sides) / (inside * eps)
        return a, b

    def _moved(self, state: Array, j: int, by: float) -> Array:
        """The state with coordinate j of its tangent moved."""
        nq, nv = self.model.nq, self.model.nv
        moved = state.copy()
        if j < nv:
            direction, q = np.zeros(nv), state[:nq].copy()
            direction[j] = 1.0
            self._mj.mj_integratePos(self.model, q, direction, by)
            moved[:nq] = q
        else:
            moved[nq + j - nv] += by
        return moved

    def _gap(self, above: Array, below: Array) -> Array:
        """above ⊖ below, in the tangent space."""
        nq, nv, na = self.model.nq, self.model.nv, self.model.na
        velocity = np.zeros(nv)
        self._mj.mj_differentiatePos(self.model, velocity, 1.0, below[:nq].copy(), above[:nq].copy())
        return np.concatenate([velocity, (above - below)[nq : nq + nv + na]])

    def _tangent(self, qpos: Array) -> Array:
        """E = ∂(q ⊕ v)/∂v at v = 0, `[nq, nv]`: ½ q ⊗ (0, v) for a quaternion, v itself elsewhere."""
        model = self.model
        e = np.zeros((model.nq, model.nv))
        turning = {v + i for _, v in self._quaternions for i in range(3)}
        address = {int(v): int(q) for q, v in zip(model.jnt_qposadr, model.jnt_dofadr, strict=True)}
        for v, q in address.items():
            end = min([w for w in address if w > v], default=model.nv)
            for i in range(end - v):
                if v + i not in turning:
                    e[q + i, v + i] = 1.0
        for q, v in self._quaternions:
            w, x, y, z = qpos[q : q + 4]
            e[q : q + 4, v : v + 3] = 0.5 * np.array([[-x, -y, -z], [w, -z, y], [z, w, -x], [-y, x, w]])
        return e
