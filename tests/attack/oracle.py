"""The oracle: a program unrolled over its steps, evaluated in plain tensors. Nothing of `scg` is used.

Every value is `[slot…, plate, batch, event…]` with all axes there, of size 1 where a value does not have them. A slot is
an axis for the branches of one node; enumeration has one slot, for all outcomes. Nothing is inferred from ranks.

    paths(program)        for each step of each node, the stochastic steps that reach it, and those that do so with a gradient
    Unrolled              one evaluation: values, weights, and the surrogate that the contract defines, term by term
    enumerated(program)   the objective, and the surrogate's expectation, summed over all outcomes
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.attack.program import Node, Program

F64 = torch.float64
Site = tuple[str, int]
OUTCOME = "outcome"  # the one slot of an enumeration


# -- distributions ---------------------------------------------------------------------------------------------


class Bernoulli:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.mean = self.probs = torch.sigmoid(logits)

    def log_prob(self, x: Tensor) -> Tensor:
        return x * torch.nn.functional.logsigmoid(self.logits) + (1 - x) * torch.nn.functional.logsigmoid(-self.logits)

    def entropy(self) -> Tensor:
        return -(
            self.probs * self.log_prob(torch.ones((), dtype=F64)) + (1 - self.probs) * self.log_prob(torch.zeros((), dtype=F64))
        )

    def detached(self) -> Bernoulli:
        return Bernoulli(self.logits.detach())


class Categorical:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits - torch.logsumexp(logits, -1, keepdim=True)
        self.probs = self.logits.exp()

    def log_prob(self, x: Tensor) -> Tensor:
        k = torch.arange(self.logits.shape[-1], dtype=F64)
        return torch.where(x[..., None] == k, self.logits, 0.0).sum(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits).sum(-1)

    def detached(self) -> Categorical:
        return Categorical(self.logits.detach())


class Normal:
    def __init__(self, loc: Tensor, scale: Any) -> None:
        self.loc = self.mean = loc
        self.scale = torch.as_tensor(scale, dtype=F64)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * ((x - self.loc) / self.scale) ** 2 - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log() + 0 * self.loc

    def detached(self) -> Normal:
        return Normal(self.loc.detach(), self.scale.detach())


class Independent:
    def __init__(self, base: Any, count: int) -> None:
        self.base = base
        self.mean, self.probs = base.mean, base.probs

    def log_prob(self, x: Tensor) -> Tensor:
        return self.base.log_prob(x).sum(-1)

    def entropy(self) -> Tensor:
        return self.base.entropy().sum(-1)

    def detached(self) -> Independent:
        return Independent(self.base.detached(), 1)


class Distributions:
    Bernoulli, Categorical, Normal, Independent = Bernoulli, Categorical, Normal, Independent


def change(x: Any, f: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(x, tuple):
        return tuple(change(y, f) for y in x)
    if isinstance(x, dict):
        return {k: change(y, f) for k, y in x.items()}
    return f(x) if isinstance(x, Tensor) else x.detached()


def choose(mask: Tensor, yes: Any, no: Any, rank: int) -> Any:
    if isinstance(no, tuple):
        return tuple(choose(mask, a, b, rank) for a, b in zip(yes, no, strict=True))
    if isinstance(no, dict):
        return {k: choose(mask, yes[k], no[k], rank) for k in no}
    event = max(0, no.ndim - rank)
    return torch.where(mask.reshape(*mask.shape, *[1] * event), yes, no)


# -- paths -----------------------------------------------------------------------------------------------------


Sites = dict[Site, frozenset[Site]]


@dataclass
class Paths:
    """For each site, the stochastic sites above it: over all paths, and over those without a detached edge."""

    full: Sites
    live: Sites


def paths(program: Program, steps: int, opens: Callable[[int], bool]) -> Paths:
    """`opens(t)`: whether step t starts an episode. An edge from the step before is there where it does not."""
    nodes = {n.name: n for n in program.nodes}
    steps = max(steps, 1)

    def at(source: str, node: Node, t: int) -> Site:
        if nodes[source].place != "inside":
            return source, 0
        return source, t if node.place == "inside" else steps - 1

    def arrows(node: Node, t: int) -> list[tuple[Site, bool]]:
        found: list[tuple[Site, bool]] = []
        for e in node.edges:
            if e.lag and (t == 0 or opens(t)):
                if e.init in nodes:
                    found.append(((e.init, 0), not e.detached))
            elif e.lag:
                found.append(((e.source, t - 1), not e.detached))
            elif e.source not in nodes:
                continue
            elif e.dist:
                name, when = at(e.source, node, t)
                found += [(site, live and not e.detached) for site, live in arrows(nodes[name], when)]
            else:
                found.append((at(e.source, node, t), not e.detached))
        return found

    result = Paths({}, {})

    def visit(node: Node, t: int) -> None:
        full: set[Site] = set()
        live: set[Site] = set()
        for site, alive in arrows(node, t):
            if site not in result.full:
                visit(nodes[site[0]], site[1])
            own = {site} if nodes[site[0]].kind == "stochastic" else set()
            full |= own | result.full[site]
            if alive:
                live |= own | result.live[site]
        result.full[node.name, t], result.live[node.name, t] = frozenset(full), frozenset(live)

    for node in program.nodes:
        for t in range(steps if node.place == "inside" else 1):
            if (node.name, t) not in result.full:
                visit(node, t)
    return result


def with_gradient(program: Program, detached: bool = False) -> dict[str, set[str]]:
    """For each node the names that reach it with a gradient (or at all) at some step of some run, however long."""
    nodes = {n.name: n for n in program.nodes}

    def sources(node: Node) -> set[str]:
        found: set[str] = set()
        for e in node.edges:
            if e.detached and not detached:
                continue
            found |= sources(nodes[e.source]) if e.dist else {e.source}
            found |= {e.init} if e.init else set()
        return found & set(nodes)

    above = {name: sources(node) for name, node in nodes.items()}
    for _ in nodes:
        above = {name: found.union(*[above[s] for s in found]) for name, found in above.items()}
    return above


def paths_by_element(program: Program) -> list[Paths]:
    """One for each batch element, whose episodes start at steps of their own."""
    first = program.first
    elements = range(max(program.batch, 1))
    if first is None:
        return [paths(program, program.steps, lambda t: False)] * len(elements)
    if not isinstance(first[0], list):
        return [paths(program, program.steps, lambda t: first[t])] * len(elements)
    return [paths(program, program.steps, lambda t, b=b: first[t][b]) for b in elements]


def widened(program: Program, exact: list[Paths]) -> list[Paths]:
    """Also right: weights of what lies between the least and the greatest lag at which one node reaches another.

    Such a weight has mean one given all that is before it, and the target does not depend on its node, so it changes a
    surrogate's value and never its mean. A node outside weighs its targets at all steps, if at any.
    """
    horizon = max(4, program.steps + 2)
    homogeneous = paths(program, horizon, lambda t: False)
    nodes = {n.name: n for n in program.nodes}
    inside = {n.name for n in program.nodes if n.place == "inside"}
    result = []
    for b, p in enumerate(exact):
        full, live = dict(p.full), dict(p.live)
        for (target, t), _ in p.full.items():
            extra_full, extra_live = set(p.full[target, t]), set(p.live[target, t])
            last = t if target in inside else program.steps - 1
            for name in (n for n in nodes if nodes[n].kind == "stochastic"):
                if name in inside:
                    kinds = lag_kinds(homogeneous, name, target, target in inside, horizon)
                    extra = {(name, last - g): kinds[g] for g in range(last + 1) if same_episode(program, last - g, last, b)}
                elif target in inside:
                    ever = [
                        (name, 0) in q.live[target, s]
                        for q in (homogeneous, *exact)
                        for s in range(horizon)
                        if (target, s) in q.full
                    ]
                    extra = {(name, 0): True if any(ever) else None}
                else:
                    extra = {}
                for site, alive in extra.items():
                    if alive is not None and site not in p.full[target, t]:
                        extra_full.add(site)
                        if alive:
                            extra_live.add(site)
            full[target, t], live[target, t] = frozenset(extra_full), frozenset(extra_live)
        result.append(Paths(full, live))
    return result


def conventions(program: Program, exact: list[Paths], wide: list[Paths]) -> list[list[Paths]]:
    """All right: `exact`, `wide`, and what `wide` adds of sources outside or inside the sequence, for costs or other targets alone."""
    inside = {n.name for n in program.nodes if n.place == "inside"}
    costs = {n.name for n in program.nodes if n.kind == "cost"}

    def some(own: Sites, more: Sites, added: tuple[tuple[bool, bool], ...]) -> Sites:
        return {
            key: own[key] | {site for site in more[key] - own[key] if (site[0] in inside, key[0] in costs) in added}
            for key in own
        }

    found = [exact, wide]
    kinds = list(itertools.product((False, True), repeat=2))
    for added in (subset for size in range(1, len(kinds)) for subset in itertools.combinations(kinds, size)):
        pairs = zip(exact, wide, strict=True)
        mixed = [Paths(some(e.full, w.full, added), some(e.live, w.live, added)) for e, w in pairs]
        if mixed not in found:
            found.append(mixed)
    return found


def lag_kinds(p: Paths, source: str, target: str, inside: bool, horizon: int) -> list[bool | None]:
    end = horizon - 1
    key = (target, end) if inside else (target, 0)
    kinds: list[bool | None] = []
    for lag in range(horizon):
        site = (source, end - lag)
        kinds.append(True if site in p.live[key] else False if site in p.full[key] else None)
    known = [i for i, k in enumerate(kinds) if k is not None]
    for i, j in itertools.pairwise(known):
        if kinds[i] == kinds[j]:
            for lag in range(i + 1, j):
                kinds[lag] = kinds[i]
    return kinds


def same_episode(program: Program, s: int, t: int, b: int) -> bool:
    first = program.first
    if first is None:
        return True
    return not any(first[r][b] if isinstance(first[r], list) else first[r] for r in range(s + 1, t + 1))


# -- one evaluation --------------------------------------------------------------------------------------------


@dataclass
class Weight:
    """exp(z), or a factor that sums to one over its slot; `joint` where a plate's samples count together below it."""

    z: Tensor | None = None
    factor: Tensor | None = None


