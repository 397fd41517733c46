"""The battery for credits: a right credit passes, and each law catches the twins that break it."""

from dataclasses import dataclass

import pytest
import torch

from scg.credit import Credit
from scg.scan import affine
from scg.testing import Claim, assert_credit, check_credit
from scg.testing.credit_battery import LAWS
from scg.testing.credit_battery.process import ACTIONS, STATES, Process, recording
from scg.testing.credit_battery.subject import logits


@dataclass(frozen=True)
class Ours(Credit):
    """The λ-return of this file, which the twins break in one place each."""

    discount: float = 0.9
    lam: float = 0.5
    critics = ("value",)

    def __call__(self, downstream):
        if not downstream.in_sequence:
            return downstream.step_cost() + self.discount * self.following(downstream)
        value = downstream.value("value")
        error = self.cost(downstream) + self.discount * self.following(downstream) - value
        return value + affine(self.discount * self.lam * self.carried(downstream), error)

    def cost(self, downstream):
        return downstream.step_cost()

    def carried(self, downstream):
        return 1.0 - downstream.ends()

    def following(self, downstream):
        return downstream.value("next_value").masked_fill(downstream.value("terminated").bool(), 0.0)


class WrongShape(Ours):
    def __call__(self, downstream):
        return super().__call__(downstream).unsqueeze(-1)


class Doubles(Ours):
    """Double precision whatever comes in."""

    def __call__(self, downstream):
        return super().__call__(downstream).double()


class InPlace(Ours):
    def __call__(self, downstream):
        found = super().__call__(downstream)
        downstream.costs[0][0].zero_()
        return found


class SeesThePast(Ours):
    """A step is charged with the cost of the step before it."""

    def cost(self, downstream):
        cost = downstream.step_cost()
        return cost + torch.cat([torch.zeros_like(cost[:1]), cost[:-1]])


class CrossesEpisodes(Ours):
    def carried(self, downstream):
        carried = torch.ones_like(downstream.costs[0][0])
        carried[-1] = 0.0
        return carried


class GrowsWithTime(Ours):
    """Divides where it should multiply by γ."""

    def __call__(self, downstream):
        if not downstream.in_sequence:
            return super().__call__(downstream)
        return affine(self.carried(downstream) / self.discount, downstream.step_cost())


class MultipliesAtTheEnd(Ours):
    """0 · NaN is NaN."""

    def following(self, downstream):
        return downstream.value("next_value") * (1.0 - downstream.value("terminated"))


class BootstrapsAtTheEnd(Ours):
    def following(self, downstream):
        return downstream.value("next_value")


class TakesACutForAnEnd(Ours):
    def following(self, downstream):
        following = super().following(downstream)
        return following * self.carried(downstream) if downstream.in_sequence else following


class HidesItsCritic(Ours):
    critics = ()


class NamesAnother(Ours):
    critics = ("value", "q")


class Halves(Ours):
    """Half of every cost of the step itself: its mean is wrong, its shape and its times are right."""

    def cost(self, downstream):
        return 0.5 * downstream.step_cost()


class Reads(Ours):
    """Adds Q(s, a): more where the action has no consequence too, if Q is not exact; twice the gradient where it is."""

    q_critics = ("q",)

    def __call__(self, downstream):
        return super().__call__(downstream) + downstream.value("q")


class WrongTwice(Halves):
    """Half of the Hessian of the costs seen."""

    order = 2.0


class ForgetsWhatIsAlone(Ours):
    """Outside a sequence it does not bootstrap."""

    def __call__(self, downstream):
        return super().__call__(downstream) if downstream.in_sequence else downstream.step_cost()


class AgainstTheAction(Ours):
    """Adds log π(a|s), as an entropy bonus would: a gradient where nothing has a consequence."""

    def __call__(self, downstream):
        return super().__call__(downstream) + downstream.value("log_prob")


class Raises(Ours):
    def __call__(self, downstream):
        raise RuntimeError("no")


TWINS = {
    WrongShape: "shapes",
    Doubles: "shapes",
    InPlace: "shapes",
    SeesThePast: "time",
    CrossesEpisodes: "time",
    GrowsWithTime: "time",
    MultipliesAtTheEnd: "ends",
    BootstrapsAtTheEnd: "ends",
    HidesItsCritic: "critics",
    NamesAnother: "critics",
    Halves: "first order",
    Reads: "first order",
    TakesACutForAnEnd: "cuts",
    ForgetsWhatIsAlone: "alone",
    AgainstTheAction: "constant",
    WrongTwice: "second order",
}


def test_a_right_credit_passes():
    report = assert_credit(Ours())
    assert {r.law for r in report.results if r.status == "passed"} == set(LAWS) - {"any critics", "recorded"}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_a_twin_breaks_its_law(twin):
    law = TWINS[twin]
    report = check_credit(twin(discount=1.0) if twin is WrongTwice else twin(), laws=[law])
    assert report.broken == (law,), str(report)


