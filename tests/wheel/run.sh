#!/usr/bin/env bash
# The wheel, in a fresh environment and another folder, beside a distribution that installs a top-level package `agents`.
#     make wheel
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/env"
bin="$work/env/bin"
"$bin/python" -m pip install --quiet --upgrade pip
"$bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$root"
"$bin/python" -m pip install --quiet --requirement <(grep -vE '^(ruff|mypy|pytest|hypothesis)' "$root/requirements.txt")
"$bin/python" -m pip install --quiet "$(ls "$work"/torch_scg-*.whl)[agents]" openai-agents
cd "$work"
mkdir project
cd project
"$bin/python" - <<'PY'
import agents  # openai-agents
from agents import Agent

import scg
import scg.agents
from scg.estimators import LeaveOneOut

assert "scg" not in agents.__file__, agents.__file__
assert Agent(name="there").name == "there"
assert scg.agents.__file__.endswith("scg/agents/__init__.py"), scg.agents.__file__
print("both packages work:", agents.__name__, scg.agents.__name__, LeaveOneOut(samples=2))
PY
mkdir agents && touch agents/__init__.py  # a folder of the user's own
cat > graph.py <<'PY'
import scg
import torch
from scg.estimators import LeaveOneOut
from torch.distributions import Bernoulli


def graph():
    made = scg.Graph()
    made.stochastic(LeaveOneOut(samples=2), lambda theta=torch.tensor(0.3): Bernoulli(logits=theta), name="b")
    made.cost(lambda b: (b - 0.45) ** 2, name="loss")
    return made
PY
"$bin/scg" --version
"$bin/scg" draw graph.py:graph --derivation > /dev/null
"$bin/scg" train reinforce --env CartPole-v1 --steps 2000 --seed 0 --out run > /dev/null
"$bin/scg" eval run --episodes 2

# A user's repository, from another folder and by commands alone: agents, an environment, losses of which one is wrong.
mkdir mine elsewhere
cp graph.py elsewhere
cp "$root"/tests/user_project/{agents_of_mine,corridor,layers,losses_of_mine}.py mine
cd elsewhere
export PYTHONPATH="$work/project/mine"
corridor=(--env corridor:Corridor-v0 --envs 4 --evaluations 2 --eval-episodes 2 --seed 0)
"$bin/scg" train ../mine/agents_of_mine.py:simple "${corridor[@]}" --steps 256 --out run > /dev/null
"$bin/scg" train --resume run --steps 512 --trust > /dev/null
"$bin/scg" eval run --episodes 2 --trust
pictures=(--env ../mine/corridor.py:Pictured --envs 4 --evaluations 1 --eval-episodes 4 --seed 0)  # by its file
"$bin/scg" train ../mine/agents_of_mine.py:sees "${pictures[@]}" --steps 512 --out sees > /dev/null
"$bin/scg" train --resume sees --steps 1024 --trust > /dev/null
"$bin/scg" eval sees --episodes 4 --trust
"$bin/scg" train ../mine/agents_of_mine.py:sees "${pictures[@]}" --steps 256 --start sees --out again > /dev/null
"$bin/scg" train ../mine/agents_of_mine.py:remembers --env RepeatPrevious-v0 --steps 1152 --envs 8 --evaluations 1 \
  --eval-episodes 4 --out remembers > /dev/null
"$bin/scg" eval remembers --episodes 4 --trust
if found=$("$bin/scg" export sees --out policy.onnx --trust 2>&1); then
  echo "exported without the extra" && exit 1
fi
grep -q "torch-scg\[export\]" <<< "$found"
"$bin/scg" check ../mine/losses_of_mine.py:loss
if found=$("$bin/scg" check ../mine/losses_of_mine.py:halved); then
  echo "a wrong loss passed" && exit 1
fi
grep -q "a wrong mean over an axis" <<< "$found"
"$bin/scg" compare graph.py:graph --estimators "ScoreFunction,LeaveOneOut(samples=2),../mine/losses_of_mine.py:Mine" --draws 200 \
  > compared
grep -q Mine compared
"$bin/scg" check ../mine/losses_of_mine.py:Mine > /dev/null
"$bin/python" - <<'PY'
import corridor, gymnasium, scg

policy = scg.load("run", trust=True)
env = gymnasium.make("Corridor-v0")
obs, _ = env.reset(seed=0)
assert env.action_space.contains(policy(obs)), policy(obs)
PY
echo "the wheel works"
