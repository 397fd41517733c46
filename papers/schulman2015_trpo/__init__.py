"""Schulman, Levine, Moritz, Jordan & Abbeel (2015), "Trust region policy optimization", ICML."""
