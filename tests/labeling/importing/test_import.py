import json
from io import StringIO
from itertools import combinations

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEntry, User
from labeling.importing.reading import BadInput, detect, import_file
from labeling.models import Prompt, Ranking, Response, Slot, Task
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.statistics.agreement import exact_agreement
from tests.labeling.world import make_member, make_project, make_user, publish

pytestmark = pytest.mark.django_db


@pytest.fixture
def save(tmp_path):
    def write(content, name="data.json"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content)
        else:
            path.write_text("".join(json.dumps(line) + "\n" for line in content))
        return path

    return write


def rows():
    return {
        model.__name__: model.objects.count()
        for model in (Prompt, Response, Task, Slot, Ranking, User, AuditEntry)
    }


def texts_by_tier(ranking):
    texts = dict(ranking.task.responses.values_list("pk", "text"))
    return [sorted(texts[pk] for pk in tier) for tier in ranking.tiers]


def refused(path, project, match):
    before = rows()
    with pytest.raises(BadInput, match=match):
        import_file(path, project=project)
    assert rows() == before


# --- Open Assistant ------------------------------------------------------------------------------


def said(role, text, replies=(), **fields):
    return {
        "message_id": f"id {text}", "text": text, "role": role, "lang": "en", "deleted": False,
        "synthetic": False, "replies": list(replies), **fields,
    }  # fmt: skip


def tree(root):
    return {"message_tree_id": root["message_id"], "tree_state": "ready_for_export", "prompt": root}


def prompter(text, *replies, **fields):
    return said("prompter", text, replies, **fields)


def assistant(text, rank=None, *replies, **fields):
    ranked = {} if rank is None else {"rank": rank}
    return said("assistant", text, replies, **ranked, **fields)


TREE = tree(
    prompter(
        "How?",
        assistant(
            "So.", 1, prompter("Then?", assistant("Left.", 0), assistant("Right.", 0),
                               assistant("Up.", 1), assistant("Whatever."))
        ),
        assistant("Thus.", 0, prompter("Why?", assistant("Because.", 0))),
        assistant("Spam.", 2, prompter("?", assistant("a", 0), assistant("b", 1)), deleted=True),
        assistant("Hm.", 3, synthetic=True, model_name="model-x"),
    )
)  # fmt: skip


def test_a_tree_becomes_prompts_with_history_and_tasks(project, save):
    path = save([TREE, tree(prompter("Alone?"))])
    assert detect(path).name == "oasst"
    imported = import_file(path, project=project)
    assert imported.tally.read == {
        "trees": 2, "messages": 12, "prompter messages": 4, "ranked replies": 6,
    }  # fmt: skip
    first, second = Task.objects.order_by("pk")
    assert second.prompt.messages == [
        {"role": "user", "content": "How?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Then?"},
    ]
    assert texts_by_tier(first.rankings.get()) == [["Thus."], ["So."], ["Hm."]]
    assert texts_by_tier(second.rankings.get()) == [["Left.", "Right."], ["Up."]]
    assert set(first.responses.values_list("text", "model_name")) == {
        ("So.", "human"), ("Thus.", "human"), ("Hm.", "model-x"),
    }  # fmt: skip
    assert second.prompt.external_id == "id Then?"


def test_excluded_parts_of_a_tree_are_counted(project, save):
    tally = import_file(save([TREE, tree(prompter("Alone?"))]), project=project).tally
    assert +tally.left_out == {
        "deleted messages, with the replies below them": 1,
        "prompter messages without a reply": 1,
        "prompter messages with a single reply": 1,
        "replies without a rank at a ranked place (kept as responses)": 1,
    }
    unranked = Response.objects.get(text="Whatever.")
    assert not unranked.tasks.exists() and unranked.prompt.tasks.count() == 1


def test_a_tree_is_ranked_by_one_inactive_reviewer_under_no_guideline(project, save):
    import_file(save([TREE]), project=project)
    ranking = Ranking.objects.first()
    assert (ranking.source, ranking.guideline_version, ranking.shown_order) == ("import", None, [])
    oasst = ranking.reviewer
    assert (oasst.username, oasst.is_active) == ("oasst", False) and not oasst.has_usable_password()
    assert ranking.slot.number == 1 and ranking.task.rankings_wanted == 1


