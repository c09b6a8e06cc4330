from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.access import user_of
from accounts.models import User
from labeling.admin import gold, guidelines
from labeling.admin.big_tables import BigTableAdmin, FrozenMixin, OwnProjectsAdmin
from labeling.admin.removal import ProjectDeletionMixin, WithdrawnMixin
from labeling.core.chats import chat_problem
from labeling.core.lettering import letters_of
from labeling.core.text import excerpt, render, shortened, storable
from labeling.importing import findings
from labeling.models import (
    Membership,
    Project,
    Prompt,
    Ranking,
    Response,
    Skip,
    Slot,
    Task,
    TaskResponse,
)
from labeling.projects import creation, memberships, settings
from labeling.queue import tasks as queue

assert gold and guidelines


def link(name: str, pk: int, text: object) -> SafeString:
    return format_html(
        '<a href="{}">{}</a>', reverse(f"admin:labeling_{name}_change", args=[pk]), text
    )


class FrozenInline(FrozenMixin, admin.TabularInline):
    extra = 0
    can_delete = False
    classes = ("no-original",)


# --- projects ------------------------------------------------------------------------------------


class MembershipForm(forms.ModelForm):
    by: User

    def clean(self) -> dict[str, Any]:
        values = super().clean() or {}
        person, role = values.get("user"), values.get("role", "")
        if person and role and self.has_changed():
            project = self.instance.project if self.instance.project_id else None
            rule = {"person": person, "role": role, "by": self.by, "project": project}
            if sentence := memberships.problem(**rule):
                self.add_error("role", sentence)
        return values


class MembershipFormSet(forms.BaseInlineFormSet):
    """The members of a project, of whom at least one must lead it."""

    by: User

    def clean(self) -> None:
        super().clean()
        removed_or_lower = any(
            "role" in form.changed_data or form in self.deleted_forms for form in self.initial_forms
        )
        if (self.errors and any(self.errors)) or not removed_or_lower or self.by.is_everywhere:
            return
        kept = [form for form in self.forms if form not in self.deleted_forms]
        if not any(memberships.leads_as(**_chosen(form)) for form in kept):
            raise ValidationError(memberships.NO_LEAD)


def _chosen(form: forms.ModelForm) -> dict[str, Any]:
    return {"person": form.cleaned_data.get("user"), "role": form.cleaned_data.get("role", "")}


