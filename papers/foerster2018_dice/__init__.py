"""Foerster, Farquhar, Al-Shedivat, Rocktäschel, Xing & Whiteson (2018), "DiCE: the infinitely differentiable Monte-Carlo estimator", ICML."""