Draw = Callable[["Unrolled", Node, int, Any], tuple[Tensor, Weight]]


class Unrolled:
    """One evaluation of a program, each stochastic step drawn by `draw`."""

    def __init__(self, program: Program, inputs: dict[str, Any], slots: list[str], summed: set[str], draw: Draw) -> None:
        self.program, self.inputs, self.slots, self.summed = program, inputs, slots, summed
        self.nodes = {n.name: n for n in program.nodes}
        self.rank = len(slots) + 2
        self.values: dict[Site, Any] = {}
        self.dists: dict[Site, Any] = {}
        self.weights: dict[Site, Weight] = {}
        self.plated: set[str] = set()
        for n in program.nodes:
            if n.plate or (n.kind != "cost" and any(e.source in self.plated for e in n.edges)):
                self.plated.add(n.name)
        names = {"torch": torch, "D": Distributions, "PLATE": -2}
        self.functions = {n.name: eval(f"lambda {n.params()}: {n.text}", names) for n in program.nodes if n.kind != "observed"}
        for place in ("before", "inside", "after"):
            for t in range(program.steps if place == "inside" else 1):
                for node in program.nodes:
                    if node.place == place:
                        self.evaluate(node, t, draw)

    def full_rank(self, x: Tensor) -> Tensor:
        return x.reshape((*[1] * (self.rank - x.ndim), *x.shape))

    def evaluate(self, node: Node, t: int, draw: Draw) -> None:
        if node.kind == "observed":
            self.values[node.name, t] = torch.tensor(self.program.observed[node.name], dtype=F64)[t]
            return
        result = self.functions[node.name](*[self.argument(e, node, t) for e in node.edges])
        if node.kind == "stochastic":
            self.dists[node.name, t] = result
            self.values[node.name, t], self.weights[node.name, t] = draw(self, node, t, result)
        elif node.kind == "cost":
            result = torch.as_tensor(result, dtype=F64)
            if any(e.source in self.plated for e in node.edges):
                result = result.unsqueeze(-2)
            self.values[node.name, t] = self.full_rank(result)
        else:
            self.values[node.name, t] = result

    def argument(self, edge: Any, node: Node, t: int) -> Any:
        source = edge.source
        if edge.lag:
            value = self.before(edge, t)
        elif source in self.nodes:
            when = 0 if self.nodes[source].place != "inside" else t if node.place == "inside" else self.program.steps - 1
            value = (self.dists if edge.dist else self.values)[source, when]
        else:
            value = self.inputs[source]
        return change(value, Tensor.detach) if edge.detached else value

    def before(self, edge: Any, t: int) -> Any:
        initial = self.values[edge.init, 0] if edge.init in self.nodes else self.inputs[edge.init]
        if t == 0:
            return initial
        value, first = self.values[edge.source, t - 1], self.program.first
        if first is None:
            return value
        mask = torch.tensor(first[t])
        if not mask.ndim:
            return initial if bool(mask) else value
        return choose(mask, initial, value, self.rank)

    # -- the surrogate -----------------------------------------------------------------------------------------

    def surrogate(self, by_element: list[Paths], mean: bool) -> Tensor:
        """What the contract defines, summed over sites."""
        program = self.program
        total = torch.zeros((), dtype=F64)
        costs = [n for n in program.nodes if n.kind == "cost"]
        for cost in costs:
            for t in range(program.steps if cost.place == "inside" else 1):
                scale = 1 / program.steps if mean and cost.place == "inside" else 1.0
                weighed, names = self.weigh((cost.name, t), by_element, credited=True)
                total = total + scale * self.fold(weighed * self.values[cost.name, t], names)
        scorers = with_gradient(program)
        for node in program.nodes:
            if node.kind != "stochastic" or node.rule == "pathwise" or (node.credit is None and node.baseline is None):
                continue
            if not any(node.name in scorers[cost.name] for cost in costs):
                continue
            for t in range(program.steps if node.place == "inside" else 1):
                below = [c for c in costs if node.name in scorers[c.name]]
                share = 1 / program.steps if mean and any(c.place == "inside" for c in below) else 1.0
                total = total + self.term(node, t, by_element, mean, costs, share)
        return total

    def mask(self, by_element: list[Paths], sets: str, target: Site, site: Site) -> Tensor:
        return torch.tensor([site in getattr(p, sets)[target] for p in by_element])

    def weigh(self, target: Site, by_element: list[Paths], credited: bool, without: str = "", dead: bool = False) -> Any:
        """Π of the weights above a target; the names of the nodes that they belong to."""
        log = torch.zeros((), dtype=F64)
        product = torch.ones((), dtype=F64)
        above = {site for p in by_element for site in p.full[target]}
        for site in sorted(above):
            node, weight = self.nodes[site[0]], self.weights[site]
            if site[0] == without:
                continue
            full = self.mask(by_element, "full", target, site)
            live = self.mask(by_element, "live", target, site) & (node.credit is None or not credited) & (not dead)
            joint = site[0] in self.plated and target[0] not in self.plated
            if weight.z is not None:
                z = weight.z.sum(-2, keepdim=True) if joint else weight.z
                log = log + torch.where(live, z, 0.0)
            if weight.factor is not None:
                f = weight.factor.prod(-2, keepdim=True) if joint else weight.factor
                product = product * torch.where(live, f, torch.where(full, f.detach(), 1.0))
        return log.exp() * product, {site[0] for site in above} - {without}

    def fold(self, x: Tensor, names: set[str]) -> Tensor:
        """Slots by their weights, the batch by its mean."""
        x = self.full_rank(x)
        for dim, slot in enumerate(self.slots):
            x = x.sum(dim, keepdim=True) if slot in self.summed and slot in names else x.mean(dim, keepdim=True)
        return x.mean() * x.shape[-2] if x.shape[-2] > 1 else x.mean()

    def term(self, node: Node, t: int, by_element: list[Paths], mean: bool, costs: list[Node], share: float) -> Tensor:
        """A baseline's or a credit's; `share` is what the costs that it stands for are multiplied with."""
        site = (node.name, t)
        weight = self.weights[site]
        own = weight.z.exp() if weight.z is not None else weight.factor
        assert own is not None
        if node.credit is None:
            product, names = self.weigh(site, by_element, credited=True)
            level, scale = self.level(node, t, by_element, node.baseline), -share
        else:
            product, names = self.weigh(site, by_element, credited=True, without=node.name, dead=True)
            if node.credit == "mc":
                level = sum((self.to_go(node, t, c, by_element, mean) for c in costs), torch.zeros((), dtype=F64))
                if node.baseline is not None:
                    level = level - share * self.level(node, t, by_element, node.baseline)
                scale = 1.0
            else:
                level, scale = float(node.credit), share
                if node.baseline is not None:
                    level = level - self.level(node, t, by_element, node.baseline)
        return scale * self.fold(product * (own - own.detach()) * level, names | {node.name})

    def level(self, node: Node, t: int, by_element: list[Paths], what: Any) -> Any:
        if what not in self.nodes:
            return float(what)
        when = 0 if self.nodes[what].place != "inside" else t if node.place == "inside" else self.program.steps - 1
        other = (what, when)
        return self.marginal(node, t, other, by_element)

    def marginal(self, node: Node, t: int, other: Site, by_element: list[Paths]) -> Tensor:
        """A detached value, averaged over the branches of what does not come before `node`."""
        x = self.full_rank(torch.as_tensor(self.values[other]).detach().to(F64))
        kept = {node.name, *(s[0] for p in by_element for s in p.full[node.name, t])}
        above = {s for p in by_element for s in p.full[other]}
        for dim, slot in enumerate(self.slots):
            if slot in kept or slot == OUTCOME:
                continue
            factors = [self.weights[s].factor for s in above if s[0] == slot and self.weights[s].factor is not None]
            if factors:
                x = (x * factors[0].detach()).sum(dim, keepdim=True)
            else:
                x = x.mean(dim, keepdim=True)
        return x

    def to_go(self, node: Node, t: int, cost: Node, by_element: list[Paths], mean: bool) -> Tensor:
        total = torch.zeros((), dtype=F64)
        for s in range(self.program.steps if cost.place == "inside" else 1):
            downstream = self.mask(by_element, "live", (cost.name, s), (node.name, t))
            if bool(downstream.any()):
                scale = 1 / self.program.steps if mean and cost.place == "inside" else 1.0
                total = total + scale * torch.where(downstream, self.marginal(node, t, (cost.name, s), by_element), 0.0)
        return total


