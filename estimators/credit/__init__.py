"""What multiplies a node's score in place of the costs downstream of it (Weber et al. 2019).

    MonteCarlo                            the costs that were seen
    NStep, LambdaReturn, GAE, QCritic     with a critic for what was not
    VTrace, Retrace, TreeBackup, QLambda  the same from a recording of another policy
    VIMCO                                 what a sample adds to a multi-sample bound
    BatchLeaveOneOut                      less the mean of the batch's other elements
    GroupRelative                         less the group's mean, its own included, over their spread: GRPO
    Aggregated                            wraps a credit: means over steps of answers of different lengths
    Without                               wraps a credit: some costs left out of it
    EarlierRatios, LeadingDiscount        wrap a credit: the factor of the steps before
    SelfNormalisedRatios                  the same over the batch's mean of it
    LoadedDice                            wraps a credit: right to second order
    valid_conditioning_sets               what a node's baselines and critics may be functions of

`evaluate_credit(credit, trace, node)` is any credit on any trace: λ-return targets for a critic, say.
"""

from scg.estimators.credit.aggregated import Aggregated
from scg.estimators.credit.batch_leave_one_out import BatchLeaveOneOut
from scg.estimators.credit.conditioning import Conditioning, valid_conditioning_sets
from scg.estimators.credit.evaluation import cost_to_go, evaluate_credit
from scg.estimators.credit.group_relative import GroupRelative
from scg.estimators.credit.lambda_return import GAE, LambdaReturn
from scg.estimators.credit.leading_discount import LeadingDiscount
from scg.estimators.credit.loaded_dice import LoadedDice
from scg.estimators.credit.monte_carlo import MonteCarlo
from scg.estimators.credit.n_step import NStep
from scg.estimators.credit.q_critic import QCritic
from scg.estimators.credit.ratios import EarlierRatios
from scg.estimators.credit.retrace import QLambda, QReturn, Retrace, TreeBackup
from scg.estimators.credit.self_normalised import SelfNormalisedRatios
from scg.estimators.credit.v_trace import VTrace, VTraceTarget
from scg.estimators.credit.vimco import VIMCO
from scg.estimators.credit.without import Without

__all__ = [
    "GAE", "VIMCO", "Aggregated", "BatchLeaveOneOut", "Conditioning", "EarlierRatios", "GroupRelative", "LambdaReturn", "LeadingDiscount", "LoadedDice", "MonteCarlo", "NStep",
    "QCritic", "QLambda", "QReturn", "Retrace", "SelfNormalisedRatios", "TreeBackup", "VTrace", "VTraceTarget", "Without", "cost_to_go", "evaluate_credit", "valid_conditioning_sets",
]  # fmt: skip
