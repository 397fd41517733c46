"""How the nodes of a graph are spelt in one notation: p(y | x), x(ε, θ), f₁(x₁), and the costs downstream of a node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torch import nn

from scg.analysis.structure import Structure, Window
from scg.credit import Credit
from scg.derivation.notation import ALL, LAST, Latex, Symbol, Time, Unicode
from scg.derivation.paths import Factor, Path
from scg.draw.labels import ParameterNames
from scg.estimator import Estimator, ScoreFunction
from scg.node import Edge, Node
from scg.scan import INFINITE

T = Time("t")
LONG = 48
MANY = 24  # arguments, of which more are written as the first three, an ellipsis and the last


@dataclass(frozen=True)
class NodeNotation:
    """Spells one graph. `write` is the notation."""

    structure: Structure
    named: ParameterNames
    write: Unicode | Latex
    spelt: dict[tuple[str, Time | None, bool], str] = field(default_factory=dict, compare=False, repr=False)  # by `call`

    def time(self, node: Node) -> Time | None:
        return T if node.in_sequence else None

    def symbol(self, name: str, time: Time | None = None, prefix: str = "") -> str:
        return self.write.symbol(Symbol(name, time, prefix))

    def parameter(self, name: str) -> Symbol:
        """An input or a tensor by its name; what a module holds as θ with the module's name."""
        module = any(isinstance(thing, nn.Module) for thing in self.named.things(name))
        return Symbol(name, None, "theta") if module and name not in self.structure.known_inputs else Symbol(name)

    def of(self, name: str, time: Time | None) -> str:
        """A node's symbol; hidden nodes are the baseline or credit of their node."""
        node = self.structure.nodes.get(name)
        if node is not None and node.hidden:
            owner, _, what = name.rpartition(".")
            return self.symbol(owner, time, what[0])
        return self.symbol(name, time)

    # -- arguments -----------------------------------------------------------------------------------------

    def arguments(self, node: Node, time: Time | None, deep: bool) -> tuple[list[str], list[str], list[str]]:
        """(nodes, inputs, parameters of modules) that a node's function takes, and both first ones in declared order."""
        values, inputs = [], []
        for edge in node.parents:
            spelt = self.argument(node, edge, time, deep)
            values.append(spelt)
            if edge.source not in self.structure.nodes:
                inputs.append(spelt)
        own = [self.write.symbol(self.parameter(self.named.of(m))) for m in self.named.read_by(node)]
        return values, inputs, own

    def argument(self, node: Node, edge: Edge, time: Time | None, deep: bool) -> str:
        source = self.structure.nodes.get(edge.source)
        if source is None:
            spelt = self.symbol(edge.source)
        else:
            at = None if not source.in_sequence else LAST if time is None and not node.in_sequence else (time or T) - edge.lag
            if edge.prefix:
                at = Time(f"<{(time or T).variable}", (time or T).offset) if edge.lag else ALL
            if edge.conditional:
                return self.conditional(source, at)
            if edge.dist:
                spelt = self.symbol(edge.source, at, "p")
            elif deep and at is None and (source.kind == "deterministic" or self.is_sampler(source)):
                spelt = self.call(source, at, deep=False)
            else:
                spelt = self.of(edge.source, at)
        return self.write.stopped(spelt) if edge.detached else spelt

    def call(self, node: Node, time: Time | None, deep: bool = True) -> str:
        """`f(x, y(θ))`: a deterministic node, a cost, or a pathwise sample as a function of its noise."""
        key = (node.name, time, deep)
        if key not in self.spelt:  # each score below a cost repeats it
            inside = self._inside(node, time, deep)
            if deep and len(inside) > LONG:
                inside = self._inside(node, time, deep=False)
            self.spelt[key] = self.write.call(self.of(node.name, None), inside) if inside else self.of(node.name, time)
        return self.spelt[key]

    def _inside(self, node: Node, time: Time | None, deep: bool) -> str:
        values, _, own = self.arguments(node, time, deep)
        if self.is_sampler(node):
            values = [self.noise(node, time), *values]
        return self.write.semicolon.join(filter(None, (self.listed(values), self.listed(own))))

    def listed(self, names: list[str]) -> str:
        shown = names if len(names) <= MANY else [*names[:3], self.write.ellipsis, names[-1]]
        return self.write.comma.join(shown)

    def is_sampler(self, node: Node) -> bool:
        return node.kind == "stochastic" and node.estimator.moves and not node.estimator.weighs

    def noise(self, node: Node, time: Time | None) -> str:
        samplers = [n for n in self.structure.stochastic if self.is_sampler(self.structure.nodes[n])]
        if len(samplers) == 1:
            return self.write.symbol(Symbol("epsilon", time))
        return self.symbol(node.name, time, "epsilon")

    def given(self, node: Node, time: Time | None) -> str:
        """` | x` for a distribution given other nodes; `; θ, x` where inputs parametrise it, in the order declared."""
        key = (f"{node.name} given", time, False)
        if key not in self.spelt:
            self.spelt[key] = self._given(node, time)
        return self.spelt[key]

    def _given(self, node: Node, time: Time | None) -> str:
        values, inputs, own = self.arguments(node, time, deep=False)
        if not values and not own:
            return ""
        parameters = self.listed(own)
        if inputs or not values:
            return self.write.semicolon + self.write.comma.join(filter(None, (self.listed(values), parameters)))
        return self.write.such + self.listed(values) + (self.write.semicolon + parameters if own else "")

    def conditional(self, node: Node, time: Time | None) -> str:
        """`p(x | sg(y); θ)`."""
        nodes = self.structure.nodes
        held = (replace(e, detached=True, conditional=False) if e.source in nodes else e for e in node.parents)
        return f"p({self.symbol(node.name, time)}{self._given(replace(node, parents=tuple(held)), time)})"

    def density(self, node: Node, time: Time | None) -> str:
        return f"p({self.symbol(node.name, time)}{self.given(node, time)})"

    # -- costs ---------------------------------------------------------------------------------------------

    def cost(self, name: str, time: Time | None) -> str:
        """A cost outside the sequence with its arguments, inside it by its symbol at a step."""
        node = self.structure.nodes[name]
        return self.of(name, time) if node.in_sequence else self.call(node, None)

    def added(self, summands: Iterable[tuple[float, str]]) -> str:
        """A signed sum."""
        parts: list[str] = []
        for sign, summand in summands:
            if parts:
                parts += [f" {self.write.minus if sign < 0 else '+'} ", summand]
            else:
                parts = [self.write.minus if sign < 0 else "", summand]
        return "".join(parts)

    def downstream(self, node: Node, costs: Iterable[str]) -> list[tuple[float, str]]:
        """The summands that weigh a node's score: each downstream cost, over the lags at which the node influences it."""
        groups: dict[Window | None, list[str]] = {}
        for cost in costs:
            window = self.structure.window(node.name, cost, live=True)
            timed = self.structure.nodes[cost].in_sequence
            groups.setdefault(window if timed and node.in_sequence else Window(-1, -1) if timed else None, []).append(cost)
        summands: list[tuple[float, str]] = []
        for window, names in groups.items():
            at = None if window is None else T if window.lo < 0 else Time("t'")
            if window is not None and window.lo == window.hi and window.lo >= 0:
                at = T - -window.lo
            inner = [(self.structure.nodes[c].sign, self.cost(c, at)) for c in names]
            total = self._sum_over(window)
            if not total:
                summands += inner
            elif len(inner) == 1:
                summands.append((inner[0][0], f"{total} {inner[0][1]}"))
            else:
                summands.append((1.0, f"{total} {self.write.bracket(self.added(inner))}"))
        return summands

    def _sum_over(self, window: Window | None) -> str:
        if window is None or (window.lo == window.hi and window.lo >= 0):
            return ""
        if window.lo < 0:  # the node stands outside the sequence: every step
            return self.write.sum("t")
        low = self.write.time(T - -window.lo)
        if window.hi == INFINITE:
            return self.write.sum(self.write.at_least("t'", low))
        return self.write.sum(f"t'={low}", self.write.time(T - -int(window.hi)))

    # -- derivatives ---------------------------------------------------------------------------------------

    def factor(self, factor: Factor) -> str:
        symbol = self.write.symbol
        spelt = (self.write.total if factor.total else self.write.partial)(symbol(factor.of), symbol(factor.by))
        return self.initial(factor) + spelt

    def initial(self, factor: Factor) -> str:
        if factor.first is None:
            return ""
        opens = self.symbol(self.structure.first, factor.first) if self.structure.first else ""
        return self.write.where_first(opens, self.write.time(factor.first)) + self.write.times

    def score(self, node: Node, path: Path, time: Time | None) -> str:
        """A path into a node's distribution: its derivatives, then that of the log-density (or of the weights)."""
        *before, last = path.factors
        factors = [self.factor(f) for f in before]
        by = self.write.symbol(last.by)
        if bends(node):
            factors.append(self.initial(last) + self.write.partial(self.symbol(node.name, time, "K"), by))
        elif isinstance(node.estimator, ScoreFunction):
            density = self.write.log_density(self.symbol(node.name, time), self.given(node, time))
            factors.append(self.initial(last) + f"{self.write.operator(by)} {density}")
        else:
            factors.append(self.initial(last) + self.write.partial(self.symbol(node.name, time, "w"), by))
        return self.write.times.join(factors)

    def multiplier(self, node: Node, costs: Iterable[str], time: Time | None) -> str:
        """What a score is multiplied with: (costs downstream − baseline), or (credit − baseline); "" where it is inside K."""
        if bends(node):
            return ""
        level = [(1.0, self.level(node, node.credit, time, "credit"))] if node.credit is not None else []
        summands = level or self.downstream(node, costs)
        if node.baseline is not None:
            summands = [*summands, (-1.0, self.level(node, node.baseline, time, "baseline"))]
        spelt = self.added(summands)
        return spelt if len(summands) == 1 and summands[0][0] > 0 else self.write.bracket(spelt)

    def level(self, node: Node, source: object, time: Time | None, what: str) -> str:
        """A baseline or credit: a node, a constant, or a `Credit` by its name."""
        if isinstance(source, str):
            named = self.structure.nodes[source]
            at = time if named.in_sequence else None
            return self.of(source, at) if at is not None else self.call(named, at)
        if isinstance(source, Credit):
            return self.write.symbol(Symbol(type(source).__name__, time))
        return f"{source:g}".replace("-", self.write.minus)


def bends(node: Node) -> bool:
    """Whether the estimator has its own way for a weight to meet a credit, as PPO's clipped ratio has."""
    return node.credit is not None and getattr(type(node.estimator), "combine", None) is not Estimator.combine


__all__ = ["NodeNotation", "T", "bends"]
