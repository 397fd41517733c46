"""Descent: a surrogate's gradient, its clipping and the optimiser as one function, run eagerly or compiled in one piece.

    g = ∇ surrogate(minibatch)        g ← g · min(1, max_norm / ‖g‖)        θ ← θ − rate · Adam(g)

A minibatch is 64 rows of tiny networks, so what costs is the number of kernels, not the arithmetic. Compiled, all of it
is one call on preallocated tensors; eagerly, the optimiser works on lists of tensors. The formulas are the same, the
order of rounding is not: "same seed, same bits" holds for either, not between them. Compiling takes about 13 seconds the
first time on a machine and 3 after that.

Kingma & Ba (2015); ε = 1e-5 as in Huang et al. (2022), "The 37 implementation details of PPO".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Generator, Tensor

import scg
from scg.agents.agent import NotFinite

Tensors = tuple[Tensor, ...]
Rows = dict[str, Tensor]  # a recording whose every (time, batch) pair is a row: [1, rows, …]


PARTS = 4
MEMORY = 0.9  # of the running mean of gradients: Adam's first moment, and what the signal-to-noise ratio looks at


class Optimiser:
    """Gradient clipping, running moments and a rule, over lists of tensors, so that a compiler can take both with the gradient."""

    def __init__(self, parameters: Iterable[Tensor], max_norm: float = float("inf"), eps: float = 1e-5) -> None:
        self.parameters, self.max_norm, self.eps = list(parameters), max_norm, eps
        self.means = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.squares = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        device = self.parameters[0].device
        self.count, self.rate, self.power = (torch.zeros((), device=device) for _ in range(3))  # tensors: see compile

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> Tensor:
        """One step; the gradient's norm before clipping. A gradient that is not finite makes every parameter so."""
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        self.count.add_(1.0)
        shortened, length = tuple(gradients), norm
        if self.max_norm < float("inf"):
            # min(1, max_norm / norm), by a function that compilers compute once, as they would not a division: they would
            # divide again for every few elements of the parameters. NaN stays NaN.
            factor = (math.log(max(self.max_norm, 1e-30)) - norm.log()).clamp(max=0.0).exp()
            shortened, length = torch._foreach_mul(list(gradients), factor), norm * factor
        torch._foreach_mul_(self.means, MEMORY)
        torch._foreach_add_(self.means, shortened, alpha=1 - MEMORY)
        self.power.mul_(MEMORY).add_(length.square(), alpha=1 - MEMORY)
        torch._foreach_sub_(self.parameters, self.change(shortened))
        return norm

    @property
    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        return [*self.parameters, *self.means, *self.squares, self.count, self.power]

    def signal_to_noise(self) -> float:
        """`|E g|² / tr Var g` of the last ten steps' gradients, each as it was applied; 0 before the second step."""
        t = float(self.count)
        if t < 2:
            return 0.0
        known = 1 - MEMORY**t
        mean = float(torch.stack(torch._foreach_norm(self.means)).square().sum()) / known**2
        squares = (1 - MEMORY) * (1 - MEMORY ** (2 * t)) / ((1 + MEMORY) * known**2)
        return signal_to_noise(mean, float(self.power) / known, squares)

    def change(self, gradients: Tensors) -> Tensors:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "squares": self.squares, "count": self.count, "power": self.power}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for ours, saved in zip([*self.means, *self.squares], [*state["means"], *state["squares"]], strict=True):
            ours.copy_(saved)
        self.count.copy_(state["count"]), self.power.copy_(state["power"])


def signal_to_noise(mean: float, power: float, squares: float) -> float:
    """`|E g|² / tr Var g` from weighted gradients, the weights w_i summing to one: A = |Σ w_i g_i|², B = Σ w_i |g_i|², c = Σ w_i².

    E A = |E g|² + c tr Var g and E B = |E g|² + tr Var g. Solved for the two, each estimate is unbiased; their ratio is not.
    """
    return max(mean - squares * power, 0.0) / (power - mean) if power > mean else 0.0


def parts_signal_to_noise(graph: scg.Graph, given: Rows, parameters: Sequence[Tensor], cost: str) -> float:
    """`|E g|² / tr Var g` of one objective's gradient on a quarter of the batch, from the four of them; 0 with fewer elements."""
    indices = torch.arange(next(iter(given.values())).shape[1]).chunk(PARTS)
    if len(indices) < PARTS:
        return 0.0
    gradients = []
    for index in indices:
        part = {name: value[:, index.to(value.device)] for name, value in given.items()}
        loss = graph.replay(part).surrogate(cost, reduce="mean")
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    g = torch.stack(gradients)
    return signal_to_noise(float(g.mean(0).square().sum()), float(g.square().sum(-1).mean()), 1 / PARTS)


class Adam(Optimiser):
    """`rate · m̂ / (√v̂ + ε)`, where m̂ = m / (1 − 0.9^t) and v̂ = v / (1 − 0.999^t).

    The two denominators are looked up: a compiler would take powers that it finds inside again for every few elements of
    the parameters, which was two thirds of what this function took there.
    """

    def __init__(self, parameters: Iterable[Tensor], max_norm: float = float("inf"), eps: float = 1e-5) -> None:
        super().__init__(parameters, max_norm, eps)
        self._corrections = corrections().to(self.rate)

    def change(self, gradients: Tensors) -> Tensors:
        t = self.count.long().clamp(max=len(self._corrections) - 1)
        mean, root = self._corrections.index_select(0, t.view(1)).view(2).unbind()
        torch._foreach_mul_(self.squares, 0.999)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 0.001)
        scale = torch._foreach_sqrt(self.squares)
        torch._foreach_mul_(scale, root)
        torch._foreach_add_(scale, self.eps)
        change = torch._foreach_div(self.means, scale)
        torch._foreach_mul_(change, self.rate * mean)
        return change


