import json
import re

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from accounts.models import AuditEntry, Role
from finetune import tuning
from finetune.forms.registration import AddModelForm
from finetune.models import EvaluationItem, Model
from finetune.registry import add_base, default_model
from labeling.models import Project, Prompt, Ranking, Task
from reward.promotion import CannotMove
from reward.references import ReferenceProblem, checked_reference, short_name
from runs.kinds import CannotRun
from tests.finetune.factory import (
    REPORT,
    laid_out,
    make_adapter,
    make_base,
    make_evaluation,
    make_run,
    make_snapshot,
    model_folder,
    publish,
)
from tests.reward.factory import make_project, make_task, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def base():
    return make_base(make_project())


@pytest.fixture
def adapter(base):
    return make_adapter(base, make_snapshot(base.project, prompts=1))


WINS, LOSSES, TIES = [1.0] * 11, [0.0] * 11, [0.5] * 11


def let_judges_decide(model):
    model.project.promotion_policy = "judge"
    model.project.save(update_fields=["promotion_policy"])


def blind(evaluation, verdicts):
    """Add a blind comparison with one person's verdict for each of the evaluation's first prompts."""
    evaluation.items.all().delete()
    for pk, value in zip(evaluation.prompts, verdicts, strict=False):
        prompt = Prompt.objects.get(pk=pk)
        task = make_task(prompt, ("ours", "theirs"), kind=Task.Kind.COMPARISON)
        ours, theirs = task.responses.values_list("pk", flat=True)
        EvaluationItem.objects.create(
            evaluation=evaluation, prompt=prompt, baseline_text="b", candidate_text="c",
            verdict=0.5, task=task, candidate_response_id=ours,
        )  # fmt: skip
        tiers = {1.0: [[ours], [theirs]], 0.5: [[ours, theirs]], 0.0: [[theirs], [ours]]}[value]
        Ranking.objects.create(task=task, reviewer=make_user(), tiers=tiers)


def test_one_model_of_a_project_is_promoted_at_a_time(base, adapter):
    let_judges_decide(base)
    make_evaluation(adapter, verdicts=WINS)
    assert base.promote(by=None) is None
    assert adapter.promote(by=make_user(Role.TRAINER)) == base
    base.refresh_from_db()
    adapter.refresh_from_db()
    assert (base.state, adapter.state) == ("candidate", "promoted")
    assert default_model(base.project) == adapter
    entry = AuditEntry.objects.latest("id")
    assert entry.action == "promoted" and entry.details["instead_of"] == base.pk


@pytest.mark.parametrize(
    ("verdicts", "fields", "sentence"),
    [
        (None, {}, "never been evaluated against"),
        (LOSSES, {}, "proves it worse than .*, by its judge"),
        (TIES, {}, "does not prove it better than"),
        (WINS[:10], {}, "after 10 prompts, its win rate is between"),
        (WINS, {"alpha": None, "margin": None}, "was not registered before it started"),
    ],
)
def test_an_adapter_that_is_not_proven_better_is_promoted_only_for_a_reason(
    adapter, verdicts, fields, sentence
):
    let_judges_decide(adapter)
    if verdicts:
        make_evaluation(adapter, verdicts=verdicts, **fields)
    for reason in ("", "  "):
        with pytest.raises(CannotMove, match=sentence):
            adapter.promote(by=None, reason=reason)
    assert Model.objects.get(pk=adapter.pk).state == "candidate"
    assert not AuditEntry.objects.filter(action="promoted").exists()
    adapter.promote(by=None, reason=" The test set is too small. ")
    details = AuditEntry.objects.get(action="promoted").details
    assert details["doubts"] and details["reason"] == "The test set is too small."


def test_by_default_people_decide_and_not_the_judge(adapter):
    evaluation = make_evaluation(adapter, verdicts=WINS)
    with pytest.raises(CannotMove, match="needs people's verdicts"):
        adapter.promote(by=None)
    blind(evaluation, WINS[:10])
    with pytest.raises(CannotMove, match="does not prove it better"):
        adapter.promote(by=None)
    blind(evaluation, WINS)
    adapter.promote(by=None)
    assert AuditEntry.objects.get(action="promoted").details["doubts"] == []


