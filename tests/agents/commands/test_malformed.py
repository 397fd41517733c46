"""Command lines that make no sense: each leaves with 1 or 2 and one message that names what was wrong."""

from __future__ import annotations

import shlex
from pathlib import Path

import gymnasium as gym
import pytest

from scg.commands.cli import main

GRAPHS = """
import scg, torch
from scg import ScoreFunction
from torch.distributions import Bernoulli, Normal

graph = scg.Graph()

@graph.stochastic(ScoreFunction())
def b(theta):
    return Bernoulli(logits=theta)

@graph.cost
def loss(b):
    return (b - 0.499) ** 2

inputs = {"theta": torch.tensor(0.3, requires_grad=True)}
number = 3

def needs(x):
    return graph

def wrong():
    return 3

def raising():
    raise RuntimeError("no way")

two = scg.Graph()
for name in ("a", "b"):
    two.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name=name)
two.cost(lambda a, b: a * b, name="c")

costless = scg.Graph()
costless.stochastic(ScoreFunction(), lambda theta: Normal(theta, 1.0), name="x")

failing = scg.Graph()
failing.stochastic(ScoreFunction(), lambda theta: Bernoulli(logits=theta), name="b")
failing.cost(lambda b: b @ b, name="c")

silent = scg.Graph()
silent.cost(lambda theta: None, name="c")

cyclic = scg.Graph()
cyclic.cost(lambda c: c, name="c")

timed = scg.Graph()
with timed.sequence():
    timed.stochastic(ScoreFunction(), lambda theta, p=scg.prev("s", init="theta"): Normal(theta + p, 1.0), name="s")
    timed.cost(lambda s: s**2, name="c")
"""

FILES = {
    "good.py": GRAPHS,
    "syntax.py": "graph = (\n",
    "exits.py": "raise SystemExit(3)\n",
    "imports.py": "import no_such_module_at_all\n",
    "inputs_number.py": "import scg\ngraph = scg.Graph()\ninputs = 3\n",
    "inputs_raise.py": "import scg\ngraph = scg.Graph()\ndef inputs():\n    raise RuntimeError('no data')\n",
    "text.txt": "graph = 3\n",
    "file": "",
    "damaged/config.json": "{",
    "bytes/config.json": b"\xff\xfe\x00",
    "list/config.json": "[]",
    "empty/config.json": "{}",
    "types/config.json": '{"agent": "reinforce", "run": {"steps": "ten"}, "config": {}, "execution": {}}',
    "agent/config.json": '{"agent": "zz", "run": {}, "config": {}, "execution": {}}',
    "folder/nothing": "",
}


class Words(gym.Env):
    """Observations that no agent reads."""

    observation_space, action_space = gym.spaces.MultiDiscrete([3, 2]), gym.spaces.Discrete(2)


class Text(Words):
    observation_space = gym.spaces.Text(5)  # type: ignore[assignment]


class Unlicensed(gym.Env):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


