from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.management.commands.token import user_named
from finetune.removal import erasing, tracing
from finetune.removal.erasing import CannotErase
from labeling.management.lookups import project_named
from labeling.models import Prompt, Ranking


class Command(BaseCommand):
    help = (
        "Permanently withdraw the data of a reviewer or a prompt from a project, and list the "
        "snapshots, models, evaluations, certificates and exports that it reached. Marks the models, "
        "but does not change them: train them again. Asks for confirmation without --confirm."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", metavar="PROJECT", help="the project's slug")
        chosen = parser.add_mutually_exclusive_group(required=True)
        chosen.add_argument("--reviewer", metavar="USERNAME")
        chosen.add_argument("--prompt", type=int, metavar="NUMBER")
        parser.add_argument(
            "--by", required=True, metavar="USERNAME", help="the administrator responsible"
        )
        parser.add_argument("--reason", default="", metavar="TEXT", help="without names")
        parser.add_argument("--confirm", action="store_true", help="withdraw without asking")
        parser.add_argument(
            "--dry-run", action="store_true", help="only show what the data has reached"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        by, project = user_named(options["by"]), project_named(options["project"])
        prompt = None
        if options["reviewer"]:
            reviewer, word = user_named(options["reviewer"]), options["reviewer"]
            rankings = Ranking.objects.filter(task__project=project, reviewer=reviewer).count()
            self.stdout.write(f"{reviewer} in {project}: {rankings} rankings.")
            trace = tracing.trace_of_reviewer(project, reviewer)
        else:
            prompt = Prompt.objects.filter(project=project, pk=options["prompt"]).first()
            if prompt is None:
                raise CommandError(f"{project} has no prompt {options['prompt']}.")
            word, trace = f"prompt {prompt.pk}", tracing.trace_of(prompt)
        self.stdout.write("\n".join(trace.lines()))
        if options["dry_run"]:
            return self.stdout.write("Nothing was withdrawn.")
        if not options["confirm"] and input(f"Type {word} to withdraw it permanently: ") != word:
            raise CommandError(f"You did not type {word}. Nothing was withdrawn.")
        try:
            if prompt is not None:
                row = erasing.erase(content=prompt, by=by, reason=options["reason"])
            else:
                row = erasing.withdraw_reviewer(
                    project=project, reviewer=reviewer, by=by, reason=options["reason"]
                )
        except CannotErase as error:
            raise CommandError(str(error)) from None
        return self.stdout.write(
            f"Withdrawn. Withdrawal {row.pk} marks {len(trace.models)} models and "
            f"{len(trace.reward_models)} reward models."
        )
