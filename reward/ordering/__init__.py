"""The order of waiting tasks by what ranking them would teach a reward model."""
