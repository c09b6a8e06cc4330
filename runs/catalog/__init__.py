"""The list of runs: filters, sorting, metrics, tags, notes and the archive."""
