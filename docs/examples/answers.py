"""A transformer's policy gradient against the sum over all its answers: scg check docs/examples/answers.py:graph --steps 4

GPT-2's shape with 2 layers, a vocabulary of 5 and answers of 4 tokens, so that the true gradient is a sum over 5⁴ = 625 answers:
of a score of the whole answer, and of the entropy at each step.
"""

import torch
from torch.distributions import Categorical

import scg
from scg import ScoreFunction, dist, prefix
from scg.agents.networks.transformer import Transformer

VOCABULARY, STEPS = 5, 4

model = Transformer(VOCABULARY, width=4, layers=2, heads=2, context=8, generator=torch.Generator().manual_seed(0)).double()
noise = torch.Generator().manual_seed(1)
with torch.no_grad():  # away from its beginning, where all answers are nearly equally probable
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=noise, dtype=parameter.dtype)

worth = torch.randn(STEPS, VOCABULARY, generator=noise, dtype=torch.float64)
graph = scg.Graph()

with graph.sequence():
    graph.deterministic(model, name="logits", parents=[prefix("token", init="prompt")])

    @graph.stochastic(ScoreFunction())
    def token(logits):
        return Categorical(logits=logits)

    @graph.cost
    def sameness(pi=dist("token")):
        return -0.3 * pi.entropy()


@graph.reward
def score(answer=prefix("token")):
    return worth[torch.arange(STEPS), answer].sum(-1).sin()


inputs = {"prompt": torch.tensor([1, 0])}
