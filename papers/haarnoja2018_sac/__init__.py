"""Haarnoja, Zhou, Abbeel & Levine (2018), "Soft actor-critic"."""
