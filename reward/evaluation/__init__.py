"""The figures of a reward model: accuracy, calibration, length bias and mistakes. Pure numpy."""
