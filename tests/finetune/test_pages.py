import pytest
from django.urls import reverse
from django.utils import timezone

from accounts.models import AuditEntry
from finetune.evaluation import judges
from finetune.forms.evaluation import EvaluateInputs
from finetune.forms.generation import GenerateInputs
from finetune.forms.tuning import FinetuneInputs, RewardedInputs
from finetune.models import Evaluation, Model
from finetune.settings import GenerateConfig
from runs import kinds, storage
from runs.launching.form import ConfigForm
from runs.models import Run
from tests.finetune.factory import (
    make_adapter,
    make_base,
    make_evaluation,
    make_reward_model,
    make_run,
    make_snapshot,
    model_folder,
)
from tests.reward.factory import make_project
from tests.reward.pages.test_pages import LOOKING, TRAINING, statuses

pytestmark = pytest.mark.django_db


def test_access_to_a_model_and_an_evaluation(client, people, adapter):
    evaluation = make_evaluation(adapter)
    assert statuses(client, people, reverse("model", args=[adapter.pk])) == LOOKING
    assert statuses(client, people, reverse("evaluation", args=[evaluation.pk])) == LOOKING


def test_access_to_the_list_of_models(client, people, adapter):
    expected = {**LOOKING, "lead_elsewhere": 200}
    assert statuses(client, people, reverse("models")) == expected
    client.force_login(people["lead_elsewhere"])
    assert adapter.name not in client.get(reverse("models")).text


def test_only_trainers_add_a_base(client, people):
    assert statuses(client, people, reverse("add-model")) == TRAINING


def test_a_trainer_adds_a_base_once(client, people, project, tmp_path):
    folder = model_folder(tmp_path / "tiny")
    client.force_login(people["trainer"])
    values = {"project": project.pk, "base": str(folder), "name": ""}
    answer = client.post(reverse("add-model"), values)
    assert answer.url == reverse("model", args=[Model.objects.get(name="tiny").pk])
    again = client.post(reverse("add-model"), values)
    assert "already has this model" in again.text
    bad = client.post(reverse("add-model"), {**values, "base": "/nowhere"})
    assert "There is no folder /nowhere." in bad.text and 'value="/nowhere"' in bad.text
    assert Model.objects.count() == 1


def test_a_model_links_to_its_run_snapshot_rankings_and_base(client, people, adapter):
    client.force_login(people["lead"])
    page = client.get(reverse("model", args=[adapter.pk])).text
    for name, pk in (
        ("run", adapter.run_id),
        ("snapshot", adapter.snapshot_id),
        ("snapshot-rankings", adapter.snapshot_id),
        ("model", adapter.parent_id),
    ):
        assert f'href="{reverse(name, args=[pk])}"' in page
    assert "Under no guideline" in page


def test_promoting_a_doubtful_model_asks_for_a_reason(client, people, adapter):
    address = reverse("move-model", args=[adapter.pk])
    client.force_login(people["trainer"])
    assert "It has never been evaluated" in client.get(reverse("model", args=[adapter.pk])).text
    refused = client.post(address, {"to": "promote"}, follow=True)
    assert "It has never been evaluated" in refused.text
    adapter.refresh_from_db()
    assert adapter.state == "candidate"
    client.post(address, {"to": "promote", "reason": "Because."})
    adapter.refresh_from_db()
    assert adapter.state == "promoted"


def test_only_trainers_change_the_state_of_models_by_post(client, people, adapter):
    address = reverse("move-model", args=[adapter.pk])
    for name in ("lead", "reviewer"):
        client.force_login(people[name])
        assert client.post(address, {"to": "archive"}).status_code == 403
    client.force_login(people["trainer"])
    assert client.get(address).status_code == 405
    assert client.post(address, {"to": "nowhere"}).status_code == 400
    adapter.refresh_from_db()
    assert adapter.state == "candidate"
    for to, state in (("archive", "archived"), ("restore", "candidate")):
        client.post(address, {"to": to})
        adapter.refresh_from_db()
        assert adapter.state == state