class MembershipInline(admin.TabularInline):
    """An inline for members with a plain selection of people.

    A search field would require permission to view accounts.
    """

    model = Membership
    form = MembershipForm
    formset = MembershipFormSet
    extra = 0

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset: Any = super().get_formset(request, obj, **kwargs)
        formset.form = type("MembershipForm", (formset.form,), {"by": user_of(request)})
        formset.by = user_of(request)
        return formset

    def formfield_for_foreignkey(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        if db_field.name == "user":
            kwargs["queryset"] = User.objects.filter(is_active=True).order_by("username")
        return super().formfield_for_foreignkey(db_field, request, **kwargs)


@admin.register(Project)
class ProjectAdmin(ProjectDeletionMixin, OwnProjectsAdmin):
    project_path = "pk"
    list_display = ("name", "slug", "current_version", "rankings_per_task", "simulated")
    list_filter = ("simulated", ("archived_at", admin.EmptyFieldListFilter))
    list_select_related = ("current_version__guideline",)
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}
    readonly_fields = ("current_version", "created_at", "archived_at")
    inlines = (MembershipInline,)
    form = settings.PolicyForm
    fieldsets = (
        *settings.FIELDSETS,
        ("Address and guideline", {"fields": ("slug", "current_version", "created_at")}),
        ("Status", {"fields": ("simulated", "archived_at")}),
    )

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change:
            settings.note(obj, form, user_of(request))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        super().save_formset(request, form, formset, change)
        if formset.model is Membership:
            memberships.note(formset, user_of(request))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Make the creator of a project its lead, because they could otherwise not see the project."""
        super().save_related(request, form, formsets, change)
        if not change:
            creation.give_lead(project=form.instance, by=user_of(request))

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        return {} if obj else super().get_prepopulated_fields(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "slug") if obj else self.readonly_fields


# --- prompts and responses -----------------------------------------------------------------------


class PromptForm(forms.ModelForm):
    def clean_messages(self) -> Any:
        messages = self.cleaned_data["messages"]
        if problem := chat_problem(messages):
            raise ValidationError(problem)
        return [{name: storable(text) for name, text in message.items()} for message in messages]


class ResponseInline(FrozenInline):
    model = Response
    fields = readonly_fields = ("text_cut", "model_name", "seed")

    @admin.display(description="Text")
    def text_cut(self, response: Response) -> SafeString:
        return link("response", response.pk, excerpt(response.text, 160))


@admin.register(Prompt)
class PromptAdmin(WithdrawnMixin, BigTableAdmin):
    form = PromptForm
    list_display = ("id", "prompt_excerpt", "project", "external_id", "created_at")
    list_filter = ("project",)
    list_select_related = ("project",)
    messages_path = "messages"
    search_help_text = "A number, or words of the last message."
    actions = ("make_tasks",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("project", "messages", "external_id", "meta")
        return ("project", "chat", "external_id", "meta", "content_hash", "created_at")

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return (ResponseInline,) if obj else ()

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request, obj)

    @admin.display(description="Prompt")
    def prompt_excerpt(self, prompt: Prompt) -> str:
        return shortened(prompt.messages[-1]["content"]) if prompt.messages else ""

    @admin.display(description="Chat")
    def chat(self, prompt: Prompt) -> SafeString:
        parts = [
            format_html(
                '<p class="chat-role">{}</p><div class="prose chat-text">{}</div>',
                message["role"],
                render(message["content"]),
            )
            for message in prompt.messages
        ]
        return format_html("{}" * len(parts), *parts)

    @admin.action(description="Create tasks from all responses of the selected prompts")
    def make_tasks(self, request: HttpRequest, prompts: QuerySet[Prompt]) -> None:
        created = unfit = 0
        for prompt in prompts.select_related("project").prefetch_related("responses"):
            responses = list(prompt.responses.all())
            if 2 <= len(responses) <= 9:
                task = queue.NewTask(prompt.pk, [response.pk for response in responses])
                [(_, new)] = findings.add_tasks(project=prompt.project, tasks=[task])
                created += new
            else:
                unfit += 1
        self.message_user(request, f"{created} new tasks.", messages.SUCCESS)
        if unfit:
            sentence = (
                f"{unfit} prompts do not have 2 to 9 responses; no tasks were created for them."
            )
            self.message_user(request, sentence, messages.WARNING)


@admin.register(Response)
class ResponseAdmin(WithdrawnMixin, BigTableAdmin):
    project_path = "prompt__project"
    list_display = ("id", "text_cut", "model_name", "prompt_link", "created_at")
    list_filter = ("prompt__project",)
    list_select_related = ("prompt",)
    autocomplete_fields = ("prompt",)
    number_fields = ("id", "prompt_id")
    messages_path = "prompt__messages"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("prompt", "text", "model_name", "sampling", "seed", "external_id")
        return (
            "prompt_link", "rendered", "model_name", "sampling", "seed", "external_id", "created_at",
        )  # fmt: skip

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.text = storable(obj.text)
        super().save_model(request, obj, form, change)

    @admin.display(description="Text")
    def text_cut(self, response: Response) -> str:
        return excerpt(response.text)

    @admin.display(description="Text")
    def rendered(self, response: Response) -> SafeString:
        return format_html('<div class="prose">{}</div>', render(response.text))

    @admin.display(description="Prompt")
    def prompt_link(self, response: Response) -> SafeString:
        return link("prompt", response.prompt_id, shortened(str(response.prompt), 60))


# --- tasks ---------------------------------------------------------------------------------------


class TaskResponseInline(FrozenInline):
    model = TaskResponse
    fields = readonly_fields = ("position", "answer", "model_name")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("response")

    @admin.display(description="Response")
    def answer(self, task_response: TaskResponse) -> SafeString:
        return link(
            "response", task_response.response_id, excerpt(task_response.response.text, 160)
        )

    @admin.display(description="Model")
    def model_name(self, task_response: TaskResponse) -> str:
        return task_response.response.model_name


class SlotInline(FrozenInline):
    model = Slot
    fields = readonly_fields = ("number", "reviewer", "leased_until", "ranking_link")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("reviewer").order_by("number")

    @admin.display(description="Ranking")
    def ranking_link(self, slot: Slot) -> str | SafeString:
        return link("ranking", slot.ranking_id, slot.ranking_id) if slot.ranking_id else "–"


class PriorityFilter(admin.SimpleListFilter):
    """A filter that lists all possible priorities instead of scanning the table for those in use."""

    title = parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(priority), str(priority)) for priority in range(9, -1, -1)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(priority=chosen) if chosen in set("0123456789") else queryset


@admin.register(Task)
class TaskAdmin(WithdrawnMixin, BigTableAdmin):
    list_display = ("id", "prompt_excerpt", "project", "kind", "priority", "filled", "created_at")
    list_filter = ("project", "kind", PriorityFilter)
    list_select_related = ("project", "prompt")
    messages_path = "prompt__messages"
    fields = ("project", "prompt_link", "kind", "priority", "rankings_wanted", "created_at")
    readonly_fields = ("project", "prompt_link", "kind", "rankings_wanted", "created_at")
    inlines = (TaskResponseInline, SlotInline)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("slots")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if "priority" in form.changed_data:
            queue.set_priority(task=obj, priority=obj.priority)

    @admin.display(description="Prompt")
    def prompt_excerpt(self, task: Task) -> str:
        return shortened(str(task.prompt), 100)

    @admin.display(description="Prompt")
    def prompt_link(self, task: Task) -> SafeString:
        return link("prompt", task.prompt_id, shortened(str(task.prompt), 160))

    @admin.display(description="Rankings")
    def filled(self, task: Task) -> str:
        slots = task.slots.all()
        return f"{sum(slot.ranking_id is not None for slot in slots)} of {len(slots)}"


@admin.register(Slot)
class SlotAdmin(FrozenMixin, BigTableAdmin):
    list_display = ("id", "task", "number", "priority", "reviewer", "leased_until", "ranking_id")
    list_filter = ("project", ("leased_until", admin.EmptyFieldListFilter))
    list_select_related = ("task", "reviewer")
    number_fields = ("id", "task_id")
    name_fields = ("reviewer__username",)
    search_help_text = "The number of a slot or a task, or a reviewer's username."


@admin.register(Skip)
class SkipAdmin(FrozenMixin, BigTableAdmin):
    project_path = "task__project"
    list_display = ("id", "task", "reviewer", "reason", "note", "created_at")
    list_filter = ("reason", "task__project")
    list_select_related = ("task", "reviewer")
    number_fields = ("id", "task_id")
    name_fields = ("reviewer__username",)
    search_help_text = "The number of a skip or a task, or a reviewer's username."


# --- rankings ------------------------------------------------------------------------------------


@admin.register(Ranking)
class RankingAdmin(FrozenMixin, BigTableAdmin):
    project_path = "task__project"
    list_display = ("id", "task", "reviewer", "order", "source", "extra", "current", "created_at")
    list_filter = (
        "source", "extra", ("superseded_at", admin.EmptyFieldListFilter), "task__project",
    )  # fmt: skip
    list_select_related = ("task", "reviewer")
    number_fields = ("id", "task_id")
    name_fields = ("reviewer__username",)
    search_help_text = "The number of a ranking or a task, or a reviewer's username."
    exclude = ("tiers",)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (
            "task", "reviewer", "order", "cut", "strength", "ratings", "flags", "rationale",
            "letters", "guideline_version", "shown_order", "active_seconds", "source", "idempotency_key",
            "supersedes", "superseded_at", "extra", "created_at",
        )  # fmt: skip

    @admin.display(description="Order, best first")
    def order(self, ranking: Ranking) -> str:
        return " > ".join(" = ".join(map(str, tier)) for tier in ranking.tiers)

    @admin.display(description="Letters in the rationale")
    def letters(self, ranking: Ranking) -> str:
        letters = letters_of(ranking.shown_order)
        named = ", ".join(f"{letter} is response {pk}" for pk, letter in letters.items())
        return named or "not recorded"

    @admin.display(description="Current", boolean=True)
    def current(self, ranking: Ranking) -> bool:
        return ranking.superseded_at is None
