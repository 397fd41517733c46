"""Estimators of the whole catalogue at the nodes of random graphs: each mean against finite differences of the objective.

The differences are of the objective's value, so neither autograd nor another estimator is asked.
"""

import math

from hypothesis import event, given, reject, settings
from hypothesis import strategies as st

from scg import GraphError
from scg.estimators.catalogue import ENTRIES
from scg.randomness import randomness
from scg.testing import check_unbiased
from scg.testing.localise import drawn
from scg.testing.parameters import Parameters
from scg.testing.strategies import graphs

UNBIASED = {
    name: entry.estimator
    for name, entry in ENTRIES.items()
    if entry.estimator.unbiased and not entry.estimator.allow_bias and getattr(entry.estimator, "differentiates", True)
    and "recorded" not in entry.needs
}  # fmt: skip


@settings(max_examples=max(4, settings.default.max_examples // 4))
@given(graphs(max_nodes=3, sequences=False, detached=False, batched=False), st.data())
def test_every_mean_is_the_finite_difference(case, data):
    distributions = drawn(case.graph, Parameters(case.inputs), None)
    chosen = {}
    for name in case.graph.structure.stochastic:
        fitting = [n for n, e in UNBIASED.items() if e.refuses(distributions[name]) is None]
        chosen[name] = data.draw(st.sampled_from(fitting), label=name)
    try:
        graph = case.graph.with_estimators(**{n: UNBIASED[e] for n, e in chosen.items()})
        with randomness(None):
            graph.surrogate(**case.inputs)
    except GraphError:  # not every estimator may stand below or above every other one
        reject()
    report = check_unbiased(
        graph,
        case.inputs,
        oracle="finite_difference",
        detectable=0.2,
        floor=0.5,
        false_alarm=1e-5,
        max_draws=2**17,
        localise=False,
    )
    for estimator in chosen.values():
        event(estimator)
    assert report.verdict != "biased", f"{chosen}\n{case!r}\n{report}"
    assert all(math.isfinite(r.mean) for r in report.rows)
    event(report.verdict)
