"""Regression sets: chosen prompts on which a candidate must not be worse than its baseline."""

import json
from copy import deepcopy

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry
from finetune.certificate.recomputing import problems_of
from finetune.engines.generation import prompts_to_answer
from finetune.engines.sampled_text import REGRESSION_FILE, read_prompts
from finetune.evaluation import judges, runs
from finetune.evaluation.regression import BadSet, as_lines, create
from finetune.models import Certificate, Evaluation, RegressionSet
from finetune.removal import deletion, erasing
from finetune.statistics import expectations
from finetune.statistics.regression import prompts_needed, regression_result, values_of
from labeling.models import Project, Prompt
from labeling.removal.erasing import ERASED
from labeling.removal.withdrawing import withdraw
from recipes.preferences.groups import read_groups
from reward.promotion import CannotMove
from runs.kinds import CannotRun
from tests.finetune.evaluation.test_certificates import ask_people
from tests.finetune.factory import laid_out, make_evaluation, make_run, publish_answers
from tests.reward.factory import make_prompt
from tests.reward.pages.test_pages import LOOKING, statuses

pytestmark = pytest.mark.django_db


def line(prompt, **expect):
    return json.dumps({"prompt": prompt, **({"expect": expect} if expect else {})})


def made(project, *lines, margin=0.1):
    return create(project=project, text="\n".join(lines), margin=margin, by=None)


def paris(project, count=1):
    """Return a set of prompts whose answers must contain Paris."""
    return made(project, *(line(f"Capital {n}?", contains=["Paris"]) for n in range(count)))


# --- statistics ----------------------------------------------------------------------------------


def test_enough_ties_prove_that_a_candidate_is_not_worse():
    needed = prompts_needed(0.04, 0.1)
    assert needed == 21
    assert regression_result(np.full(20, 0.5), alpha=0.04, margin=0.1).conclusion == "undecided"
    result = regression_result(np.full(21, 0.5), alpha=0.04, margin=0.1)
    assert (result.conclusion, result.won, result.tied, result.lost) == ("not worse", 0, 21, 0)
    assert 0.4 < result.low < 0.41


def test_seven_losses_prove_that_it_is_worse():
    assert regression_result(np.zeros(6), alpha=0.04, margin=0.1).conclusion == "undecided"
    assert regression_result(np.zeros(7), alpha=0.04, margin=0.1).conclusion == "worse"


@pytest.mark.parametrize("means", [[0.4], [0.8, 0.0], [0.5, 0.3], [1.0, 0.5, 0.0, 0.1]])
def test_a_candidate_at_the_margin_passes_at_most_as_often_as_promised(means):
    rng = np.random.default_rng(0)
    expected = np.resize(means, 60)
    passed = [
        regression_result(
            (rng.random(60) < expected).astype(float), alpha=0.1, margin=0.1
        ).conclusion
        == "not worse"
        for _ in range(300)
    ]
    assert np.mean(passed) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300)


def test_a_prompt_without_a_verdict_counts_as_lost():
    rows = [(1, 1.0), (1, None), (2, None)]
    assert list(values_of([1, 2, 3], rows)) == [0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("expect", "answer", "met"),
    [({"contains": ["paris"]}, "PARIS.", True), ({"contains": ["a", "b"]}, "a", False),
     ({"excludes": ["sorry"]}, "Sorry!", False), ({"max_characters": 3}, "four", False),
     ({"json": True}, '{"a": 1}', True), ({"json": True}, "[" * 100_000, False)],
)  # fmt: skip
def test_properties_of_an_answer(expect, answer, met):
    assert expectations.is_met(expect, answer) is met


# --- versions ------------------------------------------------------------------------------------