def test_nine_of_more_replies_are_chosen_evenly(project, save):
    replies = [assistant(f"r{n:02}", n) for n in range(17)]
    tally = import_file(save([tree(prompter("How?", *replies))]), project=project).tally
    texts = [tier[0] for tier in texts_by_tier(Ranking.objects.get())]
    assert texts == [f"r{n:02}" for n in range(0, 17, 2)]
    assert tally.left_out["ranked replies beyond 9 (kept as responses)"] == 8
    assert Response.objects.count() == 17


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        (said("narrator", "x"), "Line 2: message id x has a role other than"),
        (prompter("x", assistant("y", "first"), assistant("z", 1)), "rank that is not a whole"),
        ({"message_id": "1", "role": "prompter"}, '"text"'),
        ({**prompter("x"), "replies": {"a": 1}}, "replies that are not a list"),
        ("text", 'Line 2: a tree must be an object with a "prompt"'),
    ],
)
def test_a_broken_tree_is_refused_with_its_line(project, save, root, sentence):
    broken = {"message_tree_id": "1", "prompt": root}
    refused(save([TREE, broken]), project, sentence)


# --- PandaLM -------------------------------------------------------------------------------------


def pair(instruction, first, second, votes, context="", **fields):
    (model1, text1), (model2, text2) = first, second
    return {
        "idx": 0, "motivation_app": "App", "cmp_key": f"{model1}_{model2}",
        "instruction": instruction, "input": context, "response1": text1, "response2": text2,
        **{f"annotator{n}": vote for n, vote in enumerate(votes, 1)}, **fields,
    }  # fmt: skip


# Annotator 1 is intransitive on "Greet.": a>b, b>c, c>a.
PAIRS = [
    pair("Greet.", ("a-7b", "Hi"), ("b-7b", "Yo"), (1, 1, 0)),
    pair("Add.", ("a-7b", True), ("b-7b", "True"), (0, 2, 2), context="1+1=2"),
    pair("Greet.", ("b-7b", "Yo"), ("c-1.4B", "Hi"), (1, 2, 0)),
    pair("Greet.", ("a-7b", "Hi"), ("c-1.4B", "Hi"), (2, 1, 0)),
]


def pretty(pairs):
    return json.dumps(pairs, indent=4)


def test_pairs_of_one_instruction_share_a_prompt_and_keep_every_judgment(project, save):
    path = save(pretty(PAIRS))
    assert detect(path).name == "pandalm"
    imported = import_file(path, project=project)
    assert imported.tally.read == {"pairs": 4, "judgments": 12, "ties among them": 4}
    assert imported.written.new == {
        "prompts": 2, "responses": 5, "tasks": 4, "rankings": 12, "reviewers": 3,
    }  # fmt: skip
    greet = Prompt.objects.get(messages__0__content="Greet.")
    assert set(greet.responses.values_list("model_name", "text")) == {
        ("a-7b", "Hi"), ("b-7b", "Yo"), ("c-1.4B", "Hi"),
    }  # fmt: skip
    names = dict(greet.responses.values_list("pk", "model_name"))
    by_first = [
        [[names[pk] for pk in tier] for tier in tiers]
        for tiers in Ranking.objects.filter(
            task__prompt=greet, reviewer__username="pandalm-annotator1"
        ).order_by("task").values_list("tiers", flat=True)
    ]  # fmt: skip
    assert by_first == [[["a-7b"], ["b-7b"]], [["b-7b"], ["c-1.4B"]], [["c-1.4B"], ["a-7b"]]]


def test_the_input_follows_the_instruction_and_no_text_is_lost(project, save):
    tally = import_file(save(pretty(PAIRS)), project=project).tally
    prompt = Prompt.objects.get(messages=[{"role": "user", "content": "Add.\n\n1+1=2"}])
    assert set(prompt.responses.values_list("model_name", "text")) == {
        ("a-7b", "True"), ("b-7b", "True"),
    }  # fmt: skip
    assert tally.changed["numbers, true and false in place of a text, kept as text"] == 1


