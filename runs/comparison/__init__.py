"""The comparison of runs: curves in the same charts, differences of settings, metrics and answers."""