def test_people_or_a_judge_can_prove_a_model_worse_under_each_policy(adapter):
    let_judges_decide(adapter)
    make_evaluation(adapter, verdicts=WINS)
    assert adapter.doubts() == []
    blind(make_evaluation(adapter, verdicts=TIES * 3), [0.0] * 30)
    with pytest.raises(CannotMove, match=r"proves it worse than .*, by people"):
        adapter.promote(by=None)


def test_a_win_by_length_alone_is_refused_with_its_reason(adapter):
    evaluation = make_evaluation(adapter, verdicts=TIES * 3)
    blind(evaluation, [1.0] * 30)
    for item in evaluation.items.all():
        EvaluationItem.objects.filter(pk=item.pk).update(candidate_text="c" * 30)
    assert evaluation.people().conclusion == "better" and not evaluation.is_decided()
    with pytest.raises(CannotMove, match="maybe only because of the length of the answers"):
        adapter.promote(by=None)
    EvaluationItem.objects.filter(evaluation=evaluation).update(candidate_text="c")
    assert evaluation.is_decided()
    adapter.promote(by=None)


def test_evaluations_against_another_model_than_the_promoted_one_do_not_count(base, adapter):
    let_judges_decide(base)
    other = make_adapter(base, adapter.snapshot)
    make_evaluation(adapter, verdicts=WINS)
    other.promote(by=None, reason="first")
    with pytest.raises(CannotMove, match=f"against {other}, the promoted model"):
        adapter.promote(by=None)
    make_evaluation(adapter, verdicts=[1.0] * 30, baseline=other)
    assert adapter.promote(by=None) == other


def test_without_a_promoted_model_only_the_base_is_a_baseline(base, adapter):
    let_judges_decide(base)
    spoiled = make_adapter(base, adapter.snapshot)
    later = make_adapter(spoiled, adapter.snapshot)
    make_evaluation(later, verdicts=WINS)
    [doubt] = later.doubts()
    assert f"never been evaluated against {base}, the base that it was made from" in doubt
    assert f"Evaluations against {spoiled} do not count." in doubt
    assert later.default_baseline() == base


def test_evaluations_of_a_model_with_the_same_weights_count(base, adapter):
    let_judges_decide(base)
    merged = make_base(base.project, parent=adapter)
    make_evaluation(merged, baseline=base, verdicts=LOSSES)
    make_evaluation(adapter, baseline=base, verdicts=[1.0] * 30)
    assert "worse than" in adapter.doubts()[0] and "worse than" in merged.doubts()[0]


def test_evaluating_until_one_is_better_needs_more_and_more_evidence(adapter):
    let_judges_decide(adapter)
    for _ in range(3):
        make_evaluation(adapter, verdicts=TIES)
    make_evaluation(adapter, verdicts=WINS)  # enough for a first evaluation, not for a fourth
    with pytest.raises(CannotMove, match="does not prove it better"):
        adapter.promote(by=None)
    make_evaluation(adapter, verdicts=[1.0] * 40)
    adapter.promote(by=None)


def test_the_default_baseline_is_the_promoted_model_on_the_same_base(base, adapter):
    assert adapter.default_baseline() == base
    other = make_adapter(base, adapter.snapshot)
    other.promote(by=None, reason="first")
    assert adapter.default_baseline() == other
    assert other.default_baseline() == base
    make_base(base.project).promote(by=None)
    assert adapter.default_baseline() == base


def test_a_base_is_promoted_without_an_evaluation(base):
    base.promote(by=None)
    assert base.promote(by=None) is None
    assert AuditEntry.objects.filter(action="promoted").count() == 1


def test_promoted_models_cannot_be_archived_nor_archived_ones_promoted(base):
    other = make_base(base.project)
    base.promote(by=None)
    with pytest.raises(CannotMove, match="is promoted"):
        base.archive(by=None)
    other.archive(by=None)
    with pytest.raises(CannotMove, match="is archived"):
        other.promote(by=None)
    other.restore(by=None)
    assert Model.objects.get(pk=other.pk).state == "candidate"


def test_without_a_promoted_model_the_first_base_is_the_default(base):
    make_base(base.project)
    assert default_model(base.project) == base


def test_adding_a_base_twice_gives_one_model(tmp_path, base):
    folder = model_folder(tmp_path / "tiny")
    first, new = add_base(project=base.project, base=f"{folder}/", by=None)
    again, newer = add_base(project=base.project, base=str(folder), by=None, name="other")
    assert (first, new, newer) == (again, True, False)
    assert (first.name, first.base) == ("tiny", str(folder))


