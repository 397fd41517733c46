"""A trained policy as a function: `policy = scg.load("runs/…")`, then `action = policy(obs)`.

    obs as the environment gives it → normaliser → policy → mode, or sample → the action space's own units and type

One observation gives one action, a batch of them a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch import Generator, nn

from scg.agents.commands.shared import trained
from scg.agents.environments.action_maps import to_bins, to_space
from scg.agents.environments.envs import make
from scg.agents.environments.flat_space import FlatSpace
from scg.agents.environments.goal_space import PARTS, GoalSpace
from scg.agents.experience.acting import mode, sampler
from scg.agents.networks.recurrent import Recall
from scg.agents.training.run_directory import RunDirectory


def load(run: str | Path, *, best: bool = False, trust: bool = False, seed: int | None = None, env: Any = None) -> LoadedPolicy:
    """The policy of a run, as its last (or best) checkpoint left it.

    env     what `scg.train` was given, where another process gave it an object; its spaces are read
    trust   import the code that the run's folder names, an environment's module or an agent of one's own, without a question
    seed    of sampled actions; None: another one at each load
    """
    opened, agent, _ = trained(Path(run), best, trust, env)
    with make(opened.run.recipe, 1, bins=opened.run.action_bins) as one:
        spaces_of = one.obs_space, one.vector.single_action_space
    generator = Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    return LoadedPolicy(agent.policy, *spaces_of, opened, generator)


class LoadedPolicy:
    """`policy(obs)` is the most probable action, `policy(obs, sample=True)` one that is drawn.

    `module` is the network itself, its normaliser included: from tensors of observations to distributions of actions in the
    units that agents act in, which are [-1, 1] for a bounded Box. A recurrent policy remembers from call to call, until `reset`.
    """

    def __init__(
        self, module: nn.Module, obs_space: gym.Space, action_space: gym.Space, run: RunDirectory, generator: Generator
    ) -> None:
        self.module, self.obs_space, self.action_space, self.run = module, obs_space, action_space, run
        self.generator = generator
        bins = run.run.action_bins
        self._to_space = to_bins(action_space, bins) if bins else to_space(action_space)
        self._mode = mode(module)
        self.reset()

    def __call__(self, obs: Any, sample: bool = False, mask: Any = None, first: Any = None) -> Any:
        """The action for one observation, or `[batch, action…]` for a batch of them.

        mask    the info's "action_mask", where the policy was trained with masks
        first   whether an episode begins, or `[batch]` of them: a recurrent policy remembers from call to call. The first call,
                one with another batch, and one after `reset` begin without being told
        """
        batch, single = self._batch(obs, mask)
        starts = np.broadcast_to(np.asarray(False if first is None else first, bool), len(batch)).copy()
        action = self._acts(batch, starts, sample)
        if not single:
            return action
        return int(action[0]) if isinstance(self.action_space, spaces.Discrete) else action[0]

    def _acts(self, batch: np.ndarray, starts: np.ndarray, sample: bool = False) -> np.ndarray:
        """`[batch, action…]` of observations as rollouts have them."""
        self._recall.begins(self.module, len(batch))
        read = self._recall.after(self.module, batch, starts)
        act = sampler(self.module, self.generator, 1, len(batch)) if sample else self._mode
        return np.asarray(self._to_space(act(read)), dtype=self.action_space.dtype)

    def acts(self, observations: np.ndarray) -> np.ndarray:
        """Actions `[count, action…]` of `[count, obs…]` as rollouts have them; of a recurrent policy, those of one episode."""
        if not hasattr(self.module, "memory"):
            return self._acts(observations, np.zeros(len(observations), bool))
        self.reset()
        rows = [self._acts(observations[t : t + 1], np.array([t == 0])) for t in range(len(observations))]
        return np.concatenate(rows)

    def with_module(self, module: nn.Module) -> LoadedPolicy:
        """The same with another network."""
        return LoadedPolicy(module, self.obs_space, self.action_space, self.run, self.generator)

    def export(self, out: str | Path) -> str:
        """Write it for other programs, to `.onnx` or `.safetensors`: see `scg.agents.commands.export`."""
        from scg.agents.commands.export import export

        return export(self, out)

    def reset(self) -> None:
        """A new episode: a recurrent policy forgets."""
        self._recall = Recall()

    def _batch(self, obs: Any, mask: Any) -> tuple[np.ndarray, bool]:
        """`[batch, obs…]`, and whether one observation was given."""
        shape = self.obs_space.shape or ()
        if isinstance(self.obs_space, FlatSpace):
            try:
                return self.obs_space.flattened(obs, mask)
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"policy of {self.run.path}: obs is no observation of {self.obs_space.original}, nor a batch of them, or "
                    f"its mask does not fit ({error})."
                ) from error
        found = self._flat(obs) if isinstance(obs, Mapping) else np.asarray(obs)
        if found.shape == shape:
            return found[None], True
        if found.ndim == len(shape) + 1 and found.shape[1:] == shape:
            return found, False
        raise ValueError(
            f"policy of {self.run.path}: obs has shape {found.shape}, and the observations of {self.run.run.env} have {shape}. "
            f"Give one, or a batch {('batch', *shape)}."
        )

    def _flat(self, obs: Mapping[str, Any]) -> np.ndarray:
        """A goal environment's dictionary as the one array that the networks were trained on."""
        space = self.obs_space
        missing = [part for part in PARTS if part not in obs]
        if not isinstance(space, GoalSpace) or missing:
            wanted = ", ".join(PARTS) if isinstance(space, GoalSpace) else f"an array of shape {space.shape}"
            raise ValueError(
                f"policy of {self.run.path}: obs is a dictionary of {', '.join(obs)}; {self.run.run.env} gives {wanted}."
            )
        goal = np.asarray(obs["desired_goal"])
        lead = goal.shape[: goal.ndim - len(space.goal_shape)]
        return np.concatenate([np.asarray(obs[part]).reshape(*lead, -1) for part in PARTS], -1).astype(space.dtype)

    def __repr__(self) -> str:
        return f"<policy of {self.run.path}: {self.run.name} on {self.run.run.env}>"
