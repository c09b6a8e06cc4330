"""Tests of export files: their content, their use in other tools, and resumed exports."""

import json
import shutil
import uuid

import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import AuditEntry, User
from labeling.importing.reading import import_file
from labeling.models import Project, Prompt, Ranking, Response, Skip, Task
from labeling.queue.tasks import add_task
from labeling.rankings.content import FLAGS, Content
from labeling.rankings.recording import record
from reward.preferences.exports import FORMATS, TIES, Export, files
from reward.preferences.exports.card import path_of
from reward.preferences.exports.left_out import REASONS
from reward.preferences.filters import SnapshotFilter
from reward.preferences.snapshots import freeze
from tests.labeling.world import make_project as make_guided_project
from tests.reward.factory import make_project, make_prompt, make_task, make_user, rank, response_ids
from tests.reward.test_commands import exported

pytestmark = pytest.mark.django_db


@pytest.fixture
def ranked(project):
    """Create a prompt on which b beats a twice, a and c are even, and b and c are not compared."""
    task = make_task(make_prompt(project, "Why?"), ("a", "b", "c"))
    for order in (((1,), (0,)), ((1,), (0,)), ((0, 2),)):
        rank(task, make_user(), order)
    return task


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def sides(row):
    return row["chosen"][-1]["content"], row["rejected"][-1]["content"]


# --- forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        ("half", [("b", "a")]),
        ("skip", [("b", "a")]),
        ("both", [("b", "a"), ("a", "c"), ("c", "a")]),
    ],
)
def test_the_policy_for_ties_is_applied_counted_and_reported(
    project, ranked, tmp_path, ties, expected
):
    file = tmp_path / "pairs.jsonl"
    counts = exported("--project", project.slug, str(file), "--format", "pairs", "--ties", ties)
    assert [sides(row) for row in lines(file)] == expected
    assert counts["ties"] == ties and counts["pairs_never_compared"] == 1
    name = "pairs_given_both_ways" if ties == "both" else "pairs_tied"
    assert counts[name] == 1
    card = path_of(file).read_text()
    assert f"Ties: {TIES[ties]}" in card and f'"{name}": 1' in card


def test_half_wins_can_decide_pairs_that_skipping_ties_cannot(project, tmp_path):
    task = make_task(make_prompt(project), ("a", "b"))
    for order in (((0,), (1,)), ((0, 1),), ((0, 1),)):
        rank(task, make_user(), order)
    margins = {}
    for ties in ("half", "skip"):
        file = tmp_path / f"{ties}.jsonl"
        exported("--project", project.slug, str(file), "--format", "pairs", "--ties", ties)
        [margins[ties]] = [row["margin"] for row in lines(file)]
    assert margins == {"half": pytest.approx(1 / 3, abs=1e-6), "skip": 1.0}


def test_an_implicit_prompt_begins_both_sides(project, ranked, tmp_path):
    file = tmp_path / "pairs.jsonl"
    exported("--project", project.slug, str(file), "--format", "pairs-implicit")
    [row] = lines(file)
    ask = {"role": "user", "content": "Why?"}
    assert "prompt" not in row
    assert row["chosen"] == [ask, {"role": "assistant", "content": "b"}]
    assert row["rejected"] == [ask, {"role": "assistant", "content": "a"}]


def test_labels_follow_the_line_or_otherwise_the_balance_of_rankings(project, tmp_path):
    lined, plain = (make_task(make_prompt(project, text), ("a", "b", "c")) for text in ("1?", "2?"))
    rank(lined, make_user(), ((0,), (1,), (2,)), cut=2)
    rank(plain, make_user(), ((0,), (1,), (2,)))
    file = tmp_path / "labels.jsonl"
    counts = exported("--project", project.slug, str(file), "--format", "unpaired")
    result = [
        (r["prompt"][0]["content"], r["completion"][0]["content"], r["label"]) for r in lines(file)
    ]
    assert result == [
        ("1?", "a", True), ("1?", "b", True), ("1?", "c", False), ("2?", "a", True), ("2?", "c", False),
    ]  # fmt: skip
    assert counts["responses_even"] == 1


def test_the_strength_of_a_graded_pair_is_the_mean_over_reviewers_who_agree(project, tmp_path):
    task = make_task(make_prompt(project), ("a", "b"))
    for order, strength in ((((0,), (1,)), 3), (((0,), (1,)), 1), (((1,), (0,)), 2)):
        rank(task, make_user(), order, strength=strength)
    file = tmp_path / "pairs.jsonl"
    exported("--project", project.slug, str(file), "--format", "pairs")
    [row] = lines(file)
    assert sides(row) == ("a", "b") and row["strength"] == 2.0
    assert row["margin"] == pytest.approx(1 / 3, abs=1e-6)


