"""Tests of the formats of other tools and data sets."""

from functools import partial

import pytest
from django.core.management import CommandError

from config.env import BASE_DIR
from labeling.importing.reading import FORMATS, BadInput, import_file
from labeling.models import Prompt, Ranking, Response, Slot, Task
from tests.labeling.importing.import_files import PLAIN, assistant, imported, saved, user
from tests.labeling.importing.test_import import OWN, changed, run
from tests.labeling.world import make_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def save(tmp_path):
    return partial(saved, tmp_path)


def judged(**found):
    """Return the rankings as {(prompt, reviewer): tiers of texts}."""
    texts = dict(Response.objects.values_list("pk", "text"))
    return {
        (str(ranking.task.prompt), ranking.reviewer.username): [
            [texts[pk] for pk in tier] for tier in ranking.tiers
        ]
        for ranking in Ranking.objects.filter(**found).order_by("id")
    }


# --- prompts, responses, chats -------------------------------------------------------------------


def test_prompts_without_responses_make_no_tasks(project, save):
    values = [{"prompt": "How?", "topic": "ways"}, {"prompt": [user("Why?")], "id": "q2"}]
    tally = imported(save(values), project, "columns").tally
    assert Prompt.objects.count() == 2 and not Task.objects.exists()
    assert Prompt.objects.get(external_id="q2").messages == [user("Why?")]
    assert Prompt.objects.get(messages=[user("How?")]).meta == {"topic": "ways"}
    assert +tally.left_out == {"prompts with fewer than two responses (no task)": 2}


def test_rows_of_one_prompt_are_responses_to_it(project, save):
    values = [
        {
            "instruction": "Add.",
            "input": "1+1",
            "output": text,
            "model": model,
            "system": "Be terse.",
        }
        for text, model in (("2", "m1"), ("3", "m2"), ("2", "m1"))
    ]
    tally = imported(save(values, "a.csv"), project, "columns").tally
    task = Task.objects.get()
    system = {"role": "system", "content": "Be terse."}
    assert task.prompt.messages == [system, user("Add.\n\n1+1")]
    assert set(task.responses.values_list("text", "model_name")) == {("2", "m1"), ("3", "m2")}
    assert tally.left_out["responses that occur twice"] == 1


def test_responses_may_be_a_list_with_their_models(project, save):
    values = [
        {"question": "A?", "responses": ["x", "y"], "models": ["m1", "m2"]},
        {
            "question": "B?",
            "responses": [{"text": "x", "model": "m3"}, {"content": "y"}],
            "model": "m4",
        },
    ]
    imported(save(values), project, "columns")
    assert set(Response.objects.values_list("prompt__messages__0__content", "text", "model_name")) == {
        ("A?", "x", "m1"), ("A?", "y", "m2"), ("B?", "x", "m3"), ("B?", "y", "m4"),
    }  # fmt: skip


def test_more_than_nine_responses_make_several_tasks(project, save):
    imported(
        save([{"prompt": "A?", "responses": [f"r{n}" for n in range(20)]}]), project, "columns"
    )
    assert sorted(task.responses.count() for task in Task.objects.all()) == [6, 7, 7]


@pytest.mark.parametrize("style", ["messages", "sharegpt"])
def test_the_last_answer_of_a_chat_is_a_response(project, save, style):
    chat = [user("Hi"), assistant("Hello"), user("How?")]
    values = [{"messages": [*chat, assistant(text)], "model": text} for text in ("So.", "Thus.")]
    if style == "sharegpt":
        names = {"user": "human", "assistant": "gpt"}
        values = [
            {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in value["messages"]],
             "model": value["model"]}
            for value in values
        ]  # fmt: skip
    imported(save(values), project, "columns")
    task = Task.objects.get()
    assert task.prompt.messages == chat
    assert set(task.responses.values_list("text", "model_name")) == {
        ("So.", "So."),
        ("Thus.", "Thus."),
    }


def test_tiebreak_jsonl_may_have_responses_as_texts(project, save):
    imported(save([{"messages": [user("A?")], "responses": ["x", "y"]}]), project, "jsonl")
    assert Task.objects.get().responses.count() == 2


# --- TRL and HH-RLHF -----------------------------------------------------------------------------

