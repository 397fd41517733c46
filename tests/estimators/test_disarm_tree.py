"""DisARM on a tree of bits: proved over the pieces of every node's uniform noise."""

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, OneHotCategorical

from scg.estimators import CategoricalDisARM, LeaveOneOut, disarm_tree
from scg.estimators.disarm_tree import tree
from tests.estimators.integral import composition, far, grid, mean
from tests.estimators.test_disarm import pieces


def recited(monkeypatch, logits):
    """Noise of all nodes of all components' trees along the batch, level by level; its probabilities.

    γ depends on the bits alone, so one point a piece is enough.
    """
    flat = logits.detach().reshape(-1, logits.shape[-1])
    levels = tree(flat)
    nodes = [phi for level in levels for phi in level.flatten()]
    axes, probability = grid(*[pieces(phi, order=1) for phi in nodes])
    noise, at = [], 0
    for level in levels:
        noise.append(torch.stack(axes[at : at + level.numel()], -1).view(-1, *logits.shape[:-1], level.shape[-1]).unsqueeze(0))
        at += level.numel()
    queue = list(noise)
    monkeypatch.setattr(disarm_tree, "open_uniform", lambda shape, like: queue.pop(0))
    return probability


class SharedNodesOnly(CategoricalDisARM):
    """What happens below the fork is forgotten."""

    def walk(self, levels, logits):
        i, j, _ = state = super().walk(levels, logits)
        z = torch.zeros_like(state[2])
        for depth, phi in enumerate(levels):
            up = len(levels) - depth
            a, b = i >> up, j >> up
            left_a, left_b = (i >> (up - 1)) & 1, (j >> (up - 1)) & 1
            here = phi.expand(*a.shape, -1).gather(-1, a.unsqueeze(-1)).squeeze(-1)
            gamma = (left_a - left_b) * torch.sigmoid(here.detach().abs()) / 2
            z = z + torch.where(a == b, gamma * (here - here.detach()), torch.zeros_like(here))
        return i, j, z


LOGITS = {2: [0.4, -0.8], 3: [0.4, -0.8, 1.1], 4: [0.4, -0.8, 1.1, 2.0], 5: [0.4, -0.8, 1.1, 2.0, -0.1]}


@pytest.mark.parametrize("k", LOGITS)
def test_the_mean_over_the_noise_is_exact(monkeypatch, k):
    theta = torch.tensor(LOGITS[k], requires_grad=True)
    probability = recited(monkeypatch, theta)
    f = torch.cos(3 * torch.arange(5.0)) + torch.arange(5.0)
    branches = CategoricalDisARM().branch(Categorical(logits=theta.expand(len(probability), k)))
    truth = (torch.softmax(theta, 0) * f[:k]).sum()
    assert far(mean(branches, lambda x: f[x], probability), truth, [theta]) < 1e-12


@pytest.mark.parametrize(
    ("estimator", "right"), [(CategoricalDisARM(), True), (SharedNodesOnly(), False)], ids=["ours", "biased twin"]
)
def test_joint_categories_share_one_pair(monkeypatch, estimator, right):
    theta = torch.tensor([[0.4, -0.8, 1.1], [0.1, 0.9, -1.5]], requires_grad=True)
    probability = recited(monkeypatch, theta)
    table = torch.randn(3, 3)
    branches = estimator.branch(Independent(Categorical(logits=theta.expand(len(probability), 2, 3)), 1))
    p = torch.softmax(theta, -1)
    ours = mean(branches, lambda x: table[x[..., 0], x[..., 1]], probability)
    assert (far(ours, (p[0, :, None] * p[1] * table).sum(), [theta]) < 1e-12) == right


def test_one_hot_samples_have_the_same_weights():
    theta = torch.randn(6, 5, requires_grad=True)
    found = []
    for distribution in (Categorical(logits=theta), OneHotCategorical(logits=theta)):
        torch.manual_seed(3)
        found.append(CategoricalDisARM(2).branch(distribution))
    assert torch.equal(found[1].values.argmax(-1), found[0].values) and found[1].values.shape == (4, 6, 5)
    assert torch.equal(*[b.weights for b in found])


def test_the_tree_gives_each_leaf_its_probability():
    theta = torch.randn(7)
    levels = tree(theta)
    for leaf in range(7):
        log_p, node = torch.zeros(()), 0
        for depth, phi in enumerate(levels):
            bit = (leaf >> (len(levels) - 1 - depth)) & 1
            log_p = log_p + torch.nn.functional.logsigmoid(phi[node] if bit else -phi[node])
            node = 2 * node + bit
        assert torch.allclose(log_p.exp(), torch.softmax(theta, 0)[leaf])


def test_categories_that_are_excluded_are_never_drawn_and_leave_no_nan():
    theta = torch.tensor([0.3, -torch.inf, 1.0, -torch.inf, 0.2], dtype=torch.float32).requires_grad_()
    branches = CategoricalDisARM(50).branch(Categorical(logits=theta))
    (gradient,) = torch.autograd.grad((branches.weights * branches.values).sum(), theta)
    assert set(branches.values.tolist()) <= {0, 2, 4}
    assert torch.isfinite(gradient).all() and gradient[1] == gradient[3] == 0


def categories(x, theta):
    return Categorical(logits=torch.stack([x * theta[0], theta[1] + 0 * x, theta[2] - x, 0.5 * x, theta[0] - 1 + 0 * x], -1))


@pytest.mark.parametrize(
    ("estimator", "right"), [(CategoricalDisARM(), True), (CategoricalDisARM(2), True), (SharedNodesOnly(), False)], ids=str
)
def test_inside_a_graph(estimator, right):
    report = composition(estimator, categories)
    assert report.verdict == ("unbiased" if right else "biased"), report


def test_less_variance_than_two_plain_samples():
    """16 categories, a rough cost: the sum of variances over 20,000 draws, ours below leave-one-out's by more than 10 %."""
    f, theta = torch.randn(16), torch.randn(16)
    variances = []
    for estimator in (CategoricalDisARM(), LeaveOneOut(2)):
        logits = theta.repeat(20_000, 1).requires_grad_()
        branches = estimator.branch(Categorical(logits=logits))
        (gradient,) = torch.autograd.grad((branches.weights * f[branches.values]).sum(), logits)
        variances.append(float(gradient.var(0).sum()))
    assert variances[0] < 0.9 * variances[1]


def test_what_has_no_categories_is_refused():
    assert CategoricalDisARM().refuses(Independent(OneHotCategorical(torch.ones(2, 3)), 1)) is None
    assert CategoricalDisARM().refuses(Bernoulli(0.3)) == (
        "CategoricalDisARM is for Categorical, OneHotCategorical (also inside Independent), and this is Bernoulli.\n"
        "Use DisARM() for bits, LeaveOneOut(samples=2) for the rest."
    )
    with pytest.raises(ValueError, match="pairs is an integer, at least 1"):
        CategoricalDisARM(0)
