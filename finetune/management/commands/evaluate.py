from typing import Any

from django.core.management import CommandError, CommandParser

from finetune.forms.evaluation import judge_choices
from finetune.management.models_named import model_named
from finetune.models import ALPHA, MARGIN, Evaluation
from finetune.statistics.evidence import ORDER_BLOCK
from reward.management.run_command import RunCommand

REGISTERED = (
    "control",
    "order",
    "most_verdicts",
    "question",
    "regression",
    "limit",
    "verdicts_per_prompt",
    "margin",
    "alpha",
)


class Command(RunCommand):
    kind = "evaluate"
    description = """Compare a tuned model with a baseline on held-out prompts.

  manage.py evaluate 5 --judge reward_model:2
  manage.py evaluate 5 --judge demo-rule --baseline 1 --comparisons
  manage.py evaluate 5 --judge reward_model:2 --comparisons --control --most-verdicts 300
  manage.py evaluate 5

Both models answer with the same seeds. Prompts that a model or the judge was trained on are left
out. --judge help lists the judges that fit the candidate's project."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("candidate", type=int, help="number of the adapter or merged model")
        parser.add_argument(
            "--judge", default="", help="name of the judge, or help (default: only people judge)"
        )
        parser.add_argument(
            "--baseline",
            type=int,
            metavar="NUMBER",
            help="default: the promoted model, or the base of the candidate",
        )
        parser.add_argument(
            "--snapshot", type=int, metavar="NUMBER", help="default: the candidate's own"
        )
        parser.add_argument(
            "--comparisons", action="store_true", help="also queue blind comparisons for people"
        )
        parser.add_argument(
            "--control",
            action="store_true",
            help="let the judge save verdicts of people, as a control variate",
        )
        parser.add_argument(
            "--order",
            choices=[value for value in Evaluation.Order.values if value],
            default="",
            help="let people compare first the prompts of which the judge is least or most certain, "
            f"within random blocks of {ORDER_BLOCK}",
        )
        parser.add_argument(
            "--most-verdicts",
            type=int,
            metavar="NUMBER",
            help="maximum number of verdicts that people are asked for (default: all prompts)",
        )
        parser.add_argument(
            "--no-regression",
            dest="regression",
            action="store_false",
            help="leave out the project's regression set",
        )
        parser.add_argument(
            "--question",
            choices=Evaluation.Question.values,
            default=Evaluation.Question.THESE,
            help="reviewers that the conclusion is about (default: %(default)s)",
        )
        parser.add_argument(
            "--limit", type=int, help="maximum number of prompts, a random sample (default: all)"
        )
        parser.add_argument(
            "--verdicts-per-prompt",
            type=int,
            metavar="NUMBER",
            help="people's verdicts that count per prompt (default: the project's rankings per task)",
        )
        parser.add_argument(
            "--margin",
            type=float,
            default=MARGIN,
            help="largest loss of win rate that still counts as not worse (default %(default)s)",
        )
        parser.add_argument(
            "--alpha",
            type=float,
            default=ALPHA,
            help="error rate shared by all evaluations of the candidate (default %(default)s)",
        )
        super().add_arguments(parser)

    def inputs(self, options: dict[str, Any]) -> dict[str, Any]:
        candidate = model_named(options["candidate"])
        if options["judge"] == "help":
            judges = judge_choices(candidate.project)
            lines = "\n".join(f"  {name}  {title}" for name, title in judges)
            none = f"{candidate.project} has no judge yet. Train a reward model first."
            raise CommandError(f"The judges are:\n{lines}" if judges else none)
        baseline = candidate.default_baseline()
        sources = {"baseline": baseline and baseline.pk, "snapshot": candidate.snapshot_id}
        for name, default in sources.items():
            if options[name] is not None:
                sources[name] = options[name]
            elif default is None:
                raise CommandError(
                    f"{candidate} has no {name} of its own; choose one with --{name}."
                )
        return {
            "project": candidate.project_id,
            "candidate": candidate.pk,
            **sources,
            "judge": options["judge"],
            "comparisons": options["comparisons"] or not options["judge"],
            **{name: options[name] for name in REGISTERED},
        }