PAIRS = {
    "explicit": {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    "conversational": {
        "prompt": [user("What color?")],
        "chosen": [assistant("Blue.")],
        "rejected": [assistant("Green.")],
    },
    "conversational implicit": {
        "chosen": [user("What color?"), assistant("Blue.")],
        "rejected": [user("What color?"), assistant("Green.")],
    },
    "prompt as text, whole chats": {
        "prompt": "What color?",
        "chosen": [user("What color?"), assistant("Blue.")],
        "rejected": [user("What color?"), assistant("Green.")],
        "margin": 0.5,
    },
}


@pytest.mark.parametrize("shape", PAIRS)
def test_a_pair_of_trl_is_a_ranking(project, save, shape):
    tally = imported(save([PAIRS[shape]]), project, "columns").tally
    [((prompt, reviewer), tiers)] = judged().items()
    expected = "What color?" if "What" in str(PAIRS[shape]) else "The sky is"
    assert (prompt, reviewer) == (expected, "trl")
    assert [tier[0].strip().lower() for tier in tiers] == ["blue.", "green."]
    meta = {"margin": 0.5} if "margin" in PAIRS[shape] else {}
    assert Prompt.objects.get().meta == meta and not +tally.left_out


def test_indistinguishable_pairs_are_counted(project, save):
    values = [
        PAIRS["explicit"],
        {"prompt": "Same?", "chosen": "x", "rejected": "x"},
        {"chosen": [user("a"), assistant("b"), user("c"), assistant("d")],
         "rejected": [user("a"), assistant("x"), user("c"), assistant("d")]},
    ]  # fmt: skip
    tally = imported(save(values), project, "columns").tally
    assert Ranking.objects.count() == 1
    assert tally.left_out["judgments between a response and itself"] == 1
    assert tally.left_out["pairs that differ in more than the last answer"] == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
def test_the_line_separates_labelled_responses_of_a_prompt(project, save, name):
    values = [
        {"prompt": "A?", "completion": text, "label": label}
        for text, label in (("x", True), ("y", False), ("z", True))
    ]
    imported(
        save([*values, {"prompt": "B?", "completion": "x", "label": True}], name),
        project,
        "columns",
    )
    ranking = Ranking.objects.get()
    assert list(judged().values()) == [[["x", "z"], ["y"]]] and ranking.cut == 1
    assert Prompt.objects.count() == 2


def test_a_label_is_true_or_false(project, save):
    with pytest.raises(BadInput, match='"label" looks like a preference'):
        import_file(save([{"prompt": "A?", "completion": "x", "label": "good"}]), project=project)


def test_transcripts_are_split_into_messages(project, save):
    begin = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How?\n\nAssistant:"
    values = [
        {"chosen": f"{begin} So.", "rejected": f"{begin} Thus."},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: x\n\nAssistant: b"},
    ]
    tally = imported(save(values, "a.jsonl.gz"), project, "hh").tally
    assert judged() == {("How?", "hh-rlhf"): [["So."], ["Thus."]]}
    assert Prompt.objects.get().messages == [user("Hi"), assistant("Hello"), user("How?")]
    assert tally.left_out["pairs whose transcripts differ before the last turn"] == 1


# --- UltraFeedback and HelpSteer3 ----------------------------------------------------------------


def completion(model, score, honesty="4"):
    return {
        "model": model, "response": f"by {model}", "overall_score": score,
        "annotations": {"honesty": {"Rating": honesty, "Rationale": "r"}, "style": {"Rating": "2"}},
    }  # fmt: skip


def test_scores_become_a_ranking_with_ties(project, save):
    scores = [("a", 7.5), ("b", 9), ("c", 7.5), ("d", None)]
    completions = [completion(model, score) for model, score in scores]
    completions[3]["annotations"] = {"honesty": {"Rating": "N/A"}}
    tally = imported(
        save([{"instruction": "A?", "completions": completions}]), project, "ultrafeedback"
    ).tally
    assert judged() == {("A?", "ultrafeedback"): [["by b"], ["by a", "by c"]]}
    assert Task.objects.get().responses.count() == 4
    assert tally.left_out["completions without a score (kept as responses)"] == 1
    ratings = Ranking.objects.get().ratings
    assert sorted(ratings.values(), key=str) == [{"honesty": 4}] * 3
    assert tally.left_out["ratings of criteria that the guideline does not have"] == 3


def test_without_an_overall_score_the_mean_of_the_aspects_decides(project, save):
    completions = [completion("a", None, "1"), completion("b", None, "5")]
    imported(save([{"instruction": "A?", "completions": completions}]), project, "ultrafeedback")
    assert list(judged().values()) == [[["by b"], ["by a"]]]


def test_generations_with_ratings_are_ranked_too(project, save):
    row = {
        "instruction": "A?",
        "generations": ["x", "y"],
        "ratings": [2, 4],
        "model_names": ["m", "n"],
    }
    imported(save([row]), project, "ultrafeedback")
    assert list(judged().values()) == [[["y"], ["x"]]]


def test_graded_preferences_keep_their_strength_and_reviewers(project, save):
    row = {
        "domain": "code", "language": "python", "context": [user("A?")],
        "response1": "x", "response2": "y", "overall_preference": -2,
        "individual_preference": [
            {"score": -3, "reasoning": "Clear.", "feedback1": "f", "feedback2": "g"},
            {"score": 0, "reasoning": "Even.", "feedback1": "f", "feedback2": "g"},
            {"score": 1, "reasoning": "Hm.", "feedback1": "f", "feedback2": "g"},
        ],
    }  # fmt: skip
    other = {**row, "context": [user("B?")], "overall_preference": 2, "individual_preference": []}
    imported(save([row, other], "a.jsonl.gz"), project, "helpsteer")
    assert judged() == {
        ("A?", "helpsteer-1"): [["x"], ["y"]],
        ("A?", "helpsteer-2"): [["x", "y"]],
        ("A?", "helpsteer-3"): [["y"], ["x"]],
        ("B?", "helpsteer"): [["y"], ["x"]],
    }
    rankings = Ranking.objects.order_by("id").values_list("strength", "rationale")
    assert list(rankings) == [(3, "Clear."), (None, "Even."), (1, "Hm."), (2, "")]
    assert Prompt.objects.first().meta == {"domain": "code", "language": "python"}


def test_a_score_beyond_the_scale_is_refused(project, save):
    row = {"context": "A?", "response1": "x", "response2": "y", "overall_preference": 5}
    with pytest.raises(BadInput, match='Line 1: "overall_preference" must be from -3 to 3'):
        import_file(save([row]), project=project)


# --- Label Studio --------------------------------------------------------------------------------


def annotation(by, *results, **fields):
    return {"id": by, "completed_by": by, "was_cancelled": False, "lead_time": 12.5,
            "result": list(results), **fields}  # fmt: skip


def result(kind, value):
    return {"from_name": "r", "to_name": "t", "type": kind, "value": value}


def test_ranker_annotations_are_rankings_of_their_annotators(project, save):
    items = [{"id": n, "title": f"model {n}", "body": f"text {n}"} for n in ("a", "b", "c")]
    task = {
        "id": 7,
        "data": {"prompt": "A?", "items": items},
        "annotations": [
            annotation(1, result("ranker", {"ranker": ["b", "c", "a"]})),
            annotation(2, result("ranker", {"ranker": {"rank": ["c", "a", "b"]}})),
            annotation(
                {"id": 3}, result("ranker", {"ranker": {"good": ["a", "b"], "bad": ["c"], "_": []}})
            ),
            annotation(4, result("ranker", {"ranker": ["a", "b", "c"]}), was_cancelled=True),
            annotation(5, result("textarea", {"text": ["hm"]})),
        ],
    }
    tally = imported(save([task], "a.json"), project, "labelstudio").tally
    assert judged() == {
        ("A?", "labelstudio-1"): [["text b"], ["text c"], ["text a"]],
        ("A?", "labelstudio-2"): [["text c"], ["text a"], ["text b"]],
        ("A?", "labelstudio-3"): [["text a", "text b"], ["text c"]],
    }
    assert Ranking.objects.first().active_seconds == 12.5
    assert Response.objects.get(external_id="a").model_name == "model a"
    assert tally.left_out["cancelled annotations"] == 1
    assert (
        tally.left_out["annotations without a ranking, a pairwise answer or a choice between two"]
        == 1
    )


@pytest.mark.parametrize(
    ("kind", "value", "tiers"),
    [
        ("pairwise", {"selected": "left"}, [["x"], ["y"]]),
        ("pairwise", {"selected": "right"}, [["y"], ["x"]]),
        ("choices", {"choices": ["Answer 2 is better"]}, [["y"], ["x"]]),
        ("choices", {"choices": ["answer1"]}, [["x"], ["y"]]),
        ("choices", {"choices": ["Tie"]}, [["x", "y"]]),
        ("choices", {"choices": ["Not sure"]}, None),
    ],
)
def test_pairwise_answers_and_choices_are_rankings(project, save, kind, value, tiers):
    data = {"prompt": "A?", "answer1": "x", "answer2": "y"}
    task = {"id": 1, "data": data, "annotations": [annotation(1, result(kind, value))]}
    imported(save([task], "a.json"), project, "labelstudio")
    assert list(judged().values()) == ([tiers] if tiers else [])


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({"data": {"prompt": "A?"}, "annotations": []}, "neither a list of items"),
        ({"data": {"x1": "A?", "x2": "B"}, "annotations": []}, "data has no prompt; its keys are x1, x2"),
        (
            {"data": {"prompt": "A?", "items": [{"id": "a", "body": "x"}]},
             "annotations": [annotation(1, result("ranker", {"ranker": ["z"]}))]},
            "contains the item 'z'",
        ),
    ],
)  # fmt: skip
def test_a_label_studio_task_that_cannot_be_read_is_refused(project, save, task, sentence):
    with pytest.raises(BadInput, match=f"Line 2: .*{sentence}"):
        import_file(save([task], "a.json"), project=project)


