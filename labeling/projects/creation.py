"""Create projects: the form, a slug derived from the name, and the first lead."""

from itertools import count
from typing import Any

from django.db import IntegrityError, transaction
from django.utils.text import slugify

from accounts.models import Role, User, audit
from labeling.models import Membership, Project
from labeling.projects.settings import PolicyForm

SLUG_LENGTH = 60
FIRST_SETTINGS = ("rankings_per_task", "allow_ties", "min_rationale")
"""The settings in the form for new projects. The others have defaults and are on the settings page."""


class ProjectForm(PolicyForm):
    """A form for new projects. An empty slug is replaced by one derived from the name."""

    class Meta(PolicyForm.Meta):
        fields = ("name", "slug", "description", *FIRST_SETTINGS)
        labels = {"slug": "Address"}
        help_texts = {
            "slug": "Short, in addresses and commands: lower-case letters, digits and hyphens. "
            "Leave it empty to take it from the name. It cannot be changed later.",
        }

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fields["slug"].required = False

    def clean(self) -> dict[str, Any]:
        values = super().clean()
        if "slug" in values and "name" in values and not values["slug"]:
            values["slug"] = proposed_slug(values["name"])
        return values


def proposed_slug(name: str) -> str:
    """Return an unused slug derived from the name, such as `lamps` or, if that is taken, `lamps-2`."""
    base = slugify(name)[: SLUG_LENGTH - 5].strip("-_") or "project"
    existing = set(Project.objects.filter(slug__startswith=base).values_list("slug", flat=True))
    names = (base if number == 1 else f"{base}-{number}" for number in count(1))
    return next(slug for slug in names if slug not in existing)


def create(*, form: ProjectForm, by: User) -> Project | None:
    """Create a project from a valid form, and make its creator a lead.

    If another project has taken the slug in the meantime, add an error to the form and return None.
    """
    try:
        with transaction.atomic():
            project: Project = form.save()
            audit(by, "project added", project, slug=project.slug)
            give_lead(project=project, by=by)
    except IntegrityError:
        form.add_error("slug", "Another project was just created at this address.")
        return None
    return project


def give_lead(*, project: Project, by: User) -> None:
    """Make the creator of a project its lead, or its trainer if they have a trainer's account.

    This changes nothing if they have already given themselves a role.
    """
    role = Membership.Role.TRAINER if by.role == Role.TRAINER else Membership.Role.LEAD
    _, created = Membership.objects.get_or_create(project=project, user=by, defaults={"role": role})
    if created:
        audit(by, "member added", project, person=by.username, role=role)
