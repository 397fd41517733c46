"""The catalogue: every estimator, what it takes, what it promises and what it costs, asked of the code.

`unbiased`, `order` and `supports` are what the classes answer (`unbiased`, `order()`, `refuses()`) for one distribution of
each kind; `needs`, `evaluations` and `paper` are written here, and the tests hold the first two against the branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import Distribution

from scg import estimators
from scg.distributions import inmost
from scg.estimator import Estimator
from scg.testing.trial_distributions import KINDS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    estimator: str
    supports: str
    needs: str
    unbiased: str
    order: str
    evaluations: str
    paper: str


@dataclass(frozen=True)
class Entry:
    """An exported estimator with some settings, and what is written about it.

    `count`: how many evaluations of what follows a joint sample of D components takes with these settings.
    `recorded`: whether it differs from the score function only where values are replayed with their log-probabilities.
    """

    estimator: Estimator
    needs: str
    evaluations: str
    paper: str
    count: Callable[[Distribution, int], int] = lambda distribution, components: 1
    recorded: bool = False


class SquashedSum(nn.Module):
    """The smallest control variate: a learned multiple of a squashed sum of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3))

    def forward(self, features: Tensor) -> Tensor:
        return self.slope * features.tanh().sum(-1)


_GROUPS = {
    "finite supports": ("Bernoulli", "joint Bernoulli", "Categorical", "joint Categorical", "OneHotCategorical", "Binomial"),
    "counts": ("Geometric", "Poisson"),
    "reparameterised distributions": (
        "Normal", "joint Normal", "MultivariateNormal", "LogNormal", "Laplace", "Cauchy", "StudentT", "Gumbel", "Exponential",
        "Weibull", "Gamma", "Beta", "Dirichlet",
    ),
}  # fmt: skip


def _samples(n: int) -> Callable[[Distribution, int], int]:
    return lambda distribution, components: n


def _categories(distribution: Distribution) -> int:
    distribution = inmost(distribution)
    return distribution.probs.shape[-1] if isinstance(distribution, (D.Categorical, D.OneHotCategorical)) else 0


def _measures(distribution: Distribution, components: int) -> int:
    base = inmost(distribution)
    if isinstance(base, D.Categorical):
        return 1 + 2 * components * _categories(base)
    if isinstance(base, D.Normal):
        return 1 + 3 * components
    return 1 + (2 if isinstance(base, D.Bernoulli) else 1) * components


def _support(distribution: Distribution, components: int) -> int:
    base = inmost(distribution)
    return base.enumerate_support(expand=False).shape[0] ** components


