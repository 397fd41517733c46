"""Mania, Guy & Recht (2018), "Simple random search of static linear policies is competitive for reinforcement learning", NeurIPS."""
