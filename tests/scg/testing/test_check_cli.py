"""`scg check`: the table, the node to blame, and exit codes that a script can rely on."""

import pytest

from scg.commands.check import check

MODEL = '''
import torch, scg
from torch import nn
from torch.distributions import Bernoulli, Normal
from scg import Branches, Estimator, Pathwise, ScoreFunction, prev

torch.set_default_dtype(torch.float64)


class Doubled(Estimator):
    """A score that counts twice."""

    def branch(self, distribution):
        value = distribution.sample()
        log_prob = distribution.log_prob(value)
        return Branches(value, score=2 * (log_prob - log_prob.detach()))


def make(estimator=None):
    graph = scg.Graph()
    graph.stochastic(Pathwise(), lambda mu: Normal(mu, 1.0), name="x")
    graph.stochastic(estimator or ScoreFunction(), lambda x, phi: Bernoulli(logits=x + phi), name="b")
    graph.cost(lambda x, b: (x - 1) ** 2 * b, name="loss")
    return graph


graph, wrong = make(), make(Doubled())
inputs = {"mu": torch.tensor(0.3, requires_grad=True), "phi": torch.tensor(0.1), "unused": torch.tensor(1.0)}

broken = scg.Graph()
broken.stochastic(Pathwise(), lambda mu: Bernoulli(logits=mu), name="b")
broken.cost(lambda b: b, name="loss")

walk = scg.Graph()
with walk.sequence():
    walk.stochastic(ScoreFunction(), lambda mu, b: Bernoulli(logits=mu + b), name="b", parents=["mu", prev("b", init="phi")])
    walk.cost(lambda b: b, name="loss")

layer = nn.Linear(1, 1)
network = scg.Graph()
network.stochastic(ScoreFunction(), lambda: Bernoulli(logits=layer(torch.ones(1)).squeeze(-1)), name="b")
network.cost(lambda b: b, name="loss")

number = 3
'''


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


def test_a_right_graph_passes_with_a_table(model, capsys):
    assert check([f"{model}:graph", "--detectable", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "gradient: unbiased" in out
    titles = next(line for line in out.splitlines() if line.startswith("parameter"))
    assert all(word in titles for word in ("node", "estimator", "oracle", "exact", "mean", "s.e.", "verdict"))
    assert "mu" in out
    assert "phi" not in out  # only mu requires a gradient


def test_a_biased_graph_fails_and_its_node_is_named(model, capsys):
    assert check([f"{model}:wrong"]) == 1
    assert "the bias comes from node 'b': its estimator, Doubled" in capsys.readouterr().out


def test_undecided_fails(model, capsys):
    assert check([f"{model}:graph", "--detectable", "0.001", "--max-draws", "1000"]) == 1
    assert "undecided" in capsys.readouterr().out


def test_findings_come_first_and_fail(model, capsys):
    assert check([f"{model}:broken"]) == 1
    assert "error: node 'b': Pathwise needs a reparameterised distribution" in capsys.readouterr().out


def test_a_function_hessians_steps_and_values_on_the_command_line(model, capsys):
    assert check([f"{model}:make", "--set", "mu=0.5", "--set", "phi=[0.1, 0.2]", "--wrt", "phi", "--detectable", "0.3"]) == 0
    assert "phi[" in capsys.readouterr().out
    assert check([f"{model}:graph", "--order", "2", "--detectable", "0.3"]) == 0
    assert "mu · mu" in capsys.readouterr().out
    assert check([f"{model}:walk", "--steps", "3", "--detectable", "0.1"]) == 0
    assert check([f"{model}:graph", "--oracle", "finite_difference", "--detectable", "0.2"]) == 0
    assert "finite difference" in capsys.readouterr().out


def test_without_inputs_the_networks_parameters_are_checked(model, capsys):
    assert check([f"{model}:network", "--detectable", "0.2"]) == 0
    assert "linear.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}"], "names no graph: say path/to/model.py:graph"),
        (["{}:grap"], "has no 'grap'. Did you mean 'graph'?"),
        (["{}:number"], "not a Graph nor a function that returns one"),
        (["nowhere.py:graph"], "there is no file nowhere.py"),
        (["{}:graph", "--set", "mue=1"], "the graph has no input 'mue'. Did you mean 'mu'?"),
        (["{}:graph", "--set", "mu"], "say --set name=value"),
        (["{}:graph", "--set", "mu=high"], "'high' is no number nor a nested list of numbers"),
        (["{}:graph", "--wrt", "phy"], "'phy' is no input. Did you mean 'phi'?"),
        (["{}:graph", "--false-alarm", "2"], "false_alarm=2.0: a probability"),
        (["{}:graph", "--order", "3"], "invalid choice '3'"),
        (["{}:graph", "--oracle", "enumeration"], "cost 'loss' has ancestors with real values"),
    ],
)
def test_what_makes_no_sense_is_said_and_exits_with_2(model, capsys, arguments, message):
    assert check([a.format(model) for a in arguments]) == 2
    assert message in capsys.readouterr().err


def test_missing_inputs_are_named(tmp_path, capsys):
    path = tmp_path / "bare.py"
    path.write_text(MODEL.replace("inputs = ", "others = "))
    assert check([f"{path}:graph"]) == 2
    assert "no value for 'mu', 'phi': put it into a dict called `inputs`" in capsys.readouterr().err
    path.write_text(MODEL.replace("inputs = {", "inputs = lambda: {"))
    assert check([f"{path}:graph", "--detectable", "0.2"]) == 0
    path.write_text(MODEL + "\ninputs = 3\n")
    assert check([f"{path}:graph"]) == 2
    assert "it must be a dict of tensors, by input name" in capsys.readouterr().err


def test_help_is_no_error(capsys):
    assert check(["--help"]) == 0
    assert "scg check" in capsys.readouterr().out


# -- several targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_several_targets_are_reported_in_their_order(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ["docs/examples/biased.py:graph", "docs/examples/mixed.py:graph"]
    alone = []
    for target in targets:
        code = check([target])
        alone.append((code, capsys.readouterr().out))
    assert [code for code, _ in alone] == [1, 0]
    assert check([*targets, "--workers", workers]) == 1
    said = capsys.readouterr().out
    assert said == "".join(f"── {target}\n{out}" for target, (_, out) in zip(targets, alone, strict=True))


def test_a_target_that_is_not_there_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(["docs/examples/none.py:graph", "docs/examples/mixed.py:graph"]) == 2
    said = capsys.readouterr()
    assert "docs/examples/none.py" in said.err and "unbiased" in said.out


def test_workers_for_one_target_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(["docs/examples/mixed.py:graph", "--workers", "2"]) == 2
    assert "are for several targets" in capsys.readouterr().err
    assert check(["a.py:b", "c.py:d", "--executor", "rey"]) == 2
    assert "executor 'rey' is unknown" in capsys.readouterr().err


def test_a_transformer_against_the_sum_over_its_625_answers(capsys):
    """Twins that are caught: `tests/scg/test_prefix.py`."""
    assert check(["docs/examples/answers.py:graph", "--steps", "4", "--detectable", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "gradient: unbiased" in said and "transformer.layers.1.keyed.weight" in said and "enumeration" in said
