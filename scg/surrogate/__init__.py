"""From an evaluated graph to the scalar whose derivatives estimate those of the objective."""
