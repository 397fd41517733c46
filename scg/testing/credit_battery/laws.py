"""The laws of a credit.

shapes        the credit has the costs' shape and dtype, for batches of any rank and outside a sequence; what it reads is left
              unchanged
time          a cost counts for the steps before it in its own episode only, l steps later at most γ^l
ends          what a critic says of the observation behind a termination makes no difference
critics       the critics that it names are those that it reads, V(s_{t+1}) being one reading of V
first order   the mean gradient is the true one, with exact critics, where every episode ends within the record
any critics   and so with wrong critics, where that is claimed
cuts          and so where the record is cut, where that is claimed
recorded      and so from a recording of another policy, where that is claimed
alone         and so for a single decision, outside a sequence
constant      where no action has a consequence, the mean gradient is zero
second order  the mean Hessian is the true one where the credit's `order` is 2 or more, and refused where it is 1
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scg.errors import GraphError
from scg.testing.battery.report import Broken, NotApplicable
from scg.testing.credit_battery.process import ACTIONS, Process, recording
from scg.testing.credit_battery.subject import Subject, downstream, logits, on_plate

TOLERANCE = 1e-9  # of numbers of size 1: sums over at most 21,000 outcomes
PLATE = "it is for the samples of a plate"


def shapes(subject: Subject) -> str:
    """For batches of rank 0, 1 and 2, in either precision. Without a batch it may be refused: it may compare elements."""
    _steps(subject)
    for dtype in (torch.float32, torch.float64):
        for timed in (True, False):
            for batch in ((), (2,), (2, 3)):
                costs = torch.linspace(-1, 2, 5 * max(1, torch.Size(batch).numel()), dtype=dtype).reshape(5, *batch)
                costs = costs if timed else costs[0]
                before = costs.clone()
                try:
                    found = subject.credit(downstream(subject, costs, timed=timed))
                except GraphError:
                    if batch:
                        raise
                    continue
                where = f"costs of shape {list(costs.shape)} and {_name(dtype)}"
                if not isinstance(found, Tensor) or found.shape != costs.shape or found.dtype != dtype:
                    what = f"shape {list(found.shape)} and {_name(found.dtype)}" if isinstance(found, Tensor) else repr(found)
                    raise Broken(f"for {where} it returned {what}")
                if not bool(found.isfinite().all()):
                    raise Broken(f"for {where} it is not finite")
                if not torch.equal(costs, before):
                    raise Broken(f"it changed the {where} in place")
    return "exact"


def time(subject: Subject) -> str:
    """Of each cost, how much it adds to the credit of each step."""
    _steps(subject)
    costs = torch.linspace(-1, 2, 15, dtype=torch.float64).reshape(5, 3)
    before = subject.credit(downstream(subject, costs))
    starts = {0: (0, 2), 1: (0, 3), 2: (0, 3)}  # as `downstream` has them
    for t in range(5):
        for b in range(3):
            moved = costs.clone()
            moved[t, b] += 1
            change = subject.credit(downstream(subject, moved)) - before
            opened = max(s for s in starts[b] if s <= t)
            for step in range(5):
                share = float(change[step, b])
                if step > t and float(change[step].abs().max()) > TOLERANCE:
                    raise Broken(f"the credit of step {step} depends on the cost of step {t}, which is before it")
                if step < opened and abs(share) > TOLERANCE:
                    raise Broken(
                        f"the credit of step {step} depends on the cost of step {t}, which belongs to the next episode"
                    )
                most = subject.claim.discount ** (t - step) if step <= t else 0.0
                if abs(share) > most + TOLERANCE:
                    raise Broken(
                        f"the cost of step {t} counts {share:.4g} in the credit of step {step}, {t - step} steps before, and "
                        f"at most {most:.4g} with discount={subject.claim.discount:g}"
                    )
    return "exact"


def ends(subject: Subject) -> str:
    """NaN as the critic's value behind a termination."""
    _steps(subject)
    if subject.named("next_value") not in _read(subject):
        raise NotApplicable("it does not read the value of the next observation")
    costs = torch.linspace(-1, 2, 15, dtype=torch.float64).reshape(5, 3)
    plain, odd = (subject.credit(downstream(subject, costs, end=end)) for end in (0.0, torch.nan))
    if not torch.equal(plain, odd):
        raise Broken("the critic's value of the observation behind a termination counts")
    return "exact"


def critics(subject: Subject) -> str:
    """`critics` and `q_critics` name what is read; `graph.check()` holds these names against what they must separate."""
    _steps(subject)
    named, read = {*subject.credit.critics, *subject.credit.q_critics}, _read(subject)
    same = {subject.named("value")} if subject.named("next_value") in read else set()  # V, at the next observation
    for name in sorted(named - read - same):
        raise Broken(f"it names the critic {name!r} and does not read it")
    for name in sorted({subject.named("value"), subject.named("q")} & read - named):
        raise Broken(f"it reads the critic {name!r}, and neither `critics` nor `q_critics` names it")
    return "exact" + (f": {', '.join(sorted(named))}" if named else "")


def first_order(subject: Subject) -> str:
    """With exact critics, through terminations and new episodes."""
    if subject.claim.critics == "none":
        raise NotApplicable("it claims to be biased")
    if subject.claim.plate:
        return _on_plate(subject)
    return _hold(subject, Process(_length(subject), subject.claim.discount))


