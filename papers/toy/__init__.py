"""One bit that three papers use as their toy: minimise E[(b − t)²], b ~ Bernoulli(σ(θ)). `exact` and `descent`."""
