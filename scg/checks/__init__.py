"""What would make a gradient wrong, found on a graph's first sample of each signature."""