@pytest.mark.parametrize("name", ["gpt2", "org/name", "org/name.x@main", "org/name@0a1b2c"])
def test_hub_names_are_unchanged(name):
    assert checked_reference(f" {name} ") == name


@pytest.mark.parametrize(
    "name", ["", "a b", "org/name/more", "../x", "org/<b>", "@main", "/nowhere"]
)
def test_text_that_is_neither_a_name_nor_a_folder_is_refused(name):
    with pytest.raises(ReferenceProblem):
        checked_reference(name)


CONFIGS = [
    ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "is an encoder (bert)"),
    ({"model_type": "modernbert"}, "is an encoder (modernbert)"),
    ({"model_type": "t5", "is_encoder_decoder": True}, "is an encoder-decoder (t5)"),
    ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "has no head"),
    ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, ""),
    ({"model_type": "bert", "is_decoder": True, "architectures": ["BertLMHeadModel"]}, ""),
    ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, ""),
    ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, ""),
    ({"model_type": "new"}, ""),
]


@pytest.mark.parametrize(("config", "sentence"), CONFIGS)
def test_a_base_that_cannot_generate_is_refused_when_it_is_added(base, tmp_path, config, sentence):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if not sentence:
        assert add_base(project=base.project, base=str(tmp_path), by=None)[1]
        return
    with pytest.raises(ReferenceProblem, match=re.escape(sentence)):
        add_base(project=base.project, base=str(tmp_path), by=None)
    with pytest.raises(CommandError, match=re.escape(sentence)):
        call_command("models", "add", base.project.slug, str(tmp_path))
    form = AddModelForm(
        {"project": base.project_id, "base": str(tmp_path)}, projects=Project.objects.all()
    )
    assert sentence in form.errors["base"][0]
    assert Model.objects.count() == 1


def test_a_hub_name_is_judged_by_the_cached_config(base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--reader" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    assert add_base(project=base.project, base="org/reader", by=None)[1]
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(ReferenceProblem, match="is an encoder"):
        add_base(project=base.project, base="org/reader@main", by=None)


def test_a_folder_must_hold_a_model(tmp_path):
    with pytest.raises(ReferenceProblem, match=r"no config\.json"):
        checked_reference(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ReferenceProblem, match="has no model_type"):
        checked_reference(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ReferenceProblem, match="is an adapter"):
        checked_reference(str(tmp_path))


def test_short_names_leave_out_owner_and_revision():
    names = ("org/name@main", "/models/tiny", "gpt2")
    assert [short_name(name) for name in names] == ["name", "tiny", "gpt2"]


def test_a_dpo_run_creates_one_adapter_and_no_second(base):
    snapshot = make_snapshot(base.project, prompts=1)
    run = make_run("dpo", inputs={"snapshot": snapshot.pk, "model": base.pk}, config={})
    run_dir = laid_out(run)
    publish(run_dir, REPORT, {"adapter_config.json": "{}"})
    result = tuning.finish(run, run_dir)
    with pytest.raises(IntegrityError), transaction.atomic():
        tuning.finish(run, run_dir)
    model = Model.objects.get(run=run)
    assert result["model"] == model.pk
    assert (model.parent, model.snapshot, model.base) == (base, snapshot, base.base)
    assert model.adapter == f"runs:{run.pk}/output"
    assert model.adapter_folder == str(run_dir.output.absolute())


def test_a_dpo_run_without_an_adapter_makes_no_model(base):
    snapshot = make_snapshot(base.project, prompts=1)
    run = make_run("dpo", inputs={"snapshot": snapshot.pk, "model": base.pk})
    publish(laid_out(run), REPORT)
    with pytest.raises(CannotRun, match="holds no adapter"):
        tuning.finish(run, laid_out(run))
    assert not Model.objects.filter(run=run).exists()


def test_fine_tuning_starts_from_a_model_of_the_snapshots_project(base, adapter):
    snapshot = make_snapshot(base.project)
    inputs = {"snapshot": snapshot.pk, "model": base.pk}
    assert tuning.from_inputs(inputs) == {"model": base.base, "adapter": None}
    continued = tuning.from_inputs({**inputs, "model": adapter.pk})
    assert continued == {"model": adapter.base, "adapter": adapter.adapter}
    stranger = make_base(make_project())
    with pytest.raises(CannotRun, match="belongs to"):
        tuning.from_inputs({"snapshot": snapshot.pk, "model": stranger.pk})
