"""A transformer of GPT-2's shape over tokens, which a graph's node reads a prefix with.

    x = E[token] + P[position];   each layer   x += attention(norm(x)),   x += mlp(norm(x));   logits = norm(x) Eᵀ

Attention is causal: position i reads positions 0 … i. `forward` maps all positions in one pass, `extend` the new ones alone,
from the keys and values that it keeps. No dropout: a node's function draws nothing.

Vaswani et al. (2017); Radford et al. (2019).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional

State = list[tuple[Tensor, Tensor]]  # keys and values of each layer, [batch, heads, length, width of a head]


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.keyed, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`x [batch, new positions, width]`, after the keys and values of the positions before."""
        batch, new, width = x.shape
        query, key, value = self.keyed(self.norm_attention(x)).view(batch, new, 3 * self.heads, -1).transpose(1, 2).chunk(3, 1)
        if before is not None:
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        length = key.shape[2]
        if before is None or new == 1:  # one new position may see all
            read = functional.scaled_dot_product_attention(query, key, value, is_causal=new > 1)
        else:
            seen = torch.ones(new, length, dtype=torch.bool, device=x.device).tril(length - new)
            read = functional.scaled_dot_product_attention(query, key, value, seen)
        x = x + self.mixed(read.transpose(1, 2).reshape(batch, new, width))
        return x + self.down(functional.gelu(self.up(self.norm_mlp(x)))), (key, value)


class Transformer(nn.Module):
    """`model(tokens [*batch, length]) → logits [*batch, length, vocabulary]`, row i of which is for the token after position i."""

    def __init__(
        self,
        vocabulary: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        context: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.context = vocabulary, context
        self.embedding, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:  # GPT-2's: what is added to the stream shrinks with its number of summands
                scale = 0.02 / math.sqrt(2 * layers) if "mixed" in name or "down" in name else 0.02
                nn.init.normal_(parameter, std=scale, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)  # torch's own would be drawn from the global stream

    def forward(self, tokens: Tensor) -> Tensor:
        return self.extend(None, tokens)[0]

    def extend(self, state: State | None, tokens: Tensor) -> tuple[Tensor, State]:
        """The logits at new positions, and the keys and values of all."""
        *lead, new = tokens.shape
        begin = 0 if state is None else state[0][0].shape[2]
        if begin + new > self.context:
            raise ValueError(f"{begin + new} positions, and the transformer has context={self.context}")
        x = self.embedding(tokens.reshape(-1, new)) + self.position.weight[begin : begin + new]
        kept = []
        for i, layer in enumerate(self.layers):
            x, own = layer(x, None if state is None else state[i])
            kept.append(own)
        logits = functional.linear(self.norm(x), self.embedding.weight)
        return logits.reshape(*lead, new, self.vocabulary), kept


def ended(tokens: Tensor, opening: int, end: int, before: Tensor | None = None) -> Tensor:
    """`[*batch, length]`, whether the answer is over after each position.

    opening   so many first positions are a prompt, in which nothing ends
    before    `[*batch, 1]`, whether it was over before these positions
    """
    here = (tokens == end) & (torch.arange(tokens.shape[-1], device=tokens.device) >= opening)
    over = here.long().cumsum(-1) > 0
    return over if before is None else over | before


def padded(logits: Tensor, over: Tensor, pad: int) -> Tensor:
    """Logits `[*batch, length, vocabulary]`, where the answer is over those of `pad` alone: probability 1, and no gradient."""
    certain = torch.full((logits.shape[-1],), -torch.inf, dtype=logits.dtype, device=logits.device)
    certain[pad] = 0.0
    return torch.where(over.unsqueeze(-1), certain, logits)


class TokenPolicy(nn.Module):
    """A transformer as a policy of observations `[*batch, context]`: tokens so far, then padding."""

    def __init__(self, model: Transformer, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    def forward(self, obs: Tensor) -> Categorical:
        tokens = obs.long()
        last = (tokens != self.pad).sum(-1, keepdim=True).sub(1).clamp_min(0)
        logits = self.model(tokens)
        chosen = logits.gather(-2, last.unsqueeze(-1).expand(*last.shape, logits.shape[-1])).squeeze(-2)
        return Categorical(logits=chosen)
