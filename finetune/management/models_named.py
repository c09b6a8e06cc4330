from django.core.management import CommandError

from finetune.models import Model


def model_named(number: int) -> Model:
    """Raises CommandError with the models there are."""
    model = Model.objects.select_related("project").filter(pk=number).first()
    if model:
        return model
    known = ", ".join(f"{m.pk} ({m})" for m in Model.objects.order_by("id")[:20]) or "none"
    raise CommandError(f"There is no model {number}. There are: {known}.")
