"""Wrong estimators, each beside the right one that differs from it in one place, and the law that must tell them apart."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.distributions import Bernoulli

from scg import Branches, Estimator, Pathwise, ScoreFunction
from scg.distributions import density_order, moving_support
from scg.estimators import Enumeration, LeaveOneOut, MeasureValued, StraightThrough
from scg.estimators.enumeration import support


def zero(x):
    return x - x.detach()


def score(distribution, x):
    return zero(distribution.log_prob(x))


class Anew(Estimator):
    """An estimator that is all in a function of the distribution."""

    def __init__(self, branch: Callable[[Any], Branches], order=None, refuses=moving_support, **attributes: Any):
        self.branch, self.refuses = branch, refuses
        self.order = (lambda d: order) if order is not None else density_order
        for name, value in attributes.items():
            setattr(self, name, value)


@dataclass(frozen=True)
class Mutant:
    """`law` must be broken by `wrong()`, and nothing by `right()`, on `kinds`."""

    law: str
    wrong: Callable[[], Estimator]
    right: Callable[[], Estimator]
    kinds: Any = ("Bernoulli", "Normal")
    settings: Mapping[str, Any] = field(default_factory=dict)
    of_right: Mapping[str, Any] | None = None


BITS = ("Bernoulli",)
REAL = ("Normal",)
MUTANTS: dict[str, Mutant] = {}


def simple(law, wrong, right=None, kinds=Mutant.kinds, **settings):
    return Mutant(law, lambda: Anew(wrong), (lambda: Anew(right)) if right else ScoreFunction, kinds, settings)


# -- the mean ----------------------------------------------------------------------------------------------


def halved(d):
    x = d.sample()
    return Branches(x, score=0.5 * score(d, x))


def leave_one_out(itself, link=torch.expm1):
    def branch(d):
        x = d.sample((3,))
        z = link(score(d, x))
        others = (z.sum(0) - z + itself * z) / 2
        return Branches(x, 3, weights=(1 + z - others) / 3)

    return branch


def summed(d):
    x = d.sample((2,))
    return Branches(x, 2, weights=0.5 + score(d, x))


def averaged(d):
    x = d.sample((2,))
    return Branches(x, 2, weights=score(d, x).exp() / 2)


def both_ways(d):
    x = d.rsample()
    return Branches(x, score=score(d, x.detach()))


def forgetting(d):
    x = support(d)[:-1]
    return Branches(x, len(x), weights=d.log_prob(x).exp())


def undetached(d):
    x = d.sample()
    return Branches(x, weights=d.log_prob(x).exp())


MUTANTS["half of the score is dropped"] = simple("first order", halved)
MUTANTS["a baseline sees its own sample"] = simple("first order", leave_one_out(1.0), leave_one_out(0.0))
MUTANTS["samples are summed and not averaged"] = simple("first order", summed, averaged)
MUTANTS["a score on top of a path"] = Mutant("first order", lambda: Anew(both_ways), Pathwise, REAL)
MUTANTS["a straight-through path that says it is unbiased"] = Mutant(
    "first order", lambda: Anew(StraightThrough().branch, 1), ScoreFunction, BITS
)
MUTANTS["a value of the support is forgotten"] = Mutant(
    "first order", lambda: Anew(forgetting), Enumeration, ("Bernoulli", "Categorical")
)
MUTANTS["a likelihood ratio where the support moves"] = Mutant(
    "first order", lambda: Anew(ScoreFunction().branch, refuses=lambda d: None), Pathwise, ("Uniform with moving ends",)
)
MUTANTS["a constant cost has a gradient"] = simple("constant", undetached)


def noisy(factor):
    """Half of the draws of one bit by a quantile of its own: no noise that could be enumerated."""

    def branch(d):
        x = (torch.rand_like(d.probs) < d.probs).to(d.probs.dtype).detach()
        return Branches(x, score=factor * score(d, x))

    return branch


MUTANTS["a factor of 0.8, with noise of its own"] = simple("first order", noisy(0.8), noisy(1.0), BITS)
MUTANTS["a control whose gradient has a mean"] = simple(
    "constant",
    lambda d: Branches(x := d.sample(), score=score(d, x), control=0.3 * zero(d.probs)),
    lambda d: Branches(x := d.sample(), score=score(d, x), control=0.3 * torch.expm1(score(d, x))),
    BITS,
)

# -- second order ------------------------------------------------------------------------------------------


def linear(d):
    x = d.sample()
    return Branches(x, weights=1 + score(d, x))


MUTANTS["weights without a second derivative"] = simple("second order", linear)
MUTANTS["leave-one-out without the DiCE operator"] = simple(
    "second order", leave_one_out(0.0, link=lambda z: z), leave_one_out(0.0)
)
MUTANTS["an order that is claimed and not kept, of a sampler"] = Mutant(
    "second order",
    lambda: Anew(lambda d: Branches(d.rsample()), torch.inf),
    lambda: Anew(lambda d: Branches(d.rsample()), 1),
    ("Beta",),
)
MUTANTS["an order that is claimed and not kept, of a measure"] = Mutant(
    "second order", lambda: Anew(MeasureValued().branch, torch.inf), MeasureValued, ("Normal",)
)

# -- form --------------------------------------------------------------------------------------------------


def transposed(d):
    x = d.sample((2,))
    z = score(d, x)
    return Branches(x, 2, score=z.transpose(0, -1) if z.ndim > 1 else z)


def unbound(d):
    x = d.sample()
    return Branches(x, score=zero(d.base_dist.log_prob(x)))


def collapsed(d):
    x = d.sample()
    return Branches(x, score=score(d, x).sum())


def live(d):
    x = d.sample()
    return Branches(x, score=d.log_prob(x))


MUTANTS["weights on the wrong axis"] = simple("shapes", transposed, averaged, BITS)
MUTANTS["components of one sample are not summed"] = simple("shapes", unbound, kinds=("joint Bernoulli",))
MUTANTS["the score is summed over the batch"] = simple("shapes", collapsed)
MUTANTS["a score that is not zero in value"] = simple("shapes", live)


def mixing(of):
    def branch(d):
        x = d.sample((2,))
        z = score(d, x)
        return Branches(x, 2, weights=(1 + z - of(z)) / 2)

    return branch


MUTANTS["the baseline is a mean over the batch"] = simple(
    "elements",
    mixing(lambda z: z.flip(0).mean(-1, keepdim=True).expand_as(z) if z.ndim > 1 else z.flip(0)),
    mixing(lambda z: z.flip(0)),
    ("Bernoulli",),
    laws=("shapes", "elements", "seed"),
)
MUTANTS["samples change places in the batch"] = simple(
    "first order", lambda d: Branches(x := d.sample(), score=score(d, x).flip(-1) if x.ndim else score(d, x)), kinds=BITS
)


def rounded(dtype):
    def branch(d):
        x = d.sample()
        return Branches(x.to(dtype(x)), score=score(d, x))

    return branch


def wide(d):
    x = d.sample()
    return Branches(x, score=score(d, x).double())


def guarded(least):
    """A guard against probabilities of zero, which in single precision is larger than some that are none."""

    def branch(d):
        x = d.sample()
        p = d.log_prob(x).exp().clamp_min(least * torch.finfo(x.dtype).eps)
        return Branches(x, weights=p / p.detach())

    return branch


MUTANTS["samples come back in single precision"] = simple(
    "precision", rounded(lambda x: torch.float32), rounded(lambda x: x.dtype), ("Bernoulli", "Normal")
)
MUTANTS["weights come back in double precision"] = simple("precision", wide)
MUTANTS["weights take torch's default precision"] = simple(
    "precision",
    lambda d: Branches(x := d.sample(), weights=score(d, x).exp().to(torch.get_default_dtype())),
    lambda d: Branches(x := d.sample(), weights=score(d, x).exp().to(x.dtype)),
    BITS,
)
MUTANTS["another gradient in single precision"] = simple("precision", guarded(4e6), guarded(1.0), BITS)
MUTANTS["samples on another device"] = simple(
    "device", lambda d: Branches(d.sample().to("meta"), score=zero(d.logits)), kinds=BITS
)

# -- random numbers ----------------------------------------------------------------------------------------


def bit_of(uniform):
    def branch(d):
        x = (uniform(d.probs) < d.probs).to(d.probs.dtype).detach()
        return Branches(x, score=score(d, x))

    return branch


def own_stream():
    generator = torch.Generator().manual_seed(0)
    return Anew(bit_of(lambda p: torch.rand(p.shape, dtype=p.dtype, generator=generator)))


def reseeding(p):
    torch.manual_seed(0)
    return torch.rand_like(p)


def of_numpy(p):
    return torch.as_tensor(np.random.rand(*p.shape), dtype=p.dtype)  # noqa: NPY002


def of_python(p):
    return torch.tensor([random.random() for _ in range(p.numel())], dtype=p.dtype).reshape(p.shape)


def always_new_stream(p):
    return torch.rand(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(7))


right_bit = lambda: Anew(bit_of(torch.rand_like))  # noqa: E731
MUTANTS["numpy's stream"] = Mutant("seed", lambda: Anew(bit_of(of_numpy)), right_bit, BITS)
MUTANTS["Python's stream"] = Mutant("seed", lambda: Anew(bit_of(of_python)), right_bit, BITS)
MUTANTS["a stream of its own"] = Mutant("seed", own_stream, right_bit, BITS)
MUTANTS["a stream of its own, always the same"] = Mutant("seed", lambda: Anew(bit_of(always_new_stream)), right_bit, BITS)
MUTANTS["it seeds torch"] = Mutant("seed", lambda: Anew(bit_of(reseeding)), right_bit, BITS)

# -- place -------------------------------------------------------------------------------------------------


def rewinding(d):
    """Right alone; what is drawn next uses its random numbers again."""
    with torch.random.fork_rng(devices=[]):
        x = d.sample()
    return Branches(x, score=score(d, x))


MUTANTS["it rewinds the stream, and what follows is drawn from the same numbers"] = simple("composition", rewinding, kinds=BITS)


class Spare(Estimator):
    """Keeps the antithetic partner of one draw for the next one, as old samplers keep the other half of a pair."""

    def __init__(self, keep):
        self.keep, self.spare = keep, None

    def branch(self, d):
        if self.keep and self.spare is not None and self.spare.shape == d.probs.shape:
            u, self.spare = self.spare, None
        else:
            u = torch.rand_like(d.probs)
            self.spare = 1 - u
        x = (u < d.probs).to(d.probs.dtype).detach()
        return Branches(x, score=score(d, x))


MUTANTS["a draw keeps its antithetic partner for the next step"] = Mutant(
    "sequence", lambda: Spare(True), lambda: Spare(False), BITS, {"laws": ("shapes", "first order", "sequence")}
)


# -- what it says ------------------------------------------------------------------------------------------


def refusing(message):
    return lambda: Anew(ScoreFunction().branch, refuses=lambda d: None if isinstance(d, Bernoulli) else message)


MUTANTS["a refusal without words"] = Mutant("refusal", refusing(""), refusing("It is for bits.\nUse ScoreFunction()."))
MUTANTS["biased, and no one has to say so"] = Mutant(
    "opt-in",
    lambda: type("Quiet", (Anew,), {"allow_bias": property(lambda self: True, lambda self, value: None)})(
        StraightThrough().branch, 1, unbiased=False
    ),
    lambda: Anew(StraightThrough().branch, 1, unbiased=False, allow_bias=True),
    BITS,
)


def straight_through(factor):
    """E[f'(b)] ∂p, and the value E[f(b)]."""

    def mean(d, f):
        b = torch.tensor([0.0, 1.0], requires_grad=True)
        (slope,) = torch.autograd.grad(f(b).sum(), b)
        p = d.probs
        value = (1 - p) * f(b)[0].detach() + p * f(b)[1].detach()
        return value.detach() + factor * ((1 - p) * slope[0] + p * slope[1]).detach() * zero(p)

    return mean


MUTANTS["a bias other than the stated one"] = Mutant(
    "stated bias",
    lambda: StraightThrough(allow_bias=True),
    lambda: StraightThrough(allow_bias=True),
    BITS,
    {"mean": straight_through(1.2)},
    {"mean": straight_through(1.0)},
)
MUTANTS["it raises"] = Mutant(
    "shapes", lambda: Anew(lambda d: Branches(x := d.sample(), score=score(d, x).view(2, 2))), lambda: LeaveOneOut(2), BITS
)
