"""A mixture of two returns, as somebody would write it who has read ARCHITECTURE.md."""

from dataclasses import dataclass

from torch import Tensor

from scg.credit import Credit, Downstream


@dataclass(frozen=True)
class HalfWay(Credit):
    """½ Q(s, a) + ½ (c + γ V(s'))."""

    discount: float = 0.95
    critics = ("value",)
    q_critics = ("q",)

    def __call__(self, downstream: Downstream) -> Tensor:
        following = downstream.value("next_value").masked_fill(downstream.value("terminated").bool(), 0.0)
        return 0.5 * downstream.value("q") + 0.5 * (downstream.step_cost() + self.discount * following)


class Shifted(HalfWay):
    """The same with V(s) where V(s') belongs."""

    def __call__(self, downstream: Downstream) -> Tensor:
        return 0.5 * downstream.value("q") + 0.5 * (downstream.step_cost() + self.discount * downstream.value("value"))
