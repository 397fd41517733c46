"""Kakade (2001), "A natural policy gradient", NIPS."""
