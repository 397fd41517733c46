"""NVIL: the score function with a learned, centred and normalised learning signal.

    ∇E[L] = E[ (L − C(y) − c) ∇log p(x | y) ]               C(y) learned from what x does not influence,  c a running mean

In a graph L is a credit and C a baseline with its own regression; NVIL combines the two with the weight.

    graph.stochastic(signal, …, name="x", credit=MonteCarlo(), baseline="level")        signal = NVIL()
    …                                                                                   the costs
    learned_baseline(graph, "x", critic, name="level", parents=["y"])

    trace.surrogate().backward();  signal.update(trace, "x")        *after* it: a mean that includes x is biased

c is the exponentially averaged mean of L − C over the updates so far, 0 before the first. `normalise=True` divides the
signal by max(1, σ), σ² the averaged variance of it within a batch. This scales the gradient of p's
parameters alone: its mean is the true gradient divided by max(1, σ), so it has to be opted into as biased.
First order, like every credit; without a credit the whole cost-to-go weighs x, and `update` says so.
Mnih & Gregor (2014), "Neural variational inference and learning in belief networks".
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributions import Distribution

from scg.distributions import moving_support
from scg.errors import GraphError
from scg.estimator import Branches, Estimator, ScoreFunction, at_least
from scg.estimators.baselines import MovingAverage
from scg.trace import Trace


class NVIL(Estimator, nn.Module):
    """The score function; what its credit leaves after its baseline is centred, and normalised if asked for.

    Its averages are buffers, so `state_dict` resumes them, and nothing changes them but `update`.
    """

    def __init__(self, samples: int = 1, decay: float = 0.8, normalise: bool = False, allow_bias: bool = False) -> None:
        at_least("NVIL", samples, 1)
        nn.Module.__init__(self)
        self.samples, self.normalise, self.allow_bias = samples, normalise, allow_bias
        self.unbiased = not normalise
        self.level, self.spread = MovingAverage(decay), MovingAverage(decay)

    def branch(self, distribution: Distribution) -> Branches:
        return ScoreFunction(self.samples).branch(distribution)

    def combine(self, weight: Tensor, credit: Tensor) -> Tensor:
        signal = credit - self.level().to(credit.dtype)
        if self.normalise:
            signal = signal / self.spread().to(credit.dtype).sqrt().clamp_min(1)
        return weight * signal

    def update(self, trace: Trace, node: str) -> None:
        """Take in the learning signal of `node` in a trace whose surrogate has been used."""
        found = trace.structure.nodes[node].estimator if node in trace.structure.nodes else None
        if found is not self:
            raise GraphError(f"NVIL.update: the estimator of node {node!r} is {found!r}, not this one")
        signal = trace.credit(node)
        if self.normalise:
            if signal.numel() < 2:
                raise GraphError(f"NVIL.update: node {node!r} has one learning signal, and one has no variance; draw a batch")
            self.spread.update(signal.var(correction=0))
        self.level.update(signal)

    def order(self, distribution: Distribution) -> float:
        return 1

    def refuses(self, distribution: Distribution) -> str | None:
        return moving_support(distribution)

    def __repr__(self) -> str:
        return f"NVIL(samples={self.samples}, decay={self.level.decay}, normalise={self.normalise})"
