"""How a recipe ends before it is done."""


class RecipeError(Exception):
    """The run cannot go on; the text is the sentence a user reads."""


class Stopped(Exception):  # noqa: N818
    """The run was asked to stop and has written what it needs to go on."""


class RestartRequired(Exception):  # noqa: N818
    """The run goes on when it is started again; the text says how."""
