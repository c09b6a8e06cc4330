from http import HTTPStatus

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from accounts.access import lead_required, user_of
from labeling.projects import creation


@lead_required
@require_http_methods(["GET", "POST"])
def new_project(request: HttpRequest) -> HttpResponse:
    """Create a project, for leads, trainers and administrators."""
    form = creation.ProjectForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        project = creation.create(form=form, by=user_of(request))
        if project is not None:
            messages.success(request, f"{project} was created. Next, write its guideline.")
            return redirect("project", project.slug)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    context = {"form": form, "section": "projects"}
    return render(request, "labeling/projects/new.html", context, status=status)