# --- Argilla -------------------------------------------------------------------------------------

FIELDS = {"prompt": "A?", "reply-1": "x", "reply-2": "y", "reply-3": "z"}


def test_users_rankings_and_ratings_are_rankings(project, save):
    ranked = [
        {"value": "reply-2", "rank": 1},
        {"value": "reply-1", "rank": 2},
        {"value": "reply-3", "rank": 2},
    ]
    record = {
        "id": "r1", "fields": FIELDS, "metadata": {}, "suggestions": {},
        "responses": {
            "preference": [{"value": ranked, "user_id": "u1"},
                           {"value": ["reply-3", "reply-1", "reply-2"], "user_id": "u2"},
                           {"value": ranked, "user_id": "u4", "status": "discarded"}],
            "quality-1": [{"value": 2, "user_id": "u3"}],
            "quality-2": [{"value": 5, "user_id": "u3"}],
            "comment": [{"value": "fine", "user_id": "u5"}],
        },
    }  # fmt: skip
    tally = imported(save([record], "a.json"), project, "argilla").tally
    assert judged() == {
        ("A?", "argilla-u1"): [["y"], ["x", "z"]],
        ("A?", "argilla-u2"): [["z"], ["x"], ["y"]],
        ("A?", "argilla-u3"): [["y"], ["x"]],
    }
    assert Prompt.objects.get().external_id == "r1"
    assert tally.left_out["discarded answers and drafts"] == 1
    assert tally.left_out["users' answers that rank or rate no responses"] == 1