def test_a_set_is_made_from_numbers_texts_and_chats(project):
    prompt = make_prompt(project)
    chat = {"messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "?"}]}
    first = made(project, line(prompt.pk, json=True), line("New?"), "", json.dumps(chat))
    assert (first.number, first.needs_a_judge) == (1, 2)
    assert first.prompt_ids[0] == prompt.pk
    assert Prompt.objects.get(pk=first.prompt_ids[1]).messages[0]["content"] == "New?"
    assert made(project, as_lines(first), line("More?")).prompt_ids[:3] == first.prompt_ids
    with pytest.raises(BadSet, match="Version 2 has the same prompts"):
        made(project, as_lines(RegressionSet.newest(project.pk)))
    assert AuditEntry.objects.filter(action="regression set created").count() == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "at least one prompt"), ("{", "Line 1: not valid JSON"), ("[1]", "must be an object"),
     ('{"prompt": 0}', "has no prompt 0"), ('{"prompt": true}', "number of a prompt, or a text"),
     (f'{{"prompt": {10**30}}}', "has no prompt 1000"), ('{"prompt": " "}', "or a text"),
     ('{"promt": "a"}', '"promt" is not a key'), ('{"expect": {}}', 'either "prompt" or "messages"'),
     ('{"messages": []}', "non-empty list"), ('{"prompt": "a", "expect": []}', "must be an object"),
     ('{"prompt": "a"}\n\n{"prompt": "a"}', "Line 3: the prompt is the same as in line 1"),
     ('{"prompt": "a", "expect": {"matches": "(a+)+"}}', '"matches" is not a property'),
     ('{"prompt": "a", "expect": {"contains": "b"}}', "must be a list"),
     ('{"prompt": "a", "expect": {"contains": [""]}}', "must have 1 to 1,000 characters"),
     ('{"prompt": "a", "expect": {"max_characters": true}}', "must be a number"),
     ('{"prompt": "a", "expect": {"json": false}}', "can only be true"),
     ("[" * 100_000, "not valid JSON")],
)  # fmt: skip
def test_lines_that_are_not_a_set_are_refused_with_their_number(project, text, sentence):
    before = Prompt.objects.count()
    with pytest.raises(BadSet, match=sentence):
        made(project, text)
    assert (RegressionSet.objects.count(), Prompt.objects.count()) == (0, before)


def test_characters_that_cannot_be_stored_are_replaced(project):
    used = made(project, '{"prompt": "a\\u0000\\ud800", "expect": {"contains": ["\\u0000"]}}')
    assert used.cases[0]["expect"] == {"contains": ["\ufffd"]}


def test_a_version_cannot_change(project):
    used = paris(project)
    for change in (lambda: RegressionSet.objects.update(margin=0.2), used.delete):
        with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
            change()


def test_prompts_of_the_set_are_not_offered_for_training(project):
    used = paris(project)
    other = make_prompt(project)
    for chosen in ("new", "all"):
        answered = prompts_to_answer({"project": project.pk, "prompts": chosen})
        assert other in answered and not {p.pk for p in answered} & set(used.prompt_ids)


def test_the_page_shows_a_set_and_makes_versions(client, people, project):
    address = reverse("regression-set", args=[project.slug])
    assert statuses(client, people, address) == LOOKING
    client.force_login(people["lead"])
    assert "No regression set yet" in client.get(address).text
    text = line("Capital? <script>", contains=["Paris"])
    assert client.post(address, {"text": text, "margin_points": 10}).status_code == 302
    page = client.get(address).text
    assert "contains “Paris”" in page and "Capital? &lt;script&gt;" in page
    assert "only if there are at least 21 prompts" in page
    refused = client.post(address, {"text": "{", "margin_points": 10})
    assert refused.status_code == 422 and "Line 1: not valid JSON." in refused.text
    assert RegressionSet.objects.count() == 1


def test_the_command_creates_and_prints_a_version(project, tmp_path, capsys):
    with pytest.raises(CommandError, match="has no regression set"):
        call_command("regression_set", project.slug)
    file = tmp_path / "set.jsonl"
    file.write_text(line("Capital?", contains=["Paris"]))
    call_command("regression_set", project.slug, str(file), "--margin", "0.2")
    assert "Version 1 of the regression set" in capsys.readouterr().out
    call_command("regression_set", project.slug)
    assert '"contains": ["Paris"]' in capsys.readouterr().out
    for wrong, sentence in (
        ([str(file), "--margin", "0.9"], "margin must be from 0.01 to 0.25"),
        ([str(tmp_path / "none")], "cannot be read"),
        ([str(file), "--margin", "0.2"], "has the same prompts"),
    ):
        with pytest.raises(CommandError, match=sentence):
            call_command("regression_set", project.slug, *wrong)


