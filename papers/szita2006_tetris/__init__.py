"""Szita & Lőrincz (2006), "Learning Tetris using the noisy cross-entropy method", Neural Computation 18."""
