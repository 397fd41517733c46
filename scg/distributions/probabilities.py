"""Probabilities of discrete values, with the gradient that torch's clamp of `probs` removes.

log_mass, mass     log p(x) and p(x); None where torch's own formula is right
log_odds           logits, unclamped
safe_log           log p, with a gradient of 0 where p = 0
note_parameter     notes on a fresh distribution that it was made from logits

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
from torch.distributions import Distribution

from scg.distributions.laws import is_exactly, unwrapped


def log_mass(distribution: Distribution, x: Tensor, drawn: bool = False) -> Tensor | None:
    """log p(x) of a kind whose own `log_prob` cuts a gradient; None where torch's is right. `drawn`: x is a sample of it."""
    base, bound = unwrapped(distribution)
    formula = _formula(base)
    if formula is None:
        return None
    if "log_prob" in vars(distribution) and not _from_probs(base):
        return None  # it keeps its answers (`remember`), and torch's is right
    log_p = _from_logits(base, x, drawn) if formula is _event_log and not _from_probs(base) else formula(base, x)
    return log_p if log_p is None or not bound else log_p.flatten(log_p.ndim - bound).sum(-1)


def mass(distribution: Distribution, x: Tensor) -> Tensor | None:
    """p(x) where it has a gradient that exp(log p) has not, as at p = 0; None where exp(log p) is right."""
    base, bound = unwrapped(distribution)
    formula = _formula(base)
    if formula is None:
        return None
    p: Tensor | None = None
    if formula is _event_log:
        if not _from_probs(base):
            return None
        p = _event(base, x)
        p = torch.where(_clamped(base, x), p, base.log_prob(x).exp()) if "logits" in vars(holder(base)) else p
    elif formula is _binomial_log:
        p = _binomial_mass(base, x)
    return p if p is None or not bound else p.flatten(p.ndim - bound).prod(-1)


def log_odds(base: Any) -> Tensor:
    """The logits of a Bernoulli, Categorical or OneHotCategorical, in float32 at least; log 0 is the lowest number of its dtype / 4.

    Of `probs` they are taken without a clamp. That number stands for −∞, whose differences would be undefined.
    """
    inner = holder(base)
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


def note_parameter(distribution: Distribution) -> None:
    """Note on a fresh distribution that it was made from logits; once it is sampled it holds both, and torch does not say which was given."""
    base, _ = unwrapped(distribution)
    if isinstance(base, D.OneHotCategorical):
        base = base._categorical
    own = vars(base)
    if "logits" in own and "probs" not in own:
        own["_made_from_logits"] = True


def _formula(base: Distribution) -> Callable[[Any, Tensor], Tensor | None] | None:
    found = _LOG_MASS.get(type(base))
    if found is None and isinstance(base, tuple(_LOG_MASS)):
        return next((f for kind, f in _LOG_MASS.items() if is_exactly(base, kind)), None)
    return found


def holder(base: Any) -> Any:
    """What holds `probs` and `logits`."""
    return base._categorical if isinstance(base, (D.OneHotCategorical, D.Multinomial)) else base


def _from_probs(base: Any) -> bool:
    own = vars(holder(base))
    return "probs" in own and "_made_from_logits" not in own


def _disagree(inner: Any) -> Tensor:
    """Where the logits are not those of the probabilities, for they were made from them through the clamp."""
    if isinstance(inner, D.Categorical):
        told, p = inner.logits.detach().exp(), inner.probs.detach()
        return (told - p).abs() > 0.1 * p
    told, p = inner.logits.detach().sigmoid(), inner.probs.detach()
    return (told - p).abs() > 0.1 * torch.minimum(p, 1 - p)


def _clamped(base: Any, x: Tensor) -> Tensor:
    inner = holder(base)
    where = _disagree(inner)
    return _at(where, base, x) if isinstance(inner, D.Categorical) else where


def _at(table: Tensor, base: Any, x: Tensor) -> Tensor:
    """The entry of `table [*batch, K]` at each category, or one-hot vector."""
    index = x.argmax(-1, keepdim=True) if isinstance(base, D.OneHotCategorical) else x.long().unsqueeze(-1)
    shape = torch.broadcast_shapes(table.shape[:-1], index.shape[:-1])
    return table.expand(*shape, -1).gather(-1, index.expand(*shape, 1)).squeeze(-1)


def _event(base: Any, x: Tensor) -> Tensor:
    p = holder(base).probs
    return torch.where(x > 0.5, p, 1 - p) if isinstance(base, D.Bernoulli) else _at(p, base, x)


def _event_log(base: Any, x: Tensor) -> Tensor | None:
    exact = safe_log(_event(base, x))
    return torch.where(_clamped(base, x), exact, base.log_prob(x)) if "logits" in vars(holder(base)) else exact


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