def test_the_agreement_matches_the_files(project, save):
    import_file(save(pretty(PAIRS)), project=project)
    groups = [[r.tiers for r in task.rankings.all()] for task in Task.objects.all()]
    votes = [[item[f"annotator{n}"] for n in (1, 2, 3)] for item in PAIRS]
    same = [a == b for three in votes for a, b in combinations(three, 2)]
    agreement = exact_agreement(groups)
    assert (agreement.value, agreement.pairs) == (sum(same) / len(same), len(same))


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"annotator2": 3}, "annotator2 must be 1, 2, or 0"),
        ({"annotator2": [1]}, "annotator2 must be 1, 2, or 0"),
        ({"annotator2": True}, "annotator2 must be 1, 2, or 0"),
        ({"response1": None}, '"response1" must be text'),
        ({"cmp_key": "a_b_c"}, '"cmp_key" must name two models'),
    ],
)
def test_a_broken_pair_is_refused_with_the_line_where_it_begins(project, save, broken, sentence):
    path = save(pretty([*PAIRS, {**PAIRS[0], **broken}]))
    line = path.read_text().split("\n").index("    {", 48) + 1
    refused(path, project, f"Line {line}: {sentence}")


def test_a_truncated_file_is_refused(project, save):
    whole = pretty(PAIRS)
    refused(save(whole[: whole.index("Yo") + 1]), project, r"Line \d+: not valid JSON")
    refused(save(whole[:-1]), project, "cut off")


def test_a_repeated_pair_counts_once_and_a_contradiction_is_reported(project, save):
    swapped = pair("Greet.", ("b-7b", "Yo"), ("a-7b", "Hi"), (2, 1, 0))
    imported = import_file(save(pretty([*PAIRS, swapped])), project=project)
    assert +imported.tally.left_out == {
        "rankings that occur twice in the file": 2,
        "second rankings of the same responses by the same reviewer, which differ": 1,
    }
    assert Ranking.objects.count() == 12


# --- the product's own ---------------------------------------------------------------------------

ASK = [{"role": "user", "content": "How?"}]
OWN = {
    "id": "q1",
    "messages": ASK,
    "responses": [{"text": "So.", "model": "m1"}, {"text": "Thus.", "model": "m2"}],
    "rankings": [
        {"reviewer": "ada", "tiers": [[1], [0]], "cut": 1, "strength": 2, "rationale": "Clear.",
         "ratings": {"0": {"honesty": 4}}, "flags": {"1": ["broken"]}, "active_seconds": 4.5},
        {"reviewer": "bob", "tiers": [[0, 1]]},
    ],
    "meta": {"topic": "ways"},
    "priority": 7,
}  # fmt: skip


def test_every_field_of_a_line_is_kept(project, save):
    path = save([OWN])
    assert detect(path).name == "jsonl"
    import_file(path, project=project)
    task = Task.objects.get()
    so, thus = task.places.order_by("position").values_list("response_id", flat=True)
    ada = Ranking.objects.get(reviewer__username="ada")
    assert (ada.tiers, ada.cut, ada.strength, ada.rationale) == ([[thus], [so]], 1, 2, "Clear.")
    assert ada.ratings == {str(so): {"honesty": 4}} and ada.flags == {str(thus): ["broken"]}
    assert ada.active_seconds == 4.5
    assert (task.priority, task.rankings_wanted, task.prompt.meta) == (7, 2, {"topic": "ways"})
    assert task.prompt.external_id == "q1"


def test_tiers_may_name_the_ids_of_responses(project, save):
    named = {
        "messages": ASK,
        "responses": [{"id": "x", "text": "So."}, {"id": "y", "text": "Thus."}],
        "rankings": [{"reviewer": "ada", "tiers": [["y"], ["x"]]}],
    }
    import_file(save([named]), project=project)
    assert texts_by_tier(Ranking.objects.get()) == [["Thus."], ["So."]]


def test_lines_without_rankings_become_tasks(project, save):
    unranked = {"messages": ASK, "responses": OWN["responses"]}
    prompt_only = {"messages": [{"role": "user", "content": "Who?"}]}
    tally = import_file(save([unranked, prompt_only]), project=project).tally
    assert Prompt.objects.count() == 2
    slot = slots.claim(project=project, reviewer=make_member(project))
    assert slot.task.rankings_wanted == project.rankings_per_task == 2
    assert +tally.left_out == {"lines with fewer than two responses (no task)": 1}


