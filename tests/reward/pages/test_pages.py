import json

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import AuditEntry
from reward.models import RewardModel, Snapshot
from tests.finetune.factory import (
    FIGURE,
    REPORT,
    UNKNOWN,
    make_base,
    make_reward_model,
    make_snapshot,
)
from tests.reward.factory import (
    make_project,
    make_prompt,
    make_task,
    make_user,
    make_version,
    rank,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def snapshot(project):
    return make_snapshot(project, prompts=4, test_fraction=0.4)


def statuses(client, people, address):
    results = {}
    for name, user in people.items():
        client.force_login(user)
        results[name] = client.get(address).status_code
    client.logout()
    results["stranger"] = client.get(address).status_code
    return results


LOOKING = {"trainer": 200, "lead": 200, "lead_elsewhere": 404, "reviewer": 403, "stranger": 302}
TRAINING = {"trainer": 200, "lead": 403, "lead_elsewhere": 403, "reviewer": 403, "stranger": 302}


def test_access_to_a_snapshot_and_a_reward_model(client, people, snapshot):
    model = make_reward_model(snapshot)
    for name, pk in (
        ("snapshot", snapshot.pk),
        ("snapshot-rankings", snapshot.pk),
        ("reward-model", model.pk),
    ):
        assert statuses(client, people, reverse(name, args=[pk])) == LOOKING


def test_access_to_the_list_of_snapshots(client, people, snapshot):
    expected = {**LOOKING, "lead_elsewhere": 200}
    assert statuses(client, people, reverse("snapshots")) == expected
    client.force_login(people["lead_elsewhere"])
    assert f"/snapshots/{snapshot.pk}/" not in client.get(reverse("snapshots")).text


def test_only_trainers_freeze_and_download(client, people, snapshot):
    assert statuses(client, people, reverse("new-snapshot")) == TRAINING
    assert statuses(client, people, reverse("snapshot-file", args=[snapshot.pk])) == TRAINING


def test_the_download_is_the_frozen_file(client, people, snapshot):
    client.force_login(people["trainer"])
    answer = client.get(reverse("snapshot-file", args=[snapshot.pk]))
    assert b"".join(answer.streaming_content) == snapshot.file.read_bytes()
    assert answer["Content-Disposition"].endswith(f'snapshot-{snapshot.pk}.parquet"')


@pytest.fixture
def ranked(project):
    for _ in range(3):
        rank(make_task(make_prompt(project)), make_user(), active_seconds=30)
    rank(make_task(make_prompt(project)), make_user(), active_seconds=2)
    return project


def form(**values):
    content = {"sources": ["review", "import", "simulation"], "min_active_seconds": "0"}
    return {**content, "test_fraction": "0.3", "seed": "0", **values}


def test_freezing_from_the_page_makes_a_snapshot_by_its_filter(client, people, ranked):
    client.force_login(people["trainer"])
    address = reverse("new-snapshot") + f"?project={ranked.slug}"
    answer = client.post(address, form(min_active_seconds="10", freeze="1"))
    snapshot = Snapshot.objects.get()
    assert answer.url == reverse("snapshot", args=[snapshot.pk])
    assert snapshot.counts["left_out"] == {"too_fast": 1}
    assert snapshot.created_by == people["trainer"]


def test_the_preview_counts_and_writes_nothing(client, people, ranked):
    client.force_login(people["trainer"])
    address = reverse("new-snapshot") + f"?project={ranked.slug}"
    answer = client.post(address, form(min_active_seconds="10", preview="1"))
    assert answer.context["account"]["used"] == 3
    assert "Made in less active time than the filter requires." in answer.text
    assert not Snapshot.objects.exists()
    assert client.get(address).context["account"]["used"] == 4


def test_an_invalid_filter_has_an_error_next_to_its_field(client, people, ranked):
    client.force_login(people["trainer"])
    address = reverse("new-snapshot") + f"?project={ranked.slug}"
    values = form(since="2026-02-02", until="2026-02-01", test_fraction="2", freeze="1")
    answer = client.post(address, values)
    assert set(answer.context["form"].errors) == {"test_fraction"}
    answer = client.post(address, {**values, "test_fraction": "0.2"})
    assert answer.context["form"].errors["until"] == ["The last day is before the first."]
    assert 'value="2026-02-02"' in answer.text
    assert not Snapshot.objects.exists()


def test_an_empty_filter_result_is_reported(client, people, project):
    client.force_login(people["trainer"])
    address = reverse("new-snapshot") + f"?project={project.slug}"
    assert "has no rankings yet" in client.post(address, form(freeze="1")).text


def test_with_several_projects_the_form_asks_for_one(client, people, ranked):
    make_project()
    client.force_login(people["trainer"])
    assert "Choose a project" in client.get(reverse("new-snapshot")).text
    assert client.get(reverse("new-snapshot") + "?project=nowhere").status_code == 404


def test_text_of_models_is_inert_on_the_page_of_a_snapshot(client, people, project):
    texts = ("<script>alert(1)</script>", "**bold** <img src=x onerror=alert(1)>")
    rank(make_task(make_prompt(project, "<iframe>"), texts), make_user(), ((0,), (1,)))
    from reward.preferences.snapshots import SnapshotFilter, freeze

    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    client.force_login(people["lead"])
    page = client.get(reverse("snapshot", args=[snapshot.pk])).text
    assert "<strong>bold</strong>" in page
    assert "<script>alert" not in page and "<img src" not in page and "<iframe" not in page


def test_a_missing_file_is_reported_on_the_page(client, people, snapshot):
    snapshot.file.unlink()
    client.force_login(people["trainer"])
    answer = client.get(reverse("snapshot", args=[snapshot.pk]))
    assert answer.status_code == 200 and "cannot be read" in answer.text
    for name in ("snapshot-file", "snapshot-rankings"):
        assert client.get(reverse(name, args=[snapshot.pk])).status_code == 404


def test_the_rankings_of_a_snapshot_name_reviewer_and_guideline(client, people, snapshot):
    client.force_login(people["lead"])
    page = client.get(reverse("snapshot-rankings", args=[snapshot.pk]))
    assert [r.pk for r in page.context["rankings"]]
    assert page.context["rankings"][0].reviewer.username in page.text


def test_a_report_shows_its_figures_with_their_intervals(client, people, snapshot):
    model = make_reward_model(snapshot)
    client.force_login(people["lead"])
    page = client.get(reverse("reward-model", args=[model.pk])).text
    assert "80.0%" in page and "70.0% to 90.0%" in page
    assert "Too few." in page and "longer than 512 tokens" in page
    assert "&lt;b&gt;first&lt;/b&gt;" in page and "<b>first" not in page
    assert 'cx="80.00%"' in page and page.count('class="chart-dot"') == 2
    assert " style=" not in page


def test_a_report_shows_the_device_and_the_number_format(client, people, snapshot):
    device = {"kind": "cuda", "name": "NVIDIA H200", "count": 1, "dtype": "bfloat16"}
    model = make_reward_model(snapshot, report={**REPORT, "device": device})
    client.force_login(people["lead"])
    address = reverse("reward-model", args=[model.pk])
    assert "2 in 3 s on NVIDIA H200 (bfloat16);" in client.get(address).text
    earlier = make_reward_model(snapshot)  # without `device`, as earlier versions wrote it
    assert "2 in 3 s on cpu;" in client.get(reverse("reward-model", args=[earlier.pk])).text


@pytest.mark.parametrize("report", [{}, {"accuracy": REPORT["accuracy"]}])
def test_a_report_that_lacks_figures_still_has_a_page(client, people, snapshot, report):
    model = make_reward_model(snapshot, report=report)
    client.force_login(people["lead"])
    assert client.get(reverse("reward-model", args=[model.pk])).status_code == 200


@pytest.mark.parametrize("language", ["en", "de"])
def test_charts_use_decimal_points_in_every_language(client, people, snapshot, language):
    model = make_reward_model(snapshot)
    client.force_login(people["lead"])
    address = reverse("reward-model", args=[model.pk])
    page = client.get(address, headers={"accept-language": language}).text
    assert 'cx="80.00%"' in page


def test_simulated_rankings_are_always_marked(client, people, project):
    from reward.preferences.snapshots import SnapshotFilter, freeze

    rank(make_task(make_prompt(project)), make_user(simulated=True), source="simulation")
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    model = make_reward_model(snapshot)
    client.force_login(people["trainer"])
    for address in (
        reverse("snapshots"),
        reverse("snapshot", args=[snapshot.pk]),
        reverse("snapshot-rankings", args=[snapshot.pk]),
        reverse("new-snapshot") + f"?project={project.slug}",
        reverse("reward-model", args=[model.pk]),
        reverse("models"),
    ):
        assert 'class="simulated"' in client.get(address).text, address


def test_only_trainers_change_the_state_of_a_reward_model_by_post(client, people, snapshot):
    model = make_reward_model(snapshot)
    address = reverse("move-reward-model", args=[model.pk])
    client.force_login(people["lead"])
    assert client.post(address, {"to": "promote"}).status_code == 403
    client.force_login(people["trainer"])
    assert client.get(address).status_code == 405
    assert client.post(address, {"to": "nowhere"}).status_code == 400
    assert RewardModel.objects.get().state == "candidate"
    client.post(address, {"to": "promote"})
    assert RewardModel.objects.get().state == "promoted"
    assert "Promote another one first" in client.post(address, {"to": "archive"}, follow=True).text


LENGTH = {"value": 0.82, "interval": [0.7, 0.9], "reason": None}
DOUBTFUL = [
    ({"longer_is_better": LENGTH}, "no better than always preferring the longer response"),
    ({"accuracy": {**FIGURE, "interval": [0.45, 0.9]}}, "not shown to be better than chance"),
    ({"accuracy": UNKNOWN}, "accuracy on held-out prompts is unknown: Too few."),
]


@pytest.mark.parametrize(("report", "doubt"), DOUBTFUL)
def test_promoting_a_doubtful_reward_model_needs_a_reason(client, people, snapshot, report, doubt):
    model = make_reward_model(snapshot, report={**REPORT, **report})
    address = reverse("move-reward-model", args=[model.pk])
    client.force_login(people["trainer"])
    page = client.get(reverse("reward-model", args=[model.pk])).text
    assert doubt in page and 'name="reason"' in page
    assert doubt in client.post(address, {"to": "promote"}, follow=True).text
    assert RewardModel.objects.get().state == "candidate"
    client.post(address, {"to": "promote", "reason": "It is a start."})
    assert RewardModel.objects.get().state == "promoted"
    details = AuditEntry.objects.get(action="promoted").details
    assert doubt in details["doubts"][0] and details["reason"] == "It is a start."


def test_a_reward_model_without_doubts_asks_for_no_reason(client, people, snapshot):
    model = make_reward_model(snapshot)
    client.force_login(people["trainer"])
    page = client.get(reverse("reward-model", args=[model.pk])).text
    assert "Promote" in page and 'name="reason"' not in page


@pytest.mark.parametrize(("report", "doubt"), DOUBTFUL)
def test_the_command_promotes_a_doubtful_reward_model_only_for_a_reason(
    snapshot, report, doubt, capsys
):
    model = make_reward_model(snapshot, report={**REPORT, **report})
    call_command("reward_models", "promote", str(model.pk), "--dry-run")
    assert doubt in capsys.readouterr().out
    with pytest.raises(CommandError, match=doubt):
        call_command("reward_models", "promote", str(model.pk))
    assert RewardModel.objects.get().state == "candidate"
    call_command("reward_models", "promote", str(model.pk), "--reason", "Testing.")
    assert RewardModel.objects.get().state == "promoted"


def test_the_command_lists_reward_models_and_changes_their_state(snapshot, project, capsys):
    model = make_reward_model(snapshot)
    call_command("reward_models", "archive", str(model.pk), "--dry-run")
    call_command("reward_models", "archive", str(model.pk))
    call_command("reward_models", "list", "--project", project.slug, "--json")
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (row["model"], row["state"], row["accuracy_text"]) == (model.pk, "archived", "80.0%")
    with pytest.raises(CommandError, match=r"is archived\. Restore it first"):
        call_command("reward_models", "promote", str(model.pk))
    call_command("reward_models", "restore", str(model.pk))
    assert RewardModel.objects.get().state == "candidate"
    with pytest.raises(CommandError, match=r"There is no reward model 0\. Existing models: "):
        call_command("reward_models", "promote", "0")


def test_the_number_of_queries_of_lists_is_constant(
    client, people, project, django_assert_num_queries
):
    client.force_login(people["trainer"])
    for rows in (1, 4):
        for _ in range(rows):
            make_reward_model(make_snapshot(project, prompts=1))
        # session, user; count, page
        with django_assert_num_queries(4):
            client.get(reverse("snapshots"))


def test_a_snapshot_costs_few_queries(client, people, project, django_assert_num_queries):
    snapshot = make_snapshot(project, prompts=6)
    for _ in range(3):
        make_reward_model(snapshot)
    client.force_login(people["trainer"])
    # session, user; the snapshot, a base to start from, its reward models, its models, the random stream
    with django_assert_num_queries(7):
        client.get(reverse("snapshot", args=[snapshot.pk]))
    # session, user; the snapshot, its rankings
    with django_assert_num_queries(4):
        client.get(reverse("snapshot-rankings", args=[snapshot.pk]))


def test_training_from_a_snapshot_starts_from_the_projects_base(client, people, snapshot):
    make_base(snapshot.project, base="org/a base")
    client.force_login(people["trainer"])
    page = client.get(reverse("snapshot", args=[snapshot.pk])).text
    address = f"{reverse('run-launch', args=['reward'])}?snapshot={snapshot.pk}"
    assert f'href="{address}&amp;base_model=org/a%20base"' in page
    launch = client.get(f"{address}&base_model=org/a%20base").text
    assert 'value="org/a base"' in launch
    assert f'<option value="{snapshot.pk}" selected>' in launch


def test_the_disagreement_of_heads_is_shown_with_its_value(client, people, snapshot):
    figure = {"value": 0.71, "interval": [0.6, 0.8], "reason": None}
    report = {
        **REPORT,
        "disagreement": {
            "heads": 8,
            "pairs": 1200,
            "prompts": 200,
            "finds_mistakes": {"spread": figure, "relative": figure, "small_gap": figure},
            "parts": [{"low": 0.1, "high": 0.4, "pairs": 400, "accuracy": 0.934}],
        },
    }
    model = make_reward_model(snapshot, report=report)
    client.force_login(people["trainer"])
    text = client.get(reverse("reward-model", args=[model.pk])).text
    assert "Disagreement between heads" in text and "8 heads" in text and "93.4%" in text
    plain = make_reward_model(snapshot, name="one head")
    assert (
        "Disagreement between heads"
        not in client.get(reverse("reward-model", args=[plain.pk])).text
    )


def test_each_criterion_has_its_figures(client, people, snapshot):
    figure = {"value": 0.71, "interval": [0.6, 0.8], "reason": None}
    unknown = {"value": None, "interval": None, "reason": "Nobody rated twice."}
    row = {
        "criterion": "kind",
        "accuracy": figure,
        "overall_accuracy": figure,
        "reviewer_agreement": unknown,
    }
    model = make_reward_model(snapshot, report={**REPORT, "criteria": [row]})
    client.force_login(people["trainer"])
    text = client.get(reverse("reward-model", args=[model.pk])).text
    assert "<h3>kind</h3>" in text and "71.0%" in text and "Nobody rated twice." in text


SHARE = {"value": 0.71, "interval": [0.6, 0.8], "pairs": 1234, "prompts": 56, "reason": None}


def reported(snapshot, **report):
    return make_reward_model(snapshot, report={**REPORT, **report})


def page_of(client, model):
    return client.get(reverse("reward-model", args=[model.pk])).text


def test_the_temperature_is_shown_with_its_cross_validated_effect(client, people, snapshot):
    client.force_login(people["trainer"])
    figures = {"before": {"ece": 0.112}, "after": {"ece": 0.034}, "reason": None}
    text = page_of(client, reported(snapshot, temperature={"value": 1.834, **figures}))
    assert "temperature of 1.83" in text and "from 0.112 to 0.034" in text
    none = {"value": None, "before": None, "after": None, "reason": "Too few."}
    assert "temperature of" not in page_of(client, reported(snapshot, temperature=none))


def test_the_page_shows_the_limit_of_any_model(client, people, snapshot):
    client.force_login(people["trainer"])
    limit = {"value": 0.8831, "interval": [0.87, 0.8931], "reason": None}
    text = page_of(client, reported(snapshot, reviewer_agreement=SHARE, accuracy_limit=limit))
    assert "about 89.3% is the most any model can reach" in text
    assert "come beyond" not in page_of(client, reported(snapshot, reviewer_agreement=SHARE))


def test_the_page_warns_if_length_is_as_accurate(client, people, snapshot):
    client.force_login(people["trainer"])
    sentence = "no better than always preferring the longer response"
    for own, longer, warns in ((0.63, 0.67, True), (0.7, 0.67, False), (None, 0.67, False)):
        shares = {
            "accuracy": {**SHARE, "value": own},
            "longer_is_better": {**SHARE, "value": longer},
        }
        assert (sentence in page_of(client, reported(snapshot, **shares))) == warns


def test_calibration_error_is_shown_next_to_its_value_by_chance(client, people, snapshot):
    client.force_login(people["trainer"])
    figures = {**REPORT["calibration"], "ece": 0.1157, "ece_by_chance": 0.0712, "pairs": 167}
    text = page_of(client, reported(snapshot, calibration=figures))
    assert "0.116</strong> on 167 pairs" in text and "would show 0.071 or more" in text


def test_slices_name_the_guideline_version_and_show_the_ceiling(client, people, project, snapshot):
    client.force_login(people["trainer"])
    version = make_version(project)
    rows = [
        {"name": version.pk, "accuracy": SHARE, "reviewer_agreement": {"value": 0.83}},
        {"name": None, "accuracy": SHARE, "reviewer_agreement": {"value": None}},
    ]
    slices_of_reviewers = [{"name": "r1", "accuracy": SHARE, "reviewer_agreement": {"value": None}}]
    slices = {"guideline_version": rows, "reviewer": slices_of_reviewers, "response_model": []}
    text = page_of(client, reported(snapshot, slices=slices))
    assert str(version) in text and "Under no guideline" in text
    assert "83.0%" in text and "1,234" in text
    assert "<th>Reviewer</th>" not in text  # one slice alone equals the total


def test_accuracy_by_length_is_next_to_the_correlation(client, people, snapshot):
    client.force_login(people["trainer"])
    lengths = {"matched": SHARE, "longer_won": SHARE, "shorter_won": SHARE, "balanced": 0.71}
    assert "Shorter response won" in page_of(client, reported(snapshot, length_slices=lengths))
    assert "Shorter response won" not in page_of(client, make_reward_model(snapshot, name="old"))


def test_the_worst_mistakes_can_be_read_and_their_text_is_inert(client, people, snapshot):
    def response(text):
        return {"id": 1, "model": "m", "score": 1.25, "tokens": 3, "text": text, "left_out": 0}

    mistake = {
        "group_id": "17",
        "prompt": [{"role": "user", "text": "Where is **it**?", "left_out": 1200}],
        "preferred": response("Here. <script>alert(1)</script>"),
        "scored_higher": response("[There](javascript:alert(2))"),
        "gap": 2.5,
        "evidence": [2.0, 1.0],
        "ranking_ids": [],
    }
    client.force_login(people["trainer"])
    text = page_of(client, reported(snapshot, mistakes=[mistake]))
    assert "<strong>it</strong>" in text and "1,200 more characters" in text
    assert "score gap 2.50; reviewers disagree with the model 2 to 1" in text
    assert "<script>alert" not in text and 'href="javascript' not in text
