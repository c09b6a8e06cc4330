from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.models import User
from labeling.admin.big_tables import OwnProjectsAdmin
from labeling.models import Project
from reward.models import RewardModel, Snapshot


class FrozenAdmin(OwnProjectsAdmin):
    """A read-only admin, in which trainers see the rows of the projects in which they train.

    The pages and commands of the product create and change the rows.
    """

    def projects_of(self, user: User) -> QuerySet[Any]:
        return Project.objects.of_trainer(user).values("pk")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Snapshot)
class SnapshotAdmin(FrozenAdmin):
    list_display = ("id", "project", "content_hash", "created_by", "created_at")
    list_filter = ("project",)
    list_select_related = ("project", "created_by")
    search_fields = ("content_hash",)
    date_hierarchy = "created_at"


class NamedAdmin(FrozenAdmin):
    """An admin in which only the name can be changed."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return admin.ModelAdmin.has_change_permission(self, request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [field.name for field in self.model._meta.fields if field.name != "name"]


@admin.register(RewardModel)
class RewardModelAdmin(NamedAdmin):
    list_display = ("id", "name", "project", "state", "base", "created_at")
    list_filter = ("state", "project")
    list_select_related = ("project",)
    search_fields = ("name", "base")
