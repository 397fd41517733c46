"""Why `scg` may refuse a random graph: words of the message, and why the refusal is right. `docs/attacker.md` tells more."""

REASONS = {
    "it has a credit, but no cost is downstream of it": "a credit replaces costs downstream, and there are none with a gradient",
    "broadcasting one up to the other": "a cost without the batch axes of its weights: one cost for many samples, whose mean would be another",
    "more axes than the cost": "the same, found at the node: a cost shared by the batch beside samples that are not",
    "its plate stands left of batch shape": "a plate on a node without the batch axes of the costs: the plate would be taken for the batch",
    "divides the costs of the sequence by its steps": "reduce='mean' with a credit that stands for costs inside and outside together",
    "and beside that through detach": "a weight multiplies the whole cost, and cannot leave out a detached path to it",
    "at some steps and through detach": "one weight for all steps cannot be live at some and detached at others",
    "run on branch 0 alone": "not a fault of the graph: an initial value with branches before a recurrence without; safe, and could be allowed",
}
