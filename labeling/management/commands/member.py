from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from accounts.management.commands.token import user_named
from accounts.models import User
from labeling.models import Membership, Project
from labeling.projects import memberships
from labeling.projects.memberships import MembershipError


class Command(BaseCommand):
    help = "Add a person to a project, change a member's role, or remove a member."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", help="the project's slug")
        parser.add_argument("user", help="the username")
        change = parser.add_mutually_exclusive_group()
        change.add_argument(
            "--role", choices=Membership.Role.values, default=Membership.Role.REVIEWER
        )
        change.add_argument(
            "--remove", action="store_true", help="End the membership. Rankings are kept."
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Check the options without changing anything.",
        )

    def handle(
        self, *, project: str, user: str, role: str, remove: bool, dry_run: bool, **options: Any
    ) -> None:
        row = Project.objects.filter(slug=project, archived_at=None).first()
        if row is None:
            raise CommandError(f"There is no open project {project!r}.")
        person = user_named(user)
        membership = row.memberships.select_related("user", "project").filter(user=person).first()
        if remove and membership is None:
            raise CommandError(f"{person} is not a member of {row}.")
        if dry_run:
            done = "removed from" if remove else f"a {role} of"
            return self.stdout.write(f"{person} would be {done} {row}.")
        try:
            return self.stdout.write(_changed(row, person, membership, role, remove))
        except MembershipError as error:
            raise CommandError(str(error)) from None


def _changed(
    project: Project, person: User, membership: Membership | None, role: str, remove: bool
) -> str:
    """Change the membership as the options say, and return a sentence about the change."""
    if membership is None:
        memberships.add(project=project, person=person, role=role, by=None)
    elif remove:
        memberships.remove(membership=membership, by=None)
        return f"{person} is no longer a member of {project}."
    elif not memberships.change_role(membership=membership, role=role, by=None):
        return f"{person} is already a {role} of {project}."
    return f"{person} is now a {role} of {project}."
