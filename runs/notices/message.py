"""The content of a notice: the facts about a run that has ended."""

from typing import Any

from django.conf import settings
from django.urls import reverse

from runs import live
from runs.models import Run
from runs.templatetags.runs import duration, run_name


def facts_of(run: Run) -> dict[str, Any]:
    """Return the facts about the run as JSON values. They contain no text of prompts and answers."""
    return {
        "run": run.pk,
        "kind": run.kind,
        "title": run_name(run),
        "project": run.project.slug if run.project else None,
        "state": run.state,
        "error": run.error,
        "figure": live.figure(run),
        "started_by": run.created_by.username if run.created_by else None,
        "seconds": live.seconds_taken(run),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "url": url_of(run),
    }


def url_of(run: Run) -> str | None:
    """Return the address of the run's page, or None if the operator has not set that of the site."""
    prefix = settings.PATH_PREFIX
    site = settings.SITE_URL.removesuffix(prefix)
    # Outside of a request, only the main thread knows the prefix.
    path = reverse("run", args=[run.pk]).removeprefix(prefix)
    return f"{site}{prefix}{path}" if site else None


def subject_of(run: Run) -> str:
    """Return the subject of an e-mail, which has one line whatever the name of the run contains."""
    return " ".join(f"{run_name(run)}: {run.get_state_display().lower()}".split())[:200]


def text_of(run: Run) -> str:
    lines = [
        f"Run {run.pk}, {run_name(run)}, has ended: {run.get_state_display().lower()}.",
        run.error,
        f"Result: {live.figure(run)}." if live.figure(run) else "",
        f"Duration: {duration(live.seconds_taken(run))}." if run.started_at else "",
        url_of(run) or "",
    ]
    return "\n".join(filter(None, lines)) + "\n"