def test_an_evaluation_shows_both_answers_inert_and_by_verdict(client, people, adapter):
    evaluation = make_evaluation(adapter, items=6)
    client.force_login(people["lead"])
    address = reverse("evaluation", args=[evaluation.pk])
    page = client.get(address)
    assert "70.0%" in page.text and "60.0% to 80.0%" in page.text
    assert "<script>bad" not in page.text and "candidate 0" in page.text
    assert len(page.context["answers"]) == 6
    for verdict, value in (("won", 1.0), ("lost", 0.0), ("tied", 0.5)):
        answers = client.get(address, {"verdict": verdict}).context["answers"]
        assert [pair.item.verdict for pair in answers] == [value, value]
    assert len(client.get(address, {"verdict": "odd"}).context["answers"]) == 6


def test_an_evaluation_shows_its_conclusion_and_registration(client, people, adapter):
    evaluation = make_evaluation(adapter, verdicts=[1.0] * 11 + [0.5])
    client.force_login(people["lead"])
    page = client.get(reverse("evaluation", args=[evaluation.pk])).text
    assert f"{adapter} is better than {adapter.parent}, proven after 11 of 12 prompts." in page
    assert "96.0% confidence sequence" in page and page.count("<polyline") == 3
    assert "12, drawn at random with seed 1" in page
    assert "5.0% for all evaluations of the candidate; this is number 1 and has 4.0%" in page
    assert "Win rate 58%: half of evaluations like this one prove it after 291 prompts" in page


def test_an_evaluation_by_people_alone_has_a_page(client, people, adapter):
    evaluation = make_evaluation(
        adapter, verdicts=[None, None], judge="", asks_people=True, most_verdicts=40,
        stopped_at=timezone.now(), report={"comparisons": 2, "prompts": 2},
    )  # fmt: skip
    client.force_login(people["lead"])
    page = client.get(reverse("evaluation", args=[evaluation.pk])).text
    assert "Undecided: no prompt has all its verdicts yet." in page
    assert "Only people judge the responses." in page and "Won" not in page
    assert "The blind comparisons stopped" in page and "<dd>40</dd>" in page
    assert client.get(reverse("model", args=[adapter.pk])).status_code == 200
    equal = make_evaluation(
        adapter, verdicts=[None], judge="", asks_people=True,
        report={"comparisons": 0, "prompts": 1, "identical": 1},
    )  # fmt: skip
    page = client.get(reverse("evaluation", args=[equal.pk])).text
    assert "the two models gave equal or empty answers to all prompts, which are ties" in page


def test_the_form_asks_people_if_there_is_no_judge(adapter):
    form = EvaluateInputs({"candidate": adapter.pk, "judge": "", "most_verdicts": 200})
    assert form.is_valid(), form.errors
    inputs = form.inputs()
    assert (inputs["comparisons"], inputs["most_verdicts"]) == (True, 200)
    assert (inputs["question"], inputs["control"]) == ("these", False)
    without = EvaluateInputs({"candidate": adapter.pk, "judge": "", "control": "on"})
    assert without.errors["control"] == ["Choose a judge that saves verdicts."]
    judge = f"reward_model:{make_reward_model(adapter.snapshot).pk}"
    alone = EvaluateInputs({"candidate": adapter.pk, "judge": judge, "control": "on"})
    assert "only if people are asked too" in alone.errors["control"][0]
    both = {"candidate": adapter.pk, "judge": judge, "control": "on", "comparisons": "on"}
    assert EvaluateInputs(both).is_valid()


def test_the_form_takes_an_order_by_the_judge_and_the_regression_set(adapter):
    judge = f"reward_model:{make_reward_model(adapter.snapshot).pk}"
    chosen = {"candidate": adapter.pk, "judge": judge, "comparisons": "on", "order": "certain"}
    form = EvaluateInputs({**chosen, "regression": "on"})
    assert form.is_valid(), form.errors
    assert (form.inputs()["order"], form.inputs()["regression"]) == ("certain", True)
    both = EvaluateInputs({**chosen, "control": "on"})
    assert both.errors["order"] == ["A judge that saves verdicts cannot also order the prompts."]
    alone = EvaluateInputs({"candidate": adapter.pk, "judge": judge, "order": "certain"})
    assert alone.errors["order"] == ["Choose a judge, and ask people too."]
    without = EvaluateInputs({**chosen, "order": ""})
    assert without.is_valid() and without.inputs()["regression"] is False


