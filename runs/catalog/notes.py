"""Tags, notes and the archive of runs."""

import re

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from accounts.models import User, audit
from runs.models import ENDED, MAX_TAG, MAX_TAGS, Run


class CannotArchive(Exception):  # noqa: N818
    """A refusal to archive a run. The text contains the reason."""


def parse_tags(text: str) -> list[str]:
    """Return the tags in a text with commas, each once, in the order of the text.

    Two tags that differ only in case count as one. Raises ValidationError for a tag that is too long
    and for too many tags.
    """
    tags: dict[str, str] = {}
    for part in text.split(","):
        tag = re.sub(r"\s+", " ", part).strip()
        if len(tag) > MAX_TAG:
            raise ValidationError(
                f"The tag “{tag[:MAX_TAG]}…” has {len(tag)} characters. The maximum is {MAX_TAG}."
            )
        if tag:
            tags.setdefault(tag.casefold(), tag)
    if len(tags) > MAX_TAGS:
        raise ValidationError(f"These are {len(tags)} tags. A run can have at most {MAX_TAGS}.")
    return list(tags.values())


@transaction.atomic
def save_notes(run: Run, *, tags: list[str], notes: str, by: User | None) -> None:
    """Replace the tags and the notes of a run."""
    if (run.tags, run.notes) == (tags, notes):
        return
    run.tags, run.notes = tags, notes
    run.save(update_fields=["tags", "notes"])
    audit(by, "run notes changed", run, id=run.pk, tags=tags)


@transaction.atomic
def archive(run: Run, *, by: User | None) -> bool:
    """Archive a run that has ended. Return False if it is archived already. Raises CannotArchive."""
    current = Run.objects.select_for_update(of=("self",)).get(pk=run.pk)
    if current.state not in ENDED:
        raise CannotArchive(f"Run {run.pk} has not ended. Cancel it first, or wait until it ends.")
    if current.archived_at:
        return False
    run.archived_at = timezone.now()
    run.save(update_fields=["archived_at"])
    audit(by, "archived", run, id=run.pk)
    return True


@transaction.atomic
def unarchive(run: Run, *, by: User | None) -> bool:
    """Show an archived run in lists again. Return False if it is not archived."""
    if not Run.objects.filter(pk=run.pk).exclude(archived_at=None).update(archived_at=None):
        return False
    run.archived_at = None
    audit(by, "restored", run, id=run.pk)
    return True