def changed(**fields):
    return {**OWN, **fields}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (changed(respones=[]), "a line has unknown keys: respones. Known keys:"),
        (changed(messages=[]), '"messages" must be a list'),
        (changed(messages=[{"role": "user"}]), "a user message in .messages. has no text"),
        (changed(messages=[{"role": "boss", "content": "x"}]), "a role in .messages. is one of"),
        (changed(messages=[*ASK, {"role": "assistant", "content": "x"}]), "nothing to answer"),
        (changed(responses=[{"text": "So."}]), "a task has 2 to 9 responses; this one has 1"),
        (changed(responses=[{"text": str(n)} for n in range(10)]), "this one has 10"),
        (changed(responses=[{"text": "So."}] * 2), "the same text and model"),
        (changed(responses=[{"text": "a", "id": 1}, {"text": "b", "id": 1}]), "the same id"),
        (changed(rankings=[{"tiers": [[0], [1]]}]), '"reviewer"'),
        (changed(rankings=[{"reviewer": "ada", "tiers": [[0], [2]]}]), "no response 2"),
        (changed(rankings=[{"reviewer": "ada", "tiers": [[0], [0]]}]), "ranked twice"),
        (changed(rankings=[{"reviewer": "ada", "tiers": [0, 1]}]), "list of lists"),
        (changed(rankings=[{"reviewer": "ada", "tiers": [[0]]}]), "at least two"),
        (changed(rankings=[{"reviewer": "ada", "tiers": [[0], [1]], "cut": 3}]), "0 to 2"),
        (changed(rankings=[{"reviewer": "a b", "tiers": [[0], [1]]}]), "username"),
        (
            changed(rankings=[{"reviewer": "a", "tiers": [[0], [1]], "flags": {"0": ["bad"]}}]),
            "'bad' is not a flag",
        ),
        (changed(priority=11), "0 to 9"),
        (changed(meta=[1]), '"meta" must be an object'),
        ("text", "a row must be a JSON object"),
    ],
)
def test_a_broken_line_is_refused_with_its_number(project, save, line, sentence):
    good = {**OWN, "messages": [{"role": "user", "content": "Fine?"}]}
    refused(save([good, line]), project, f"Line 2: .*{sentence}")


def test_broken_json_and_broken_text_are_refused_with_their_line(project, save):
    good = json.dumps(OWN)
    refused(save(good + '\n\n{"messages": \n'), project, "Line 3: not valid JSON")
    refused(save(good.encode() + b'\n{"messages": "\xff"}\n'), project, "Line 2: .*not UTF-8")
    deep = '{"messages": ' + "[" * 100_000
    refused(
        save(good + "\n" + deep), project, "Line 2: (not valid JSON|the value is nested too deeply)"
    )


def test_characters_that_the_database_cannot_store_are_replaced_and_reported(project, save):
    odd = changed(responses=[{"text": "a\x00b"}, {"text": "\ud800"}], rankings=[])
    tally = import_file(save([odd]), project=project).tally
    assert set(Response.objects.values_list("text", flat=True)) == {"a\ufffdb", "\ufffd"}
    assert sum(tally.changed.values()) == 1


def test_a_byte_order_mark_is_accepted(project, save):
    import_file(save(b"\xef\xbb\xbf" + json.dumps(OWN).encode()), project=project)
    assert Task.objects.count() == 1


# --- reviewers -----------------------------------------------------------------------------------


def test_the_name_of_an_existing_user_is_refused(project, save):
    User.objects.create(username="ada")
    refused(save([OWN]), project, "Line 1: the reviewer 'ada' has the username of an active user")


def test_rankings_are_credited_to_existing_users_on_request(project, save):
    ada = User.objects.create(username="ada")
    path = save([OWN])
    with pytest.raises(BadInput, match="no user is named 'bob'"):
        import_file(path, project=project, reviewers="existing")
    User.objects.create(username="bob")
    import_file(path, project=project, reviewers="existing")
    assert ada.rankings.count() == 1 and User.objects.get(username="ada").is_active


def test_earlier_rankings_of_a_user_are_kept(project, save):
    ada, bob = (User.objects.create(username=name) for name in ("ada", "bob"))
    import_file(save([changed(rankings=[])]), project=project)
    task = Task.objects.get()
    first, second = task.places.order_by("position").values_list("response_id", flat=True)
    own, _ = recording.record(
        task=task, reviewer=ada, source="simulation", content=Content([[first, second]])
    )
    imported = import_file(save([OWN]), project=project, reviewers="existing")
    assert imported.written.new["rankings"] == 1 and bob.rankings.count() == 1
    assert +imported.tally.left_out == {"rankings of tasks their reviewer had ranked before": 1}
    own.refresh_from_db()
    assert own.superseded_at is None and ada.rankings.get() == own


