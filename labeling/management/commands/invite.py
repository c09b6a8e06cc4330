from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from accounts.management.commands.people import site as default_site
from accounts.management.commands.token import user_named
from labeling.models import Membership, Project
from labeling.models.invitations import MAX_DAYS, MAX_USES
from labeling.projects import invitations
from labeling.projects.invitations import DEFAULT_DAYS, InvitationForm


class Command(BaseCommand):
    help = "Create an invitation to a project, and print its link. It is not stored."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", help="the project's slug")
        parser.add_argument(
            "--role", choices=Membership.Role.values, default=Membership.Role.REVIEWER
        )
        parser.add_argument(
            "--uses", default=1, help=f"How many people can join with it, from 1 to {MAX_USES}."
        )
        parser.add_argument(
            "--days", default=DEFAULT_DAYS, help=f"How many days it is valid, from 1 to {MAX_DAYS}."
        )
        parser.add_argument(
            "--by",
            help="The user who invites. The invitation ends when they no longer lead the project.",
        )
        parser.add_argument(
            "--site",
            default=default_site(),
            help="The address of the site, with which the link begins (default: %(default)s).",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="Check the options without changing anything.",
        )

    def handle(
        self,
        *,
        project: str,
        role: str,
        uses: str,
        days: str,
        by: str | None,
        site: str,
        dry_run: bool,
        **options: Any,
    ) -> None:
        row = Project.objects.filter(slug=project, archived_at=None).first()
        if row is None:
            raise CommandError(f"There is no open project {project!r}.")
        user = user_named(by) if by else None
        form = InvitationForm({"role": role, "max_uses": uses, "days": days}, project=row, by=user)
        if not form.is_valid():
            sentences = [str(error) for errors in form.errors.values() for error in errors]
            raise CommandError(" ".join(sentences))
        if dry_run:
            return self.stdout.write(f"An invitation to {row} as {role} would be created.")
        _, path = invitations.create(form=form)
        return self.stdout.write(f"{site.rstrip('/')}{path}")
