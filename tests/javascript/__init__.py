"""The check of the scripts' types; see `tests.javascript.__main__`."""
