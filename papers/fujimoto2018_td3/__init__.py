"""Fujimoto, van Hoof & Meger (2018), "Addressing function approximation error in actor-critic methods"."""
