"""Lillicrap et al. (2016), "Continuous control with deep reinforcement learning"."""
