"""Figures about a reward model, computed with numpy alone: accuracy, calibration, bias, mistakes."""
