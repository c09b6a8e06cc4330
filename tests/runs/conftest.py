from collections.abc import Callable
from typing import Any

import pytest

from runs import services
from runs.models import Run
from tests.runs import kinds
from tests.worker import celery_worker, runs_dir

__all__ = ["celery_worker", "runs_dir"]


@pytest.fixture
def begin() -> Callable[..., Run]:
    """Return a function that queues a test run: begin(total=5, trouble="error", word="hello")."""

    def start(word: str = "hello", send: bool = True, by: Any = None, **config: Any) -> Run:
        return services.start(kinds.COUNTING.name, config, by, inputs={"word": word}, send=send)

    return start
