from pathlib import Path
from typing import Any

from django.core.management import CommandError, CommandParser

from accounts.models import audit
from finetune import registry
from finetune.endpoints import EndpointProblem
from finetune.models import Model
from finetune.registry import checked_base, checked_served
from labeling.management.lookups import project_named
from reward.management.model_command import ModelCommand
from reward.references import ReferenceProblem
from runs import downloads
from runs.downloads import FileMissing


class Command(ModelCommand):
    help = """Manage the models of projects: base models and the adapters trained on them.

  list       All models, or one project's, as a table or with --json as one JSON object per line.
  add        Add a base to a project: a folder, a hub name, or name@revision. With --endpoint, add
             a model that an OpenAI-compatible server answers for.
  promote    Make a model the default of its project. A fine-tuned model that is not proven
             better, as the project's policy asks, needs --reason.
  archive    Remove a model from the choices.
  restore    Restore an archived model.
  download   Write the files of a model that a run made into a tar file.

Exit status: 0 done, 1 nothing was changed."""

    model = Model
    columns = ("state", "base", "adapter", "endpoint")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add = self.verbs.add_parser("add", help="add a base")
        add.add_argument("project", metavar="PROJECT", help="the project's slug")
        add.add_argument("base", metavar="MODEL", help="a folder, a hub name, or name@revision")
        add.add_argument(
            "--endpoint",
            default="",
            metavar="NAME",
            help="the declared endpoint that serves it; MODEL is then its name there",
        )
        add.add_argument("--name", default="", help="default: the last part of MODEL")
        self.add_dry_run(add)
        download = self.verbs.add_parser("download", help="write its files into a tar file")
        download.add_argument("model", type=int, metavar="NUMBER")
        download.add_argument("file", metavar="FILE", type=Path, help="the tar file to create")
        self.add_dry_run(download)

    def add(self, options: dict[str, Any]) -> None:
        project, endpoint = project_named(options["project"]), options["endpoint"]
        base = options["base"]
        try:
            if endpoint:
                checked_served(endpoint, base)
            else:
                base = checked_base(base)
        except (ReferenceProblem, EndpointProblem) as problem:
            raise CommandError(str(problem)) from None
        if options["dry_run"]:
            return self.stdout.write(f"{base} can be added to {project}.")
        common = {"project": project, "name": options["name"], "by": None}
        if endpoint:
            model, new = registry.add_served(**common, endpoint=endpoint, model=base)
        else:
            model, new = registry.add_base(**common, base=base)
        what = "was added to" if new else "is already in"
        return self.stdout.write(f"Model {model.pk}, {model}, {what} {project}.")

    def download(self, options: dict[str, Any]) -> None:
        """Write the same archive as the page of the model, and check each file's SHA-256 hash."""
        model, path = self.named(options["model"]), options["file"]
        if model.run is None:
            raise CommandError(f"{model} was not made by a run, so it has no files to download.")
        name = downloads.folder_name(model.name, model.run)
        try:
            archive = downloads.archive(model.run, name=name)
        except FileMissing as problem:
            raise CommandError(str(problem)) from None
        size = int(archive["Content-Length"])
        if options["dry_run"]:
            return self.stdout.write(f"{model} can be written to {path}: {size:,} bytes.")
        try:
            downloads.save(archive, path)
        except FileExistsError:
            raise CommandError(f"{path} already exists. Choose a file that does not.") from None
        except (OSError, downloads.FileChanged) as problem:
            raise CommandError(f"{path} was not written: {problem}") from None
        audit(None, "model downloaded", model, id=model.pk, part="archive")
        return self.stdout.write(f"{path} has the files of {model}: {size:,} bytes.")
