"""Admin lists for large tables. Their cost does not depend on the number of rows."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import connection
from django.db.models import BooleanField, F, Func, JSONField, Model, QuerySet, TextField, Value
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Left
from django.http import HttpRequest
from django.utils.functional import cached_property

from accounts.access import user_of
from accounts.forms import StrictJSONField
from accounts.models import User, audit
from accounts.parameters import number
from labeling.models import Project

MAX_COUNT = 2_000
MAX_SEARCH_LENGTH = 100_000


class EstimatingPaginator(Paginator):
    """A paginator that counts up to MAX_COUNT rows and estimates the size of larger tables."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        counted = rows.order_by()[: MAX_COUNT + 1].count()
        if counted <= MAX_COUNT or rows.query.where:
            return counted
        return max(counted, estimated_rows(rows.model))


def estimated_rows(model: type[Model]) -> int:
    """Return PostgreSQL's estimate of the number of rows, or −1 if the table was never analyzed."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass",
            [model._meta.db_table],
        )
        return cursor.fetchone()[0]


class PromptWords(Func):
    """The expression on which the index prompt_words is built."""

    template = "to_tsvector('simple', %(expressions)s)"
    output_field = TextField()

    def __init__(self, messages: str):
        last = KeyTextTransform("content", KeyTextTransform(-1, F(messages)))
        super().__init__(Left(last, MAX_SEARCH_LENGTH))


def with_words(rows: QuerySet[Any], messages: str, words: str) -> QuerySet[Any]:
    """Return the rows whose last message matches the words. They may use web search syntax."""
    return rows.filter(_Matching(PromptWords(messages), Value(words)))


class _Matching(Func):
    output_field = BooleanField()
    template = "(%(expressions)s))"
    arg_joiner = " @@ websearch_to_tsquery('simple', "


class OwnProjectFilter(admin.RelatedFieldListFilter):
    """A filter by project, which offers a lead only their own projects."""

    def field_choices(
        self, field: Any, request: HttpRequest, model_admin: Any
    ) -> list[tuple[str, Any]]:
        ordering = self.field_admin_ordering(field, request, model_admin)
        user = user_of(request)
        rule = model_admin.projects_of if isinstance(model_admin, OwnProjectsAdmin) else _led_by
        own = {} if user.is_everywhere else {"pk__in": rule(user)}
        return field.get_choices(include_blank=False, ordering=ordering, limit_choices_to=own)

    def has_output(self) -> bool:
        """Return True for an active filter, which Django would hide if it has only one choice."""
        return bool(self.lookup_val) or super().has_output()


# The filter is registered for the field, so that it is also used by list filters that are added later.
admin.FieldListFilter.register(
    lambda field: getattr(field.remote_field, "model", None) is Project,
    OwnProjectFilter,
    take_priority=True,
)


class OwnChoicesMixin:
    """A mixin whose foreign keys accept only rows that the user may see in the admin.

    Without it, a form would accept every row in the field's queryset, even if its search does not offer
    it.
    """

    admin_site: admin.AdminSite

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        target = self.admin_site._registry.get(db_field.remote_field.model)
        if "queryset" not in kwargs and isinstance(target, OwnProjectsAdmin):
            kwargs["queryset"] = target.get_queryset(request)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[misc]


class OwnProjectsAdmin(OwnChoicesMixin, admin.ModelAdmin):
    """An admin in which people see and change only the rows of projects that they lead.

    Accounts with rights in all projects see all rows. `project_path` is the lookup from a row to its project. Lists, searches, actions and the pages of a
    row all use `get_queryset`. Changes are written to the audit trail.
    """

    project_path = "project"

    def projects_of(self, user: User) -> QuerySet[Any]:
        """Return the ids of the projects whose rows the user may see here, as a query."""
        return _led_by(user)

    class Media:
        css = {"all": ["admin-guideline/editor.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows = super().get_queryset(request)
        user = user_of(request)
        if user.is_everywhere:
            return rows
        return rows.filter(**{f"{self.project_path}__in": self.projects_of(user)})

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        audit(user_of(request), f"{self.opts.verbose_name} added", obj, id=obj.pk)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        if message:
            name = self.opts.verbose_name
            audit(user_of(request), f"{name} changed", obj, id=obj.pk, changes=message)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            audit(user_of(request), f"{self.opts.verbose_name} deleted", obj, id=obj.pk)
        return super().log_deletions(request, queryset)


def _led_by(user: User) -> QuerySet[Any]:
    return Project.objects.of_lead(user).values("pk")


class BigTableAdmin(OwnProjectsAdmin):
    """An admin for large tables. Rows are sorted by id, and searched by id or by words of the prompt."""

    paginator = EstimatingPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 0
    show_facets = admin.ShowFacets.NEVER
    formfield_overrides = {JSONField: {"form_class": StrictJSONField}}
    ordering = ("-id",)
    sortable_by = ("id",)
    search_fields = ("id",)
    number_fields: tuple[str, ...] = ("id",)
    messages_path = ""
    name_fields: tuple[str, ...] = ()
    search_help_text = "A number, or words of the prompt."

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip().replace("\x00", "")
        if not term:
            return queryset, False
        if (number_searched := number(term)) is not None:
            rows = queryset.none()
            for field in self.number_fields:
                rows = rows | queryset.filter(**{field: number_searched})
            return rows, False
        for field in self.name_fields:
            if (named := queryset.filter(**{field: term})).exists():
                return named, False
        if not self.messages_path:
            return queryset.none(), False
        return with_words(queryset, self.messages_path, term), False


class FrozenMixin:
    """A mixin for rows that the admin only shows, because other modules create and change them."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