def any_critics(subject: Subject) -> str:
    """With critics that are far from exact, V = Σ_a π Q as everywhere."""
    if subject.claim.plate:
        raise NotApplicable(PLATE)
    if subject.claim.critics != "any":
        raise NotApplicable("it does not claim this")
    return _hold(subject, Process(_length(subject), subject.claim.discount), wrong=True)


def cuts(subject: Subject) -> str:
    """The record cut within the block and at its end."""
    _steps(subject)
    if not subject.claim.cuts:
        raise NotApplicable("it does not claim this")
    steps = _length(subject)
    return _hold(subject, Process(steps, subject.claim.discount, cuts=(steps - 2, steps - 1)))


def recorded(subject: Subject) -> str:
    """Ratios π/μ from 0.3 to 3."""
    _steps(subject)
    if subject.claim.recorded == "no":
        raise NotApplicable("it does not claim this")
    process = Process(_length(subject), subject.claim.discount)
    return _hold(subject, process, behaviour=logits(process, 0.9).softmax(-1))


def alone(subject: Subject) -> str:
    """One decision; cut where cuts are claimed."""
    _steps(subject)
    if subject.claim.critics == "none":
        raise NotApplicable("it claims to be biased")
    return _hold(subject, Process(1, subject.claim.discount, cuts=(0,) if subject.claim.cuts else ()))


def constant(subject: Subject) -> str:
    """Every step costs 1, whatever the actions; critics are exact."""
    if subject.claim.plate:
        found, _ = on_plate(subject.credit, 3, lambda log_weights, z: torch.ones_like(z[..., 0, :]))
        _same(found, torch.zeros_like(found))
        return "exact"
    return _hold(subject, Process(_length(subject), subject.claim.discount, indifferent=True))


def second_order(subject: Subject) -> str:
    """Of an objective without discount, and one episode."""
    if subject.credit.order < 2:
        return _refused(subject)
    _steps(subject)
    if subject.claim.critics == "none" or subject.claim.discount < 1:
        raise NotApplicable("it claims to be biased" if subject.claim.discount == 1 else "it is held at a discount of 1 only")
    process = Process(_length(subject), single=True)
    theta = logits(process).requires_grad_()
    record = recording(process)
    objective = (record.probabilities(theta.softmax(-1)) * record.seen["cost"].sum(0)).sum()
    (gradient,) = torch.autograd.grad(objective, theta, create_graph=True)
    true = torch.stack([torch.autograd.grad(g, theta, retain_graph=True)[0].reshape(-1) for g in gradient.reshape(-1)])
    _same(subject.mean(process, process.critics(theta.detach().softmax(-1)), order=2), true)
    return "exact"


# -- shared ----------------------------------------------------------------------------------------------------------


def _hold(subject: Subject, process: Process, *, wrong: bool = False, behaviour: Tensor | None = None) -> str:
    """The mean gradient against the true one."""
    theta = logits(process).requires_grad_()
    policy = theta.softmax(-1)
    v, q = process.critics(policy.detach())
    other = policy.detach() if behaviour is None else behaviour
    own = behaviour is not None and subject.claim.recorded == "own"
    d = process.visits(other, policy.detach(), own=own, leading=subject.claim.leading)
    (true,) = torch.autograd.grad((d.unsqueeze(-1) * policy * q).sum(), theta)
    if wrong:
        q = torch.cos(3 * torch.arange(q.numel(), dtype=q.dtype)).reshape(-1, ACTIONS)
        v = (policy.detach() * q).sum(-1)
    _same(subject.mean(process, (v, q), behaviour), true)
    return "exact"


def _on_plate(subject: Subject) -> str:
    """Two and three samples, a cost of all of them and of their weights."""

    def cost(log_weights: Tensor, z: Tensor) -> Tensor:
        return -log_weights.logsumexp(-2) + 0.7 * (0.8 - z).square().prod(-2)

    for samples in (2, 3):
        _same(*on_plate(subject.credit, samples, cost))
    return "exact"


def _refused(subject: Subject) -> str:
    process = Process(2, subject.claim.discount)
    try:
        if subject.claim.plate:
            raise NotApplicable(PLATE)
        subject.mean(process, process.critics(logits(process).softmax(-1)), order=2)
    except GraphError:
        return "exact: refused, for its order is 1"
    raise Broken("its order is 1, and a second derivative came out all the same")


def _same(found: Tensor, true: Tensor) -> None:
    error = (found - true).abs()
    if not bool((error <= TOLERANCE).all()):
        worst = int(error.nan_to_num(torch.inf).argmax())
        at = list(torch.unravel_index(torch.tensor(worst), found.shape))
        raise Broken(
            f"the mean is {float(found.reshape(-1)[worst]):.6g} at {[int(i) for i in at]} of shape {list(found.shape)}, and should "
            f"be {float(true.reshape(-1)[worst]):.6g}"
        )


def _steps(subject: Subject) -> None:
    if subject.claim.plate:
        raise NotApplicable(PLATE)


def _length(subject: Subject) -> int:
    """Steps of a block; fewer for a credit that needs pairs of outcomes, of which there are as many as the square."""
    return 2 if subject.mixes else 3


def _read(subject: Subject) -> set[str]:
    """The nodes whose values the credit asks for."""
    found: set[str] = set()
    seen = downstream(subject, torch.linspace(-1, 2, 15, dtype=torch.float64).reshape(5, 3))

    def value(name: str) -> Tensor:
        found.add(name)
        return seen.value(name)

    subject.credit(replace(seen, value=value))
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
