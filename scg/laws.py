"""The law of a distribution, where torch's object does not say it, or cuts its gradient.

is_exactly            whether it is one of torch's own kinds, or only inherits from one
log_mass, mass        the probability of a discrete value, with the gradient that torch's clamp of `probs` removes
log_odds              logits, unclamped
unseen                what a likelihood ratio cannot see: values of probability 0 whose probability moves
sample                without forward-mode tangents
rsample, quantile     samples of ContinuousBernoulli, whose gradient torch cuts near p = 1/2
moves                 whether a tensor is differentiated, backwards or forwards

torch makes logits from `probs` by clamping these into [ε, 1 − ε] of their dtype (1.2e-7 in float32, 0.0078 in bfloat16), and
log-probabilities from the logits. The gradient of a clamp is 0, so d log p/dp is 0 instead of 1/p below ε. A distribution made
from logits has no such cut, and torch's own formula is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributions as D
from torch.autograd import forward_ad
from torch.distributions import Distribution

from scg.errors import GraphError

_LAW = (
    "sample", "rsample", "log_prob", "cdf", "icdf", "support", "enumerate_support", "mean", "probs", "logits", "rate", "loc", "scale",
)  # fmt: skip


def is_exactly(distribution: Distribution, *kinds: type[Distribution]) -> bool:
    """Whether the law is that of one of torch's `kinds`: its own class, or a subclass that overrides nothing that defines it.

    A subclass with a constructor or methods of its own is still its kind; one with a `sample`, `log_prob`, `icdf`, … of its
    own is not, nor is an instance whose `sample` was replaced. What draws, or differentiates, by a formula for Normal asks
    this, and not `isinstance`.
    """
    if "sample" in vars(distribution) or "rsample" in vars(distribution):
        return False
    classes = type(distribution).__mro__
    return any(k in classes and not _redefined(k, classes[: classes.index(k)]) for k in kinds)


def _redefined(kind: type[Distribution], subclasses: tuple[type, ...]) -> bool:
    skipped = set() if kind.has_rsample else {"rsample"}  # straight-through of a discrete kind: drawn as ever
    if kind.mean is Distribution.mean:
        skipped.add("mean")  # torch has none
    return any(name in vars(subclass) for subclass in subclasses for name in _LAW if name not in skipped)


def moves(tensor: Any) -> bool:
    """Whether a derivative is taken with respect to this tensor: in reverse mode, or in forward mode (`torch.func.jvp`)."""
    if not isinstance(tensor, Tensor):
        return False
    return tensor.requires_grad or forward_ad.unpack_dual(tensor).tangent is not None


# -- probabilities of discrete values ----------------------------------------------------------------------------


def log_mass(distribution: Distribution, x: Tensor, drawn: bool = False) -> Tensor | None:
    """log p(x) of a kind whose own `log_prob` cuts a gradient; None where torch's is right. `drawn`: x is a sample of it."""
    base, bound = _component(distribution)
    formula = _formula(base)
    if formula is None:
        return None
    if "log_prob" in vars(distribution) and not _from_probs(base):
        return None  # it keeps its answers (`remember`), and torch's is right
    log_p = _from_logits(base, x, drawn) if formula is _event_log and not _from_probs(base) else formula(base, x)
    return log_p if log_p is None or not bound else log_p.flatten(log_p.ndim - bound).sum(-1)


def mass(distribution: Distribution, x: Tensor) -> Tensor | None:
    """p(x) where it has a gradient that exp(log p) has not, as at p = 0; None where exp(log p) is right."""
    base, bound = _component(distribution)
    formula = _formula(base)
    if formula is None:
        return None
    p: Tensor | None = None
    if formula is _event_log:
        if not _from_probs(base):
            return None
        p = _event(base, x)
        p = torch.where(_clamped(base, x), p, base.log_prob(x).exp()) if "logits" in vars(_holder(base)) else p
    elif formula is _binomial_log:
        p = _binomial_mass(base, x)
    return p if p is None or not bound else p.flatten(p.ndim - bound).prod(-1)


def log_odds(base: Any) -> Tensor:
    """The logits of a Bernoulli, Categorical or OneHotCategorical, in float32 at least; log 0 is the lowest number of its dtype / 4.

    Of `probs` they are taken without a clamp. That number stands for −∞, whose differences would be undefined.
    """
    inner = _holder(base)
    own = vars(inner)
    wide = torch.promote_types(own["logits" if "logits" in own else "probs"].dtype, torch.float32)
    lowest = torch.finfo(wide).min / 4
    if "logits" in own:
        logits = inner.logits.to(wide).clamp_min(lowest)
        if "probs" not in own:
            return logits
    p = inner.probs.to(wide)
    exact = safe_log(p, lowest)
    if isinstance(base, D.Bernoulli):
        exact = torch.where(p < 1, exact - safe_log(1 - p, lowest), -lowest)
    return torch.where(_disagree(inner), exact, logits) if "logits" in own else exact


