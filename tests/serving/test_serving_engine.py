"""Tests of the engine of the model server, in this process, with real tiny models."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from finetune.training.models.language_model import load_model
from finetune.training.models.merged_weights import with_merged_weights
from finetune.training.serving.answers import Answer, Row, Text, forward_together
from finetune.training.serving.loaded import Base, acquire
from recipes.machine.memory import free_memory, is_out_of_memory
from reward.training.serving.loaded import acquire as acquire_reward_model
from serving.client import End, LanguageModel, Piece, Sampling, Start
from serving.server.engine import UNPACED_JOBS, Engine, Job, JobError, Limits, WaitForModel
from serving.server.memory import ModelMemory
from tests.reward.scored import make_scorer_folder
from tests.serving.adapters import make_adapter
from tests.tiny import make_model, make_tokenizer

pytestmark = pytest.mark.torch

HI = [{"role": "user", "content": "Hi"}]
GREEDY = Sampling(temperature=0, seed=1, max_tokens=200)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"), max_position_embeddings=4096)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(base, folder / str(seed), seed=seed) for seed in range(3)]


LIMITS = Limits(adapters=2, max_tokens=4000)


def make_memory(megabytes: int = 1000) -> ModelMemory:
    return ModelMemory(megabytes, free=free_memory, is_out_of_memory=is_out_of_memory)


def the_base(memory: ModelMemory) -> tuple[Base, int]:
    """Return the only base in memory, and its number of users."""
    [loaded] = memory.models.values()
    return loaded.model, loaded.users


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def memory() -> ModelMemory:
    return make_memory()


def run(
    memory: ModelMemory, base: Path, adapter: Path | str = "", sampling: Sampling = GREEDY
) -> list[Any]:
    """Return the events of an answer that is the only job."""
    events: list[Any] = []
    job = Answer(
        LanguageModel(str(base), str(adapter)), HI, sampling, [],
        until=time.monotonic() + 60, limits=LIMITS, emit=events.append,
    )  # fmt: skip
    try:
        while not job.advance(memory):
            pass
    finally:
        job.close()
    return events


@pytest.mark.parametrize("length", [7, 700])
def test_peft_merged_and_served_models_have_equal_logits(
    memory: ModelMemory, base: Path, adapters: list[Path], tmp_path: Path, length: int
) -> None:
    """700 tokens are more than one part of a prompt, so the parts agree with a single pass too."""
    ids = [3 + number % 250 for number in range(length)]
    tokens_BT = torch.tensor([ids])
    peft = PeftModel.from_pretrained(load_model(str(base), "float32"), adapters[0]).eval()
    expected = peft(input_ids=tokens_BT).logits[0, -1]
    merged, _ = with_merged_weights(peft)
    merged.save_pretrained(tmp_path / "merged")
    make_tokenizer().save_pretrained(tmp_path / "merged")
    plain = load_model(str(base), "float32")(input_ids=tokens_BT).logits[0, -1]
    assert (plain - expected).abs().max() > 100 * TOLERANCE, "the adapter changes the logits"

    def served(folder: Path, adapter: Path | str) -> torch.Tensor:
        lease = acquire(memory, LanguageModel(str(folder), str(adapter), "float32"), 2)
        row = Row(lease.base, lease.variant, list(ids), GREEDY, 0, 5, [])
        for start in range(0, length, 512):
            logits_BV = row._forward(ids[start : start + 512])
        lease.release()
        return logits_BV[0]

    cases = [(base, adapters[0], expected), (base, "", plain), (tmp_path / "merged", "", expected)]
    for folder, adapter, logits in [*cases, *cases]:  # again, after the other adapters were active
        assert (served(folder, adapter) - logits).abs().max() <= TOLERANCE


# --- batches ----------------------------------------------------------------------------------------


def rows_of(
    memory: ModelMemory, base: Path, adapters: Sequence[Path | str], **more: Any
) -> list[Row]:
    """Return answers in progress to prompts of different lengths, which are read except the last token."""
    rows = []
    for number, adapter in enumerate(adapters):
        lease = acquire(memory, LanguageModel(str(base), str(adapter), "float32"), 3)
        ids = [3 + number % 250 for number in range(7 + 5 * number)]
        rows.append(Row(lease.base, lease.variant, ids, GREEDY, 0, 50, []))
        rows[-1]._forward(ids[:-1])
    return rows


def test_answers_in_a_batch_have_the_logits_of_answers_alone(
    memory: ModelMemory, base: Path, adapters: list[Path]
) -> None:
    models = ["", adapters[0], adapters[1], adapters[0], ""]

    def alone(models: Sequence[Path | str]) -> list[torch.Tensor]:
        return [row._forward(row._ids[-1:]) for row in rows_of(memory, base, models)]

    expected, first = alone(models), alone([adapters[1]])
    rows = rows_of(memory, base, models)
    forward_together(rows)
    for row, logits_BV in zip(rows, expected, strict=True):
        assert row._logits_BV is not None and row._forwarded == len(row._ids)
        assert (row._logits_BV - logits_BV).abs().max() <= TOLERANCE
    for before, after in zip(
        [*first, *expected], [*alone([adapters[1]]), *alone(models)], strict=True
    ):
        assert torch.equal(before, after), "the batch leaves no adapter behind"


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "mistral"])
def test_models_with_other_attention_answer_in_batches(
    memory: ModelMemory, tmp_path: Path, family: str
) -> None:
    """The window of mistral is shorter than the texts."""
    window = {"sliding_window": 6} if family == "mistral" else {}
    base = make_model(tmp_path / family, family, **window)
    alone, together = (rows_of(memory, base, ["", ""]) for _ in range(2))
    expected = [[row.step() for _ in range(12)] for row in alone]
    steps = []
    for _ in range(12):
        forward_together(together)
        assert all(row._logits_BV is not None for row in together)
        steps.append([row.step() for row in together])
    assert [list(events) for events in zip(*steps, strict=True)] == expected


def test_a_model_that_supports_no_batch_answers_alone_and_the_log_says_why(
    memory: ModelMemory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BLOOM computes its attention without the attention functions of transformers."""
    base = make_model(tmp_path / "bloom", "bloom")
    expected = [row.step() for row in rows_of(memory, base, ["", ""])]
    rows = rows_of(memory, base, ["", ""])
    forward_together(rows)
    assert [row.step() for row in rows] == expected
    assert not any(row.can_batch for row in rows)
    assert f"The base of {base} answers one chat at a time" in capsys.readouterr().err


