import json
import os

import pytest

from recipes.rundir import RunDir
from runs.lifecycle import Lease, record
from runs.models import Run, RunEvent
from runs.supervision.events import EventTail, repair
from tests.disks import files_limited_to


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    return RunDir.create(tmp_path / "1", {})


def append(run_dir: RunDir, data: bytes) -> None:
    with run_dir.events_file.open("ab") as file:
        file.write(data)


def line(**data) -> bytes:
    return json.dumps({"at": "2026-01-02T03:04:05+00:00", "event": "message", **data}).encode()


def test_a_partial_line_is_read_once_it_is_complete(run_dir):
    tail = EventTail(1, run_dir)
    whole = line(text="one") + b"\n"
    append(run_dir, whole[:20])
    assert tail.read() == []
    append(run_dir, whole[20:] + line(text="two")[:10])
    assert [(e.number, e.data["text"]) for e in tail.read()] == [(1, "one")]
    assert tail.read() == []


def test_events_are_numbered_by_line_including_invalid_lines(run_dir):
    append(run_dir, line(text="a") + b"\nnot json\n[1]\n\n" + line(text="e") + b"\n")
    assert [event.number for event in EventTail(1, run_dir).read()] == [1, 5]


def test_a_second_supervisor_continues_where_the_first_stopped(run_dir):
    append(run_dir, b"".join(line(text=str(n)) + b"\n" for n in range(5)))
    assert [event.number for event in EventTail(1, run_dir, after=3).read()] == [4, 5]


def test_an_error_of_an_earlier_attempt_is_ignored(run_dir):
    append(run_dir, line(text="old", level="error") + b"\n")
    tail = EventTail(1, run_dir, after=1)
    tail.read()
    assert tail.error == ""
    append(run_dir, line(text="new", level="error") + b"\n")
    tail.read()
    assert tail.error == "new"


@pytest.mark.django_db
def test_values_that_jsonb_refuses_are_stored(run_dir):
    from tests.runs.test_lifecycle import State, in_state

    run = in_state(State.RUNNING)
    odd = b'{"event":"message","text":"a\\u0000b\\ud800c","x":NaN,"y":1e999,"at":"yesterday"}\n'
    append(run_dir, odd)
    record(Lease(run.pk, 1), EventTail(run.pk, run_dir).read(), None)
    assert RunEvent.objects.get().data == {"text": "ab?c", "x": None, "y": None}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("progress", "stored"),
    [((3, 10), (3, 10)), ((12, 10), (10, 10)), ((5, 0), (5, 0))],
)
def test_a_step_never_passes_the_total(progress, stored):
    from tests.runs.test_lifecycle import State, in_state

    run = in_state(State.RUNNING)
    record(Lease(run.pk, 1), [], progress)
    assert Run.objects.values_list("step", "total_steps").get() == stored


def test_an_invalid_step_is_clamped(run_dir):
    append(run_dir, line(event="progress", step=-4, total="many") + b"\n")
    tail = EventTail(1, run_dir)
    tail.read()
    assert tail.progress == (0, 0)


def test_a_repair_truncates_only_the_partial_line(run_dir):
    append(run_dir, line(text="one") + b"\n" + b'{"half')
    repair(run_dir, copied=0)
    run_dir.message("two")
    assert [event["text"] for event in run_dir.events()] == ["one", "two"]


def test_an_event_that_a_full_disk_cuts_off_does_not_damage_the_next(run_dir):
    run_dir.message("one")
    with files_limited_to(run_dir.events_file.stat().st_size + 10), pytest.raises(OSError):
        run_dir.message("two")
    run_dir.message("three")
    assert [e.data["text"] for e in EventTail(1, run_dir).read()] == ["one", "three"]
    assert [event["text"] for event in run_dir.events()] == ["one", "three"]


@pytest.mark.parametrize("kept", [0, 1, 130])
def test_events_after_a_cut_get_new_numbers(run_dir, kept):
    append(run_dir, b"".join(line(text=str(n)) + b"\n" for n in range(5)))
    tail = EventTail(1, run_dir)
    assert len(tail.read()) == 5
    os.truncate(run_dir.events_file, kept)
    assert tail.read() == []
    run_dir.message("after a cut during the attempt")
    assert [event.number for event in tail.read()] == [6]
    os.truncate(run_dir.events_file, kept)
    repair(run_dir, copied=6)
    run_dir.message("after a cut between two attempts")
    assert [event.number for event in EventTail(1, run_dir, after=6).read()] == [7]


def test_a_lost_events_file_is_replaced_by_empty_lines(run_dir):
    repair(run_dir, copied=3)
    run_dir.message("new")
    assert [event.number for event in EventTail(1, run_dir, after=3).read()] == [4]


def test_a_deeply_nested_line_is_skipped(run_dir):
    append(run_dir, b"[" * 100_000 + b"\n" + line(text="next") + b"\n")
    assert [event.number for event in EventTail(1, run_dir).read()] == [2]


def test_a_very_long_line_is_one_event(run_dir, monkeypatch):
    monkeypatch.setattr("runs.supervision.events.BATCH_BYTES", 50)
    append(run_dir, line(text="x" * 500) + b"\n" + line(text="y") + b"\n")
    tail = EventTail(1, run_dir)
    assert [len(e.data["text"]) for e in [*tail.read(), *tail.read()]] == [500, 1]
