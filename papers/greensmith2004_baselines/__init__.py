"""Greensmith, Bartlett & Baxter (2004), on processes small enough to sum over."""
