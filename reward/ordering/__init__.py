"""The order of waiting tasks by the information that ranking them gives a reward model."""
