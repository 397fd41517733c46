"""Networks beside the user's agents, which they import."""

import torch
from torch import nn

HIDDEN = (8,)


class Pictures(nn.Module):
    """Bytes [batch…, 12, 12, 1] to features: two convolutions."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 4, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.Flatten())
        self.last = nn.Linear(8 * 2 * 2, features)

    def forward(self, obs):
        batch = obs.shape[:-3]
        x = obs.reshape(-1, *obs.shape[-3:]).movedim(-1, 1).to(self.last.weight.dtype) / 255
        return self.last(self.layers(x)).relu().reshape(*batch, -1)


class Remembered(nn.Module):
    """A GRU cell of one's own: `forward` is one step, `along_time` a sequence."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.cell, self.size, self.features = nn.GRUCell(inputs, features), features, features

    def forward(self, obs, before, first):
        kept = before * (~first.bool()).to(before.dtype).unsqueeze(-1)
        x = torch.nn.functional.one_hot(obs.long(), self.cell.input_size).to(before.dtype)
        batch = before.shape[:-1]
        return self.cell(x.reshape(-1, x.shape[-1]), kept.reshape(-1, self.size)).reshape(*batch, self.size)

    def along_time(self, obs, before, first):
        states = []
        for t in range(len(obs)):
            before = self(obs[t], before, first[t])
            states.append(before)
        return torch.stack(states)


def pictures(obs_space, features):
    return Pictures(features)


def remembered(obs_space, features):
    return Remembered(int(obs_space.n), features)
