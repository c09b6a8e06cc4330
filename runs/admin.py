from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.access import user_of
from runs.models import Artifact, Notice, Run, RunEvent


class ReadOnly(admin.ModelAdmin):
    """A read-only admin, because runs change only through the functions in runs.lifecycle.

    Trainers see the runs of the projects in which they train. `run_path` is the lookup from a row to
    its run.
    """

    show_full_result_count = False
    list_per_page = 50
    run_path = "run"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows, user = super().get_queryset(request), user_of(request)
        if user.is_everywhere:
            return rows
        return rows.filter(**{f"{self.run_path}__in": Run.objects.trained_by(user).values("pk")})

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ArtifactInline(admin.TabularInline):
    model = Artifact
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Run)
class RunAdmin(ReadOnly):
    run_path = "pk"
    list_display = ["id", "kind", "title", "state", "attempt", "created_by", "created_at"]
    list_filter = ["kind", "state"]
    list_select_related = ["created_by"]
    search_fields = ["=id", "title", "created_by__username"]
    readonly_fields = ["page_link", "events_link"]
    inlines = [ArtifactInline]

    @admin.display(description="page")
    def page_link(self, run: Run) -> SafeString:
        return format_html('<a href="{}">Live page</a>', reverse("run", args=[run.pk]))

    @admin.display(description="events")
    def events_link(self, run: Run) -> SafeString:
        address = reverse("admin:runs_runevent_changelist")
        return format_html('<a href="{}?run__id={}">All events</a>', address, run.pk)


@admin.register(RunEvent)
class RunEventAdmin(ReadOnly):
    list_display = ["run_id", "number", "at", "event", "data"]
    list_filter = ["event"]
    ordering = ["-run_id", "-number"]
    search_fields = ["=run__id"]

    def lookup_allowed(self, lookup: str, value: str, request: Any = None) -> bool:
        return lookup == "run__id" or super().lookup_allowed(lookup, value, request)


@admin.register(Notice)
class NoticeAdmin(ReadOnly):
    list_display = ["run_id", "channel", "ended_at", "sent_at", "attempts", "error"]
    list_filter = ["channel"]
    search_fields = ["=run__id"]