def test_after_a_failed_batch_the_answers_continue_alone(
    memory: ModelMemory, base: Path, adapters: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch fails in the second layer, when the caches of the first one have grown."""
    models = ["", adapters[0]]

    def texts(rows: list[Row]) -> list[list[int]]:
        while len(rows[-1].written) < 8:
            forward_together(rows)
            for row in rows:
                row.step()
        return [row.written[:8] for row in rows]

    expected = texts(rows_of(memory, base, models))
    rows = rows_of(memory, base, models)
    forward_together(rows)
    for row in rows:
        row.step()

    def fill_memory(*args: Any) -> None:
        raise MemoryError("full")

    hook = rows[0].base.network.model.layers[-1].register_forward_pre_hook(fill_memory)
    forward_together(rows)
    hook.remove()
    assert "failed, so each continues alone: MemoryError('full')" in capsys.readouterr().err
    assert texts(rows) == expected


def test_stopping_one_answer_of_a_batch_leaves_the_other_unchanged(base: Path) -> None:
    engine, submit = started()
    greedy = Sampling(temperature=0, max_tokens=60)
    _, alone = submit(base, greedy)
    wait_until(lambda: bool(alone) and isinstance(alone[-1], End))
    stopped, events = submit(base, Sampling(temperature=0, max_tokens=4000))
    wait_until(lambda: len(events) > 2)
    _, other = submit(base, greedy)
    wait_until(lambda: len(other) > 2)
    stopped.cancelled = True
    wait_until(lambda: isinstance(other[-1], End))
    wait_until(lambda: not engine.jobs)
    assert not isinstance(events[-1], End)
    pieces = [[e for e in answer if isinstance(e, Piece)] for answer in (alone, other)]
    assert pieces[0] == pieces[1]
    engine.stop()


def test_more_adapters_than_fit_are_loaded_in_turn(
    memory: ModelMemory, base: Path, adapters: list[Path]
) -> None:
    answers = [run(memory, base, adapter) for adapter in adapters]
    assert [run(memory, base, adapter) for adapter in adapters] == answers
    loaded, users = the_base(memory)
    assert sum(bool(variant.label) for variant in loaded.variants.values()) == 2
    assert users == 0


def test_language_models_and_reward_models_share_the_memory(
    memory: ModelMemory, base: Path, tmp_path: Path
) -> None:
    reward_model = make_scorer_folder(tmp_path / "reward")
    sizes = [
        sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for folder in (base, reward_model)
    ]
    memory.limit = sum(sizes) - 10_000
    lease = acquire(memory, LanguageModel(str(base)), 1)
    with pytest.raises(WaitForModel):
        acquire_reward_model(memory, str(reward_model))
    lease.release()
    acquire_reward_model(memory, str(reward_model)).release()
    [key] = memory.models
    assert key[0] == str(reward_model), "the language model has made room"
    assert 0 < memory.nbytes <= memory.limit
    memory.limit = sizes[0] - 10_000
    with pytest.raises(JobError, match="TIEBREAK_MODEL_SERVER_MEMORY_MB") as error:
        acquire(memory, LanguageModel(str(base)), 1)
    assert error.value.code == "FAILED_PRECONDITION"


def test_an_adapter_with_new_weights_is_loaded_again(
    memory: ModelMemory, base: Path, tmp_path: Path
) -> None:
    folder = make_adapter(base, tmp_path / "a", seed=1)
    before = run(memory, base, folder)
    make_adapter(base, folder, seed=2)
    assert run(memory, base, folder) != before


def started(
    limits: Limits = LIMITS, memory: Callable[[], ModelMemory] = make_memory
) -> tuple[Engine, Callable[..., tuple[Answer, list[Any]]]]:
    """Return a running engine, and a function that submits an answer and returns its events."""

    def without_gradients_in_its_thread() -> ModelMemory:
        torch.set_grad_enabled(False)
        return memory()

    engine = Engine(without_gradients_in_its_thread, limits)
    engine.start()

    def submit(base: Path, sampling: Sampling = GREEDY, **more: Any) -> tuple[Answer, list[Any]]:
        events: list[Any] = []
        emit = more.pop("emit", events.append)
        until = time.monotonic() + more.pop("seconds", 60)
        model = LanguageModel(str(base), str(more.pop("adapter", "")))
        job = Answer(model, HI, sampling, [], until=until, limits=limits, emit=emit)
        engine.submit(job)
        return job, events

    return engine, submit


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def test_a_cancelled_answer_writes_no_further_token(base: Path) -> None:
    engine, submit = started()
    events: list[Any] = []

    def emit(event: Any) -> None:
        events.append(event)
        if isinstance(event, Piece) and event.tokens >= 3:
            job.cancelled = True

    job, _ = submit(base, Sampling(temperature=0, max_tokens=4000), emit=emit)
    wait_until(lambda: job.cancelled and not engine.jobs)
    written = events[-1].tokens
    time.sleep(0.2)
    assert isinstance(events[-1], Piece) and events[-1].tokens == written < 20
    assert the_base(engine.memory)[1] == 0
    engine.stop()


def test_answers_advance_together(base: Path) -> None:
    """A short answer ends although a long one was there first."""
    engine, submit = started()
    long, events = submit(base, Sampling(temperature=0, max_tokens=4000))
    wait_until(lambda: len(events) > 2)
    _, short = submit(base, Sampling(temperature=0, max_tokens=5))
    wait_until(lambda: bool(short) and isinstance(short[-1], End))
    assert not isinstance(events[-1], End)
    long.cancelled = True
    engine.stop()


def test_a_second_base_waits_until_the_first_is_unused(base: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=1)

    def for_one_base() -> ModelMemory:
        memory = make_memory()
        memory.limit = int(1.5 * sum(path.stat().st_size for path in base.glob("*.safetensors")))
        return memory

    engine, submit = started(memory=for_one_base)
    first, events = submit(base, Sampling(temperature=0, max_tokens=4000))
    wait_until(lambda: len(events) > 2)
    _, second = submit(other, Sampling(temperature=0, max_tokens=5))
    time.sleep(0.3)
    assert not second
    first.cancelled = True
    wait_until(lambda: bool(second) and isinstance(second[-1], End))
    assert len(engine.memory.models) == 1
    engine.stop()


def test_too_many_jobs_are_refused_and_a_stop_ends_the_others(base: Path) -> None:
    engine, submit = started(Limits(streams=1, waiting=1))
    long = Sampling(temperature=0, max_tokens=4000)
    _, first = submit(base, long)
    _, second = submit(base, long)
    with pytest.raises(JobError, match="Too many requests") as error:
        submit(base, long)
    assert error.value.code == "RESOURCE_EXHAUSTED"
    wait_until(lambda: len(first) > 2)
    engine.stop()
    wait_until(lambda: not engine.is_running())
    for events in (first, second):
        assert isinstance(events[-1], JobError) and events[-1].code == "UNAVAILABLE"


def test_an_answer_past_its_time_limit_is_dropped(base: Path) -> None:
    engine, submit = started()
    _, events = submit(base, Sampling(temperature=0, max_tokens=4000), seconds=0.3)
    wait_until(lambda: not engine.jobs)
    assert not any(isinstance(event, End) for event in events)
    engine.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -1}, {"temperature": float("nan")}, {"temperature": float("inf")},
        {"top_p": 0}, {"top_p": 1.1}, {"min_p": -0.1}, {"repetition_penalty": 0},
        {"max_tokens": 4001},
    ],
    ids=str,
)  # fmt: skip
def test_sampling_that_is_out_of_range_is_refused(
    memory: ModelMemory, base: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(JobError) as error:
        run(memory, base, sampling=Sampling(**change))
    too_long = "max_tokens" in change
    assert error.value.code == ("OUT_OF_RANGE" if too_long else "INVALID_ARGUMENT")
    assert the_base(memory)[1] == 0, "the model is released"


def test_without_a_limit_an_answer_may_fill_the_rest_of_the_context(tmp_path: Path) -> None:
    small = make_model(tmp_path / "small", max_position_embeddings=32)
    events = run(make_memory(), small, sampling=Sampling(temperature=0))
    assert isinstance(events[0], Start)
    assert events[-1] == End("length", 32 - events[0].prompt_tokens)


# --- turns ----------------------------------------------------------------------------------------


class Steps(Job):
    """A job of several steps. Each takes the given seconds of a fake clock, and is written to a log."""

    over = False

    def __init__(self, name: str, steps: int, seconds: float):
        self.name, self.steps, self.seconds = name, steps, seconds
        self.log: list[Steps] = []
        self.shared: list[list[str]] = []

    def advance(self, memory: Any) -> bool:
        self.log.append(self)
        self.steps -= 1
        return not self.steps

    def fail(self, error: JobError) -> None:
        raise error

    def close(self) -> None:
        pass


class SharedSteps(Steps):
    """A job that shares its steps with the others of its class."""

    group = "shared"

    def share(self, jobs: Sequence[Any]) -> None:
        self.shared.append([job.name for job in jobs])


def test_jobs_of_a_group_have_their_turns_together() -> None:
    """`a` has two steps before `b` has started, and ends before the last step of `b`."""
    jobs = [SharedSteps("a", 4, 0.1), SharedSteps("b", 4, 0.1), Steps("other", 4, 0.1)]
    order_of(*jobs)
    assert [names for job in jobs for names in job.shared] == [["a", "b"]] * 2


def order_of(*jobs: Steps, pauses: list[float] | None = None) -> list[str]:
    """Return the names of the jobs in the order of their steps. Add the pauses between them to `pauses`."""
    log: list[Steps] = []
    waited: list[float] = [] if pauses is None else pauses
    engine = Engine(
        make_memory,
        LIMITS,
        clock=lambda: sum(step.seconds for step in log),
        sleep=waited.append,
    )
    for job in jobs:
        job.log = log
        engine.submit(job)
    engine.start()
    wait_until(lambda: not engine.jobs)
    engine.stop()
    return [step.name for step in log]


def test_a_job_with_long_steps_gets_no_more_time_than_one_with_short_steps() -> None:
    order = order_of(Steps("long", 5, 0.1), Steps("short", 30, 0.01))
    *_, third, fourth, fifth = [index for index, name in enumerate(order) if name == "long"]
    assert fourth - third >= 9 and fifth - fourth >= 9, "about ten short steps for a long one"
    assert order.index("short") <= 2, "the new job starts soon"


def test_many_jobs_leave_most_of_the_processor_to_other_programs() -> None:
    few: list[float] = []
    order_of(*(Steps("few", 3, 0.1) for _ in range(UNPACED_JOBS)), pauses=few)
    assert few == []
    many: list[float] = []
    order_of(*(Steps("many", 3, 0.1) for _ in range(4 * UNPACED_JOBS)), pauses=many)
    assert sum(many) > 1.5 * 0.1 * len(many) > 3, "computing takes less than half of the time"


def test_a_step_that_loads_a_model_delays_the_next_one_by_a_second_at_most() -> None:
    order = order_of(Steps("loads", 1, 0.1), Steps("a", 3, 60), Steps("b", 30, 0.1))
    second, third = [index for index, name in enumerate(order) if name == "a"][1:]
    assert third - second <= 12, "not 600 steps of the other job"


def test_new_jobs_start_soon_and_do_not_starve_the_started_ones() -> None:
    started = [Steps(name, 5, 0.1) for name in ("first", "second")]
    order = order_of(*started, *(Steps("new", 1, 0.1) for _ in range(30)))
    assert set(order[:6]) == {"first", "second", "new"}
    last = max(index for index, name in enumerate(order) if name != "new")
    assert last < 30, "they end before the last new one starts"


# --- text -------------------------------------------------------------------------------------------


class Letters:
    """A chat format whose tokens are characters."""

    template: str | None = "x"

    def response_text(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace").strip()


def pieces(text: str, stops: list[str]) -> tuple[list[str], bool]:
    growing, ids, result = Text(Letters(), stops), [*text.encode()], []  # type: ignore[arg-type]
    for count in range(1, len(ids) + 1):
        result.append(growing.grow(ids[:count], last=count == len(ids)))
        if growing.stopped:
            break
    return [piece for piece in result if piece], growing.stopped


@pytest.mark.parametrize(
    ("text", "stops", "expected", "stopped"),
    [
        ("  ab c \n", [], ["a", "b", " c"], False),
        ("é€😀", [], ["é", "€", "😀"], False),
        ("abEND more", ["END"], ["a", "b"], True),
        ("abENcd", ["END"], ["a", "b", "ENc", "d"], False),
        ("abEN", ["END"], ["a", "b", "EN"], False),
        ("aab", ["ab"], ["a"], True),
        ("END", ["END"], [], True),
    ],
)
def test_a_piece_is_sent_when_no_later_token_can_change_it(
    text: str, stops: list[str], expected: list[str], stopped: bool
) -> None:
    assert pieces(text, stops) == (expected, stopped)
