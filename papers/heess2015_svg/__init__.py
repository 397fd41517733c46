"""Heess et al. (2015), "Learning continuous control policies by stochastic value gradients", NIPS."""
