"""Order, ancestors and lags of a graph, before anything is evaluated."""
