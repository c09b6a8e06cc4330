from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.management.commands.token import user_named
from accounts.models import User
from finetune.removal import erasing
from finetune.removal.erasing import CannotErase
from labeling.models import Prompt, Response
from labeling.removal import withdrawing


class Command(BaseCommand):
    help = (
        "Permanently erase a prompt with its responses, one response, or a person's name and texts "
        "from tables, snapshots, run folders and reports. Asks for confirmation without --confirm. "
        "Does not reach backups, exported files and model weights."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        chosen = parser.add_mutually_exclusive_group(required=True)
        chosen.add_argument("--prompt", type=int, metavar="NUMBER")
        chosen.add_argument("--response", type=int, metavar="NUMBER")
        chosen.add_argument("--person", metavar="USERNAME")
        parser.add_argument(
            "--by", required=True, metavar="USERNAME", help="the administrator responsible"
        )
        parser.add_argument("--confirm", action="store_true", help="erase without asking")
        parser.add_argument(
            "--dry-run", action="store_true", help="only show where the content is stored"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        by = user_named(options["by"])
        try:
            if options["person"]:
                self._erase_person(user_named(options["person"]), by, options)
            else:
                self._erase_content(self._content(options), by, options)
        except CannotErase as error:
            raise CommandError(str(error)) from None

    def _content(self, options: dict[str, Any]) -> Prompt | Response:
        model, pk = (Prompt, options["prompt"]) if options["prompt"] else (
            Response,
            options["response"],
        )  # fmt: skip
        content: Any = model._default_manager.filter(pk=pk).first()
        if content is None:
            raise CommandError(f"There is no {model.__name__.lower()} {pk}.")
        return content

    def _erase_content(self, content: Prompt | Response, by: User, options: dict[str, Any]) -> None:
        reach, name = erasing.reach_of(content), f"{withdrawing.kind_of(content)} {content.pk}"
        self.stdout.write(
            f"{name} of {withdrawing.project_of(content)}: {reach.responses} responses, "
            f"{reach.rankings} rankings that lose their rationale."
        )
        for what, rows in (
            ("Snapshots to rewrite", reach.snapshots),
            ("Runs that read or wrote it", reach.runs),
            ("Models that may have been trained on it, which are kept", reach.models),
        ):
            self.stdout.write(f"{what}: {', '.join(map(str, rows)) or 'none'}")
        if self._confirms(name, options):
            erasing.erase(content=content, by=by)
            self.stdout.write(f"Erased {name}.")

    def _erase_person(self, user: User, by: User, options: dict[str, Any]) -> None:
        extent = erasing.person_of(user)
        self.stdout.write(
            f"{user}: {extent.rationales} rationales and {extent.notes} notes are erased; "
            f"{extent.rankings} rankings are kept, under a number instead of the name."
        )
        if self._confirms(user.username, options):
            name = erasing.erase_person(user=user, by=by)
            self.stdout.write(f"Erased. The account is now called {name}.")

    def _confirms(self, name: str, options: dict[str, Any]) -> bool:
        if options["dry_run"]:
            self.stdout.write("Nothing was erased.")
            return False
        if not options["confirm"] and input(f"Type {name} to erase it permanently: ") != name:
            raise CommandError(f"You did not type {name}. Nothing was erased.")
        return True