_TABLE: tuple[Entry, ...] = (
    Entry(estimators.ScoreFunction(), "a log-density", "n", "Williams (1992)"),
    Entry(estimators.LeaveOneOut(), "a log-density", "n ≥ 2", "Kool et al. (2019); Mnih & Rezende (2016)", _samples(2)),
    Entry(estimators.NVIL(), "a log-density, a credit; best with a `learned_baseline`", "n", "Mnih & Gregor (2014)"),
    Entry(estimators.Pathwise(), "`rsample`, f differentiable", "n", "Kingma & Welling (2014); Rezende et al. (2014)"),
    Entry(
        estimators.Mixed(),
        "a log-density, `rsample`, f differentiable",
        "1",
        "Parmas et al. (2018)",
    ),
    Entry(
        estimators.TotalPropagation(allow_bias=True),
        "the same, a batch of independent elements",
        "1",
        "Parmas et al. (2018)",
    ),
    Entry(
        estimators.AlphaOrder(allow_bias=True),
        "a log-density, `rsample`, a batch of independent elements",
        "1",
        "Suh et al. (2022)",
    ),
    Entry(
        estimators.Antithetic(),
        "a log-density; symmetry or an inverse cdf",
        "n even",
        "Hammersley & Morton (1956)",
        _samples(2),
    ),
    Entry(
        estimators.AntitheticPathwise(),
        "`rsample`, f differentiable; symmetry or an inverse cdf",
        "n even",
        "Hammersley & Morton (1956)",
        _samples(2),
    ),
    Entry(
        estimators.QuasiRandom(), "a log-density and an inverse cdf", "n ≥ 2", "Owen (1997); Buchholz et al. (2018)", _samples(4)
    ),
    Entry(
        estimators.QuasiRandomPathwise(),
        "`rsample`, f differentiable, an inverse cdf",
        "n ≥ 2",
        "Owen (1997); Buchholz et al. (2018)",
        _samples(4),
    ),
    Entry(
        estimators.CommonRandomNumbers(),
        "an inverse cdf; an estimator that samples",
        "n",
        "Kahn & Marshall (1953); Glasserman & Yao (1992)",
    ),
    Entry(
        estimators.CommonRandomNumbersPathwise(),
        "`rsample`, f differentiable, an inverse cdf",
        "n",
        "Kahn & Marshall (1953); Glasserman & Yao (1992)",
    ),
    Entry(
        estimators.Pruned(),
        "an estimator that branches; the way below a `prev`",
        "1 of the inner n",
        "Arya et al. (2022); Pflug (1989)",
    ),
    Entry(estimators.Enumeration(), "a support within its budget", "|support|", "—", _support),
    Entry(
        estimators.TopK(), "a support within its budget, more than k values", "k + m (looks at |support|)", "Liu et al. (2019)",
        _samples(3),
    ),
    Entry(
        estimators.UnorderedSet(samples=2), "a support of at least k values", "k, 2 to 10", "Kool et al. (2020)", _samples(2)
    ),
    Entry(
        estimators.SumAndSample(samples=2), "a support of at least k values", "k ≥ 2", "Liu et al. (2019); Kool et al. (2020)",
        _samples(2),
    ),
    Entry(
        estimators.PrioritySampling(samples=2),
        "a support of more than k values",
        "k ≥ 2",
        "Duffield et al. (2007); Vieira (2017); Kool et al. (2019)",
        _samples(2),
    ),
    Entry(estimators.ARM(), "bits", "2 per pair", "Yin & Zhou (2019)", _samples(2)),
    Entry(estimators.DisARM(), "bits", "2 per pair", "Dong et al. (2020); Yin et al. (2020)", _samples(2)),
    Entry(estimators.ARMS(), "bits", "n ≥ 2", "Dimitriev & Zhou (2021)", _samples(4)),
    Entry(estimators.CategoricalDisARM(), "categories", "2 per pair", "Dong et al. (2021)", _samples(2)),
    Entry(
        estimators.ARSM(),
        "categories",
        "1 + K(K−1)/2",
        "Yin et al. (2019)",
        lambda distribution, components: 1 + math.comb(_categories(distribution), 2),
    ),
    Entry(estimators.CARMS(), "categories", "n ≥ 2", "Dimitriev & Zhou (2021)", _samples(4)),
    Entry(
        estimators.MeasureValued(),
        "a row of its table: concentrations of Gamma and Weibull fixed",
        "1 + D or 1 + 2D a parameter, 1 + 2DK for categories",
        "Pflug (1989); Mohamed et al. (2020)",
        _measures,
    ),
    Entry(
        estimators.Perturbation(),
        "a discrete distribution of its table",
        "1 + D, 1 + 2D for side='both'",
        "Gong & Ho (1987); Arya et al. (2022)",
        lambda distribution, components: 1 + components,
    ),
    Entry(estimators.MuProp(), "f defined at the mean, and smooth to gain by it", "n + 2", "Gu et al. (2016)", _samples(3)),
    Entry(estimators.DoubleControl(), "f smooth, to gain by it", "n ≥ 2", "Titsias & Shi (2022)", _samples(2)),
    Entry(
        estimators.LearnedDoubleControl(),
        "the same; learns α by `trace.variance`",
        "n ≥ 2",
        "Titsias & Shi (2022)",
        _samples(2),
    ),
    Entry(estimators.REBAR(), "f defined, and smooth, on relaxed values", "3", "Tucker et al. (2017)", _samples(3)),
    Entry(estimators.LearnedREBAR(), "the same; learns η and τ by `trace.variance`", "3", "Tucker et al. (2017)", _samples(3)),
    Entry(estimators.RELAX(SquashedSum()), "a control variate to learn by `trace.variance`", "1", "Grathwohl et al. (2018)"),
    Entry(estimators.LAX(SquashedSum()), "the same, `rsample`", "1", "Grathwohl et al. (2018)"),
    Entry(estimators.Implicit(), "a cdf that is differentiable", "n", "Figurnov et al. (2018)"),
    Entry(estimators.GeneralisedReparameterisation(), "f differentiable", "n", "Ruiz et al. (2016)"),
    Entry(estimators.RejectionReparameterisation(), "f differentiable", "n", "Naesseth et al. (2017)"),
    Entry(estimators.GumbelSoftmax(allow_bias=True), "f on relaxed values", "n", "Jang et al. (2017); Maddison et al. (2017)"),
    Entry(estimators.StraightThrough(allow_bias=True), "f with a derivative", "n", "Hinton (2012); Bengio et al. (2013)"),
    Entry(estimators.StraightThroughGumbel(allow_bias=True), "f with a derivative", "n", "Jang et al. (2017)"),
    Entry(estimators.RaoGumbel(allow_bias=True), "f with a derivative", "n", "Paulus et al. (2021)"),
    Entry(estimators.ReinMax(allow_bias=True), "f with a derivative", "n", "Liu et al. (2023)"),
    Entry(estimators.TruncatedRatio(allow_bias=True), "recorded log-probabilities", "n", "Ionides (2008)", recorded=True),
    Entry(estimators.SelfNormalised(allow_bias=True), "recorded log-probabilities, a batch", "n", "Owen (2013)", recorded=True),
    Entry(estimators.Clipped(), "a credit and recorded log-probabilities", "1", "Schulman et al. (2017)", recorded=True),
    Entry(estimators.NoGradient(), "costs reached only through `detach`", "1", "—"),
)  # fmt: skip

