from reward.management.model_command import ModelCommand
from reward.models import RewardModel


class Command(ModelCommand):
    help = """List reward models and change their state.

  list       All reward models, or those of a project, as a table or with --json as JSON lines.
  promote    Make a reward model the default of its project. One with doubts (no better than
             preferring the longer response, not shown to be better than chance, or without an
             accuracy) is refused without --reason.
  archive    Remove a reward model from the choices.
  restore    Make an archived one a candidate again.

Status: 0 done, 1 nothing was changed."""

    model = RewardModel
    columns = ("state", "base", "path", "accuracy_text")