def test_length_divergence_and_cut_off_answers_are_next_to_the_win_rate(client, people, adapter):
    evaluation = make_evaluation(adapter)
    evaluation.report |= {
        "tokens": {"candidate": 41.2, "baseline": 38.7},
        "truncated": {"candidate": 0.025, "baseline": 0.0},
        "divergence": {
            "per_token": {"value": 0.0213, "interval": [0.018, 0.025]},
            "per_answer": {"value": 1.93, "interval": [1.5, 2.2]},
        },
    }
    evaluation.save(update_fields=["report"])
    client.force_login(people["lead"])
    page = client.get(reverse("evaluation", args=[evaluation.pk])).text
    for text in ("41 : 39", "2.5% : 0.0%", "0.021", "0.018 to 0.025", "1.9", "1.5 to 2.2"):
        assert f">{text}<" in page
    page = client.get(reverse("model", args=[adapter.pk])).text
    assert all(f">{text}<" in page for text in ("41 : 39", "2.5% : 0.0%", "0.021"))


def test_a_model_shows_the_conclusion_of_each_evaluation(client, people, adapter):
    make_evaluation(adapter, verdicts=[1.0] * 11)
    make_evaluation(adapter, verdicts=[1.0] * 11)
    client.force_login(people["lead"])
    page = client.get(reverse("model", args=[adapter.pk])).text
    assert page.count("<td>judge: better</td>") == page.count("<td>judge: undecided</td>") == 1


def test_an_evaluation_without_verdicts_shows_its_registration(client, people, adapter):
    evaluation = make_evaluation(adapter, items=0)
    Evaluation.objects.filter(pk=evaluation.pk).update(report={})
    client.force_login(people["lead"])
    page = client.get(reverse("evaluation", args=[evaluation.pk]))
    assert page.status_code == 200 and "There are no verdicts before" in page.text
    assert client.get(reverse("model", args=[adapter.pk])).status_code == 200


def test_an_unregistered_evaluation_says_that_it_proves_nothing(client, people, adapter):
    old = {"alpha": None, "margin": None, "sample_seed": None, "verdicts_per_prompt": None}
    evaluation = make_evaluation(adapter, verdicts=[1.0] * 12, **old)
    client.force_login(people["lead"])
    page = client.get(reverse("evaluation", args=[evaluation.pk])).text
    assert "was not registered before it started, so it proves nothing" in page
    assert "<polyline" not in page


def test_the_launch_form_forecasts_the_number_of_prompts(client, people, adapter):
    client.force_login(people["trainer"])
    page = client.get(reverse("run-launch", args=["evaluate"])).text
    assert "764 for 5 points, 291 for 8 points, 139 for 12 points" in page


def test_an_evaluation_shows_how_many_answers_are_identical(client, people, adapter):
    evaluation = make_evaluation(adapter, items=6)
    client.force_login(people["lead"])
    address = reverse("evaluation", args=[evaluation.pk])
    evaluation.report = {**evaluation.report, "identical": 2}
    evaluation.report["win_rate"]["answers"] = 6
    evaluation.save()
    page = client.get(address).text
    assert "2 of 6" in page and "identical responses" in page and "33.3%" in page
    del evaluation.report["identical"]
    evaluation.save()
    assert "identical responses" not in client.get(address).text


def test_many_answers_come_in_pages_that_keep_the_verdict(client, people, adapter):
    evaluation = make_evaluation(adapter, items=36)
    client.force_login(people["lead"])
    address = reverse("evaluation", args=[evaluation.pk])
    page = client.get(address, {"verdict": "won"})
    assert len(page.context["answers"]) == 10
    assert "?verdict=won&amp;page=2" in page.text
    assert len(client.get(address, {"verdict": "won", "page": 2}).context["answers"]) == 2


def test_the_number_of_queries_of_lists_is_constant(
    client, people, project, adapter, django_assert_num_queries
):
    client.force_login(people["trainer"])
    for _ in range(2):
        make_evaluation(make_adapter(adapter.parent, adapter.snapshot))
        make_reward_model(adapter.snapshot)
        # session, user; count, models, last evaluations, reward models
        with django_assert_num_queries(6):
            client.get(reverse("models"))


