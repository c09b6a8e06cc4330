from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from finetune.chat.conversations import models_for, start
from finetune.forms.choices import ModelChoiceField
from finetune.models import MAX_SYSTEM_PROMPT, Conversation, Model

MAX_TOKENS = 4096


class StartForm(forms.Form):
    """The form that starts a conversation with one model, or with two whose names are hidden."""

    model = ModelChoiceField(
        label=_("Model"),
        queryset=Model.objects.none(),
        empty_label=None,
        none_yet=_("No models yet: add a base model under Models first"),
    )
    other = ModelChoiceField(
        queryset=Model.objects.none(),
        required=False,
        empty_label=_("None"),
        none_yet=_("No second model"),
        label=_("Compare with"),
        help_text=_(
            "Both models answer next to each other, without their names, in random places."
        ),
    )
    system_prompt = forms.CharField(
        label=_("System prompt"),
        required=False,
        max_length=MAX_SYSTEM_PROMPT,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("Instructions that the models get before the chat."),
    )
    temperature = forms.FloatField(
        label=_("Temperature"),
        min_value=0, max_value=2, initial=0.7,
        help_text=_("0 always takes the likeliest token."),
    )  # fmt: skip
    top_p = forms.FloatField(min_value=0.01, max_value=1, initial=0.95, label="Top-p")
    max_tokens = forms.IntegerField(
        min_value=0,
        max_value=MAX_TOKENS,
        initial=0,
        label=_("Longest answer (tokens)"),
        help_text=_("0 means as many as the model can write."),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any):
        super().__init__(*args, **kwargs)
        models = models_for(user).order_by("project__name", "-state", "-id")
        for name in ("model", "other"):
            self.fields[name].queryset = models  # type: ignore[attr-defined]
        self.user = user

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        model, other = values.get("model"), values.get("other")
        if model and other == model:
            self.add_error("other", _("Choose another model, or none."))
        elif model and other and model.project_id != other.project_id:
            self.add_error(
                "other",
                _("It belongs to %(other)s, not to %(own)s.")
                % {"other": other.project, "own": model.project},
            )
        return values

    def save(self) -> Conversation:
        values = dict(self.cleaned_data)
        models = [model for model in (values.pop("model"), values.pop("other")) if model]
        return start(user=self.user, models=models, **values)
