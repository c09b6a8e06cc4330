"""The launch page: the form with its presets, the command line, the first batch and the forecast."""