def test_excluded_data_is_counted_by_reason(project, tmp_path):
    ann = make_user()
    task = make_task(make_prompt(project), ("a", "b"))
    first = rank(task, ann, ((0,), (1,)))
    Ranking.objects.filter(pk=first.pk).update(superseded_at="2026-01-01T00:00Z")
    rank(task, ann, ((1,), (0,)), supersedes=first)
    file = tmp_path / "rows.jsonl"
    counts = exported("--project", project.slug, str(file))
    assert counts["rankings_left_out_superseded"] == 1 and counts["rankings"] == 1
    assert "replaced by its reviewer's own revision | 1 |" in path_of(file).read_text()
    full = tmp_path / "full.jsonl"
    counts = exported("--project", project.slug, str(full), "--format", "full")
    assert (counts["rankings"], counts["rankings_superseded"]) == (1, 1)
    [[ranking]] = [task["rankings"] for row in lines(full) for task in row["tasks"]]
    assert ranking["tiers"] == [[1], [0]]


def test_content_that_the_format_cannot_hold_is_counted(project, tmp_path):
    prompt = make_prompt(project, "Ranked?")
    task = make_task(prompt, ("a", "b"))
    Response.objects.create(prompt=prompt, text="alone", model_name="m")
    make_prompt(project, "Not ranked?")
    Prompt.objects.filter(pk=prompt.pk).update(meta={"topic": "lamps"})
    first = response_ids(task)[0]
    rank(task, make_user(), ((0,), (1,)), rationale="Clear.", flags={str(first): ["broken"]})
    Skip.objects.create(task=task, reviewer=make_user(), reason="unclear")
    common = {"prompts_not_ranked": 1, "responses_not_ranked": 1, "rationales_left_out": 1,
              "metadata_left_out": 1}  # fmt: skip
    expected = {
        "kwise": common, "pairs": {**common, "flags_left_out": 1}, "full": {"skips_left_out": 1},
    }  # fmt: skip
    for form, left in expected.items():
        file = tmp_path / f"{form}.jsonl"
        counts = exported("--project", project.slug, str(file), "--format", form)
        assert {name: n for name, n in counts.items() if name in REASONS} == left
        card = path_of(file).read_text()
        assert all(f"| {REASONS[name]} | 1 |" in card for name in left)


def test_an_export_of_a_snapshot_lists_the_snapshots_exclusions(project, ranked, tmp_path):
    first = Ranking.objects.first()
    Ranking.objects.filter(pk=first.pk).update(superseded_at="2026-01-01T00:00Z")
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    counts = exported("--snapshot", str(snapshot.pk), str(tmp_path / "x.jsonl"))
    assert counts["rankings_left_out_superseded"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x.jsonl", "--format", "parquet"], r"must end in \.parquet"),
        (["x.csv", "--format", "pairs"], r"End its name in \.jsonl or \.parquet"),
        (["x.jsonl", "--format", "full", "--split", "test"], "whole project"),
        (["x.jsonl", "--reviewers", "names"], "Only full records can name reviewers"),
    ],
)
def test_errors_of_an_export_suggest_an_alternative(project, ranked, tmp_path, arguments, sentence):
    arguments = [str(tmp_path / arguments[0]), *arguments[1:]]
    with pytest.raises(CommandError, match=sentence):
        call_command("export", "--project", project.slug, *arguments)
    assert not list(tmp_path.iterdir())


def test_an_export_is_audited(project, ranked, tmp_path):
    exported("--project", project.slug, str(tmp_path / "x.jsonl"))
    assert AuditEntry.objects.get(action="data exported").details["file"] == "x.jsonl"