# --- evaluations ---------------------------------------------------------------------------------


@pytest.fixture
def rule():
    judges.register("length", "The longer, the better", lambda messages, text: float(len(text)))
    yield
    judges._rules.pop("length")


def run_of(adapter, **changes):
    inputs = {
        "project": adapter.project_id,
        "candidate": adapter.pk,
        "baseline": adapter.parent_id,
        "snapshot": adapter.snapshot_id,
        "judge": "length",
        **changes,
    }
    run = make_run("evaluate", inputs=inputs, config={"seed": 0})
    return run, laid_out(run)


def test_both_models_answer_the_set_and_its_result_is_separate(adapter, rule):
    used = made(
        adapter.project, line("Capital?", contains=["Paris"]), line("Longer?"), line("Same?")
    )
    run, run_dir = run_of(adapter)
    runs.prepare(run, run_dir)
    evaluation = Evaluation.objects.get(run=run)
    assert evaluation.regression_set == used
    assert [
        int(p.prompt_id) for p in read_prompts(run_dir.data / REGRESSION_FILE)
    ] == used.prompt_ids
    drawn = Prompt.objects.get(pk=evaluation.prompts[0])
    capital, longer, same = (Prompt.objects.get(pk=pk) for pk in used.prompt_ids)
    publish_answers(
        run_dir,
        [
            {"of": drawn, "baseline": "a", "candidate": "longer"},
            {"of": capital, "baseline": "Paris", "candidate": "London, a longer answer"},
            {"of": longer, "baseline": "a", "candidate": "longer"},
            {"of": same, "baseline": "a", "candidate": "a"},
        ],
    )
    runs.finish(run, run_dir)
    evaluation.refresh_from_db()
    assert evaluation.report["win_rate"]["prompts"] == 1
    assert list(evaluation.items.values_list("prompt_id", flat=True)) == [drawn.pk]
    items = {item.prompt: item for item in evaluation.regression_items.all()}
    assert [items[p].verdict for p in (capital, longer, same)] == [0.0, 1.0, 0.5]
    assert (items[capital].candidate_passed, items[capital].baseline_passed) == (False, True)
    result = evaluation.regression()
    assert (result.won, result.tied, result.lost) == (1, 1, 1)
    with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
        evaluation.regression_items.update(verdict=1.0)
    with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
        Evaluation.objects.update(regression_set=None)


def test_a_run_that_is_prepared_again_keeps_its_version(adapter, rule):
    first = paris(adapter.project)
    run, run_dir = run_of(adapter)
    runs.prepare(run, run_dir)
    paris(adapter.project, 2)
    runs.prepare(run, run_dir)
    assert Evaluation.objects.get(run=run).regression_set == first
    assert len(read_prompts(run_dir.data / REGRESSION_FILE)) == 1


def test_an_evaluation_can_leave_the_set_out(adapter, rule):
    paris(adapter.project)
    run, run_dir = run_of(adapter, regression=False)
    runs.prepare(run, run_dir)
    assert Evaluation.objects.get(run=run).regression_set is None
    assert not (run_dir.data / REGRESSION_FILE).exists()


def test_a_set_that_cannot_test_the_model_is_refused(adapter, rule):
    trained = next(
        int(g.group_id) for g in read_groups(adapter.snapshot.file) if g.split == "train"
    )
    made(adapter.project, line(trained, json=True))
    run, run_dir = run_of(adapter)
    with pytest.raises(CannotRun, match=f"was trained on 1 prompts .* on prompt {trained}"):
        runs.prepare(run, run_dir)
    assert not Evaluation.objects.exists()
    made(adapter.project, line("No property?"))
    run, _ = run_of(adapter, judge="", comparisons=True)
    with pytest.raises(CannotRun, match="1 prompts of regression set 2 name no property"):
        runs.from_inputs(run.inputs)
    withdraw(content=Prompt.objects.latest("id"), by=None)
    with pytest.raises(CannotRun, match="was withdrawn"):
        runs.from_inputs(run_of(adapter)[0].inputs)


