"""Parmas et al. (2018), "PIPPS: flexible model-based policy search robust to the curse of chaos", ICML."""
