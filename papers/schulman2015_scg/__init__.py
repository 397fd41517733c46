"""Schulman, Heess, Weber & Abbeel (2015), "Gradient estimation using stochastic computation graphs", NIPS."""
