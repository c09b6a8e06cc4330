from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import transaction

from accounts import people
from accounts.management.commands.token import user_named
from accounts.models import Role, User, audit
from accounts.sign_in import second_factor


class Command(BaseCommand):
    help = (
        "Create accounts, and issue one-time links with which people set their own password and "
        "sign in."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        add = verbs.add_parser("add", help="Create an account and print its one-time link.")
        add.add_argument("user", help="the username")
        add.add_argument("--role", choices=Role.values, default=Role.REVIEWER)
        add.add_argument(
            "--all-projects",
            action="store_true",
            help="Give a lead or trainer this role in every project, without membership.",
        )
        add.add_argument(
            "--administrator",
            action="store_true",
            help="Let the account do everything, including the management of accounts.",
        )
        link = verbs.add_parser(
            "link", help="Print a new one-time link for an account. Earlier links expire."
        )
        link.add_argument("user", help="the username")
        factors = verbs.add_parser(
            "reset-factors", help="Remove the second factors of someone who lost them."
        )
        factors.add_argument("user", help="the username")
        factors.add_argument(
            "--dry-run", action="store_true", help="Check the options without changing anything."
        )
        for verb in (add, link):
            verb.add_argument(
                "--site",
                default=site(),
                help="The address of the site, with which the link begins (default: %(default)s).",
            )
            verb.add_argument(
                "--dry-run",
                action="store_true",
                help="Check the options without changing anything.",
            )

    def handle(self, *, verb: str, **options: Any) -> None:
        verbs: dict[str, Callable[..., None]] = {
            "add": self.add,
            "link": self.link,
            "reset-factors": self.reset_factors,
        }
        verbs[verb](**options)

    @transaction.atomic
    def add(
        self,
        *,
        user: str,
        role: str,
        all_projects: bool,
        administrator: bool,
        site: str,
        dry_run: bool,
        **options: Any,
    ) -> None:
        form = people.PersonForm({"username": user, "role": role, "all_projects": all_projects})
        if not form.is_valid():
            sentences = [str(error) for errors in form.errors.values() for error in errors]
            raise CommandError(" ".join(sentences))
        if dry_run:
            return self.stdout.write(f"The account {user!r} would be created.")
        person = people.create(form=form, by=None)
        if administrator:
            User.objects.filter(pk=person.pk).update(is_superuser=True, is_staff=True)
            audit(None, "user changed", person, is_superuser=True)
        return self._print_link(person, site)

    @transaction.atomic
    def link(self, *, user: str, site: str, dry_run: bool, **options: Any) -> None:
        person = user_named(user)
        if dry_run:
            return self.stdout.write(f"A one-time link for {person} would be printed.")
        return self._print_link(person, site)

    def reset_factors(self, *, user: str, dry_run: bool, **options: Any) -> None:
        person = user_named(user)
        if dry_run:
            return self.stdout.write(f"The second factors of {person} would be removed.")
        count = second_factor.remove_all(person=person, by=None)
        return self.stdout.write(
            f"{person} had {count} second factors and recovery codes; none are left."
        )

    def _print_link(self, person: User, site: str) -> None:
        try:
            path = people.issue_link(person=person, by=None)
        except people.LinkError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{site.rstrip('/')}{path}")


def site() -> str:
    """Return the address of the site, guessed from the settings."""
    host = next(iter(settings.ALLOWED_HOSTS), "localhost")
    if host in {"localhost", "127.0.0.1", "*"}:
        return "http://localhost:8000"
    return f"{'https' if settings.HTTPS else 'http'}://{host.lstrip('.')}"
