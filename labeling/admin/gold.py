"""Gold and qualifications in the admin: view them, change constraints and retire gold."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from accounts.access import user_of
from labeling.admin.big_tables import BigTableAdmin, FrozenMixin
from labeling.core.text import shortened
from labeling.gold import constraints as gold
from labeling.gold import making
from labeling.models import Gold, Qualification


def _letters(question: Gold) -> dict[int, str]:
    places = question.task.places.order_by("position").values_list("response_id", flat=True)
    return gold.letters_of(list(places))


class GoldForm(forms.ModelForm):
    class Meta:
        model = Gold
        fields = ("purpose", "constraints", "explanation")

    def clean_constraints(self) -> Any:
        constraints = self.cleaned_data["constraints"]
        if sentence := gold.problem(constraints, _letters(self.instance)):
            raise ValidationError(sentence)
        return constraints


@admin.register(Gold)
class GoldAdmin(BigTableAdmin):
    """An admin for gold without an add page, because gold is created on the project's pages."""

    form = GoldForm
    list_display = ("id", "excerpt", "project", "purpose", "retired_at", "created_at")
    list_filter = ("project", "purpose", ("retired_at", admin.EmptyFieldListFilter))
    list_select_related = ("project", "task__prompt")
    number_fields = ("id", "task_id")
    messages_path = "task__prompt__messages"
    readonly_fields = (
        "task_link", "project", "known_answer", "created_by", "created_at", "retired_at",
    )  # fmt: skip
    fields = (
        "task_link", "project", "known_answer", "purpose", "constraints", "explanation",
        "created_by", "created_at", "retired_at",
    )  # fmt: skip
    actions = ("retire",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        making.change(
            gold=obj,
            constraints=obj.constraints,
            purpose=obj.purpose,
            explanation=obj.explanation,
            by=user_of(request),
        )

    @admin.display(description="Prompt")
    def excerpt(self, row: Gold) -> str:
        return shortened(str(row.task.prompt), 100)

    @admin.display(description="Task")
    def task_link(self, row: Gold) -> SafeString:
        address = reverse("project-gold-detail", args=[row.project.slug, row.pk])
        return format_html('<a href="{}">{}</a>', address, shortened(str(row.task.prompt), 160))

    @admin.display(description="Known answer")
    def known_answer(self, row: Gold) -> SafeString:
        letters = _letters(row)
        named = ", ".join(f"{letter} is response {pk}" for pk, letter in letters.items())
        sentences = [(sentence,) for sentence in gold.sentences(row.constraints, letters)]
        return format_html("{}<p>{}</p>", format_html_join("", "<div>{}</div>", sentences), named)

    @admin.action(description="Retire the selected gold")
    def retire(self, request: HttpRequest, golds: QuerySet[Gold]) -> None:
        retired = sum(making.retire(gold=row, by=user_of(request)) for row in golds)
        self.message_user(request, f"{retired} retired.", messages.SUCCESS)


@admin.register(Qualification)
class QualificationAdmin(FrozenMixin, BigTableAdmin):
    list_display = (
        "id", "reviewer", "project", "version", "state", "right", "asked", "ended_at",
    )  # fmt: skip
    list_filter = ("state", "project")
    list_select_related = ("reviewer", "project", "version__guideline")
    name_fields = ("reviewer__username",)
    search_help_text = "The number of an attempt, or a reviewer's username."