def safe_log(p: Tensor, at_zero: float = -torch.inf) -> Tensor:
    """log p, and a constant where p = 0: its gradient there is 0, and not infinite."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0).log(), at_zero)


def _component(distribution: Distribution) -> tuple[Any, int]:
    bound = 0
    while type(distribution) is D.Independent:
        bound += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    return distribution, bound


def _formula(base: Distribution) -> Callable[[Any, Tensor], Tensor | None] | None:
    found = _LOG_MASS.get(type(base))
    if found is None and isinstance(base, tuple(_LOG_MASS)):
        return next((f for kind, f in _LOG_MASS.items() if is_exactly(base, kind)), None)
    return found


def _holder(base: Any) -> Any:
    """What holds `probs` and `logits`."""
    return base._categorical if isinstance(base, (D.OneHotCategorical, D.Multinomial)) else base


def _from_probs(base: Any) -> bool:
    own = vars(_holder(base))
    return "probs" in own and "_made_from_logits" not in own


def note_parameter(distribution: Distribution) -> None:
    """Note on a fresh distribution that it was made from logits; once it is sampled it holds both, and torch does not say which was given."""
    base, _ = _component(distribution)
    if isinstance(base, D.OneHotCategorical):
        base = base._categorical
    own = vars(base)
    if "logits" in own and "probs" not in own:
        own["_made_from_logits"] = True


def _disagree(inner: Any) -> Tensor:
    """Where the logits are not those of the probabilities, for they were made from them through the clamp."""
    if isinstance(inner, D.Categorical):
        told, p = inner.logits.detach().exp(), inner.probs.detach()
        return (told - p).abs() > 0.1 * p
    told, p = inner.logits.detach().sigmoid(), inner.probs.detach()
    return (told - p).abs() > 0.1 * torch.minimum(p, 1 - p)


def _clamped(base: Any, x: Tensor) -> Tensor:
    inner = _holder(base)
    where = _disagree(inner)
    return _at(where, base, x) if isinstance(inner, D.Categorical) else where


def _at(table: Tensor, base: Any, x: Tensor) -> Tensor:
    """The entry of `table [*batch, K]` at each category, or one-hot vector."""
    index = x.argmax(-1, keepdim=True) if isinstance(base, D.OneHotCategorical) else x.long().unsqueeze(-1)
    shape = torch.broadcast_shapes(table.shape[:-1], index.shape[:-1])
    return table.expand(*shape, -1).gather(-1, index.expand(*shape, 1)).squeeze(-1)


def _event(base: Any, x: Tensor) -> Tensor:
    p = _holder(base).probs
    return torch.where(x > 0.5, p, 1 - p) if isinstance(base, D.Bernoulli) else _at(p, base, x)


def _event_log(base: Any, x: Tensor) -> Tensor | None:
    exact = safe_log(_event(base, x))
    return torch.where(_clamped(base, x), exact, base.log_prob(x)) if "logits" in vars(_holder(base)) else exact


def _from_logits(base: Any, x: Tensor, drawn: bool) -> Tensor | None:
    """torch's own formula, without the views that bring shapes together which are the same already: each is an operation
    forwards and one backwards. None where they are not."""
    shape, logits = x.shape, base.logits
    if isinstance(base, D.OneHotCategorical) or shape[len(shape) - len(base._batch_shape) :] != base._batch_shape:
        return None
    if isinstance(base, D.Categorical):
        rows = logits if shape == base._batch_shape else logits.expand((*shape, logits.shape[-1]))
        if base._validate_args and not drawn and (x.is_floating_point() or x.device.type != "cpu"):
            base._validate_sample(x)
        try:
            return rows.gather(-1, x.long().unsqueeze(-1)).squeeze(-1)
        except RuntimeError:  # on a processor `gather` looks at integers itself; torch's words are clearer
            base._validate_sample(x)
            raise
    if base._validate_args and not drawn:
        base._validate_sample(x)
    if x.dtype != logits.dtype:
        return None
    rows = logits if shape == logits.shape else logits.expand(shape)
    return -torch.nn.functional.binary_cross_entropy_with_logits(rows, x, reduction="none")


def _logs(base: Any) -> tuple[Tensor, Tensor]:
    """log p and log (1 − p), unclamped."""
    own = vars(base)
    if "probs" not in own:
        return torch.nn.functional.logsigmoid(base.logits), torch.nn.functional.logsigmoid(-base.logits)
    p = base.probs
    exact = safe_log(p), safe_log(1 - p)
    if "logits" not in own:
        return exact
    soft = torch.nn.functional.logsigmoid
    off = _disagree(base)
    return torch.where(off, exact[0], soft(base.logits)), torch.where(off, exact[1], soft(-base.logits))


def _times(count: Tensor, log_p: Tensor) -> Tensor:
    """count · log p, 0 where count = 0."""
    return torch.where(count > 0, count * torch.where(count > 0, log_p, 0.0), 0.0)


def _binomial_log(base: Any, x: Tensor) -> Tensor:
    # torch's is |logits| inside, whose second derivative is lost at logits = 0
    n, (success, failure) = base.total_count, _logs(base)
    return _choose(n, x) + _times(x, success) + _times(n - x, failure)


def _choose(n: Tensor, x: Tensor) -> Tensor:
    return torch.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)


def _binomial_mass(base: Any, x: Tensor) -> Tensor | None:
    if not _from_probs(base):
        return None
    p, n = base.probs, base.total_count
    edge = (p < torch.finfo(p.dtype).eps) | (p > 1 - torch.finfo(p.dtype).eps)
    inside = D.Binomial(n, torch.where(edge, 0.5, p), validate_args=False)
    # powers, which have a slope at 0, in double: where the number of ways is large, the power of a p below ε is 0
    wide, count, k = torch.where(edge, p, 0.0).double(), n.double(), x.double()
    powers = (_choose(count, k).exp().clamp_max(1e300) * wide.pow(k) * (1 - wide).pow(count - k)).to(p.dtype)
    return torch.where(edge, powers, _binomial_log(inside, x).exp())


def _negative_binomial_log(base: Any, x: Tensor) -> Tensor | None:
    if not _from_probs(base):
        return None
    n, (success, failure) = base.total_count, _logs(base)
    return _times(x, success) + n * failure + torch.lgamma(n + x) - torch.lgamma(n) - torch.lgamma(x + 1)


def _multinomial_log(base: Any, x: Tensor) -> Tensor:
    inner = base._categorical
    log_p = torch.where(_disagree(inner), safe_log(inner.probs), inner.logits)
    return torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1) + _times(x, log_p).sum(-1)


_LOG_MASS: dict[type[Distribution], Callable[[Any, Tensor], Tensor | None]] = {
    D.Bernoulli: _event_log,
    D.Categorical: _event_log,
    D.OneHotCategorical: _event_log,
    D.Binomial: _binomial_log,
    D.NegativeBinomial: _negative_binomial_log,
    D.Multinomial: _multinomial_log,
}


# -- what a likelihood ratio cannot see --------------------------------------------------------------------------


def unseen(distribution: Distribution) -> str | None:
    """Why no weighing of what is drawn gives the gradient here: a value of probability 0 is never drawn, and its probability moves.

    ∂_θ E[f] = Σ_x f(x) ∂_θ p(x) has a term where p(x) = 0 and ∂_θ p(x) ≠ 0. A probability that is 0 and stays there (a masked
    softmax) is no obstacle: whether it moves is asked of autograd.
    """
    base, _ = _component(distribution)
    for kinds, name, edge in _EDGES:
        if not is_exactly(base, *kinds):
            continue
        p = vars(_holder(base)).get(name)
        at_edge = None if p is None or not p.requires_grad else edge(p.detach())
        if at_edge is None or not at_edge.any() or not _varies(p[at_edge]):
            return None
        found = float(p.detach()[at_edge].flatten()[0])
        return (
            f"the {name} of {type(base).__name__} {'are' if name == 'probs' else 'is'} {found:g} somewhere and require{'' if name == 'probs' else 's'} a "
            "gradient, part of which belongs to values that have probability 0 and are never drawn.\n"
            "Use Enumeration() or MeasureValued() where they take it, or make it from logits (or keep it away from the edge)."
        )
    return None


def _varies(p: Tensor) -> bool:
    leaves, stack, seen = [], [p.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack += [parent for parent, _ in node.next_functions]
    generic = 1.5 + torch.arange(p.numel(), dtype=p.dtype, device=p.device).cos().view_as(p)  # so that nothing cancels
    found = torch.autograd.grad(p, leaves, generic, retain_graph=True, allow_unused=True)
    return any(g is not None and bool((g != 0).any()) for g in found)


_EDGES: tuple[tuple[tuple[type[Distribution], ...], str, Callable[[Tensor], Tensor]], ...] = (
    ((D.Bernoulli, D.Binomial), "probs", lambda p: (p == 0) | (p == 1)),
    ((D.Categorical, D.OneHotCategorical, D.Multinomial, D.NegativeBinomial), "probs", lambda p: p == 0),
    ((D.Geometric,), "probs", lambda p: p == 1),
    ((D.Poisson,), "rate", lambda p: p == 0),
)


# -- samples -------------------------------------------------------------------------------------------------------


def sample(distribution: Distribution, sample_shape: torch.Size = torch.Size()) -> Tensor:
    """`distribution.sample` without a derivative of either mode: `torch.no_grad`, inside, lets forward-mode tangents through."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling():
        base, _ = _component(distribution)
        if type(base) is D.Bernoulli and _torchs_own(base) and _torchs_own(distribution):
            return _bits(base, sample_shape)
        return distribution.sample(sample_shape)
    return _forward(distribution, lambda: distribution.sample(sample_shape)).detach()


