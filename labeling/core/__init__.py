"""Text, letters, charts and access: what every other part of labeling uses."""
