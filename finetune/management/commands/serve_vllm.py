import os
import shlex
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser

from finetune.registry import default_model
from labeling.management.lookups import project_named
from runs import storage
from runs.supervision.environment import for_recipe
from serving.address import WrongAddress

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts as the largest rank of an adapter."""
ADAPTERS = 4
"""The number of adapters that one step of the server can use."""


class Command(BaseCommand):
    help = (
        "Serve the base model of a project with vLLM at TIEBREAK_VLLM_URL. Workers load the promoted "
        "adapter there. vLLM is not a part of Tiebreak: install it in an environment of its own, and name "
        "its program with --executable. The command is replaced by vLLM."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "project", metavar="SLUG", help="the project whose base model is served"
        )
        parser.add_argument(
            "--executable", default="vllm", metavar="PATH", help="the program vllm; default: vllm"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="print the command line without starting vLLM"
        )
        parser.add_argument(
            "--options",
            default="",
            metavar="TEXT",
            help="further options of vllm serve, such as --options='--dtype float16'",
        )

    def handle(self, **options: Any) -> None:
        server = settings.VLLM
        if not server.url:
            raise CommandError(
                "TIEBREAK_VLLM_URL is not set. Set it to http://127.0.0.1:8100, say."
            )
        try:
            server.check()
        except WrongAddress as problem:
            raise CommandError(str(problem)) from None
        if not server.url.startswith("http://"):
            raise CommandError(
                "TIEBREAK_VLLM_URL is that of a proxy with TLS. Start vLLM behind it."
            )
        line = [options["executable"], "serve", *self.arguments(options["project"])]
        line += shlex.split(options["options"])
        if options["dry_run"]:
            return self.stdout.write(shlex.join(line))
        self.stdout.write(f"Starting vLLM at {server.url}.")
        self.stdout.flush()
        try:
            os.execvpe(line[0], line, variables())  # noqa: S606
        except OSError as error:
            raise CommandError(
                f"{line[0]} cannot be started: {error.strerror}. Install vLLM, and name its program with "
                "--executable."
            ) from None

    def arguments(self, slug: str) -> list[str]:
        project = project_named(slug)
        model = default_model(project)
        if model is None:
            raise CommandError(f"{project} has no model. Add its base model first.")
        try:
            storage.fetch(model.base)
        except storage.MissingFiles as problem:
            raise CommandError(str(problem)) from None
        name, revision = model.base_folder, ""
        if not storage.is_folder(model.base):
            name, _, revision = name.partition("@")
        parts = urlsplit(settings.VLLM.url)
        adapters = project.models.exclude(adapter="").select_related("run")
        rank = max(
            (int(row.run.config.get("lora_r") or 0) for row in adapters if row.run), default=0
        )
        return [
            name,
            *(["--revision", revision] if revision else []),
            "--host", str(parts.hostname),
            "--port", str(parts.port or 80),
            "--served-model-name", f"{project.slug}-base",
            "--enable-lora",
            "--max-loras", str(ADAPTERS),
            "--max-lora-rank", str(next((each for each in RANKS if each >= rank), RANKS[-1])),
        ]  # fmt: skip


def variables() -> dict[str, str]:
    """Return the environment of vLLM: the key, and variables that a recipe may see or vLLM reads."""
    own = {name: value for name, value in os.environ.items() if name.startswith("VLLM_")}
    return {
        "VLLM_NO_USAGE_STATS": "1",
        **for_recipe(),
        **own,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_API_KEY": settings.VLLM.key,
    }
