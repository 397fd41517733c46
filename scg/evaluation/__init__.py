"""Values, distributions and weights of one call of a graph."""
