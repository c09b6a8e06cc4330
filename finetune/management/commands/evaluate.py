from typing import Any

from django.core.management import CommandError, CommandParser

from finetune.forms import judge_choices
from finetune.management.models_named import model_named
from reward.management.run_command import RunCommand


class Command(RunCommand):
    kind = "evaluate"
    what = """Compare a tuned model with a baseline on held-out prompts.

  manage.py evaluate 5 --judge reward_model:2
  manage.py evaluate 5 --judge demo-rule --baseline 1 --comparisons

Both sides answer with the same seeds; prompts that a side, or the judge, was trained on are left
out. --judge help lists the judges that fit the candidate's project."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("candidate", type=int, help="the number of the adapter to judge")
        parser.add_argument("--judge", required=True, help="whose opinion decides, or help")
        parser.add_argument(
            "--baseline", type=int, metavar="NUMBER", help="by default what the candidate came from"
        )
        parser.add_argument(
            "--snapshot", type=int, metavar="NUMBER", help="by default the candidate's own"
        )
        parser.add_argument(
            "--comparisons", action="store_true", help="ask people too, with blind comparisons"
        )
        parser.add_argument("--limit", type=int, help="at most so many prompts")
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        candidate = model_named(options["candidate"])
        if options["judge"] == "help":
            judges = judge_choices(candidate.project)
            lines = "\n".join(f"  {name}  {title}" for name, title in judges)
            none = f"{candidate.project} has no judge yet. Train a reward model first."
            raise CommandError(f"The judges are:\n{lines}" if judges else none)
        chosen = {"baseline": candidate.parent_id, "snapshot": candidate.snapshot_id}
        for name, default in chosen.items():
            if options[name] is not None:
                chosen[name] = options[name]
            elif default is None:
                raise CommandError(f"{candidate} came from no {name}; name one with --{name}.")
        return {
            "project": candidate.project_id,
            "candidate": candidate.pk,
            **chosen,
            "judge": options["judge"],
            "comparisons": options["comparisons"],
            "limit": options["limit"],
        }
