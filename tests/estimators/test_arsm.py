"""ARSM: proved over the polygons of the simplex within which no swap changes its category."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical

from scg.estimators import ARM, ARSM, LeaveOneOut, ScoreFunction, arsm, disarm
from tests.estimators import recited, sequences
from tests.estimators.integral import composition, far, grid, mean


def cut(polygon, normal):
    """The parts of a convex polygon `[vertices, 3]` on either side of the plane through 0."""
    side = polygon @ normal
    parts = []
    for sign in (1, -1):
        kept = []
        for (p, a), (q, b) in itertools.pairwise([*zip(polygon, sign * side, strict=True), (polygon[0], sign * side[0])]):
            if a >= 0:
                kept.append(p)
            if a * b < 0:
                kept.append(p + a / (a - b) * (q - p))
        if len(kept) > 2:
            parts.append(torch.stack(kept))
    return parts


def triangles(phi):
    """The simplex of three entries, cut wherever π_a e^{−φ_i} = π_b e^{−φ_k}: corners `[T, 3, 3]`, probabilities `[T]`."""
    pieces = [torch.eye(3)]
    for a, b in itertools.combinations(range(3), 2):
        for i, k in itertools.permutations(range(3), 2):
            normal = torch.zeros(3)
            normal[a], normal[b] = 1.0, -torch.exp(phi[i] - phi[k])
            pieces = [part for piece in pieces for part in cut(piece, normal)]
    fans = torch.stack([torch.stack([p[0], p[i], p[i + 1]]) for p in pieces for i in range(1, len(p) - 1)])
    area = torch.linalg.cross(fans[:, 1] - fans[:, 0], fans[:, 2] - fans[:, 0]).norm(dim=-1)
    return fans[area > 1e-14], area[area > 1e-14] / area.sum()


def centres(phi):
    """One point a triangle: exact for what is linear in π."""
    corners, probability = triangles(phi)
    return corners.mean(1), probability


def edges(phi):
    """Three points a triangle, inside it: exact for what is quadratic in π."""
    corners, probability = triangles(phi)
    barycentric = torch.full((3, 3), 1 / 6) + torch.eye(3) / 2
    return (barycentric @ corners).flatten(0, 1), (probability / 3).repeat_interleave(3)


def recite(monkeypatch, pi):
    """`[Q, (D,) K]` as the noise of one draw."""
    monkeypatch.setattr(arsm, "simplex", lambda shape, like: pi.unsqueeze(0))


class OwnNoise(ARSM):
    """Each entry meets its own noise, as though nothing had been swapped."""

    def both(self, coefficient, centred, first, second):
        return coefficient[..., first] * centred[..., first] + coefficient[..., second] * centred[..., second]


ESTIMATORS = [pytest.param(ARSM(), True, id="ours"), pytest.param(OwnNoise(), False, id="biased twin")]


@pytest.mark.parametrize(("estimator", "right"), ESTIMATORS)
@pytest.mark.parametrize("logits", [[0.4, -0.8, 1.1], [0.0, 0.0, 2.5], [-1.3, 0.2, 0.1]], ids=str)
def test_the_mean_over_the_noise_is_exact(monkeypatch, estimator, right, logits):
    theta = torch.tensor(logits, requires_grad=True)
    pi, probability = centres(torch.log_softmax(theta.detach(), 0))
    recite(monkeypatch, pi)
    f = torch.tensor([0.3, -1.2, 2.0])
    branches = estimator.branch(Categorical(logits=theta.expand(len(pi), 3)))
    assert branches.n == 4
    assert (far(mean(branches, lambda x: f[x], probability), theta.softmax(0) @ f, [theta]) < 1e-12) == right


@pytest.mark.parametrize(("estimator", "right"), ESTIMATORS)
@pytest.mark.parametrize("kind", [Categorical, OneHotCategorical])
def test_joint_categories_share_their_swaps(monkeypatch, estimator, right, kind):
    theta = torch.tensor([[0.4, -0.8, 1.1], [0.1, 0.9, -1.5]], requires_grad=True)
    points = [centres(torch.log_softmax(t, 0)) for t in theta.detach()]
    (i, j), probability = grid(*[(torch.arange(float(len(p))), w) for p, w in points])
    recite(monkeypatch, torch.stack([points[0][0][i.long()], points[1][0][j.long()]], -2))
    branches = estimator.branch(Independent(kind(logits=theta.expand(len(probability), 2, 3)), 1))
    table = torch.randn(3, 3)

    def f(x):
        x = x if kind is Categorical else x.argmax(-1)
        return table[x[..., 0], x[..., 1]]

    p = torch.softmax(theta, -1)
    assert (far(mean(branches, f, probability), p[0] @ table @ p[1], [theta]) < 1e-12) == right


def test_a_constant_cost_has_no_gradient_in_any_draw():
    rows = torch.randn(50, 2, 5, requires_grad=True)
    branches = ARSM(3).branch(Independent(Categorical(logits=rows), 1))
    assert torch.autograd.grad(branches.weights.sum(), rows)[0].abs().max() < 1e-14
    assert torch.allclose(branches.weights.sum(0), torch.ones(50))


def test_two_categories_are_arm(monkeypatch):
    theta = torch.randn(500)
    u = torch.rand(500)
    # The bit is 1 where u₁ e^{−θ} < 1 − u₁; ARM's u counts the other way, and its pair has the other order.
    monkeypatch.setattr(arsm, "simplex", lambda shape, like: torch.stack([u, 1 - u], -1).unsqueeze(0))
    monkeypatch.setattr(disarm, "open_uniform", lambda shape, like: u.unsqueeze(0))
    found = []
    for rows, distribution, estimator in (
        (a := theta.clone().requires_grad_(), Categorical(logits=torch.stack([0 * a, a], -1)), ARSM()),
        (a := theta.clone().requires_grad_(), Bernoulli(logits=a), ARM()),
    ):
        branches = estimator.branch(distribution)
        assert branches.n == 2
        found.append(recited.gradients(branches, lambda x: torch.cos(2.0 * x) + x, rows))
    assert torch.allclose(*found)


def test_every_swap_has_the_law_of_the_sample():
    """Counts of 200,000 draws of four categories: each within 5 standard errors, false alarm below 2e-5 over all."""
    theta = torch.tensor([0.4, -0.8, 1.1, 0.0])
    values = ARSM().branch(Categorical(logits=theta.expand(200_000, 4))).values
    p = theta.softmax(0)
    seen = torch.stack([(values == k).double().mean(1) for k in range(4)], -1)
    assert seen.shape == (7, 4)
    assert ((seen - p).abs() < 5 * (p * (1 - p) / 200_000).sqrt()).all()


def test_less_variance_than_the_score_function_and_by_integration(monkeypatch):
    """Exactly, for three categories: below one plain sample's, the more the further f is from zero; above that of as many
    samples with leave-one-out."""
    theta, f = torch.tensor([0.4, -0.8, 1.1]), torch.tensor([0.3, -1.2, 2.0])
    pi, probability = edges(torch.log_softmax(theta, 0))
    recite(monkeypatch, pi)
    rows = theta.repeat(len(pi), 1).requires_grad_()
    ours = recited.variance(recited.gradients(ARSM().branch(Categorical(logits=rows)), lambda x: f[x], rows), probability)
    monkeypatch.undo()

    def independent(estimator, n, shift):
        rows = theta.repeat(3**n, 1).requires_grad_()
        probability = recited.samples(monkeypatch, Categorical(logits=theta), torch.arange(3), n)
        found = recited.gradients(estimator.branch(Categorical(logits=rows)), lambda x: f[x] + shift, rows)
        monkeypatch.undo()
        return recited.variance(found, probability)

    assert independent(LeaveOneOut(4), 4, 0.0) < ours < independent(ScoreFunction(), 1, 0.0)
    assert ours < 0.01 * independent(ScoreFunction(), 1, 10.0)


def test_categories_that_are_excluded_are_never_drawn_and_leave_no_nan():
    theta = torch.tensor([0.3, -torch.inf, 1.0, -torch.inf, 0.2], dtype=torch.float32).requires_grad_()
    branches = ARSM(50).branch(Categorical(logits=theta))
    (gradient,) = torch.autograd.grad((branches.weights * branches.values).sum(), theta)
    assert set(branches.values.tolist()) <= {0, 2, 4}
    assert torch.isfinite(gradient).all() and gradient[1] == gradient[3] == 0


def test_a_single_category_has_no_gradient():
    theta = torch.zeros(4, 1, requires_grad=True)
    branches = ARSM().branch(Categorical(logits=theta))
    assert branches.n == 1 and torch.equal(branches.values, torch.zeros(1, 4, dtype=torch.long))
    assert torch.autograd.grad(branches.weights.sum(), theta)[0].abs().max() == 0


def categories(x, theta):
    return Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x, 0.5 * x], -1))


@pytest.mark.parametrize(
    ("estimator", "right"), [(ARSM(), True), (ARSM(draws=2), True), (OwnNoise(), False)], ids=["one", "two", "biased twin"]
)
def test_inside_a_graph(estimator, right):
    report = composition(estimator, categories)
    assert report.verdict == ("unbiased" if right else "biased"), report


def test_what_has_no_categories_is_refused():
    assert ARSM().refuses(Independent(OneHotCategorical(torch.ones(2, 3)), 1)) is None
    assert ARSM().refuses(Bernoulli(0.3)) == (
        "ARSM is for Categorical, OneHotCategorical (also inside Independent), and this is Bernoulli.\n"
        "Use ARM() for bits, LeaveOneOut(samples=2) for the rest."
    )
    for draws in (0, 1.5):
        with pytest.raises(ValueError, match=rf"ARSM\(draws={draws}\): draws is an integer, at least 1"):
            ARSM(draws)


@pytest.mark.parametrize(("estimator", "right"), [(ARSM(), True), (OwnNoise(), False)], ids=["ours", "biased twin"])
def test_at_every_step_of_a_sequence(estimator, right):
    report = sequences.check(estimator, lambda logit: Categorical(logits=torch.stack([logit, -logit, 0 * logit], -1)))
    assert report.verdict == ("unbiased" if right else "biased"), report
