"""Recorder: collects blocks of experience with a policy, and makes of each the recording that a graph replays.

    rollout → Block ─raw→ on the updates' device ─scaled→ rewards / σ of the return → Recording → update → absorb

It holds what on-policy agents need around their algorithm: where modules lie, what a checkpoint has, and when the statistics
of the normalisers move. Those of observations stand still while a block is collected and learned from, so that the recorded
log-density is the acting policy's; `absorb` moves them afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scg.agents.common.agent import Stateful
from scg.agents.experience.rollout import Block, Rollout
from scg.agents.networks.normalisers import ObsNormaliser, RewardScale
from scg.agents.networks.recurrent import seen
from scg.agents.updates.factory import Updates

Recording = dict[str, Tensor]  # a block as graphs replay it: [time, batch, …]


class Recorder:
    """Collects blocks of experience with a policy, and makes of them what a graph replays: on the updates' device, normalised.

    `value` is the critic, where there is one. The normalisers are those inside the two.
    """

    def __init__(
        self,
        policy: nn.Module,
        value: nn.Module | None,
        horizon: int,
        updates: Updates,
        reward_scale: RewardScale | None = None,
    ) -> None:
        self.policy, self.critic, self.horizon = policy, value, horizon
        self.updates, self.reward_scale = updates, reward_scale
        for part in (policy, value, reward_scale):
            if part is not None:
                updates.place(part)
        modules = [module for part in (policy, value) if part is not None for module in part.modules()]
        self.normalisers = list(dict.fromkeys(module for module in modules if isinstance(module, ObsNormaliser)))
        self.fresh = True  # until the first block: it is normalised by itself

    @property
    def state(self) -> dict[str, Stateful]:
        parts = {"policy": self.policy, "value": self.critic, "reward_scale": self.reward_scale}
        return {name: part for name, part in parts.items() if part is not None}

    def collect(self, rollout: Rollout, steps_left: int, log_prob: bool = True) -> Block:
        return rollout.collect(self.policy, min(self.horizon, -(-steps_left // rollout.envs.batch)), log_prob)

    def recording(self, block: Block) -> Recording:
        """What the graphs replay, `[time, batch, …]`: observations, actions, scaled rewards, log-probabilities."""
        return self.scaled(self.raw(block))

    def raw(self, block: Block) -> Recording:
        """The block on the device of the updates, its rewards as they were."""
        given = block.given("first", "terminated", "obs", "next_obs", "action", "reward")
        given = {name: value.to(self.updates.device) for name, value in given.items()}
        if block.log_prob is not None:
            given["action.log_prob"] = block.log_prob.to(self.updates.device)
        if block.memory_start is not None:
            given["memory_start"] = block.memory_start.to(self.updates.device)
        if self.normalisers and not self.normalisers[0].count:
            # Nothing was known when the first block was collected. A fresh policy hardly looks at its input (its last
            # layer starts a hundred times smaller), so this changes it by a KL of 1e-6 to 2e-4 in the environments tried.
            for normaliser in self.normalisers:
                normaliser.absorb(given["obs"])
            if block.log_prob is not None:
                with torch.no_grad():
                    given["action.log_prob"] = self.policy(seen(self.policy, given)).log_prob(given["action"])
        else:
            self.fresh = False
        # The last block of a run may be shorter, and after the first one the normaliser does not move.
        self.updates.usual = len(block.reward) == self.horizon and not self.fresh
        return given

    def scaled(self, given: Recording) -> Recording:
        """The rewards as the graphs learn from them; the statistics move."""
        given = self.with_empty_target(given)
        if self.reward_scale is None:
            return given
        return {**given, "reward": self.reward_scale(given["reward"], given["first"], given["terminated"])}

    @staticmethod
    def with_empty_target(given: Recording) -> Recording:
        """Adds a zero `target`, which `advantages` fills."""
        return {**given, "target": torch.zeros_like(given["reward"])}

    def absorb(self, given: Recording) -> None:
        """Once a block is learned from, the normaliser may move."""
        for normaliser in self.normalisers if not self.fresh else ():
            normaliser.absorb(given["obs"])