def test_the_number_of_queries_of_an_evaluation_is_constant(
    client, people, adapter, django_assert_num_queries
):
    client.force_login(people["trainer"])
    for items in (3, 9):
        evaluation = make_evaluation(adapter, items=items)
        # session, user; evaluation, counts, comparisons, judge's verdicts, lengths, count, page
        with django_assert_num_queries(9):
            client.get(reverse("evaluation", args=[evaluation.pk]))


# --- the launch forms ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["reward", "generate", "dpo", "online", "best_of_n", "grpo", "rloo", "evaluate"]
)
def test_each_kind_has_a_launch_page(client, people, adapter, kind):
    client.force_login(people["trainer"])
    assert client.get(reverse("run-launch", args=[kind])).status_code == 200


def test_options_of_the_chat_template_are_entered_and_copied_as_json(client, people, adapter):
    """A form made from an earlier run shows its options as they were typed."""
    client.force_login(people["trainer"])
    options = {"chat_template_kwargs": {"enable_thinking": False}}
    run = make_run("generate", config=options, inputs={"model": adapter.pk})
    page = client.get(reverse("run-launch", args=["generate"]), {"from": run.pk})
    shown = page.context["launch"].config["chat_template_kwargs"].value()
    assert shown == '{"enable_thinking": false}'
    values = ConfigForm(kinds.get("generate"), {"config-chat_template_kwargs": shown}).values()
    read = GenerateConfig.from_dict({"model": "m", **{n: v for n, v in values.items() if v}})
    assert read.chat_template_kwargs == {"enable_thinking": False}


def test_the_promoted_model_is_the_default_for_generating(adapter):
    make_base(adapter.project)
    assert GenerateInputs().initial["model"] is None
    Model.objects.filter(pk=adapter.pk).update(state="promoted")
    assert GenerateInputs().initial["model"] == adapter.pk
    assert GenerateInputs(initial={"model": 3}).initial["model"] == 3


def test_the_registration_is_entered_in_percent_and_copied_from_an_earlier_run(adapter):
    judge = f"reward_model:{make_reward_model(adapter.snapshot).pk}"
    values = {"candidate": adapter.pk, "judge": judge}
    chosen = {"alpha_percent": "2", "margin_points": "7.5", "verdicts_per_prompt": "1"}
    form = EvaluateInputs({**values, **chosen})
    assert form.is_valid(), form.errors
    inputs = form.inputs()
    assert (inputs["alpha"], inputs["margin"], inputs["verdicts_per_prompt"]) == (0.02, 0.075, 1)
    copied = EvaluateInputs(initial=inputs)
    assert (copied["alpha_percent"].value(), copied["margin_points"].value()) == (2.0, 7.5)
    usual = EvaluateInputs(values)
    assert usual.is_valid()
    assert (usual.inputs()["alpha"], usual.inputs()["margin"]) == (0.05, 0.05)
    for name in ("alpha_percent", "margin_points"):
        assert name in EvaluateInputs({**values, name: "25"}).errors


def test_an_evaluation_takes_baseline_and_snapshot_from_the_candidate(adapter):
    judge = make_reward_model(adapter.snapshot)
    form = EvaluateInputs({"candidate": adapter.pk, "judge": f"reward_model:{judge.pk}"})
    assert form.is_valid(), form.errors
    assert form.inputs()["baseline"] == adapter.parent_id
    assert form.inputs()["snapshot"] == adapter.snapshot_id


def refused(adapter, **changes):
    """Return the errors of an otherwise valid evaluation form with these changes."""
    judge = judges.of_reward_model(make_reward_model(adapter.snapshot)).name
    return EvaluateInputs({"candidate": adapter.pk, "judge": judge, **changes}).errors


def test_an_evaluation_stays_inside_one_project(adapter):
    elsewhere = make_project()
    stranger, other = make_base(elsewhere), make_snapshot(elsewhere, prompts=1)
    judge = judges.of_reward_model(make_reward_model(other)).name
    assert not refused(adapter)
    assert (
        "another model of the candidate's" in refused(adapter, baseline=stranger.pk)["baseline"][0]
    )
    assert "of the candidate's project" in refused(adapter, snapshot=other.pk)["snapshot"][0]
    assert "of the candidate's project" in refused(adapter, judge=judge)["judge"][0]


