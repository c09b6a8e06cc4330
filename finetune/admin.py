from django.contrib import admin

from finetune.models import Evaluation, Model
from reward.admin import FrozenAdmin, NamedAdmin


@admin.register(Model)
class ModelAdmin(NamedAdmin):
    list_display = ("id", "name", "project", "state", "base", "created_at")
    list_filter = ("state", "project")
    list_select_related = ("project",)
    search_fields = ("name", "base")


@admin.register(Evaluation)
class EvaluationAdmin(FrozenAdmin):
    list_display = ("id", "candidate", "baseline", "project", "judge", "created_at")
    list_filter = ("project", "judge")
    list_select_related = ("candidate", "baseline", "project")