# --- promotion -----------------------------------------------------------------------------------


def won(adapter, used, values, **fields):
    """Return an evaluation that people prove better, with these verdicts on the set."""
    evaluation = make_evaluation(adapter, items=20, regression_set=used, **fields)
    ask_people(evaluation, [1.0] * 20, judge=None)
    for prompt, value in zip(used.prompt_ids if used else [], values, strict=True):
        evaluation.regression_items.create(
            prompt_id=prompt,
            baseline_text="a",
            candidate_text="b",
            verdict=value,
            baseline_passed=value < 1,
            candidate_passed=value > 0,
        )
    return evaluation


def require(project):
    project.require_regression_set = True
    project.save(update_fields=["require_regression_set"])


def test_a_proven_regression_prevents_a_promotion_under_each_policy(adapter):
    won(adapter, paris(adapter.project, 7), [0.0] * 7)
    assert adapter.doubts() == [
        f"Evaluation {Evaluation.objects.get().pk} proves it worse than {adapter.parent} on regression "
        "set 1: it lost 7 of 7 prompts and won 0."
    ]


def test_a_required_set_must_exist_be_registered_and_be_passed(adapter):
    require(adapter.project)
    won(adapter, None, [])
    assert "needs a regression set, but has none" in adapter.doubts()[0]
    used = paris(adapter.project, 3)
    assert "was not registered with regression set 1" in adapter.doubts()[0]
    won(adapter, used, [0.5, 0.5, 0.0])
    (doubt,) = adapter.doubts()
    assert "does not prove it not worse" in doubt and "tied 2 and lost 1 of 3 prompts" in doubt
    with pytest.raises(CannotMove):
        adapter.promote(by=None)


def test_a_certificate_contains_the_set_and_recomputes_its_result(adapter, client, people):
    require(adapter.project)
    used = paris(adapter.project, 21)
    evaluation = won(adapter, used, [0.5] * 21)
    assert adapter.doubts() == []
    adapter.promote(by=None)
    content = json.loads(Certificate.objects.get().text)["content"]
    assert content["promotion"]["regression_set"] == used.sha256
    assert problems_of(content) == []

    def changed(change):
        forged = deepcopy(content)
        change(forged["evaluations"][0])
        return " ".join(problems_of(forged))

    assert "regression set: low is" in changed(lambda e: e["regression"]["result"].update(low=0.5))
    assert "does not match its SHA-256" in changed(
        lambda e: e["regression"]["cases"][0].update(expect_sha256=None)
    )
    assert "is not the verdict on prompt" in changed(
        lambda e: e["regression"]["verdicts"][0].update(verdict=1.0)
    )
    assert "No evaluation that counts proves the candidate better" in changed(
        lambda e: e.update(regression=None)
    )
    assert "has another hash" in changed(
        lambda e: e["regression"]["cases"][0].update(prompt_sha256="0")
    )
    client.force_login(people["lead"])
    page = client.get(reverse("evaluation", args=[evaluation.pk])).text
    assert "won 0, tied 21 and lost 0 of 21 prompts" in page


# --- removal -------------------------------------------------------------------------------------


def test_answers_are_erased_with_their_prompt_and_a_set_is_deleted_with_its_project(adapter, admin):
    used = paris(adapter.project, 2)
    evaluation = won(adapter, used, [0.5, 0.5])
    prompt = Prompt.objects.get(pk=used.prompt_ids[0])
    erasing.erase(content=prompt, by=admin, reason="")
    texts = evaluation.regression_items.order_by("id").values_list("candidate_text", flat=True)
    assert list(texts) == [ERASED, "b"]
    Project.objects.update(archived_at=timezone.now())
    deletion.delete(project=adapter.project, by=None)
    assert not RegressionSet.objects.exists()
