"""Off-policy updates against what one would write by hand: the same arithmetic in one function, compiled whole.

    python -m benchmarks.updates                 SAC and TD3, networks [256, 256], minibatches of 256, HalfCheetah's sizes

By hand: parameters in lists, twin critics as one batched product, losses written out, Adam and the targets on lists of tensors,
all of it under one `torch.compile`. The graph's side is the learner of the agent, called as in training. Both multiply alike
(`scg.agents.execution.matmul_precision`). They alternate in one process; printed are the median times and the median of the ratios of
neighbours, by hand over ours: above 1 the graph is faster. One thread, or `--threads`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import pairwise

import torch
from gymnasium import spaces
from torch import Generator, Tensor
from torch.nn.functional import linear, relu, softplus

from scg.agents.common.off_policy import OffPolicyStep
from scg.agents.execution.matmul_precision import matmul_precision
from scg.agents.execution.settings import Execution
from scg.agents.sac import SAC
from scg.agents.td3 import TD3
from scg.agents.updates.off_policy_update import OffPolicyUpdate

OBS, DIM, ROWS, HIDDEN = 17, 6, 256, (256, 256)
TAU, RATE = 0.005, 1e-3
Update = Callable[[dict[str, Tensor]], object]


def minibatch() -> dict[str, Tensor]:
    return {
        "obs": torch.randn(ROWS, OBS),
        "action": torch.rand(ROWS, DIM) * 2 - 1,
        "reward": torch.randn(ROWS),
        "next_obs": torch.randn(ROWS, OBS),
        "discount": torch.full((ROWS,), 0.99),
    }


# -- the graphs, as in training ------------------------------------------------------------------------------------


def ours(name: str) -> Update:
    generator, config = Generator().manual_seed(0), {"sac": SAC, "td3": TD3}[name](lr=RATE, tau=TAU)
    algorithm = config.algorithm(spaces.Box(-1, 1, (OBS,)), spaces.Box(-1, 1, (DIM,)), generator)
    optimisers = {cost: config.optimiser(module) for cost, module in algorithm.objectives.items()}
    step = OffPolicyStep(algorithm, optimisers, TAU)
    learner = OffPolicyUpdate(step, generator, Execution(compile=True))
    learner.examine(minibatch())
    return learner


# -- by hand -------------------------------------------------------------------------------------------------------


def weights(sizes: Iterable[int], count: int = 0) -> list[Tensor]:
    """`[m, n]` and `[m]` of each layer; `[count, n, m]` and `[count, 1, m]` of several networks."""
    made: list[Tensor] = []
    for n, m in pairwise(sizes):
        shapes = ((count, n, m), (count, 1, m)) if count else ((m, n), (m,))
        made += [(torch.rand(shape) * 2 - 1).div(n**0.5).requires_grad_() for shape in shapes]
    return made


def actor_net(p: list[Tensor], obs: Tensor) -> Tensor:
    return linear(relu(linear(relu(linear(obs, p[0], p[1])), p[2], p[3])), p[4], p[5])


def critic_nets(p: list[Tensor], obs: Tensor, action: Tensor) -> Tensor:
    x = torch.cat([obs, action], -1).expand(2, -1, -1)
    h = relu(torch.baddbmm(p[3], relu(torch.baddbmm(p[1], x, p[0])), p[2]))
    return (h * p[4].mT).sum(-1) + p[5].squeeze(-1)  # [2, rows]


class Adam:
    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.means, self.squares = ([torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2))
        self.count = torch.zeros(())

    @torch.no_grad()
    def step(self, gradients: Iterable[Tensor]) -> None:
        gradients = list(gradients)
        self.count.add_(1)
        torch._foreach_lerp_(self.means, gradients, 0.1)
        torch._foreach_mul_(self.squares, 0.999)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 0.001)
        scale = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(scale, (1 - 0.999**self.count).sqrt())
        torch._foreach_add_(scale, 1e-8)
        change = torch._foreach_div(self.means, scale)
        torch._foreach_mul_(change, RATE / (1 - 0.9**self.count))
        torch._foreach_sub_(self.parameters, change)


def sac_by_hand() -> Update:
    policy, critics = weights([OBS, *HIDDEN, 2 * DIM]), weights([OBS + DIM, *HIDDEN, 1], 2)
    targets = [p.detach().clone() for p in critics]
    log_alpha = torch.zeros((), requires_grad=True)
    adams = [Adam(critics), Adam(policy), Adam([log_alpha])]

    def act(obs: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = actor_net(policy, obs).chunk(2, -1)
        log_scale = log_scale.clamp(-20.0, 2.0)
        noise = torch.randn_like(loc)
        u = loc + log_scale.exp() * noise
        log_normal = -0.5 * noise.square() - log_scale - 0.9189385332046727
        return u.tanh(), (log_normal - 2 * (0.6931471805599453 - u - softplus(-2 * u))).sum(-1)

    def update(rows: dict[str, Tensor]) -> Tensor:
        obs, action, next_obs, alpha = rows["obs"], rows["action"], rows["next_obs"], log_alpha.exp().detach()
        with torch.no_grad():
            next_action, next_log_prob = act(next_obs)
            ahead = critic_nets(targets, next_obs, next_action).amin(0) - alpha * next_log_prob
            target = rows["reward"] + rows["discount"] * ahead
        bellman = (critic_nets(critics, obs, action) - target).square().sum(0).mean() / 2
        new_action, log_prob = act(obs)
        soft_policy = (alpha * log_prob - critic_nets([p.detach() for p in critics], obs, new_action).amin(0)).mean()
        entropy_gap = (-log_alpha * (log_prob.detach() - DIM)).mean()
        losses = (bellman, soft_policy, entropy_gap)
        gradients = [torch.autograd.grad(loss, adam.parameters) for loss, adam in zip(losses, adams, strict=True)]
        for adam, gradient in zip(adams, gradients, strict=True):
            adam.step(gradient)
        with torch.no_grad():
            torch._foreach_lerp_(targets, critics, TAU)
        return torch.stack([loss.detach() for loss in losses])

    return by_hand([update])


def td3_by_hand() -> Update:
    actor, critics = weights([OBS, *HIDDEN, DIM]), weights([OBS + DIM, *HIDDEN, 1], 2)
    targets, slow_actor = ([p.detach().clone() for p in parameters] for parameters in (critics, actor))
    of_critics, of_actor = Adam(critics), Adam(actor)

    def bellman(rows: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(rows["action"])).clamp(-0.5, 0.5)
            next_action = (actor_net(slow_actor, rows["next_obs"]).tanh() + noise).clamp(-1.0, 1.0)
            target = rows["reward"] + rows["discount"] * critic_nets(targets, rows["next_obs"], next_action).amin(0)
        return (critic_nets(critics, rows["obs"], rows["action"]) - target).square().sum(0).mean()

    def both(rows: dict[str, Tensor]) -> Tensor:
        obs, first = rows["obs"], [p[0].detach() for p in critics]
        x = torch.cat([obs, actor_net(actor, obs).tanh()], -1)
        h = relu(relu(x @ first[0] + first[1]) @ first[2] + first[3])
        gain, loss = -((h * first[4].T).sum(-1) + first[5]).mean(), bellman(rows)
        gradient, of_gain = torch.autograd.grad(loss, critics), torch.autograd.grad(gain, actor)
        of_critics.step(gradient)
        of_actor.step(of_gain)
        with torch.no_grad():
            torch._foreach_lerp_([*targets, *slow_actor], [*critics, *actor], TAU)
        return torch.stack([loss.detach(), gain.detach()])

    def one(rows: dict[str, Tensor]) -> Tensor:
        loss = bellman(rows)
        of_critics.step(torch.autograd.grad(loss, critics))
        return loss.detach().unsqueeze(0)

    return by_hand([both, one])


def by_hand(updates: list[Callable[[dict[str, Tensor]], Tensor]]) -> Update:
    """One after the other, compiled whole."""
    compiled = [torch.compile(update, fullgraph=True, dynamic=False) for update in updates]
    turns = 0

    def update(rows: dict[str, Tensor]) -> list[float]:
        nonlocal turns
        turns += 1
        first = turns <= len(compiled)
        with matmul_precision(False), torch._dynamo.config.patch(trace_autograd_ops=True) if first else nullcontext():
            return compiled[turns % len(compiled)](rows).tolist()  # metrics are read at every step on both sides

    return update


def seconds(update: Update, rows: dict[str, Tensor], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        update(rows)
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{'update':8} {'ours, ms':>10} {'by hand':>10} {'by hand / ours':>16} {'quartiles':>14}")
    for name, hand in (("sac", sac_by_hand()), ("td3", td3_by_hand())):
        graph, rows = ours(name), minibatch()
        for update in (graph, hand):
            seconds(update, rows, 10)  # compiles
        pairs = [(seconds(graph, rows, 20), seconds(hand, rows, 20)) for _ in range(options.rounds)]
        first, second = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
        print(f"{name:8} {first:10.3f} {second:10.3f} {middle:16.3f} {low:7.3f}–{high:.3f}", flush=True)


if __name__ == "__main__":
    main()
