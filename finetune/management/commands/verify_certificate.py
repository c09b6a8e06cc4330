from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune.certificate import document, issuing
from finetune.certificate.__main__ import problems_of, summary
from finetune.certificate.document import Unreadable, id_of
from finetune.models import Certificate


class Command(BaseCommand):
    help = (
        "Check the hashes and the signature of a certificate, recompute its conclusion, and compare it "
        "with the one that this installation issued. Exit status: 0 everything matches, 1 something "
        "does not match. `python -m finetune.certificate FILE` checks a file without a database."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "certificate", metavar="FILE", nargs="?", help="the JSON file; default: all stored ones"
        )
        parser.add_argument("--project", metavar="SLUG", help="only the stored ones of a project")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["certificate"]:
            path = Path(options["certificate"])
            try:
                text = path.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise CommandError(f"{path} cannot be read: {error}.") from None
            return self.check_file(text)
        return self.check_stored(options["project"])

    def check_file(self, text: str) -> None:
        try:
            certificate = document.read(text)
        except Unreadable as error:
            raise CommandError(str(error)) from None
        problems = problems_of(certificate)
        issued = Certificate.objects.filter(sha256=id_of(certificate)).first()
        if not problems and issued is None:
            problems = ["This installation has not issued this certificate."]
        if problems:
            raise CommandError(" ".join([*problems, "This certificate is not valid."]))
        self.stdout.write("\n".join(summary(certificate)))
        self.stdout.write(f"It is {issued}, as this installation stores it.")

    def check_stored(self, slug: str | None) -> None:
        rows = Certificate.objects.select_related("project").order_by("project", "number")
        if slug:
            rows = rows.filter(project__slug=slug)
        previous: Certificate | None = None
        problems = []
        count = 0
        for row in rows:
            if previous and previous.project_id != row.project_id:
                previous = None
            problems += [f"{row}: {problem}" for problem in self.problems_of_row(row, previous)]
            previous, count = row, count + 1
        if problems:
            raise CommandError("\n".join(problems))
        self.stdout.write(
            f"{count} certificate{'s' if count != 1 else ''}: all match. This installation signs with "
            f"the key {issuing.public_key()}."
        )

    def problems_of_row(self, row: Certificate, previous: Certificate | None) -> list[str]:
        certificate = document.read(row.text)
        problems = problems_of(certificate)
        if id_of(certificate) != row.sha256:
            problems.append("Its file does not match the SHA-256 of its row.")
        expected = {"number": previous.number, "sha256": previous.sha256} if previous else None
        if certificate["content"]["certificate"]["previous"] != expected:
            problems.append("It does not refer to the certificate before it, which was removed.")
        return problems
