"""Exceptions that end a recipe early."""


class RecipeError(Exception):
    """An error that the user can fix. Its text is the sentence shown to the user."""


class Stopped(Exception):  # noqa: N818
    """The end of a run that was asked to stop and has saved a checkpoint."""


class RestartRequired(Exception):  # noqa: N818
    """The end of a run that must be started again to continue. The text explains the change."""
