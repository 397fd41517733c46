"""Gradient-free policy search: a distribution over a policy's parameters, moved by black-box returns.

    theta_e ~ p(·; mean, covariance)  ─►  U(theta_e)  ─►  credit(U)  ─►  step of the distribution

    specification.py    the graph that all of them share         distributions.py    p, and its weighted maximum likelihood
    perturbations.py    the members, regenerated from seeds      credits.py          what a member's return counts
    cma.py, clip_up.py  the steps with a memory                  functions.py        test functions of the optimisers

The methods are pages of `scg.agents`: `fd`, `spsa`, `es`, `ars`, `pgpe`, `cem`, `cma-es`, `rwr`, `pi2`, `power`, `pes`.
"""
