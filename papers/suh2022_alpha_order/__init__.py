"""Suh et al. (2022), "Do differentiable simulators give better policy gradients?", ICML."""