for made in (Words, Text, Unlicensed):
    gym.register(f"{made.__name__}-v0", entry_point=made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files above, and `run`, which was trained."""
    path = tmp_path_factory.mktemp("malformed")
    for name, content in FILES.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    words = (
        "train reinforce --steps 64 --envs 2 --horizon 16 --hidden 4 --eval-episodes 1 --evaluations 1 --checkpoints 1 --out"
    )
    assert main([*words.split(), str(path / "run")]) == 0
    return path


def missing(option: str) -> str:
    return f"Missing value for argument '{option}'"


LINES = {
    # -- the command itself
    "nosuch": "no command 'nosuch'",
    "chek good.py:graph": "Did you mean 'check'?",
    "--nosuch": "no command '--nosuch'",
    # -- check
    "check": "no target given: say path/to/model.py:graph",
    "check good.py:graph --nosuch": "Unrecognized options: --nosuch",
    "check good.py:graph extra": "'extra' names no graph: say path/to/model.py:graph",
    "check good.py": "'good.py' names no graph: say path/to/model.py:graph",
    "check :graph": "':graph' names no graph",
    "check nofile.py:graph": "there is no file nofile.py",
    "check folder:graph": "folder is a folder, not a Python file",
    "check text.txt:graph": "text.txt is no Python file",
    "check syntax.py:graph": "syntax.py failed when it was imported: SyntaxError",
    "check exits.py:graph": "exits.py failed when it was imported: SystemExit: 3",
    "check imports.py:graph": "No module named 'no_such_module_at_all'",
    "check inputs_number.py:graph": "inputs in inputs_number.py is of type int; it must be a dict",
    "check inputs_raise.py:graph": "inputs_raise.py:inputs() failed: RuntimeError: no data",
    "check no.such.module:graph": "'no.such.module' is neither a file nor a module",
    "check ..up:graph": "'..up' is neither a file nor a module",
    "check good.py:grph": "good.py has no 'grph'. Did you mean 'graph'?",
    "check good.py:number": "good.py:number is of type int, not a Graph",
    "check good.py:needs": "good.py:needs cannot be called without arguments",
    "check good.py:wrong": "good.py:wrong() returned int, not a Graph",
    "check good.py:raising": "good.py:raising() failed: RuntimeError: no way",
    "check good.py:costless": "this graph has no cost",
    "check good.py:failing": "node 'c': its function failed: RuntimeError",
    "check good.py:silent": "node 'c': its function returned None",
    "check good.py:cyclic": "node 'c': cycle c → c",
    "check good.py:timed": "this graph has a sequence: say how many steps",
    "check good.py:timed --steps -1": "steps=-1: say how many steps",
    "check good.py:timed --steps two": "Error parsing --steps",
    "check good.py:graph --steps 3": "steps=3: this graph has no sequence",
    "check good.py:graph --order 3": "invalid choice '3' for argument '--order'",
    "check good.py:graph --set": missing("--set"),
    "check good.py:graph --set theta": "--set 'theta': say --set name=value",
    "check good.py:graph --set theta=abc": "'abc' is no number nor a nested list of numbers",
    "check good.py:graph --set theta=None": "'None' is no number nor a nested list of numbers",
    "check good.py:graph --set theta=3": "node 'b': no sample could be drawn from its Bernoulli (parameters: () torch.int64",
    "check good.py:graph --set q=1": "--set q=…: the graph has no input 'q'",
    "check good.py:graph --wrt q": "wrt='q': 'q' is no input",
    "check good.py:graph --false-alarm 2": "false_alarm=2.0: a probability",
    "check good.py:graph --detectable -1": "detectable=-1.0: a positive bias",
    "check good.py:graph --max-draws 0": "max_draws=0: at least 32",
    "check good.py:graph --seed x": "Error parsing --seed",
    # -- draw
    "draw": "or an agent's name (required)",
    "draw nosuchagent": "'nosuchagent' names no graph",
    "draw good.py:graph --out": missing("--out"),
    "draw good.py:graph --out x.bmp": "the suffix '.bmp' is no format to draw in",
    "draw good.py:graph --out no/such/x.png": "No such file or directory: 'no/such/x.png'",
    "draw good.py:graph --out folder": "render('folder')",
    "draw good.py:graph --derivation --wrt q": "'q' is no input of the graph",
    "draw good.py:costless --derivation": "this graph has no cost",
    "draw good.py:raising --out c.dot": "good.py:raising() failed",
    # -- compare and estimators
    "compare": "or a function that returns one (required)",
    "compare good.py:two": "say which node: --node a or --node b",
    "compare good.py:graph --node zz": "--node zz: no stochastic node of this graph. It has b",
    "compare good.py:graph --draws 0": "draws=0: at least 16",
    "compare good.py:graph --budget -1": "budget=-1.0: seconds, more than 0",
    "compare good.py:graph --learn -1": "learn=-1: a number of steps",
    "compare good.py:graph --seed -1": "seed=-1: an integer, 0 or more",
    "compare good.py:graph --steps 2": "steps=2: this graph has no sequence",
    "compare good.py:graph --estimators Nope": "no estimator 'Nope' in the catalogue",
    "compare good.py:graph --estimators '('": "--estimators '(': names by commas",
    "compare good.py:graph --estimators 'ScoreFunction(samples=0)'": "samples is an integer, at least 1",
    "compare good.py:graph --estimators 'ScoreFunction(samples=x)'": "ScoreFunction(samples=x): its settings are numbers and words",
    "compare good.py:graph --plot x.bmp": "--plot x.bmp: a figure's name ends in",
    "compare good.py:graph --csv no/such/x.csv": "--csv no/such/x.csv: it lies in no/such, which is no folder",
    "compare good.py:graph --horizon 1,x": "--horizon 1,x: whole numbers, by commas",
    "compare good.py:graph --csv folder": "--csv folder: it is a folder",
    "compare good.py:failing": "node 'c': its function failed: RuntimeError",
    "compare good.py:costless": "this graph has no cost",
    "estimators Gauss": "no distribution 'Gauss' in the catalogue",
    "estimators --nosuch": "Unrecognized options: --nosuch",
    # -- plot, eval and video
    "plot": "no runs given",
    "plot nodir": "run nodir: no such directory",
    "plot folder": "run folder: no config.json there or below",
    "plot file": "run file: no such directory",
    "plot damaged": "run damaged: config.json is damaged",
    "plot run --out": "Missing value for argument '--out'",
    "plot run --out x.bmp": "--out x.bmp: a figure is a file whose name ends in .png, .pdf, .svg",
    "plot run --out folder": "--out folder: a figure is a file",
    "plot run --out file/x.png": "error: file: File exists",
    "plot run --statistic median": "invalid choice 'median'",
    "plot run --nosuch": "Unrecognized options: --nosuch",
    "eval": "run directory (required)",
    "eval nodir": "run nodir: no config.json there",
    "eval file": "run file: no config.json there",
    "eval bytes": "run bytes: config.json is damaged",
    "eval list": "run list: config.json: found [], expected an object",
    "eval empty": "run empty: config.json: agent is missing",
    "eval types": 'run types: config.json: run.steps is "ten", expected an integer',
    "eval agent": 'agent is "zz", which is no agent of this scg',
    "eval run --episodes 0": "option episodes is 0. Give a number at least 1",
    "eval run --episodes x": "Error parsing --episodes",
    "eval run --seed -1": "option seed is -1. Give a number at least 0",
    "eval run --actions best": "invalid choice 'best'",
    "video nodir": "run nodir: no config.json there",
    "video run --out x.bmp": "x.bmp: a film is a .gif or an .mp4 file",
    "video run --episodes 0": "option episodes is 0",
    "video run --fps 0": "0 frames a second",
    # -- train
    "train": "usage: scg train AGENT [options]",
    "train reinfroce": "agent 'reinfroce' is unknown. Did you mean 'reinforce'?",
    "train --env CartPole-v1": "agent '--env' is unknown",
    "train --resume": "Missing value for argument '--resume'",
    "train --resume nodir": "run nodir: no such directory",
    "train --resume bytes": "run bytes: config.json is damaged",
    "train --resume run --steps 0": "option steps is 0. Give at least 1",
    "train --resume run --steps 10": "option steps is 10, but run run has done 64",
    "train --steps 10 --resume run": "option steps is 10, but run run has done 64",
    "train --steps x --resume run": "--steps",
    "train --steps --resume run": "Missing value for argument '--steps'",
    "train --resume run --lr 0.1": "Unrecognized options: --lr, 0.1",
    "train reinforce --resume run": "Unrecognized options: --resume, run",
    "train reinforce --env": "Missing value for argument '--env'",
    "train reinforce --env Nope-v0": "environment 'Nope-v0' is not registered with gymnasium",
    "train reinforce --env nomodule:X-v0": "module 'nomodule' cannot be imported",
    "train reinforce --env ''": "environment '' is not registered",
    "train reinforce --env Text-v0": "is not one array",
    "train reinforce --env Unlicensed-v0": "environment 'Unlicensed-v0' cannot start: RuntimeError: no licence",
    "train sac --env CartPole-v1": "action space Discrete(2): this agent needs continuous actions",
    "train dqn --env Pendulum-v1": "this agent needs discrete actions",
    "train reinforce --steps 0": "option steps is 0",
    "train reinforce --steps ten": "--steps",
    "train reinforce --seed -1": "option seed is -1",
    "train reinforce --seeds 0": "option seeds is 0",
    "train reinforce --lr -1": "option lr is -1.0",
    "train reinforce --lr nan": "option lr is nan",
    "train reinforce --gamma 2": "option gamma is 2.0",
    "train reinforce --hidden -3": "option hidden is -3. Give widths of at least 1",
    "train reinforce --nosuch 3": "Unrecognized options: --nosuch, 3",
    "train reinforce stray": "Unrecognized options: stray",
    "train reinforce --out file": "run file: this is a file, and a run is a folder",
    "train reinforce --out file/run": "error: run file/run: cannot be written: file/run: Not a directory",
    "train reinforce --out folder": "run folder: exists already",
    "train reinforce --action-bins 3": "3 bins for action space Discrete(2)",
    "train ppo --clip -1": "option clip is -1.0",
    "train ppo --device nosuch": "option device is 'nosuch'",
    # -- the rest
    "paper nosuch": "there is no paper 'nosuch'",
    "paper schulman2015_scg --draws x": "Error parsing --draws",
    "paper schulman2015_scg --draws -1": "--draws -1: a standard error needs at least 100 draws",
    "paper schulman2015_scg --nosuch": "Unrecognized options: --nosuch",
    "paper schulman2015_scg --out file": "--out file: File exists",
    "overestimation": "no run to measure",
    "overestimation run --out x": "--out x: a figure is a file",
    "multigoal run": "The picture is of an agent with critics",
    "multigoal run --episodes 0": "option episodes is 0",
}


@pytest.mark.parametrize("line", LINES)
def test_a_malformed_line_is_one_message(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    assert main(shlex.split(line)) in (1, 2)
    shown = "".join(capsys.readouterr())
    flat = " ".join(word for word in shown.split() if word.strip("│╭╰─╮╯"))  # as the parser's boxes break it
    assert LINES[line] in flat
    assert "Traceback" not in shown
    assert set(folder.iterdir()) - before <= {folder / "__pycache__"}