# --- other tools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", FORMATS)
def test_the_files_open_as_data_sets(project, ranked, tmp_path, form, suffix):
    load_dataset = pytest.importorskip("datasets").load_dataset
    other = make_task(make_prompt(project, "How?"), ("x", "y"))
    rank(other, make_user(), ((0,), (1,)), cut=1, strength=2)
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / f"rows{suffix}"
    counts = exported("--project", project.slug, str(file), "--format", form)
    kind = "parquet" if suffix == ".parquet" else "json"
    data = load_dataset(
        kind, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(data) == counts["rows"] > 1
    assert set(data.column_names) == set(Export(project=project, form=form).schema.names)
    whole = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache2"))
    assert len(whole) == counts["rows"]


def test_trl_recognises_the_preference_format(project, ranked, tmp_path):
    trl = pytest.importorskip("trl.data_utils")
    for form in ("pairs", "pairs-implicit", "unpaired"):
        file = tmp_path / f"{form}.jsonl"
        exported("--project", project.slug, str(file), "--format", form)
        assert all(trl.is_conversational(row) for row in lines(file))
    [row] = lines(tmp_path / "pairs-implicit.jsonl")
    result = trl.extract_prompt({"chosen": row["chosen"], "rejected": row["rejected"]})
    assert result["prompt"] == [{"role": "user", "content": "Why?"}]


# --- going on ------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", ["pairs", "full"])
def test_an_interrupted_export_resumes(project, tmp_path, monkeypatch, capsys, form, suffix):
    from reward.preferences import snapshots
    from reward.preferences.exports import records

    monkeypatch.setattr(files, "ROWS_PER_PART", 3)
    for module in (snapshots, records):
        monkeypatch.setattr(module, "PROMPT_BATCH_SIZE", 2)
    for n in range(12):
        rank(make_task(make_prompt(project, f"{n}?"), ("a", "b")), make_user(), ((0,), (1,)))
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    expected = exported("--project", project.slug, str(whole), "--format", form)

    real, written = files._write, []

    def killed(path, rows, schema):
        if len(written) == 2:
            raise Killed
        real(path, rows, schema)
        written.append(path)

    monkeypatch.setattr(files, "_write", killed)
    with pytest.raises(Killed):
        call_command("export", "--project", project.slug, str(cut), "--format", form)
    assert not cut.exists()
    with pytest.raises(CommandError, match="--restart"):
        call_command("export", "--project", project.slug, str(cut), "--format", "kwise")
    written.clear()
    content = exported("--project", project.slug, str(cut), "--format", form)
    assert {**content, "file": "", "about": ""} == {**expected, "file": "", "about": ""}
    assert cut.read_bytes() == whole.read_bytes() if suffix == ".jsonl" else True
    assert [path.stem for path in written] == ["000003", "000004"], "the first parts were kept"
    assert not list(tmp_path.glob(".*"))
    assert "interrupted once" in path_of(cut).read_text()


def test_an_export_killed_during_cleanup_can_be_repeated(project, ranked, tmp_path, monkeypatch):
    file = tmp_path / "x.jsonl"
    tidied = shutil.rmtree

    def killed(folder, **options):
        if folder.exists():
            (folder / "000001.jsonl").unlink()
            raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        exported("--project", project.slug, str(file))
    before = file.read_bytes()
    monkeypatch.setattr(shutil, "rmtree", tidied)
    exported("--project", project.slug, str(file), "--force")
    assert file.read_bytes() == before and not list(tmp_path.glob(".*"))


def test_an_interrupted_export_can_start_over(project, ranked, tmp_path):
    file = tmp_path / "x.jsonl"
    folder = tmp_path / ".x.jsonl.parts"
    folder.mkdir()
    (folder / "cursor.json").write_text(json.dumps({"plan": {}, "parts": 1, "cuts": 0}))
    exported("--project", project.slug, str(file), "--restart")
    assert len(lines(file)) == 1 and not folder.exists()


# --- out and in again ----------------------------------------------------------------------------


def described(project: Project):
    """Return all data of a project without its row ids."""

    def place(task, pk):
        response = Response.objects.get(pk=pk)
        return (response.text, response.model_name, response.seed)

    items = []
    for task in Task.objects.filter(project=project):
        responses = [place(task, p.response_id) for p in task.places.order_by("position")]
        for ranking in task.rankings.filter(superseded_at=None):
            items.append(
                (
                    json.dumps(task.prompt.messages), task.prompt.external_id, tuple(responses),
                    task.priority, task.kind, ranking.reviewer.username,
                    tuple(frozenset(place(task, pk) for pk in tier) for tier in ranking.tiers),
                    ranking.cut, ranking.strength, ranking.rationale, ranking.active_seconds,
                    frozenset(
                        (place(task, int(pk)), tuple(sorted(ratings.items())))
                        for pk, ratings in ranking.ratings.items()
                    ),
                    frozenset(
                        (place(task, int(pk)), tuple(judgments)) for pk, judgments in ranking.flags.items()
                    ),
                    tuple(place(task, pk) for pk in ranking.shown_order), ranking.created_at,
                )
            )  # fmt: skip
    return sorted(items, key=repr)


text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=30)