_SAMPLES = frozenset({D.Bernoulli.sample, D.Independent.sample})


def _torchs_own(distribution: Distribution) -> bool:
    """Whether nobody replaced its `sample`, of the object or of its class."""
    return "sample" not in vars(distribution) and type(distribution).sample in _SAMPLES


def _bits(base: Any, sample_shape: torch.Size) -> Tensor:
    """`Bernoulli.sample`, with the same random numbers, without a graph of probabilities that nobody differentiates."""
    own = vars(base)
    p = own["probs"].detach() if "probs" in own else own["logits"].detach().sigmoid()
    return torch.bernoulli(p.expand(sample_shape + p.shape) if sample_shape else p)


def _forward(distribution: Distribution, draw: Callable[[], Tensor]) -> Tensor:
    """A draw in forward mode, or an error that says that torch has none for this distribution."""
    try:
        return draw()
    except RuntimeError as error:
        if "functorch" not in str(error) and "forward AD" not in str(error):
            raise
        raise GraphError(
            f"forward-mode derivatives (torch.func.jvp): torch has none of a {type(distribution).__name__} sample.\n"
            "Use reverse mode (backward, torch.autograd.grad), or another distribution."
        ) from error


# -- the continuous Bernoulli distribution -----------------------------------------------------------------------


