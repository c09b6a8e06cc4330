from django.core.management import CommandError, CommandParser

from finetune.forms.choices import served_models
from finetune.management.commands import generate
from finetune.management.models_named import model_named
from finetune.models import Model
from labeling.models import Project


class Command(generate.Command):
    kind = "ask"
    description = """Ask a model on an endpoint for responses to a project's prompts, and queue them.

  manage.py ask lamps
  manage.py ask lamps --model 4 --prompts all --set samples_per_prompt=6

The operator declares endpoints in the file TIEBREAK_ENDPOINTS; manage.py models add --endpoint adds
a model. A restarted run asks only for the responses that it does not have yet."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        for action in parser._actions:
            if action.dest == "model":
                action.help = "the model; default: the project's only model on an endpoint"

    def chosen_model(self, project: Project, number: int | None) -> Model:
        if number is not None:
            return model_named(number)
        models = list(served_models().filter(project=project)[:2])
        if len(models) == 1:
            return models[0]
        raise CommandError(
            f"{project} has several models on endpoints; choose one with --model."
            if models
            else f"{project} has no model on an endpoint. Add one: manage.py models add {project.slug} "
            "MODEL --endpoint NAME"
        )