@st.composite
def rankings_of(draw, size):
    order = draw(st.permutations(range(size)))
    breaks = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    ranked = draw(st.integers(2, size))
    tiers: list[list[int]] = []
    for position, starts in zip(order[:ranked], breaks, strict=False):
        if starts or not tiers:
            tiers.append([])
        tiers[-1].append(position)
    graded = size == 2 and len(tiers) == 2
    some = st.integers(0, size - 1)
    return {
        "tiers": tiers,
        "cut": draw(st.none() | st.integers(0, len(tiers))),
        "strength": draw(st.none() | st.sampled_from([1.0, 2.0, 3.0])) if graded else None,
        "ratings": draw(st.dictionaries(some, st.just({"honesty": 4}), max_size=2)),
        "flags": draw(st.dictionaries(some, st.lists(st.sampled_from(sorted(FLAGS)), min_size=1))),
        "rationale": draw(text),
        "active_seconds": draw(st.floats(0, 3600)),
        "shown_order": order,
    }


@st.composite
def tasks_of(draw):
    size = draw(st.integers(2, 4))
    reviewers = draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=3))
    return {
        "prompt": draw(text.filter(str.strip)),
        "texts": draw(st.lists(text, min_size=size, max_size=size)),
        "priority": draw(st.integers(0, 9)),
        "rankings": {name: draw(rankings_of(size)) for name in reviewers},
    }


def build(tasks) -> Project:
    project = make_guided_project()
    run = uuid.uuid4().hex[:6]
    for number, item in enumerate(tasks):
        prompt, _ = Prompt.objects.get_or_create(
            project=project, external_id=f"p{number}",
            messages=[{"role": "user", "content": f"{number} {item['prompt']}"}],
        )  # fmt: skip
        responses = [
            Response.objects.create(prompt=prompt, text=words, model_name=f"m{n}", seed=n)
            for n, words in enumerate(item["texts"])
        ]
        task, _ = add_task(
            project=project, prompt=prompt, responses=responses, priority=item["priority"]
        )
        ids = [response.pk for response in responses]
        for name, ranking in item["rankings"].items():
            reviewer, _ = User.objects.get_or_create(username=f"{run}-{name}", is_active=False)
            places = {
                **ranking,
                "tiers": [[ids[place] for place in tier] for tier in ranking["tiers"]],
                "ratings": {ids[place]: rated for place, rated in ranking["ratings"].items()},
                "flags": {ids[place]: named for place, named in ranking["flags"].items()},
            }
            order = [ids[position] for position in places.pop("shown_order")]
            record(
                task=task,
                reviewer=reviewer,
                source="simulation",
                partial=True,
                content=Content(**places),
                shown_order=order,
            )
    return project


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tasks=st.lists(tasks_of(), min_size=1, max_size=3))
def test_exporting_and_importing_gives_the_same_rankings(tmp_path, suffix, tasks):
    project = build(tasks)
    file = tmp_path / f"{uuid.uuid4().hex}{suffix}"
    exported("--project", project.slug, str(file), "--format", "full", "--reviewers", "names")
    other = make_guided_project()
    imported = import_file(file, project=other)
    assert described(other) == described(project)
    assert imported.written.new["rankings"] == sum(len(task["rankings"]) for task in tasks)
    again = import_file(file, project=other)
    assert not +again.written.new
    into_itself = import_file(file, project=project)
    assert not +into_itself.written.new


def test_full_records_contain_names_only_on_request(project, ranked, tmp_path):
    usernames = set(User.objects.values_list("username", flat=True))
    for reviewers in ("pseudonyms", "names"):
        file = tmp_path / f"{reviewers}.jsonl"
        exported("--project", project.slug, str(file), "--format", "full", "--reviewers", reviewers)
        names = {r["reviewer"] for row in lines(file) for t in row["tasks"] for r in t["rankings"]}
        assert len(names) == 3 and (names <= usernames) == (reviewers == "names")


def test_full_records_contain_prompts_and_responses_without_rankings(project, tmp_path):
    alone = Prompt.objects.create(project=project, messages=[{"role": "user", "content": "Alone?"}])
    for text in ("a", "b"):
        Response.objects.create(prompt=alone, text=text, model_name="m")
    task = make_task(make_prompt(project, "Open?"), ("a", "b"))
    file = tmp_path / "full.parquet"
    exported("--project", project.slug, str(file), "--format", "full")
    other = make_project()
    import_file(file, project=other)
    assert other.prompts.count() == 2
    open_task = Task.objects.get(project=other)
    assert open_task.rankings_wanted == task.rankings_wanted
    assert open_task.slots.filter(ranking=None).count() == task.rankings_wanted
    assert len(response_ids(open_task)) == 2
