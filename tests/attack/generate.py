"""Random programs, one for each integer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.attack.program import Edge, Node, Program

FINITE = ("bernoulli", "bernoulli", "categorical")


@dataclass
class Plan:
    """What is decided of a node before its edges are."""

    name: str
    kind: str
    place: str
    family: str = ""
    event: int = 0
    classes: int = 0
    plate: int = 0
    out: str = "scalar"
    real: bool = False


class Generator:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.inputs: dict[str, object] = {}
        self.learned: list[str] = []
        self.observed: dict[str, object] = {}
        self.on_plate: set[str] = set()

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def number(self, low: float = -1.2, high: float = 1.2) -> float:
        value = round(self.rng.uniform(low, high), 1)
        return value if abs(value) > 0.05 else 0.3

    def numbers(self, *shape: int) -> object:
        if not shape:
            return self.number()
        return [self.numbers(*shape[1:]) for _ in range(shape[0])]

    # -- the whole ---------------------------------------------------------------------------------------------

    def program(self) -> Program:
        rng = self.rng
        self.steps = rng.choice([0, 1, 2, 2, 3, 3]) if not self.chance(0.1) else 0
        self.batch = rng.choice([0, 1, 2, 2, 3])
        self.first = None
        self.plates = 0 if self.steps or self.chance(0.6) else rng.choice([2, 2, 3])
        self.reals = self.chance(0.4)
        self.tuples = self.chance(0.3)
        self.events = self.chance(0.25)
        self.detaching = rng.choice([0.0, 0.0, 0.15, 0.3])
        self.asking = rng.choice([0.0, 0.1, 0.3])
        self.recurring = rng.choice([0.0, 0.3, 0.5])
        if self.steps and self.chance(0.35):
            flags = [self.chance(0.4) for _ in range(self.steps)]
            if self.batch and self.chance(0.6):
                self.first = [[self.chance(0.4) for _ in range(self.batch)] for _ in range(self.steps)]
            else:
                self.first = flags
        self.inputs["a"] = self.number()
        self.learned.append("a")
        if self.batch:
            self.inputs["b"] = self.numbers(self.batch)
            self.learned.append("b")
        plans = self.plans()
        self.by_name = {p.name: p for p in plans}
        self.order = {p.name: i for i, p in enumerate(plans)}
        nodes = [self.node(p, plans) for p in plans]
        nodes = self.settle(nodes)
        read = {name for n in nodes for e in n.edges for name in (e.source, e.init)}
        program = Program(
            tuple(nodes),
            {name: value for name, value in self.inputs.items() if name in read},
            tuple(name for name in self.learned if name in read),
            dict(self.observed),
            self.steps,
            self.batch,
            self.first,
            seed=self.seed,
        )
        return self.replayed(program)

    def plans(self) -> list[Plan]:
        rng, plans = self.rng, []
        places = ["before"] * rng.choice([0, 1, 1, 2])
        if self.steps:
            places += ["inside"] * rng.choice([1, 2, 2, 3]) + ["after"] * rng.choice([0, 0, 1, 1])
            if self.chance(0.5):
                plans.append(Plan("u", "observed", "inside"))
        elif not places:
            places = ["before"]
        letters = iter("xyzvwpqr")
        for place in places:
            name = next(letters)
            if self.chance(0.65):
                family = "normal" if self.reals and self.chance(0.5) else rng.choice(FINITE)
                event = 2 if self.events and family == "bernoulli" and self.chance(0.5) else 0
                plate = self.plates if self.plates and place == "before" and self.chance(0.7) else 0
                out = "event" if event else "scalar"
                classes = rng.choice([2, 3]) if family == "categorical" else 0
                plans.append(Plan(name, "stochastic", place, family, event, classes, plate, out, family == "normal"))
            else:
                out = rng.choice(["tuple", "dict"]) if self.tuples and self.chance(0.5) else "scalar"
                plans.append(Plan(name, "deterministic", place, out=out, real=self.reals and self.chance(0.6)))
        costs = []
        for i in range(rng.choice([1, 1, 2])):
            place = rng.choice(["inside", "inside", "after"]) if self.steps else "before"
            costs.append(Plan(f"c{i}", "cost", place, real=True))
        ordered = [p for place in ("before", "inside", "after") for p in [*plans, *costs] if p.place == place]
        if not any(p.place == "inside" for p in ordered) and self.steps:
            ordered.insert(0, Plan("u", "observed", "inside"))
        if not any(p.kind == "stochastic" for p in ordered):
            ordered.insert(0, Plan("s", "stochastic", "before", "bernoulli"))
        places_order = {"before": 0, "inside": 1, "after": 2}
        return sorted(ordered, key=lambda p: places_order[p.place])

    # -- one node ----------------------------------------------------------------------------------------------

    def node(self, plan: Plan, plans: list[Plan]) -> Node:
        if plan.kind == "observed":
            shape = (self.steps, self.batch) if self.batch and self.chance(0.7) else (self.steps,)
            self.observed[plan.name] = self.numbers(*shape)
            return Node(plan.name, "observed", "inside", out="scalar")
        edges = self.edges(plan, plans)
        plated = any(e.source in self.on_plate for e in edges)
        used = edges if plated else [e for e in edges if not self.chance(0.08)] or edges
        if plan.kind != "cost" and (plan.plate or plated):
            self.on_plate.add(plan.name)
        text = self.text(plan, used)
        node = Node(
            plan.name, plan.kind, plan.place, tuple(edges), text, plan.family, plan.event, plan.classes, plate=plan.plate
        )
        return Node(**{**node.__dict__, "out": plan.out, "real": plan.real})

    def sources(self, plan: Plan, plans: list[Plan], lag: bool) -> list[Plan]:
        """What `plan` may read now, or of the step before."""
        found = []
        for p in plans:
            if p.kind == "cost" or (p.real and not plan.real):
                continue
            earlier = self.order[p.name] < self.order[plan.name]
            if lag:
                if p.place == "inside" and plan.place == "inside":
                    found.append(p)
            elif earlier:
                found.append(p)
        return found

    def edges(self, plan: Plan, plans: list[Plan]) -> list[Edge]:
        rng = self.rng
        edges: dict[str, Edge] = {}
        names = [name for name in self.inputs if name in ("a", "b", "i0", "i1")]
        wanted = [Edge("b" if self.batch and self.chance(0.6) else rng.choice(names))]
        if plan.plate and self.batch:
            wanted = [Edge("b")]
        for _ in range(rng.choice([1, 1, 2, 2, 3]) if plan.kind == "cost" else rng.choice([0, 1, 1, 2])):
            lag = plan.place == "inside" and self.chance(self.recurring)
            sources = self.sources(plan, plans, lag)
            if not sources:
                continue
            source = rng.choice(sources)
            detached = self.chance(self.detaching)
            asked = not lag and source.kind == "stochastic" and self.chance(self.asking)
            init = self.init(source) if lag else None
            wanted.append(Edge(source.name, lag, init, detached, asked))
            if asked and (source.name in self.on_plate or (plan.kind == "cost" and self.chance(0.4))):
                wanted.append(Edge(source.name))  # log p at the sample
        for e in wanted:
            edges.setdefault(e.param, e)
        return list(edges.values())

    def init(self, source: Plan) -> str:
        if source.out == "tuple":
            self.inputs.setdefault("i2", (self.numbers(*self.maybe_batch()), self.numbers(*self.maybe_batch())))
            return "i2"
        if source.out == "dict":
            self.inputs.setdefault("i3", {"l": self.numbers(*self.maybe_batch()), "r": self.numbers(*self.maybe_batch())})
            return "i3"
        if source.out == "event":
            self.inputs.setdefault("i4", self.numbers(2))
            return "i4"
        outer = [p.name for p in self.by_name.values() if p.place == "before" and p.out == "scalar" and p.kind not in ("cost",)]
        outer = [name for name in outer if not self.by_name[name].real or source.real]
        if outer and self.chance(0.4):
            return self.rng.choice(outer)
        name = self.rng.choice(["i0", "i1"])
        if name not in self.inputs:
            self.inputs[name] = self.numbers(*self.maybe_batch())
            if name == "i1":
                self.learned.append(name)
        return name

    def maybe_batch(self) -> tuple[int, ...]:
        return (self.batch,) if self.batch and self.chance(0.6) else ()

    # -- texts -------------------------------------------------------------------------------------------------

    def read(self, edge: Edge, beside: list[Edge]) -> str:
        """A scalar that is read from what an edge brings."""
        p, source = edge.param, self.by_name.get(edge.source)
        if edge.dist and any(e.param == edge.source for e in beside):  # noqa: SIM102
            if edge.source in self.on_plate or (self.quadratic and self.chance(0.7)):
                return f"{p}.log_prob({edge.source})"
        if source is None:
            return p
        if edge.dist:
            if source.family == "categorical":
                return self.rng.choice([f"{p}.entropy()", f"{p}.probs[..., 1]"])
            if source.event:
                return self.rng.choice([f"{p}.entropy()", f"{p}.mean.sum(-1)"])
            return f"{p}.mean" if source.family == "normal" else self.rng.choice([f"{p}.mean", f"{p}.entropy()"])
        if source.out == "tuple":
            return f"{p}[{self.rng.choice([0, 1])}]"
        if source.out == "dict":
            return f"{p}['{self.rng.choice('lr')}']"
        if source.out == "event":
            return self.rng.choice([f"{p}.sum(-1)", f"{p}[..., 0]", f"{p}[..., 1]"])
        return p

    def expression(self, edges: list[Edge], quadratic: bool) -> str:
        self.quadratic = quadratic
        reads = [self.read(e, edges) for e in edges]
        terms = [f"{self.number()}"] + [f"{self.number()} * {r}" for r in reads]
        if len(reads) > 1 and self.chance(0.7):
            i, j = self.rng.sample(range(len(reads)), 2)
            real = [self.real(edges[i]), self.real(edges[j])]
            if (quadratic and "log_prob" not in reads[i] + reads[j]) or not all(real):
                terms.append(f"{self.number()} * {reads[i]} * {reads[j]}")
        if quadratic and self.chance(0.3):
            r = self.rng.choice(reads)
            if "log_prob" not in r:
                terms.append(f"{self.number()} * {r} * {r}")
        return " + ".join(terms).replace("+ -", "- ")

    def real(self, edge: Edge) -> bool:
        return edge.source in self.by_name and self.by_name[edge.source].real

    def text(self, plan: Plan, edges: list[Edge]) -> str:
        e = self.expression(edges, plan.kind == "cost")
        if plan.kind == "cost":
            if any(self.plated(edge) for edge in edges):
                if any(self.real(edge) for edge in edges):
                    return f"({e}).mean(PLATE)"
                return self.rng.choice([f"torch.logsumexp({e}, PLATE)", f"({e}).mean(PLATE)", f"({e}).prod(PLATE)"])
            return e
        if plan.kind == "deterministic":
            other = self.expression(edges, False)
            if plan.out == "tuple":
                return f"({e}, {other})"
            if plan.out == "dict":
                return f"{{'l': {e}, 'r': {other}}}"
            return e
        if plan.family == "normal":
            return f"D.Normal({e}, {self.rng.choice(['0.7', '1.0', 'torch.exp(0.3 * a)' if 'a' in [x.param for x in edges] else '0.8'])})"
        if plan.family == "categorical" and plan.classes == 3:
            third = f"{self.number()} - 0.5 * {edges[0].param}" if edges[0].source not in self.by_name else f"{self.number()}"
            return f"D.Categorical(logits=torch.stack(torch.broadcast_tensors({e}, {self.expression(edges, False)}, torch.as_tensor({third})), -1))"
        both = f"torch.stack(torch.broadcast_tensors({e}, {self.expression(edges, False)}), -1)"
        if plan.family == "categorical":
            return f"D.Categorical(logits={both})"
        if plan.event:
            return f"D.Independent(D.Bernoulli(logits={both}), 1)"
        return f"D.Bernoulli(logits={e})"

    def plated(self, edge: Edge) -> bool:
        return edge.source in self.on_plate

    # -- estimators, credits, replays --------------------------------------------------------------------------

    def settle(self, nodes: list[Node]) -> list[Node]:
        """Estimators that the structure admits, credits and baselines."""
        reach = reached(nodes)
        feeding = {e.source for n in nodes for e in n.edges if e.lag}
        mc = self.chance(0.15)
        settled = []
        for node in nodes:
            if node.kind != "stochastic":
                settled.append(node)
                continue
            may_branch = node.place != "inside" or not ({node.name, *reach[node.name]} & feeding)
            estimator, rule, n = self.estimator(node, may_branch)
            node = Node(**{**node.__dict__, "estimator": estimator, "rule": rule, "n": n})
            below = [m for m in nodes if m.name in reach[node.name]]
            if rule != "pathwise" and not self.plates and any(m.kind == "cost" for m in below):
                if mc and self.chance(0.7):
                    node = Node(**{**node.__dict__, "credit": "mc"})
                elif self.chance(0.05):
                    node = Node(**{**node.__dict__, "credit": str(self.number())})
                if self.chance(0.25):
                    node = Node(**{**node.__dict__, "baseline": self.baseline(node, nodes, reach)})
            settled.append(node)
        return settled

    def baseline(self, node: Node, nodes: list[Node], reach: dict[str, set[str]]) -> str:
        after = {"before": 0, "inside": 1, "after": 2}
        legal = [
            m.name
            for m in nodes
            if m.kind in ("deterministic", "stochastic") and m.out == "scalar" and m.name != node.name
            and m.name not in reach[node.name] and after[m.place] <= after[node.place] and not m.plate
            and self.order[m.name] < self.order[node.name]
        ]  # fmt: skip
        return self.rng.choice(legal) if legal and self.chance(0.6) else str(self.number())

    def estimator(self, node: Node, may_branch: bool) -> tuple[str, str, int]:
        rng = self.rng
        support = node.classes or 2 ** (node.event or 1)
        pathwise = node.family == "normal" and self.chance(0.6)
        if not may_branch or self.chance(0.35):
            return ("Pathwise()", "pathwise", 1) if pathwise else ("ScoreFunction()", "score", 1)
        n = rng.choice([2, 2, 3])
        if pathwise:
            return f"Pathwise(samples={n})", "pathwise", n
        if self.plates:
            return f"ScoreFunction(samples={n})", "score", n
        kind = rng.choice(["score", "loo", "enumeration"])
        if kind == "enumeration" and node.family != "normal":
            return "Enumeration()", "enumeration", support
        if kind == "loo":
            return f"LeaveOneOut(samples={n})", "loo", n
        return f"ScoreFunction(samples={n})", "score", n

    def replayed(self, program: Program) -> Program:
        """Some nodes given, some with the log-probability of another policy; the rest sampled."""
        if self.chance(0.25):
            program = program.but(mean=True)
        if not self.chance(0.4):
            return program
        plated = {n.name for n in program.nodes if n.plate}  # and what is below them: a given value would need the axis
        for n in program.nodes:
            if any(e.source in plated for e in n.edges):
                plated.add(n.name)
        nodes = [n for n in program.nodes if n.kind == "stochastic" and not n.plate]
        given = [n.name for n in nodes if self.chance(0.7) and n.name not in plated]
        log_prob = [
            n.name for n in nodes
            if n.name in given and self.chance(0.4) and not n.real and not any(m.credit for m in program.nodes)
        ]  # fmt: skip
        return program.but(given=tuple(given), given_log_prob=tuple(log_prob))


def reached(nodes: list[Node]) -> dict[str, set[str]]:
    """Everything that a node influences, along any edge; a distribution is influenced by what its node reads."""
    by_name = {n.name: n for n in nodes}

    def sources(node: Node) -> set[str]:
        found = set()
        for e in node.edges:
            if e.dist:
                found |= sources(by_name[e.source])
            else:
                found.add(e.source)
            if e.init:
                found.add(e.init)
        return found

    into = {n.name: sources(n) for n in nodes}
    reach: dict[str, set[str]] = {n.name: set() for n in nodes}
    changed = True
    while changed:
        changed = False
        for n in nodes:
            for s in into[n.name]:
                if s in reach:
                    new = {n.name, *reach[n.name]} - reach[s]
                    if new:
                        reach[s] |= new
                        changed = True
    return reach


def generate(seed: int) -> Program:
    return Generator(seed).program()
