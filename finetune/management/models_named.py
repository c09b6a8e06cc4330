from finetune.models import Model
from reward.management import model_command


def model_named(number: int) -> Model:
    """Return the model with this number.

    Raises CommandError if there is none. Its text lists the existing models.
    """
    return model_command.model_named(Model, number)
