"""Guidelines in the admin, for all of a lead's projects, with the same forms as on the leads' pages."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts.access import user_of
from labeling.admin.big_tables import OwnProjectsAdmin
from labeling.core.text import shortened
from labeling.guidelines import versions as guidelines
from labeling.guidelines.forms import CriterionForm, DraftForm, MarkdownEditor, preview
from labeling.guidelines.versions import GuidelineError
from labeling.models import Criterion, Guideline, GuidelineVersion

DRAFT = GuidelineVersion.State.DRAFT


class VersionForm(DraftForm):
    class Meta(DraftForm.Meta):
        fields = ("guideline", "text", "change_note", "requalify")
        labels = DraftForm.Meta.labels | {
            "text": "Text"
        }  # the form has another field named "Guideline"
        widgets = {
            "text": MarkdownEditor(attrs={"rows": 28, "cols": 80, "class": "vLargeTextField"})
        }

    class Media:
        css = {"all": ["admin-guideline/editor.css"]}
        js = [forms.Script("admin-guideline/editor.js", type="module")]

    def __init__(self, *args: Any, **kwargs: Any):
        url = reverse("admin:labeling_guidelineversion_preview")
        super().__init__(*args, preview_url=url, **kwargs)

    def clean_guideline(self) -> Guideline:
        guideline = self.cleaned_data["guideline"]
        if draft := guideline.versions.filter(state=DRAFT).first():
            raise ValidationError(guidelines.draft_exists(draft.number))
        return guideline


class NumberedCriterionForm(CriterionForm):
    """A form for a criterion with an optional number. Criteria without one come after the others."""

    position = forms.IntegerField(label="No.", required=False, min_value=0, max_value=1000)

    class Meta(CriterionForm.Meta):
        fields = ("position", "name", "meaning", "scale")

    def clean_position(self) -> int:
        return self.cleaned_data["position"] or 0


class CriterionInline(admin.TabularInline):
    model = Criterion
    form = NumberedCriterionForm
    extra = 0
    fields = ("position", "name", "meaning", "scale")


class VersionInline(admin.TabularInline):
    model = GuidelineVersion
    extra = 0
    can_delete = False
    show_change_link = True
    fields = readonly_fields = ("number", "state", "change_note", "published_at", "published_by")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        versions = super().get_queryset(request).select_related("published_by", "guideline")
        return versions.defer("text")


@admin.register(Guideline)
class GuidelineAdmin(OwnProjectsAdmin):
    list_display = ("title", "project", "current")
    list_select_related = ("project__current_version",)
    search_fields = ("title", "project__name")
    inlines = (VersionInline,)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("project",) if obj else ()

    @admin.display(description="In force")
    def current(self, guideline: Guideline) -> str:
        version = guideline.project.current_version
        return f"version {version.number}" if version else "nothing published"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False, because published versions are deleted only together with their project."""
        return False


