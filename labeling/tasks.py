"""Labeling's background tasks. Celery finds all tasks that are defined or imported here."""

from celery import shared_task

from labeling.importing.tasks import read_file, reap_file_imports
from labeling.projects import finishing
from labeling.queue import slots
from labeling.reviewing import progress

__all__ = [
    "announce_finished_projects",
    "count_large_projects",
    "read_file",
    "reap_file_imports",
    "release_expired_leases",
]


@shared_task
def release_expired_leases() -> int:
    return slots.release_expired()


@shared_task
def count_large_projects() -> int:
    return progress.count_large_projects()


@shared_task
def announce_finished_projects() -> int:
    return finishing.announce_finished()