ENTRIES: Mapping[str, Entry] = {type(entry.estimator).__name__: entry for entry in _TABLE}


@dataclass(frozen=True)
class BoxRow:
    """One line of the second table: a deterministic node whose derivative is of another making. All are first order.

    `evaluations`: of the function, for a value and its gradient, D coordinates being differentiated."""

    node: str
    derivative: str
    error: str
    evaluations: str
    paper: str


BOXES: tuple[BoxRow, ...] = (
    BoxRow("FiniteDifference", "central or forward differences", "O(h²), O(h) forward", "1 + 2D, 1 + D forward", "—"),
    BoxRow("SPSA", "differences along random signs", "random; biased O(h²), 0 where f is quadratic", "1 + 2n", "Spall (1992)"),
    BoxRow("SuppliedJacobian", "returned by the function", "the function's own", "1 (3 the first time)", "—"),
    BoxRow("SuppliedVJP", "a function of the value's gradient", "the function's own", "1 (3 the first time)", "—"),
    BoxRow(
        "MujocoTransition", "of a MuJoCo model's steps, `mjd_transitionFD`", "O(h²)", "about 2 + 2D", "Todorov (2014); Heess et al. (2015)"
    ),
)  # fmt: skip


def catalogue() -> list[Row]:
    """The table, one row for each exported estimator."""
    return [
        Row(name, _supports(e.estimator), e.needs, _unbiased(e.estimator), _order(e.estimator), e.evaluations, e.paper)
        for name, e in ENTRIES.items()
    ]


def as_markdown() -> str:
    """The table for a README."""
    return in_markdown(catalogue())


def in_markdown(rows: Sequence[DataclassInstance]) -> str:
    """Rows of one class as a table: a column for each of its fields, the first one as code."""
    titles = [field.name for field in fields(rows[0])]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        cells = [getattr(row, title).replace("|", "\\|") for title in titles]
        lines.append("| " + " | ".join([f"`{cells[0]}`", *cells[1:]]) + " |")
    return "\n".join(lines)


def accepted(estimator: Estimator) -> tuple[str, ...]:
    """The kinds of distribution that an estimator does not refuse."""
    theta = torch.tensor([0.3, -0.4, 0.5], requires_grad=True)
    return tuple(name for name, make in KINDS.items() if estimator.refuses(make(theta)) is None)


def _supports(estimator: Estimator) -> str:
    known = accepted(estimator)
    refused = [name for name in KINDS if name not in known]
    if len(refused) <= 2:
        return "any" + (f" but {_listed(refused)}" if refused else "")
    words, left = [], set(known)
    for group, members in _GROUPS.items():
        missing = [m for m in members if m not in known]
        if len(members) - len(missing) > 2 * len(missing):
            words.append(group + (f" but {_listed(missing)}" if missing else ""))
            left -= set(members)
    return "; ".join([*words, _listed([name for name in known if name in left])]).strip("; ")


def _listed(names: list[str]) -> str:
    """Joint samples are written only where they differ from single ones."""
    shown = [n for n in names if n.removeprefix("joint ") == n or n.removeprefix("joint ") not in names]
    return ", ".join(shown)


def _unbiased(estimator: Estimator) -> str:
    if not getattr(estimator, "differentiates", True):
        return "no gradient"
    return "yes" if estimator.unbiased and not estimator.allow_bias else "no"


def _order(estimator: Estimator) -> str:
    if not getattr(estimator, "differentiates", True):
        return "—"
    theta = torch.tensor([0.3, -0.4, 0.5], requires_grad=True)
    orders = {name: estimator.order(KINDS[name](theta)) for name in accepted(estimator)}
    usual = max(set(orders.values()), key=lambda o: sum(v == o for v in orders.values()))
    others = [name for name, order in orders.items() if order != usual]
    return _number(usual) + (f" ({_number(orders[others[0]])}: {_listed(others)})" if others else "")


def _number(order: float) -> str:
    return "∞" if order == math.inf else f"{order:g}"