@admin.register(GuidelineVersion)
class GuidelineVersionAdmin(OwnProjectsAdmin):
    project_path = "guideline__project"
    form = VersionForm
    change_form_template = "admin/labeling/guidelineversion/change_form.html"
    list_display = (
        "guideline", "number", "state", "new_draft", "note", "published_at", "published_by",
    )  # fmt: skip
    list_display_links = ("guideline", "number")
    list_filter = ("state", "guideline__project")
    list_select_related = ("guideline", "published_by")
    search_fields = ("text", "change_note", "guideline__title")
    inlines = (CriterionInline,)

    @admin.display(description="Changes")
    def note(self, version: GuidelineVersion) -> str:
        return shortened(version.change_note, 80)

    @admin.display(description="New draft")
    def new_draft(self, version: GuidelineVersion) -> str | SafeString:
        """Return a button that belongs to the form around the list, because forms cannot be nested."""
        if version.state == DRAFT:
            return "–"
        return format_html(
            '<button class="object-tool" formaction="{}">New draft from this version</button>',
            reverse("admin:labeling_guidelineversion_draft", args=[version.pk]),
        )

    @admin.display(description="Text")
    def rendered(self, version: GuidelineVersion) -> SafeString:
        return format_html('<div class="prose">{}</div>', preview(version.text))

    # --- permissions ---

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False for a published version, which the database refuses to change as well."""
        editable = obj is None or obj.state == DRAFT
        return editable and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return (
            obj is not None and obj.state == DRAFT and super().has_delete_permission(request, obj)
        )

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None or obj.state == DRAFT:
            return ("guideline", "text", "change_note", "requalify")
        return (
            "guideline", "number", "state", "change_note", "requalify", "rendered", "created_by",
            "published_by", "published_at",
        )  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("guideline", "rendered") if obj else ()

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "guideline":
            own = GuidelineAdmin(Guideline, self.admin_site)
            kwargs["queryset"] = own.get_queryset(request)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    # --- saving ---

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            newest = obj.guideline.versions.order_by("-number").first()
            obj.number = newest.number + 1 if newest else 1
            obj.created_by = user_of(request)
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        guidelines.number_criteria(version=form.instance)

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> Any:
        return self._to_publish(request, obj) or super().response_add(
            request, obj, post_url_continue
        )

    def response_change(self, request: HttpRequest, obj: Any) -> Any:
        return self._to_publish(request, obj) or super().response_change(request, obj)

    def _to_publish(self, request: HttpRequest, obj: Any) -> HttpResponse | None:
        if "_publish" not in request.POST:
            return None
        return HttpResponseRedirect(
            reverse("admin:labeling_guidelineversion_publish", args=[obj.pk])
        )

    # --- additional pages ---

    def get_urls(self) -> list[URLPattern]:
        own: list[tuple[str, Callable[..., HttpResponse], str]] = [
            ("preview/", self.preview_view, "preview"),
            ("<int:pk>/publish/", self.publish_view, "publish"),
            ("<int:pk>/draft/", self.draft_view, "draft"),
            ("<int:pk>/difference/", self.difference_view, "difference"),
        ]
        return [
            path(route, self.admin_site.admin_view(view), name=f"labeling_guidelineversion_{name}")
            for route, view, name in own
        ] + super().get_urls()

    def preview_view(self, request: HttpRequest) -> HttpResponse:
        """Return the posted Markdown as HTML, as reviewers will see it, without saving it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        return HttpResponse(preview(request.POST.get("text", "")))

    def publish_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        version = self._version(request, pk)
        if version is None or version.state != DRAFT:
            return self._gone(request, pk, version)
        if not self.has_change_permission(request, version):
            raise PermissionDenied
        if request.method == "POST":
            try:
                guidelines.publish(version=version, by=user_of(request))
            except GuidelineError as error:
                self.message_user(request, str(error), messages.ERROR)
            else:
                sentence = f"{version} is published. New rankings use it."
                self.message_user(request, sentence, messages.SUCCESS)
            return self._to(version)
        before = guidelines.version_before(version)
        context = {
            "lines": guidelines.difference(before, version) if before else [],
            "before": before,
            "rendered": preview(version.text),
            "criteria": version.criteria.all(),
        }
        return self._page(request, "publish", f"Publish {version}?", version, context)

    def draft_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        version = self._version(request, pk)
        if version is None:
            return self._gone(request, pk, version)
        if not self.has_add_permission(request):
            raise PermissionDenied
        try:
            return self._to(guidelines.draft_from(version=version, by=user_of(request)))
        except GuidelineError as error:
            self.message_user(request, str(error), messages.ERROR)
            return self._to(version)

    def difference_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        version = self._version(request, pk)
        if version is None:
            return self._gone(request, pk, version)
        before = guidelines.version_before(version)
        whole = "whole" in request.GET
        context = {
            "lines": guidelines.difference(before, version, context=None if whole else 3),
            "before": before,
            "whole": whole,
        }
        title = f"{version}: changes" + (f" since version {before.number}" if before else "")
        return self._page(request, "difference", title, version, context)

    def _version(self, request: HttpRequest, pk: int) -> GuidelineVersion | None:
        version = self.get_object(request, str(pk))
        if version is not None and not self.has_view_permission(request, version):
            raise PermissionDenied
        return version

    def _gone(self, request: HttpRequest, pk: int, version: Any) -> HttpResponse:
        if version is not None:
            self.message_user(request, f"{version} is already published.", messages.WARNING)
            return self._to(version)
        self.message_user(request, f"There is no guideline version {pk}.", messages.WARNING)
        return HttpResponseRedirect(reverse("admin:index"))

    def _to(self, version: GuidelineVersion) -> HttpResponse:
        return HttpResponseRedirect(
            reverse("admin:labeling_guidelineversion_change", args=[version.pk])
        )

    def _page(
        self, request: HttpRequest, name: str, title: str, version: GuidelineVersion, context: Any
    ) -> HttpResponse:
        return TemplateResponse(
            request,
            f"admin/labeling/guidelineversion/{name}.html",
            {
                **self.admin_site.each_context(request),
                "title": title,
                "version": version,
                "opts": self.opts,
                **context,
            },
        )