def test_a_candidate_is_not_offered_as_its_own_baseline(adapter):
    sibling = make_adapter(adapter.parent, adapter.snapshot)
    make_base(adapter.project)
    for candidate, others in (
        (adapter, {sibling, adapter.parent}),
        (sibling, {adapter, adapter.parent}),
    ):
        form = EvaluateInputs(initial={"candidate": candidate.pk})
        assert set(form.fields["baseline"].queryset) == others
    assert "not the candidate itself" in refused(adapter, baseline=adapter.pk)["baseline"][0]


@pytest.fixture
def shop_rule():
    """Register a rule for one project."""
    judges.register("shop", "The shop", lambda m, t: 0.0, for_project=lambda p: p.slug == "shop")
    yield "shop"
    del judges._rules["shop"]


def test_only_judges_that_fit_the_project_are_offered(client, people, adapter, shop_rule):
    own = make_reward_model(adapter.snapshot)
    shop = make_project(slug="shop")
    stranger = make_reward_model(make_snapshot(shop, prompts=1))
    in_shop = make_adapter(make_base(shop), stranger.snapshot)
    names = lambda model: {judge.name for judge in map(judges.of_reward_model, [model])}  # noqa: E731
    client.force_login(people["trainer"])
    for candidate, offered, missing in (
        (adapter, names(own), names(stranger) | {shop_rule}),
        (in_shop, names(stranger) | {shop_rule}, names(own)),
    ):
        page = client.get(reverse("run-launch", args=["evaluate"]), {"candidate": candidate.pk})
        choices = {name for name, _ in page.context["launch"].inputs.fields["judge"].choices}
        assert offered <= choices and not missing & choices
    assert "candidate's project" in refused(adapter, judge=shop_rule)["judge"][0]


def test_the_page_asks_for_the_choices_again_when_the_candidate_changes(client, people, adapter):
    client.force_login(people["trainer"])
    page = client.get(reverse("run-launch", args=["evaluate"])).text
    assert 'hx-trigger="change from:[name=candidate]"' in page
    assert 'hx-select="#inputs"' in page and 'id="inputs"' in page


def test_models_of_another_project_are_not_offered_for_a_snapshot(adapter):
    stranger = make_base(make_project())
    form = FinetuneInputs(initial={"snapshot": adapter.snapshot_id})
    assert list(form.fields["model"].queryset) == [adapter.parent, adapter]
    form = FinetuneInputs({"snapshot": adapter.snapshot_id, "model": stranger.pk})
    assert form.errors["model"] == ["Choose a model of the snapshot's project."]


def test_reward_models_of_the_snapshots_project_are_offered(client, people, adapter):
    own, promoted = (
        make_reward_model(adapter.snapshot, state=state) for state in ("candidate", "promoted")
    )
    stranger = make_reward_model(make_snapshot(make_project(), prompts=2))
    form = RewardedInputs(initial={"snapshot": adapter.snapshot_id})
    assert list(form.fields["reward_model"].queryset) == [promoted, own]
    chosen = {"snapshot": adapter.snapshot_id, "model": adapter.pk, "reward_model": stranger.pk}
    error = "Choose a reward model of the snapshot's project."
    assert RewardedInputs(chosen).errors["reward_model"] == [error]
    form = RewardedInputs({**chosen, "reward_model": own.pk})
    assert form.is_valid() and form.inputs()["reward_model"] == own.pk
    client.force_login(people["trainer"])
    page = client.get(reverse("run-launch", args=["online"])).text
    assert 'name="reward_model"' in page and "Responses per prompt" in page


def test_archived_models_and_archived_projects_are_not_offered(adapter):
    from finetune.forms.choices import usable_models
    from finetune.forms.evaluation import judge_choices

    reward_model = make_reward_model(adapter.snapshot)
    assert adapter in usable_models()
    assert f"reward_model:{reward_model.pk}" in dict(judge_choices(adapter.project))
    Model.objects.filter(pk=adapter.pk).update(state="archived")
    assert adapter not in usable_models()
    from django.utils import timezone

    adapter.project.archived_at = timezone.now()
    adapter.project.save()
    assert not usable_models().filter(project=adapter.project).exists()
    assert f"reward_model:{reward_model.pk}" not in dict(judge_choices(adapter.project))


