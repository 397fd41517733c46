"""`scg check` takes losses and estimators of one's own, with the exit codes that it has for graphs."""

from functools import partial

import pytest

from scg.commands import check_loss
from scg.commands.check import check
from scg.testing import check_estimator

MODEL = """
import torch, scg
from torch.distributions import Bernoulli
from scg import Branches, Estimator, ScoreFunction

theta = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
inputs = {"theta": theta}
graph = scg.Graph()
graph.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
graph.cost(lambda b: (b - 0.3) ** 2, name="loss")

def value():
    p = theta.sigmoid()
    return (p * 0.49 + (1 - p) * 0.09).mean()

def right():
    dist = Bernoulli(logits=theta.expand(256, 2))
    b = dist.sample()
    return (dist.log_prob(b) * (b - 0.3) ** 2).mean()

def summed():
    dist = Bernoulli(logits=theta.expand(256, 2))
    b = dist.sample()
    return (dist.log_prob(b) * (b - 0.3) ** 2).sum(-1).mean()

right.objective = value
summed.objective = graph, inputs

def vector():
    return theta * 2

class Doubled(Estimator):
    def branch(self, distribution):
        value = distribution.sample()
        log_prob = distribution.log_prob(value)
        return Branches(value, score=2 * (log_prob - log_prob.detach()))

class Needy(Doubled):
    def __init__(self, n):
        self.n = n
"""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "my_loss.py"
    path.write_text(MODEL)
    return str(path)


def test_a_right_loss_passes(model, capsys):
    assert check([f"{model}:right", "--detectable", "0.2"]) == 0
    assert "gradient of right: unbiased" in capsys.readouterr().out
    assert check([f"{model}:right", "--objective", f"{model}:graph", "--detectable", "0.2"]) == 0


def test_a_wrong_loss_fails_with_its_cause(model, capsys):
    assert check([f"{model}:summed", "--detectable", "0.2"]) == 1
    out = capsys.readouterr().out
    assert "cause      a wrong mean over an axis" in out
    assert "my_loss.py:" in out


def test_an_estimator_is_tried_on_every_law(model, capsys, monkeypatch):
    monkeypatch.setattr(
        check_loss, "check_estimator", partial(check_estimator, distributions=["Bernoulli"], laws=["first order"])
    )
    assert check([f"{model}:Doubled"]) == 1
    assert "first order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}:vector", "--objective", "{}:value"], "vector returned a tensor of shape (2,)"),
        (["{}:right", "--objective", "{}:valeu"], "has no 'valeu'. Did you mean 'value'?"),
        (["{}:Needy"], "Needy cannot be made without arguments"),
    ],
)
def test_what_makes_no_sense_exits_with_2(model, capsys, arguments, message):
    assert check([a.format(model) for a in arguments]) == 2
    assert message in capsys.readouterr().err
