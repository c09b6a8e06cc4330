from reward.management.model_command import ModelCommand
from reward.models import RewardModel


class Command(ModelCommand):
    help = """The reward models of projects.

  list       All of them, or one project's, as a table or with --json one JSON object a line.
  promote    Make a reward model the default of its project. One with doubts (no better than
             preferring the longer response, not shown to be better than chance, or without an
             accuracy) is refused unless --despite-doubts.
  archive    Take a reward model out of the choices.
  restore    Put an archived one back.

Status: 0 done, 1 nothing was changed."""

    model = RewardModel
    columns = ("state", "base", "path", "accuracy_text")
