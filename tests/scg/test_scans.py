"""The scans along time, against plain loops; and randomness, compilation, imports."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import scg
from scg.scan import INFINITE, affine, starts, window_product, window_sum


def loop(x, lo, hi, first, combine, neutral):
    out = torch.empty_like(x)
    for b in range(x.shape[1]):
        for t in range(x.shape[0]):
            start = max((s for s in range(t + 1) if s == 0 or first[s, b]), default=0)
            total = torch.tensor(neutral)
            for s in range(start, t - lo + 1):
                if s >= t - hi:
                    total = combine(total, x[s, b])
            out[t, b] = total
    return out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3) | st.just(INFINITE), st.booleans(), st.integers(0, 10**6))
def test_windows_equal_their_loops(steps, lo, width, episodes, seed):
    torch.manual_seed(seed)
    x = torch.randn(steps, 3, dtype=torch.float64)
    x[torch.rand(steps, 3) < 0.2] = 0.0  # products are exact at zeros
    first = torch.rand(steps, 3) < 0.3 if episodes else torch.zeros(steps, 3, dtype=torch.bool)
    start = starts(first) if episodes else None
    hi = INFINITE if width == INFINITE else lo + width
    assert torch.allclose(window_sum(x, lo, hi, start, -2), loop(x, lo, hi, first, torch.add, 0.0))
    assert torch.allclose(window_product(x, lo, hi, start, -2), loop(x, lo, hi, first, torch.mul, 1.0))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 17), st.integers(0, 10**6))
def test_the_affine_scan_equals_its_loop(steps, seed):
    torch.manual_seed(seed)
    a, b, last = torch.rand(steps, 2), torch.randn(steps, 2), torch.randn(2)
    a[torch.rand(steps, 2) < 0.3] = 0.0
    expected, y = [], last
    for t in reversed(range(steps)):
        y = b[t] + a[t] * y
        expected.insert(0, y)
    assert torch.allclose(affine(a, b, last), torch.stack(expected))


def test_products_of_a_thousand_weights_neither_overflow_nor_vanish_within_an_episode():
    """exp(±0.9) alternating: the running product stays near 1; a ratio of cumulative products would not."""
    w = torch.exp(0.9 * (-1.0) ** torch.arange(1000, dtype=torch.float32)).view(-1, 1)
    product = window_product(w, 0, INFINITE, None, -2)
    assert torch.isfinite(product).all()
    assert torch.allclose(product[1::2], torch.ones(500, 1).float(), rtol=1e-3)
    zero = w.clone()
    zero[500] = 0.0
    first = torch.zeros(1000, 1, dtype=torch.bool)
    first[600] = True
    product = window_product(zero, 0, INFINITE, starts(first), -2)
    assert (product[500:600] == 0).all()
    assert torch.allclose(product[601::2], torch.ones(200, 1).float(), rtol=1e-3)


def build():
    graph = scg.Graph()
    graph.stochastic(scg.ScoreFunction(samples=2), lambda theta: torch.distributions.Normal(theta, 1.0), name="x")
    graph.cost(lambda x: x**2, name="f")
    return graph, torch.tensor(0.3, requires_grad=True)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_stream_alone():
    graph, theta = build()
    graph.surrogate(theta=theta)
    state = torch.get_rng_state()
    first, second = (graph.surrogate(generator=torch.Generator().manual_seed(7), theta=theta) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(7)
    assert torch.equal(first, graph.surrogate(theta=theta))  # the generator's own bits


def test_a_generator_advances():
    graph, theta = build()
    generator = torch.Generator().manual_seed(7)
    assert graph.surrogate(generator=generator, theta=theta) != graph.surrogate(generator=generator, theta=theta)


def test_the_generator_survives_an_error_inside():
    graph, theta = build()
    graph.cost(lambda x: 1 / 0, name="g")
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        graph.surrogate(generator=torch.Generator().manual_seed(7), theta=theta)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("warm", [True, False], ids=["evaluated before", "never evaluated"])
def test_a_compiled_surrogate_is_the_eager_one(warm):
    """Without graph breaks, with branches, a baseline and a distribution edge: the same gradient on the same draws."""
    from torch.distributions import Bernoulli, Independent

    from scg.estimators import LeaveOneOut

    def vae():
        graph = scg.Graph()
        graph.stochastic(
            LeaveOneOut(samples=4), lambda x, w: Independent(Bernoulli(logits=x @ w), 1), name="z", baseline=lambda x: x.sum(-1)
        )
        graph.cost(lambda z, q, w: (z @ w.T).square().sum(-1) + q.log_prob(z), name="f", parents=["z", scg.dist("z"), "w"])
        return graph

    x, w = torch.randn(5, 3), torch.randn(3, 4, requires_grad=True)
    graph = vae()
    if warm:
        graph.surrogate(x=x, w=w)
    compiled = torch.compile(graph.surrogate, fullgraph=True, backend="aot_eager")
    gradients = []
    for surrogate in (compiled, vae().surrogate):
        torch.manual_seed(3)
        if surrogate is compiled:
            surrogate(x=x, w=w)
            torch.manual_seed(3)
        gradients.append(torch.autograd.grad(surrogate(x=x, w=w), w)[0])
    assert torch.allclose(gradients[0], gradients[1])


def test_generators_cannot_enter_compiled_code():
    graph, theta = build()
    generator = torch.Generator()
    with pytest.raises(Exception, match="generator= cannot enter compiled code"):
        torch.compile(lambda t: graph.surrogate(generator=generator, theta=t), backend="eager", fullgraph=True)(theta)


def test_joined_tensors_broadcast():
    a, b = torch.randn(4, 1, 3, 2), torch.randn(5, 3, 6)
    assert scg.cat([a, b]).shape == (4, 5, 3, 8)
    with pytest.raises(ValueError, match="count from the right"):
        scg.cat([a, b], dim=0)
