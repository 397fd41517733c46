"""KL(π ‖ reference) at a sampled value, three ways and exactly; and what their gradients are the gradients of.

    r = reference(a)/π(a)         exact   Σ_a π(a) log π(a)/reference(a)
    k1 = −log r                   k2 = ½ (log r)²                  k3 = r − 1 − log r               Schulman (2020), a ~ π

                 mean           gradient of its mean        mean of its own gradient, a held fixed
    exact        KL(π‖ref)      ∇KL(π‖ref)                  ∇KL(π‖ref)
    k1           KL(π‖ref)      ∇KL(π‖ref)                  0
    k2           ½ E[(log r)²]  another                     ∇KL(π‖ref)
    k3           KL(π‖ref)      ∇KL(π‖ref)                  ∇KL(ref‖π), where π covers the reference

So as a cost of a graph, which takes the gradient of the mean, exact, k1 and k3 are right. In a loss that autograd differentiates
at sampled values, exact and k2 are right for one step; over a sequence both leave out what θ does to the states of later steps.
In the reward, where it multiplies the score and has no gradient of its own, k1 alone is right, over a sequence too.
"""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, kl_divergence


def exact(pi: Distribution, reference: Distribution) -> Tensor:
    """KL(π ‖ reference), summed over the support: no sampling noise of its own (Rao-Blackwellised)."""
    return kl_divergence(pi, reference)


def k1(log_prob: Tensor, reference: Tensor) -> Tensor:
    """−log r, from log-probabilities under π and the reference."""
    return log_prob - reference


def k2(log_prob: Tensor, reference: Tensor) -> Tensor:
    return (log_prob - reference).square() / 2


def k3(log_prob: Tensor, reference: Tensor) -> Tensor:
    log_ratio = reference - log_prob
    return log_ratio.expm1() - log_ratio