def rsample(distribution: Distribution, sample_shape: torch.Size = torch.Size()) -> Tensor:
    """`distribution.rsample`, with the gradient of a continuous Bernoulli sample near p = 1/2 as well."""
    if isinstance(distribution, D.Independent):
        return rsample(distribution.base_dist, sample_shape)
    if type(distribution) is D.TransformedDistribution and _continuous_bits(distribution):
        value = rsample(distribution.base_dist, sample_shape)
        for transform in distribution.transforms:
            value = transform(value)  # type: ignore[assignment]
        return value
    if not _continuous_bits(distribution):
        if torch.compiler.is_compiling() or forward_ad._current_level < 0:
            return distribution.rsample(sample_shape)
        return _forward(distribution, lambda: distribution.rsample(sample_shape))
    like = distribution.probs  # type: ignore[attr-defined]
    u = torch.rand(distribution._extended_shape(sample_shape), dtype=like.dtype, device=like.device)
    return quantile(distribution, u)


def quantile(distribution: Any, u: Tensor) -> Tensor:
    """F⁻¹(u) of ContinuousBernoulli: log(1 + u (e^λ − 1))/λ with λ the logit, whose limit at λ = 0 torch replaces by u.

    That is the cumulant generating function of one bit of probability u, divided by λ: near 0 its cumulants give it.
    """
    logit = distribution.logits
    near = logit.detach().abs() < 0.02
    small, large = torch.where(near, logit, 0.0), torch.where(near, 1.0, logit)
    v = u * (1 - u)
    series = u + v * small * (
        1 / 2 + small * ((1 - 2 * u) / 6 + small * ((1 - 6 * v) / 24 + small * (1 - 2 * u) * (1 - 12 * v) / 120))
    )
    # log(1 + u (e^λ − 1)) as λ + log(u + (1 − u) e^−λ) where λ > 0: nothing overflows
    down = torch.where(large > 0, u, 1 - u) + torch.where(large > 0, 1 - u, u) * (-large.abs()).exp()
    return torch.where(near, series, (large.clamp_min(0) + down.log()) / large)


def _continuous_bits(distribution: Distribution) -> bool:
    while isinstance(distribution, (D.Independent, D.TransformedDistribution)):
        distribution = distribution.base_dist
    return is_exactly(distribution, D.ContinuousBernoulli)