def test_older_exports_and_columns_of_a_data_set_are_read(project, save):
    old = {
        "fields": FIELDS,
        "responses": [{"user_id": "u1", "status": "submitted", "values": {"preference": {
            "value": [{"value": "reply-1", "rank": 1}, {"value": "reply-2", "rank": 2}]}}}],
    }  # fmt: skip
    flat = {
        "prompt": "B?", "response_a": "x", "response_b": "y",
        "better.responses": ["response_b"], "better.responses.users": ["u2"],
        "better.responses.status": ["submitted"],
    }  # fmt: skip
    imported(save([old], "a.json"), project, "argilla")
    imported(save([flat], "b.parquet"), project, "argilla")
    assert judged() == {
        ("A?", "argilla-u1"): [["x"], ["y"]],
        ("B?", "argilla-u2"): [["y"], ["x"]],
    }


def test_a_cancelled_annotation_without_a_result_is_counted(project, save):
    task = {
        "id": 0, "data": {"prompt": "A?", "text1": "x", "text2": "y"},
        "annotations": [{"was_cancelled": True, "result": None}],
    }  # fmt: skip
    tally = imported(save([task]), project, "labelstudio").tally
    assert tally.left_out["cancelled annotations"] == 1 and not Ranking.objects.exists()
    assert Prompt.objects.get().external_id == "0"


# --- all of them ---------------------------------------------------------------------------------

EXAMPLES = {
    "columns": [*PLAIN, PAIRS["explicit"], PAIRS["conversational implicit"]],
    "hh": [{"chosen": "\n\nHuman: A?\n\nAssistant: x", "rejected": "\n\nHuman: A?\n\nAssistant: y"}],
    "ultrafeedback": [{"instruction": "A?", "completions": [completion("a", 1), completion("b", 2)]}],
    "helpsteer": [{"context": "A?", "response1": "x", "response2": "y", "overall_preference": 1}],
    "labelstudio": [
        {"id": 1, "data": {"prompt": "A?", "text1": "x", "text2": "y"},
         "annotations": [annotation(1, result("pairwise", {"selected": "left"}))]}
    ],
    "argilla": [
        {"id": "1", "fields": FIELDS,
         "responses": {"q": [{"value": ["reply-1", "reply-2"], "user_id": "u"}]}}
    ],
}  # fmt: skip


def counts():
    return [model.objects.count() for model in (Prompt, Response, Task, Slot, Ranking)]