def test_pages_show_the_folder_of_a_base_and_not_its_stored_form(client, people, project):
    """Check that pages do not show `checkout:demo/tiny_model`, which no command accepts."""
    stored = "checkout:demo/tiny_model"
    base = Model.objects.create(project=project, name="tiny", base=stored)
    adapter = make_adapter(base, make_snapshot(project, prompts=4, test_fraction=0.4))
    run = Run.objects.create(kind="reward", project=project, config={"base_model": stored})
    client.force_login(people["trainer"])
    launch = reverse("run-launch", args=["reward"])
    addresses = [
        reverse("models"),
        reverse("model", args=[base.pk]),
        reverse("model", args=[adapter.pk]),
        reverse("run", args=[run.pk]),
        f"{launch}?from={run.pk}",
        f"{launch}?base_model={stored}",
    ]
    for address in addresses:
        page = client.get(address).text
        assert storage.resolve(stored) in page, address
        assert stored not in page.replace(address, ""), address


@pytest.mark.parametrize(
    ("kind", "sentences"),
    [
        ("reward", ["No snapshots yet: freeze one first"]),
        ("score", ["No reward models yet: train one first"]),
        ("generate", ["No models yet: add a base model under Models first"]),
        ("dpo", ["No snapshots yet: freeze one first", "No models in this project yet"]),
        ("online", ["No reward models in this project yet: train one first"]),
        ("evaluate", ["No adapters yet: fine-tune a model first"]),
    ],
)
def test_a_launch_form_without_choices_explains_what_to_create_first(
    client, people, kind, sentences
):
    client.force_login(people["trainer"])
    page = client.get(reverse("run-launch", args=[kind]))
    assert page.status_code == 200
    assert all(sentence in page.text for sentence in sentences)


def test_a_launch_form_with_something_to_choose_does_not(client, people, adapter):
    client.force_login(people["trainer"])
    for kind in ("reward", "generate", "dpo", "evaluate"):
        page = client.get(reverse("run-launch", args=[kind])).text
        assert " yet: " not in page, kind
    refused = client.post(reverse("run-launch", args=["score"]), {"reward_model": ""})
    assert refused.status_code == 422


# --- certificates --------------------------------------------------------------------------------


def test_a_lead_sees_and_downloads_the_certificate_of_a_promotion(client, people, project):
    base = make_base(project)
    base.promote(by=people["trainer"])
    certificate = project.certificates.get()
    client.force_login(people["lead"])
    for address in (
        reverse("model", args=[base.pk]),
        reverse("certificates", args=[project.slug]),
    ):
        assert reverse("certificate", args=[certificate.pk]) in client.get(address).text
    assert reverse("certificates", args=[project.slug]) in client.get(
        reverse("project", args=[project.slug])
    ).text  # fmt: skip
    page = client.get(reverse("certificate", args=[certificate.pk])).text
    assert people["trainer"].username in page and certificate.sha256 in page
    reply = client.get(reverse("certificate-download", args=[certificate.pk]))
    assert reply.text == certificate.text
    assert certificate.file_name in reply["Content-Disposition"]
    assert AuditEntry.objects.filter(action="certificate downloaded").exists()


def test_access_to_certificates(client, people, project):
    make_base(project).promote(by=None)
    certificate = project.certificates.get()
    for name in ("certificate", "certificate-download"):
        assert statuses(client, people, reverse(name, args=[certificate.pk])) == LOOKING
    assert statuses(client, people, reverse("certificates", args=[project.slug])) == LOOKING


def test_the_page_of_a_certificate_shows_the_evidence_as_it_was(client, people, adapter):
    make_evaluation(adapter, verdicts=[1.0] * 12)
    adapter.promote(by=None, reason="Nobody had time to rank.")
    client.force_login(people["lead"])
    page = client.get(reverse("certificate", args=[adapter.certificates.get().pk])).text
    assert "Reason: Nobody had time to rank." in page
    assert "better, proven after 11 of 12 prompts" in page and "<svg" in page
