"""Tests of the memory for models on the model server, with models that are only numbers."""

from dataclasses import dataclass

import pytest

from serving.server.engine import JobError, WaitForModel
from serving.server.memory import MB, ModelMemory


@dataclass
class Weights:
    nbytes: int


class Full(Exception):
    """The error of a full memory."""


@pytest.fixture
def memory() -> ModelMemory:
    """Return a memory that may fill 75 MB with models."""
    return ModelMemory(
        100, free=lambda: None, is_out_of_memory=lambda error: isinstance(error, Full)
    )


def use(memory: ModelMemory, name: str, megabytes: float, *, estimate: float = 0) -> None:
    """Use a model for a moment."""
    memory.acquire(
        name,
        lambda: Weights(int(megabytes * MB)),
        name=name,
        size=int((estimate or megabytes) * MB),
    )
    memory.release(name)


def test_the_model_that_was_used_longest_ago_makes_room(memory: ModelMemory) -> None:
    for name in ("a", "b", "a", "c"):
        use(memory, name, 30)
    assert list(memory.models) == ["a", "c"] and memory.nbytes == 60 * MB
    use(memory, "d", 75)
    assert list(memory.models) == ["d"]


def test_a_model_in_use_stays(memory: ModelMemory) -> None:
    memory.acquire("a", lambda: Weights(50 * MB), name="a", size=50 * MB)
    with pytest.raises(WaitForModel):
        use(memory, "b", 30)
    memory.release("a")
    use(memory, "b", 30)
    assert list(memory.models) == ["b"]


@pytest.mark.parametrize("estimate", [76, 1])
def test_a_model_that_is_too_large_is_refused_with_a_sentence(
    memory: ModelMemory, estimate: int
) -> None:
    """The estimate from the files can be too low, as for a model on a hub."""
    use(memory, "a", 10)
    with pytest.raises(JobError, match=r"big needs 76\.0 MB.* fill 75\.0 MB.*MEMORY_MB") as error:
        use(memory, "big", 76, estimate=estimate)
    assert error.value.code == "FAILED_PRECONDITION" and "big" not in memory.models
    use(memory, "a", 10)


def test_an_estimate_that_was_too_low_is_replaced_by_the_size(memory: ModelMemory) -> None:
    loads = []

    def load() -> Weights:
        loads.append(1)
        return Weights(50 * MB)

    memory.acquire("a", lambda: Weights(50 * MB), name="a", size=50 * MB)
    for _ in range(3):
        with pytest.raises(WaitForModel):
            memory.acquire("b", load, name="b", size=MB)
    assert len(loads) == 1, "it is not loaded again before there is room"


def test_a_full_memory_is_explained_and_freed(memory: ModelMemory) -> None:
    use(memory, "a", 10)
    memory.limits_process = False
    assert not memory.too_large() and memory.explain(ValueError()) is None
    problem = memory.explain(Full())
    assert problem and problem.code == "ABORTED" and "100 MB" in str(problem)
    assert not memory.models and memory.too_large()