@pytest.mark.parametrize(
    ("twin", "law"), [(BootstrapsAtTheEnd, "first order"), (TakesACutForAnEnd, "cuts"), (ForgetsWhatIsAlone, "alone")]
)
def test_a_bias_is_told_with_its_numbers(twin, law):
    (result,) = check_credit(twin(), laws=[law]).results
    assert result.status == "failed" and "the mean is" in result.evidence and "should be" in result.evidence


def test_only_what_is_broken_is_reported():
    assert check_credit(TakesACutForAnEnd()).broken == ("cuts",)
    assert check_credit(ForgetsWhatIsAlone()).broken == ("alone",)
    assert check_credit(HidesItsCritic()).broken == ("critics",)


def test_a_second_order_is_held_at_a_discount_of_one_only():
    laws = ["second order"]
    assert check_credit(WrongTwice(), laws=laws)["second order"][0].evidence == "it is held at a discount of 1 only"
    assert check_credit(WrongTwice(discount=1.0), laws=laws).broken == ("second order",)


def test_a_credit_that_raises_breaks_the_laws_that_call_it():
    report = check_credit(Raises(), laws=["time"])
    assert not report and report["time"][0].evidence == "it raised RuntimeError: no"


class SelfIncluded(Credit):
    """Less the mean of the whole batch, its own cost in it: shrinks the gradient by (B − 1)/B."""

    def __call__(self, downstream):
        cost = downstream.cost_to_go()
        return cost - cost.mean(-1, keepdim=True) if cost.ndim > downstream.in_sequence else cost


def test_a_credit_that_mixes_the_batch_is_held_on_pairs_of_outcomes():
    report = check_credit(SelfIncluded(), Claim(critics="any", cuts=False))
    assert "first order" in report.broken and "constant" not in report.broken, str(report)


class Renamed(Ours):
    critics = ("v",)

    def __call__(self, downstream):
        from dataclasses import replace

        names = {"value": "v", "next_value": "v_next", "terminated": "done"}
        return super().__call__(replace(downstream, value=lambda name: downstream.value(names[name])))


def test_nodes_may_have_other_names():
    assert_credit(Renamed(), names={"value": "v", "next_value": "v_next", "terminated": "done"})
    assert "shapes" in check_credit(Renamed()).broken


def test_a_law_may_be_waived_with_its_reason():
    report = check_credit(HidesItsCritic(), waived={"critics": "on purpose"})
    assert report and report["critics"][0].evidence == "on purpose"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_credit(Ours), "an instance of a subclass of scg.credit.Credit, not the class Ours"),
        (lambda: check_credit(1.0), "not 1.0"),
        (lambda: check_credit(Ours(), laws=["shape"]), "no law 'shape'. Did you mean 'shapes'"),
        (lambda: check_credit(Ours(), names={"valu": "v"}), "the process has no node 'valu'. Did you mean 'value'"),
        (lambda: Claim(discount=0.0), "greater than 0"),
        (lambda: Claim(critics="all"), "one of 'any', 'exact', 'none'"),
        (lambda: Claim(recorded="yes"), "one of 'visited', 'own', 'no'"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_failure_is_raised_with_the_table():
    with pytest.raises(AssertionError, match=r"failed cuts[\s\S]*the mean is"):
        assert_credit(TakesACutForAnEnd())


# -- the process -----------------------------------------------------------------------------------------------------

PROCESSES = [Process(3, 0.9), Process(3, 0.9, cuts=(1, 2)), Process(2), Process(3, single=True), Process(1, cuts=(0,))]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_visits_are_those_of_the_list_of_outcomes(process):
    record, policy, other = recording(process), logits(process).softmax(-1), logits(process, 0.9).softmax(-1)
    for behaviour in (policy, other):
        p = record.probabilities(behaviour)
        assert torch.isclose(p.sum(), torch.tensor(1.0))
        counted = torch.stack([(p * (record.seen["x"] == x).sum(0)).sum() for x in range(process.rows)])
        assert torch.allclose(counted, process.visits(behaviour, policy))


def test_exact_critics_are_the_mean_cost_that_follows():
    """Where nothing is cut: conditional means over the outcomes."""
    process = Process(3, discount=0.9, single=True)
    record, policy = recording(process), logits(process).softmax(-1)
    p, cost = record.probabilities(policy), record.seen["cost"]
    to_go = affine(torch.full_like(cost, 0.9), cost)
    v, q = process.critics(policy)
    for x in range(process.steps * STATES):
        here = record.seen["x"][x // STATES] == x
        assert torch.isclose((p * here * to_go[x // STATES]).sum() / (p * here).sum(), v[x])
        for a in range(ACTIONS):
            both = here & (record.seen["action"][x // STATES] == a)
            assert torch.isclose((p * both * to_go[x // STATES]).sum() / (p * both).sum(), q[x, a])