@cache
def corrections() -> Tensor:
    """`[t, 2]`: 1 / (1 − 0.9^t) and 1 / √(1 − 0.999^t), until both are 1 in single precision."""
    t = torch.arange(18_000, dtype=torch.float64)
    return torch.stack([1 / (1 - MEMORY**t), (1 - 0.999**t).rsqrt()], -1)


class RMSprop(Optimiser):
    """`rate · g / (√v + ε)`, v the running mean square over about a hundred steps."""

    def change(self, gradients: Tensors) -> Tensors:
        torch._foreach_mul_(self.squares, 0.99)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 0.01)
        scale = torch._foreach_sqrt(self.squares)
        torch._foreach_add_(scale, self.eps)
        change = torch._foreach_div(gradients, scale)
        torch._foreach_mul_(change, self.rate)
        return change


class Shuffle:
    """The generator of minibatch orders, as a part of a checkpoint."""

    def __init__(self, generator: Generator) -> None:
        self.generator = Generator().manual_seed(int(torch.randint(2**31 - 1, (), generator=generator)))

    def __call__(self, rows: int, size: int) -> Sequence[Tensor]:
        """All of `rows` in shuffled minibatches of `size`; the last one may be smaller."""
        return torch.randperm(rows, generator=self.generator).split(size)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class Descent:
    """Steps of `optimiser` on the surrogate of `costs`, at chosen rows of a recording."""

    def __init__(self, graph: scg.Graph, costs: Sequence[str], optimiser: Optimiser, compiled: bool = False) -> None:
        self.optimiser = optimiser
        parameters = optimiser.parameters

        def loss(rows: Rows, index: Tensor) -> Tensor:
            chosen = {name: value[:, index] for name, value in rows.items()}
            return graph.replay(chosen).surrogate(*costs, reduce="mean")

        def step(rows: Rows, index: Tensor) -> Tensor:
            return optimiser.step(torch.autograd.grad(loss(rows, index), parameters))

        self._loss = loss
        self._eager: Callable[[Rows, Tensor], Tensor] = step
        self._compiled = compile_whole(step) if compiled else None
        self._checked = False

    def epoch(self, rows: Rows, order: Sequence[Tensor], whole: bool = True) -> float:
        """One pass; the mean gradient norm. NotFinite if a gradient was not: the parameters are then lost.

        Only minibatches of the usual size from a `whole` block run compiled: a last, shorter one is not worth another
        compilation. Which ones do depends on nothing but the run's position, or resuming would change bits.
        """
        device = self.optimiser.rate.device
        order, total = [index.to(device) for index in order], torch.zeros((), device=device)
        if self._compiled is not None and not self._checked:
            self._loss(rows, order[0])  # the graph's checks run at its first, eager evaluation
            self._checked = True
        for index in order:
            compiled = self._compiled if whole and len(index) == len(order[0]) else None
            total = total + (compiled or self._eager)(rows, index)
        norm = float(total) / len(order)
        if not norm < float("inf"):
            raise NotFinite(f"gradient norm {norm} in a minibatch. Lower the learning rate, or look at the rewards.")
        return norm


class Whole:
    """A whole update as one function of a recording, metrics returned as one tensor; run eagerly or compiled.

    It changes parameters and statistics in place. `check` evaluates the same graph and changes nothing: before the first
    compiled call it lets the graph examine itself, which compiled code cannot.
    """

    def __init__(self, update: Callable[[Rows], Tensor], check: Callable[[Rows], Any], compiled: bool = False) -> None:
        self._eager, self._check = update, check
        self._compiled = compile_whole(update) if compiled else None
        self._checked = False

    def __call__(self, rows: Rows, usual: bool = True) -> Tensor:
        """The metrics. NotFinite if one of them is not: the parameters are then lost. Only calls of the `usual` shapes run compiled."""
        if self._compiled is None or not usual:
            metrics = self._eager(rows)
        else:
            if not self._checked:
                self._check(rows)
                self._checked = True
            metrics = self._compiled(rows)
        if not torch.isfinite(metrics).all():
            raise NotFinite(f"an update's metrics are {metrics.tolist()}. Lower the learning rate, or look at the rewards.")
        return metrics


def compile_whole(step: Callable[..., Any], kept: Sequence[Tensor] | None = None) -> Callable[..., Any]:
    """`step`, gradient and in-place updates included, as one compiled function of its tensors' shapes.

    On a GPU, `kept` asks for CUDA graphs: all that it writes and does not return, wherever it lies, lies there for good.
    What such a call returns is overwritten by the next one.

    Nothing that it was compiled for changes afterwards but the values of tensors and the shapes of its arguments; to look at
    some hundred other objects again at every call would take a fifth of a small update's time.
    """
    torch._dynamo.config.trace_autograd_ops = True
    # A code object of its own: the compiler's cache belongs to it, and so does the limit on how much is in there.
    step = FunctionType(step.__code__.replace(), step.__globals__, step.__name__, step.__defaults__, step.__closure__)
    arguments = step.__code__.co_varnames[: step.__code__.co_argcount]

    def worth_a_look(guards: Sequence[Any]) -> list[bool]:
        return [g.guard_type in ("TENSOR_MATCH", "DICT_KEYS_MATCH") and g.name.split("[")[0] in arguments for g in guards]

    options: dict[str, Any] = {
        "cpp_wrapper": not torch.cuda.is_available(),
        "guard_filter_fn": worth_a_look,
        "fallback_random": True,
    }
    if kept is not None:
        options["triton.cudagraphs"] = True
        for tensor in kept:
            torch._dynamo.mark_static_address(tensor)
    return torch.compile(step, fullgraph=True, dynamic=False, options=options)