# --- atomic and repeated imports -----------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [[TREE], pretty(PAIRS), [OWN]], ids=["oasst", "pandalm", "jsonl"]
)
def test_importing_again_adds_nothing(project, save, content):
    path = save(content)
    first = import_file(path, project=project)
    before = rows()
    again = import_file(path, project=project)
    assert rows() == before and not +again.written.new
    assert again.written.read == first.written.read


def test_a_longer_file_adds_only_new_rows(project, save):
    import_file(save(pretty(PAIRS[:2])), project=project)
    imported = import_file(save(pretty(PAIRS)), project=project)
    assert imported.written.new["tasks"] == 2 and imported.written.new["rankings"] == 6
    more = changed(rankings=[*OWN["rankings"], {"reviewer": "cleo", "tiers": [[0], [1]]}])
    import_file(save([OWN]), project=project)
    imported = import_file(save([more]), project=project)
    assert +imported.written.new == {"rankings": 1, "reviewers": 1}
    task = Task.objects.get(prompt__external_id="q1")
    assert task.slots.filter(ranking__isnull=False).count() == 3


def test_projects_do_not_share_prompts(project, save):
    path, other = save([OWN]), make_project()
    import_file(path, project=project)
    imported = import_file(path, project=other)
    assert imported.written.new["rankings"] == 2


# --- the command ---------------------------------------------------------------------------------


def run(*arguments):
    out = StringIO()
    call_command("import_data", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_the_command_prints_its_counts(save, project):
    out = run(save(pretty(PAIRS)), "--project", project.slug)
    assert "4 pairs, 12 judgments" in out
    figures = {line.split()[0]: line.split()[1:] for line in out.split("\n") if line[:1].islower()}
    assert figures["rankings"] == ["12", "0", "12"] and figures["tasks"] == ["4", "0", "4"]
    assert AuditEntry.objects.get(action="file imported").details["new"]["rankings"] == 12
    assert "12        12         0" in run(save(pretty(PAIRS)), "--project", project.slug)


def test_a_dry_run_writes_nothing(save):
    before = rows()
    out = run(save([TREE]), "--project", "new-one", "--create-project", "--dry-run")
    assert "nothing was saved" in out and rows() == before


def test_the_errors_of_the_command_explain_what_to_do(save, tmp_path, project):
    path = save([OWN])
    with pytest.raises(CommandError, match="--create-project"):
        run(path, "--project", "nowhere")
    with pytest.raises(CommandError, match="is not a valid slug"):
        run(path, "--project", "No Where", "--create-project")
    with pytest.raises(CommandError, match="There is no file"):
        run(tmp_path / "none.json", "--project", project.slug)
    with pytest.raises(CommandError, match="No column looks like a prompt"):
        run(save([{"a": 1}]), "--project", project.slug)
    with pytest.raises(CommandError, match=r"^[^:]* is empty"):
        run(save(""), "--project", project.slug)
    with pytest.raises(CommandError, match=r"Line 1: .* Nothing was imported"):
        run(save([changed(priority=99)]), "--project", project.slug)


def test_a_format_can_be_forced(save, project):
    with pytest.raises(CommandError, match='"prompt"'):
        run(save([OWN]), "--project", project.slug, "--format", "oasst")


def test_ratings_are_checked_against_the_published_guideline(save):
    project = make_project(published=False)
    refused(save([OWN]), project, "no criterion 'honesty'")
    publish(project)
    import_file(save([OWN]), project=project)


def test_the_number_of_queries_does_not_grow_with_the_lines_of_a_batch(save, project):
    def queries_for(start, count):
        lines = [
            changed(
                messages=[{"role": "user", "content": f"Question {n}?"}],
                rankings=[{"reviewer": "ada", "tiers": [[0], [1]]}],
            )
            for n in range(start, start + count)
        ]
        with CaptureQueriesContext(connection) as captured:
            import_file(save(lines), project=project)
        return len(captured)

    queries_for(0, 1)  # creates the reviewer
    assert queries_for(1, 10) == queries_for(11, 900)
    assert Slot.objects.filter(ranking__isnull=False).count() == 911


def test_everyone_can_be_imported_with_unrelated_users(save, project):
    make_user()
    import_file(save([OWN]), project=project)
    assert User.objects.filter(is_active=False).count() == 2
