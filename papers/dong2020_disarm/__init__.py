"""Dong, Mnih & Tucker (2020), "DisARM: an antithetic gradient estimator for binary latent variables", NeurIPS."""
