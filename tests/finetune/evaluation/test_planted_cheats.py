"""Attempts to promote a model that did not win: each is refused with its reason, and nothing changes."""

import json

import pytest
from django.urls import reverse

from finetune.certificate.__main__ import main
from finetune.evaluation import runs
from finetune.models import Certificate, EvaluationItem
from reward.preferences.snapshots import SnapshotFilter, freeze
from reward.promotion import CannotMove
from runs.kinds import CannotRun
from tests.finetune.evaluation.test_certificates import ask_people
from tests.finetune.factory import laid_out, make_adapter, make_base, make_evaluation, make_run

pytestmark = pytest.mark.django_db


def refused(model):
    """Return the reasons for which the promotion is refused, and check that nothing changed."""
    with pytest.raises(CannotMove) as refusal:
        model.promote(by=None)
    model.refresh_from_db()
    assert model.state == model.State.CANDIDATE and not Certificate.objects.exists()
    return str(refusal.value)


def won_by_people(model, wins, **fields):
    evaluation = make_evaluation(model, items=wins, **fields)
    ask_people(evaluation, [1.0] * wins, judge=None)
    return evaluation


def test_twelve_wins_prove_a_first_evaluation_and_meet_the_policy(adapter):
    won_by_people(adapter, 12)
    assert adapter.doubts() == []


def test_an_evaluation_that_is_repeated_until_it_wins(adapter):
    ask_people(make_evaluation(adapter, items=12), [1.0, 0.0] * 6, judge=None)
    again = won_by_people(adapter, 12)
    assert (again.attempt, again.own_alpha) == (2, pytest.approx(0.008))
    assert f"Evaluation {again.pk} does not prove it better" in refused(adapter)


def test_a_copy_of_the_model_that_is_evaluated_again(adapter):
    ask_people(make_evaluation(adapter, items=12), [1.0, 0.0] * 6, judge=None)
    merged = make_base(adapter.project, parent=adapter, snapshot=adapter.snapshot)
    again = won_by_people(merged, 12, baseline=adapter.parent)
    assert again.attempt == 2
    assert f"Evaluation {again.pk} does not prove it better" in refused(merged)


def test_a_model_that_wins_by_length_alone(adapter, client, people):
    evaluation = make_evaluation(adapter, items=40)
    longer = [n % 10 > 0 for n in range(40)]  # the longer answer always wins
    ask_people(evaluation, [float(each) for each in longer], judge=None)
    items = list(evaluation.items.order_by("id"))
    for item, long in zip(items, longer, strict=True):
        item.candidate_text, item.baseline_text = (
            ("word " * 40, "word") if long else ("a", "b " * 9)
        )
    EvaluationItem.objects.bulk_update(items, ["candidate_text", "baseline_text"])
    assert evaluation.people().conclusion == "better"
    reason = "proves a win, but maybe only because of the length of the answers"
    assert reason in refused(adapter)
    client.force_login(people["trainer"])
    assert reason in client.get(reverse("model", args=[adapter.pk])).text


def test_a_judge_that_wins_without_people(adapter):
    make_evaluation(adapter, verdicts=[1.0] * 40)
    assert "needs people's verdicts" in refused(adapter)


def test_a_win_against_a_baseline_that_was_never_promoted(adapter):
    weak = make_adapter(adapter.parent, adapter.snapshot)
    won_by_people(adapter, 40, baseline=weak)
    reasons = refused(adapter)
    assert f"It has never been evaluated against {adapter.parent}" in reasons
    assert f"Evaluations against {weak} do not count." in reasons


def test_a_win_against_the_base_when_another_model_is_promoted(adapter):
    best = make_adapter(adapter.parent, adapter.snapshot)
    best.promote(by=None, reason="The first one.")
    won_by_people(adapter, 40)
    with pytest.raises(
        CannotMove, match=f"never been evaluated against {best}, the promoted model"
    ):
        adapter.promote(by=None)


def test_prompts_that_the_model_was_trained_on(adapter):
    everything = freeze(project=adapter.project, filter=SnapshotFilter(test_fraction=0.0), by=None)
    trained = make_adapter(adapter.parent, everything)
    inputs = {
        "project": adapter.project_id,
        "candidate": trained.pk,
        "baseline": adapter.parent_id,
        "snapshot": adapter.snapshot_id,
        "comparisons": True,
    }
    run = make_run("evaluate", inputs=inputs, config={"seed": 0})
    with pytest.raises(
        CannotRun, match="has no held-out prompt that the models were not trained on"
    ):
        runs.prepare(run, laid_out(run))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda e: e["people"]["verdicts"][0].update(verdict=0.0), "people: after prompt 1"),
        (lambda e: e["registration"].update(alpha=0.1), "people: alpha is 0.04"),
        (lambda e: e["registration"].update(attempt=1, alpha=0.05, judge=""), "does not match its SHA-256"),
        (lambda e: e["lengths"][0].__setitem__(2, 9_999), "the win rate at equal length is"),
        (lambda e: e["lengths"].pop(), "the lengths of the answers to prompt"),
        (lambda e: e["at_equal_length"]["people"].update(rate=0.9), "the win rate at equal length is"),
    ],
)  # fmt: skip
def test_a_tampered_certificate(adapter, tmp_path, capsys, change, sentence):
    won_by_people(adapter, 12)
    adapter.promote(by=None)
    document = json.loads(Certificate.objects.get().text)
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(document))
    assert main([str(path)]) == 0
    assert "At equal length: " in capsys.readouterr().out
    change(document["content"]["evaluations"][0])
    path.write_text(json.dumps(document))
    assert main([str(path)]) == 1
    problems = capsys.readouterr().err
    assert sentence in problems and "This certificate is not valid." in problems


def test_a_certificate_of_a_win_by_length_does_not_recompute(adapter, monkeypatch):
    from finetune.models import language_models

    evaluation = make_evaluation(adapter, items=40)
    ask_people(evaluation, [1.0] * 40, judge=None)
    evaluation.items.update(candidate_text="word " * 40)
    monkeypatch.setattr(language_models, "doubts_about_evaluation", lambda *_: [])
    with pytest.raises(CannotMove, match="No evaluation that counts proves the candidate better"):
        adapter.promote(by=None)