# -- enumeration -----------------------------------------------------------------------------------------------

NOISE = torch.tensor([-math.sqrt(3.0), 0.0, math.sqrt(3.0)], dtype=F64)  # Gauss–Hermite: exact for polynomials of degree 5
CHANCE = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=F64)
LARGEST = 4096


def support(node: Node) -> list[Any]:
    if node.family == "normal":
        return list(range(3))
    if node.event:
        return list(itertools.product([0.0, 1.0], repeat=node.event))
    return [float(k) for k in range(node.classes or 2)]


class TooMany(Exception):
    """More outcomes than can be listed."""


def tables(program: Program, fixed: tuple[str, ...]) -> dict[tuple[str, int, int], Tensor]:
    """For each stochastic step (and each sample on a plate), its value in each outcome, `[K, event…]`."""
    plate = max((n.plate for n in program.nodes), default=0)
    plated: set[str] = set()
    keys, choices = [], []
    count = 1
    for n in program.nodes:
        if n.plate or (n.kind != "cost" and any(e.source in plated for e in n.edges)):
            plated.add(n.name)
        if n.kind != "stochastic" or n.name in fixed:
            continue
        for t in range(program.steps if n.place == "inside" else 1):
            for k in range(plate if n.name in plated else 1):
                keys.append((n.name, t, k))
                choices.append(support(n))
                count *= len(choices[-1])
    if count > LARGEST:
        raise TooMany(f"{count} outcomes")
    if not choices:
        return {}
    index = torch.cartesian_prod(*[torch.arange(len(c)) for c in choices]).reshape(count, len(choices))
    return {
        key: (torch.tensor(c, dtype=F64)[index[:, i]] if program.node(key[0]).family != "normal" else index[:, i])
        for i, (key, c) in enumerate(zip(keys, choices, strict=True))
    }


