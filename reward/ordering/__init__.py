"""The order of waiting tasks by how much a reward model would learn from ranking them."""
