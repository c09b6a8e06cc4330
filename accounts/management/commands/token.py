from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from accounts.models import MOST_DAYS, Scope, Token, User, audit, projects_visible_to


class Command(BaseCommand):
    help = (
        "Issue, list and revoke the tokens with which scripts use the API. The key of a new token is "
        "printed once, and only its SHA-256 is stored."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        issue = verbs.add_parser("issue", help="Issue a token and print its key.")
        issue.add_argument(
            "user", help="The username of the owner. The token has the owner's permissions."
        )
        issue.add_argument("--name", required=True, help="A name that says what the token is for.")
        issue.add_argument(
            "--scope",
            action="append",
            choices=Scope.values,
            help="What the token may do; repeat it for several. The default is inference.",
        )
        issue.add_argument("--project", help="Limit the token to the project with this slug.")
        issue.add_argument("--days", type=int, help="Let the token expire after this many days.")
        revoke = verbs.add_parser("revoke", help="Revoke a token. This takes effect immediately.")
        revoke.add_argument("number", type=int)
        for verb in (issue, revoke):
            verb.add_argument(
                "--dry-run",
                action="store_true",
                help="Check the options without changing anything.",
            )
        listing = verbs.add_parser("list", help="List tokens, without their keys.")
        listing.add_argument("--user", help="List only the tokens of the user with this username.")

    def handle(self, *, verb: str, **options: Any) -> None:
        verbs: dict[str, Callable[..., None]] = {
            "issue": self.issue, "revoke": self.revoke, "list": self.listing,
        }  # fmt: skip
        verbs[verb](**options)

    @transaction.atomic
    def issue(
        self,
        *,
        user: str,
        name: str,
        scope: list[str] | None,
        project: str | None,
        days: int | None,
        dry_run: bool,
        **options: Any,
    ) -> None:
        owner = user_named(user)
        limit = project_named(project, owner) if project else None
        if days is not None and not 1 <= days <= MOST_DAYS:
            raise CommandError(f"--days must be from 1 to {MOST_DAYS}.")
        if not owner.is_active:
            raise CommandError(f"{owner} is not active, so a token would not work.")
        if dry_run:
            return self.stdout.write(f"A token {name!r} would be issued to {owner}.")
        token, key = Token.issue(
            user=owner,
            name=name,
            scopes=scope or [Scope.INFERENCE],
            project=limit,
            expires_at=timezone.now() + timedelta(days=days) if days else None,
        )
        audit(None, "token issued", token)
        return self.stdout.write(key)

    @transaction.atomic
    def revoke(self, *, number: int, dry_run: bool, **options: Any) -> None:
        token = Token.objects.select_related("user").filter(pk=number).first()
        if token is None:
            raise CommandError(f"There is no token {number}. See manage.py token list.")
        if dry_run:
            return self.stdout.write(f"The token {token} would be revoked.")
        audit(None, "token deleted", token)
        token.delete()
        return self.stdout.write(f"The token {token} is revoked.")

    def listing(self, *, user: str | None, **options: Any) -> None:
        tokens = Token.objects.select_related("user").order_by("pk")
        for token in tokens.filter(user=user_named(user)) if user else tokens:
            used = f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never"
            parts = [token.pk, token.user, token.name, ",".join(token.scopes), f"last used: {used}"]
            if token.expires_at:
                parts.append(f"expires: {token.expires_at:%Y-%m-%d}")
            self.stdout.write("\t".join(map(str, parts)))


def user_named(name: str) -> User:
    """Return the user with this username. Raises CommandError if there is none."""
    user = User.objects.filter(username=name).first()
    if user is None:
        raise CommandError(f"There is no user {name!r}.")
    return user


def project_named(slug: str, owner: User) -> Any:
    """Return the project. Raises CommandError if the owner of the token may not see it."""
    project = projects_visible_to(owner).filter(slug=slug).first()
    if project is None:
        raise CommandError(f"{owner} has no access to a project {slug!r}.")
    return project
