"""The gradient estimator of a graph, written out: on paper what `graph.surrogate` is in code.

    ∂/∂θ E[Σ c] = E[ Σ_x  Σ_paths (∂·/∂θ … ∂/∂y log p(x | y)) (Σ_{c downstream of x} c − b_x)      likelihood ratio
                   + Σ_c  Σ_paths  ∂·/∂θ … ∂c/∂y ]                                                  pathwise, direct

Theorem 1 of Schulman et al. (2015), "Gradient estimation using stochastic computation graphs"; credit after Weber et
al. (2019). It reads the declarations only: a node is taken to be differentiable in everything that it declares and
does not `detach`, and where it is not, that derivative is 0.
"""

from scg.derivation.derivation import Derivation, Equation, Term
from scg.derivation.derive import derive

__all__ = ["Derivation", "Equation", "Term", "derive"]
