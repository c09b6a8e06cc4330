"""Type checking of scripts; see `tests.javascript.__main__`."""
