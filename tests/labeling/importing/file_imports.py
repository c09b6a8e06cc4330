"""Stands in for the worker in tests of pages: checks or imports waiting files in this process."""

from labeling.importing import lifecycle, process
from labeling.models import FileImport


def work() -> None:
    for pk in FileImport.objects.filter(state__in=FileImport.ACTIVE).values_list("pk", flat=True):
        if (token := lifecycle.claim(pk)) is not None:
            lifecycle.finish(pk, token, process.step(pk, token))