def behaviour(node: Node, value: Tensor) -> Tensor:
    """log μ of a given value: the policy that recorded it."""
    if node.family == "categorical":
        p = torch.tensor([0.5, 0.5] if node.classes == 2 else [0.2, 0.3, 0.5], dtype=F64)
        return p.log()[value.long()]
    log = torch.where(value == 1, math.log(0.4), math.log(0.6)).to(F64)
    return log.sum(-1) if node.event else log


class Enumerated:
    """All outcomes along one slot, each with its probability; those of given nodes too, or with `fixed` only what is given."""

    def __init__(self, program: Program, inputs: dict[str, Any], fixed: bool = False) -> None:
        self.fixed = program.given if fixed else ()
        self.tables = tables(program, self.fixed)
        self.plate = max((n.plate for n in program.nodes), default=0)
        self.log_p = torch.zeros((), dtype=F64)  # live, of π where nothing was recorded
        self.log_mu = torch.zeros((), dtype=F64)  # of who drew the values
        self.program = program
        self.run = Unrolled(program, inputs, [OUTCOME], {OUTCOME}, self.draw)
        count = next(iter(self.tables.values())).shape[0] if self.tables else 1
        self.p = (self.log_p + torch.zeros((count, 1, 1), dtype=F64)).exp()
        self.mu = (self.log_mu + torch.zeros((count, 1, 1), dtype=F64)).exp().detach()

    def draw(self, run: Unrolled, node: Node, t: int, dist: Any) -> tuple[Tensor, Weight]:
        if node.name in self.fixed:
            return self.recorded(run, node, t, dist)
        plated = node.name in run.plated
        rows = [self.tables[node.name, t, k] for k in range(self.plate if plated else 1)]
        index = torch.stack(rows, 1).unsqueeze(2)  # [K, plate, 1, event…]
        if node.family == "normal":
            noise = NOISE[index]
            value = dist.loc + dist.scale * noise
            chance = CHANCE[index].log()
            self.log_p = self.log_p + chance.sum(1, keepdim=True)
            self.log_mu = self.log_mu + chance.sum(1, keepdim=True)
            if node.rule == "pathwise":
                return value, Weight()
            value = value.detach()
            log = run.full_rank(dist.log_prob(value))
            self.log_p = self.log_p + (log - log.detach()).sum(1, keepdim=True)
            return value, Weight(z=log - log.detach())
        value = index
        log = dist.log_prob(value)
        self.log_p = self.log_p + log.sum(1, keepdim=True)
        if node.name in self.program.given_log_prob:
            mu = behaviour(node, value)
            self.log_mu = self.log_mu + mu.sum(1, keepdim=True)
            return value, Weight(factor=(log - mu).exp())
        self.log_mu = self.log_mu + log.sum(1, keepdim=True)
        return value, Weight(z=log - log.detach())

    def recorded(self, run: Unrolled, node: Node, t: int, dist: Any) -> tuple[Tensor, Weight]:
        """A given value, and its weight."""
        given = torch.tensor(self.program.given_values[node.name], dtype=F64)
        given = given[t] if node.place == "inside" else given
        value = run.full_rank(given) if not node.event else given.reshape(*[1] * (run.rank + 1 - given.ndim), *given.shape)
        if node.rule == "pathwise":
            return dist.loc + dist.scale * ((value - dist.loc) / dist.scale).detach(), Weight()
        log = run.full_rank(dist.log_prob(value))
        if node.name in self.program.given_log_prob:
            return value, Weight(factor=(log - behaviour(node, value)).exp())
        return value, Weight(z=log - log.detach())

    def objective(self, mean: bool) -> Tensor:
        """Σ over outcomes of their live probability times the costs; right as it stands where nothing is detached."""
        total = torch.zeros((), dtype=F64)
        for n in self.program.nodes:
            if n.kind == "cost":
                for t in range(self.program.steps if n.place == "inside" else 1):
                    scale = 1 / self.program.steps if mean and n.place == "inside" else 1.0
                    total = total + scale * (self.p * self.run.values[n.name, t]).sum(0).mean()
        return total

    def surrogate(self, by_element: list[Paths], mean: bool) -> Tensor:
        """The surrogate's expectation, the probabilities held constant."""
        run = self.run
        run.fold = lambda x, names: (self.mu * run.full_rank(x)).sum(0).mean()  # type: ignore[method-assign]
        return run.surrogate(by_element, mean)
