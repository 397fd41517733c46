"""A module beside the user's agents, which they import."""

HIDDEN = (8,)
