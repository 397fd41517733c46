"""Andrychowicz et al. (2017), "Hindsight experience replay"."""
