"""Liu et al. (2025), "Understanding R1-Zero-like training: a critical perspective", arXiv:2503.20783."""
