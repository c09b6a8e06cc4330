"""Redirect deletion in the admin to the leads' pages, which withdraw, archive or erase instead.

Django's own deletion would collect every slot, score and ranking of a row, and then fail because they are
protected.
"""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from accounts.access import user_of
from labeling.models import Project
from labeling.removal import withdrawing


class WithdrawnMixin:
    """A mixin for prompts, responses and tasks, which are withdrawn instead of deleted."""

    def get_actions(self, request: HttpRequest) -> Any:
        actions = super().get_actions(request)  # type: ignore[misc]
        actions.pop("delete_selected", None)
        actions["withdraw_selected"] = (
            WithdrawnMixin.withdraw_selected, "withdraw_selected", "Withdraw the selected rows",
        )  # fmt: skip
        return actions

    @staticmethod
    def withdraw_selected(model_admin: Any, request: HttpRequest, rows: Any) -> None:
        """Withdraw the rows one by one, each with its own audit entry, as the leads' page does."""
        by = user_of(request)
        count = sum(withdrawing.withdraw(content=row, by=by) for row in rows)
        sentence = f"{count} withdrawn. Each can be restored on its page."
        model_admin.message_user(request, sentence, messages.SUCCESS)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        content = self.get_object(request, object_id)  # type: ignore[attr-defined]
        if content is None:
            return redirect("admin:index")
        project, kind = withdrawing.project_of(content), withdrawing.kind_of(content)
        messages.info(
            request,
            "Content is withdrawn, and can be restored. An administrator can erase a prompt or a "
            "response for good on the prompt's page.",
        )
        return redirect(reverse("project-withdraw", args=[project.slug, kind, content.pk]))


class ProjectDeletionMixin:
    """A mixin for projects, which are archived and deleted on their settings page."""

    def get_actions(self, request: HttpRequest) -> Any:
        actions = super().get_actions(request)  # type: ignore[misc]
        actions.pop("delete_selected", None)
        return actions

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        project: Project | None = self.get_object(request, object_id)  # type: ignore[attr-defined]
        if project is None:
            return redirect("admin:index")
        if user_of(request).is_superuser:
            return redirect(reverse("delete-project", args=[project.slug]))
        messages.info(
            request, "A lead archives a project on this page. An administrator can then delete it."
        )
        return redirect(reverse("project-settings", args=[project.slug]))
