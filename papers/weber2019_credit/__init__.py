"""Weber, Heess, Buesing & Silver (2019), "Credit assignment techniques in stochastic computation graphs", AISTATS."""
