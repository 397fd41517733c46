"""Grathwohl, Choi, Wu, Roeder & Duvenaud (2018), "Backpropagation through the void", ICLR."""
