"""Schulman, Wolski, Dhariwal, Radford & Klimov (2017), "Proximal policy optimization algorithms"."""
