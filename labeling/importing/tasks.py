from celery import shared_task

from labeling.importing import lifecycle


@shared_task
def read_file(file_import_id: int) -> None:
    lifecycle.execute(file_import_id)


@shared_task
def reap_file_imports() -> int:
    return lifecycle.reap()
