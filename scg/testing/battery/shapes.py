"""Laws of form: what `branch` returns for a distribution of any batch and event shape, in either precision.

shapes      values [n, *batch, *event], weights and score [n, *batch], control [*batch]; all finite, a score of value zero
elements    what is returned for one element of a batch moves with its own parameters only
precision   float32 in, float32 out, and the same mean gradient; float64 likewise, whatever torch's default is
device      what is returned lies where the parameters do
"""

from __future__ import annotations

import torch
from torch import Tensor

from scg.estimator import Branches
from scg.testing.battery.report import Broken, NotApplicable
from scg.testing.battery.sampled import hold
from scg.testing.battery.subject import Subject, estimate

BATCHES: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (4, 2))


def shapes(subject: Subject) -> str:
    """For batch shapes of rank 0, 1 and 2."""
    for batch in BATCHES:
        theta = _theta(subject, batch, torch.float64)
        distribution = subject.make(theta)
        branches = subject.estimator.branch(distribution)
        _shaped(branches, distribution.batch_shape, distribution.event_shape, f"batch {list(batch)}")
    return "exact"


def _shaped(branches: Branches, batch: torch.Size, event: torch.Size, where: str) -> None:
    if not isinstance(branches, Branches):
        raise Broken(f"branch() returned {type(branches).__name__}, not Branches(values, n, weights=… or score=…)")
    axis = () if branches.n is None else (branches.n,)
    for what, expected in (
        ("values", (*axis, *batch, *event)),
        ("weights", (*axis, *batch)),
        ("score", (*axis, *batch)),
        ("control", (*batch,)),
    ):
        tensor = getattr(branches, what)
        if tensor is None:
            continue
        if tuple(tensor.shape) != expected:
            raise Broken(
                f"{what} of shape {list(tensor.shape)} for {where}, event {list(event)}, n={branches.n}; should be {list(expected)}"
            )
        if not torch.isfinite(tensor).all():
            raise Broken(f"{what} are not finite for {where}")
    if branches.score is not None and bool((branches.score != 0).any()):
        raise Broken("its score is not 0 in value; it is log p − sg log p")


def elements(subject: Subject) -> str:
    """The Jacobian from a batch of θs to a batch of estimates is diagonal."""
    if not subject.differentiates:
        raise NotApplicable("it gives no gradient")
    theta = _theta(subject, (4,), torch.float64)
    found = subject.estimates(theta)
    for i in range(4):
        if not found.requires_grad:
            break
        (gradient,) = torch.autograd.grad(found[i], theta, retain_graph=True, allow_unused=True, materialize_grads=True)
        others = gradient.abs().sum(-1)
        others[i] = 0.0
        if bool((others > 1e-12).any()):
            raise Broken(f"the estimate of element {i} of a batch moves with the parameters of element {int(others.argmax())}")
    return "exact"


def precision(subject: Subject) -> str:
    """Dtypes are kept, and the mean gradient in float32 is the one in float64."""
    unbiased = subject.differentiates and subject.estimator.unbiased
    truth = [subject.truth("alone")] if unbiased else []
    for dtype in (torch.float32, torch.float64):
        for default in (torch.float64, torch.float32):
            torch.set_default_dtype(default)
            distribution = subject.make(_theta(subject, (3,), dtype))
            plain = distribution.sample().dtype
            branches = subject.at(dtype).branch(distribution)
            for what, expected in (("values", plain), ("weights", dtype), ("score", dtype), ("control", dtype)):
                tensor = getattr(branches, what)
                if tensor is not None and tensor.dtype != expected:
                    raise Broken(f"{what} of {_name(tensor.dtype)} for {_name(dtype)} parameters; should be {_name(expected)}")
    if not unbiased:
        return "exact"
    single = subject.at(torch.float32)
    torch.set_default_dtype(torch.float32)

    def estimates(theta: Tensor) -> Tensor:
        return estimate(single.branch(subject.make(theta)), subject.f)

    try:
        hold(subject, estimates, truth, 1, torch.float32)
        return "sampled"
    except Broken:
        torch.set_default_dtype(torch.float64)
        try:
            hold(subject, lambda theta: subject.estimates(theta), truth, 1)
        except Broken as bias:
            raise NotApplicable("its mean is wrong in float64 too") from bias
        raise


def device(subject: Subject) -> str:
    """On cpu, and on cuda where there is one."""
    places = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for place in places:
        theta = torch.tensor(subject.thetas[0], device=place).repeat(3, 1).requires_grad_()
        branches = subject.at(torch.float64, place).branch(subject.make(theta))
        for what in ("values", "weights", "score", "control"):
            tensor = getattr(branches, what)
            if tensor is not None and tensor.device.type != place:
                raise Broken(f"{what} on {tensor.device.type} for parameters on {place}")
    return "exact: " + ", ".join(places)


def _theta(subject: Subject, batch: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """θ `[*batch, 3]`, no two rows alike."""
    rows = torch.tensor(subject.thetas[0], dtype=dtype).expand(*batch, 3)
    shift = (
        torch.linspace(-0.4, 0.4, max(1, rows.numel() // 3), dtype=dtype).reshape(*batch, 1)
        if batch
        else torch.zeros(1, dtype=dtype)
    )
    return (rows + shift).requires_grad_()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