@pytest.mark.parametrize("name", EXAMPLES)
def test_importing_any_format_again_adds_nothing(project, save, name):
    path = save(EXAMPLES[name])
    first = imported(path, project, name)
    before = counts()
    again = import_file(path, project=project)
    assert counts() == before and not +again.written.new
    assert again.written.read == first.written.read


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_file_with_a_broken_end_imports_nothing(project, save, name):
    with pytest.raises(BadInput, match=r"Line \d+: "):
        import_file(save([*EXAMPLES[name], "broken"]), project=project)
    assert counts() == [0] * 5


def test_ratings_of_other_criteria_are_kept_on_request(save):
    project = make_project(published=False)
    run(save([OWN]), "--project", project.slug, "--any-criteria")
    assert {"honesty": 4} in Ranking.objects.get(reviewer__username="ada").ratings.values()
    high = changed(rankings=[{**OWN["rankings"][0], "ratings": {"0": {"wit": 11}}}])
    with pytest.raises(CommandError, match="must be from 1 to 10"):
        run(save([high]), "--project", make_project().slug, "--any-criteria")


def test_more_than_nine_reviewers_of_one_task_are_kept(save, project):
    many = [{"reviewer": f"r{n}", "tiers": [[0], [1]]} for n in range(12)]
    imported = import_file(save([changed(rankings=many)]), project=project)
    assert imported.written.new["rankings"] == 12
    task = Task.objects.get()
    assert (task.rankings_wanted, task.slots.filter(ranking__isnull=False).count()) == (9, 12)


def test_every_format_is_documented_and_tested():
    text = (BASE_DIR / "docs" / "import-formats.md").read_text()
    assert set(FORMATS) == set(EXAMPLES) | {"oasst", "pandalm", "jsonl"}
    assert all(f"\n## {name}\n" in text for name in FORMATS)


ROWS_OF_REVIEWERS = {
    "columns": [
        {"prompt": "A?", "answer1": "x", "answer2": "y", "winner": winner, "judge": judge}
        for judge, winner in (("ada", "answer1"), ("bob", "answer2"), ("cleo", "tie"))
    ],
    "labelstudio": [
        {"annotation_id": number, "annotator": number, "id": 1, "lead_time": 2.5, "prompt": "A?",
         "answer1": "x", "answer2": "y", "best": {"selected": side}}
        for number, side in ((3, "left"), (4, "right"), (5, "left"))
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS_OF_REVIEWERS)
def test_rows_of_several_reviewers_of_one_task_fill_a_slot_each(project, save, name):
    imported(save(ROWS_OF_REVIEWERS[name]), project, name)
    task = Task.objects.get()
    assert task.rankings_wanted == task.rankings.count() == 3
    filled = task.slots.filter(ranking__isnull=False)
    assert filled.values("ranking").distinct().count() == task.slots.count() == 3


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.xlsx", "a.parquet"])
@pytest.mark.parametrize(
    ("column", "answer", "tiers"),
    [
        ("comparison", "right", [["y"], ["x"]]),
        ("quality", "Answer 1", [["x"], ["y"]]),
        ("best", "The second is better.", [["y"], ["x"]]),
        ("best", "answer2", [["y"], ["x"]]),
        ("best", "tie", [["x", "y"]]),
    ],
)
def test_a_row_of_label_studio_with_a_choice_is_a_ranking(
    project, save, column, answer, tiers, name
):
    row = {
        "annotation_id": 9, "annotator": 3, "id": 7, "lead_time": 4.5, "prompt": "A?",
        "answer1": "x", "answer2": "y", "topic": "left-handed lamps", "grade": "A", column: answer,
    }  # fmt: skip
    imported(save([row], name), project, "labelstudio")
    assert judged() == {("A?", "labelstudio-3"): tiers}
    assert Prompt.objects.get().meta == {"topic": "left-handed lamps", "grade": "A"}
    assert Ranking.objects.get().active_seconds == 4.5


def test_ratings_of_each_response_and_choices_among_several_are_rankings(project, save):
    data = {"Question": "A?", "answer1": "x", "answer2": [assistant("y")], "answer3": "z"}
    rated = [
        {"from_name": f"rating_{number}", "type": "rating", "value": {"rating": rating}}
        for number, rating in ((1, 2), (2, 5), (3, 2))
    ]
    task = {
        "id": 1, "data": data,
        "annotations": [annotation(1, *rated), annotation(2, result("choices", {"choices": ["Answer 3"]}))],
    }  # fmt: skip
    imported(save([task]), project, "labelstudio")
    assert judged() == {
        ("A?", "labelstudio-1"): [["y"], ["x", "z"]],
        ("A?", "labelstudio-2"): [["z"], ["x", "y"]],
    }
