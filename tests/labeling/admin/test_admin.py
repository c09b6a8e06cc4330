import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import AuditEntry, Role, Token, User
from labeling.admin.big_tables import EstimatingPaginator, estimated_rows
from labeling.guidelines import versions
from labeling.models import Guideline, GuidelineVersion, Prompt, Response, Slot, Task
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.clients import signed_in
from tests.labeling.world import (
    make_many,
    make_member,
    make_project,
    make_task,
    make_user,
    one_each,
    publish,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def trainer():
    return signed_in(make_user(Role.TRAINER))


@pytest.fixture
def root():
    return signed_in(make_user(is_superuser=True))


def page(name, *args):
    return reverse(f"admin:{name}", args=args)


def lists(*models):
    return [(model, page(f"{model}_changelist")) for model in models]


# --- lists ---------------------------------------------------------------------------------------

QUERIES = {
    "labeling_project": 6,
    "labeling_prompt": 8,
    "labeling_response": 9,
    "labeling_task": 10,
    "labeling_slot": 8,
    "labeling_ranking": 9,
    "labeling_skip": 9,
    "labeling_guideline": 6,
    "labeling_guidelineversion": 7,
    "accounts_user": 6,
    "accounts_token": 6,
    "accounts_auditentry": 6,
}


def fill(project):
    for number in range(3):
        task, reviewer = make_task(project), make_member(project)
        recording.record(
            task=task, reviewer=reviewer, source="import", content=Content(one_each(task))
        )
        task.skips.create(reviewer=make_member(project), reason="other")
        versions.create_draft(project=make_project(published=False), by=None, text="", criteria=[])
        Token.issue(user=reviewer, name=str(number))


@pytest.mark.parametrize("model", QUERIES)
def test_the_number_of_queries_of_a_list_does_not_depend_on_its_length(root, project, model):
    fill(project)
    root.get(page(f"{model}_changelist"))
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            response = root.get(page(f"{model}_changelist"))
        assert response.status_code == 200
        counts.append(len(queries))
        fill(project)
    assert counts[0] == counts[1]
    assert counts[0] <= QUERIES[model]


def test_a_filtered_list_works_for_every_filter(root, project):
    fill(project)
    for model in ("prompt", "task", "slot"):
        assert root.get(page(f"labeling_{model}_changelist"), {"project__id__exact": project.pk})
    for model, path in (("response", "prompt"), ("ranking", "task"), ("skip", "task")):
        result = root.get(
            page(f"labeling_{model}_changelist"), {f"{path}__project__id__exact": project.pk}
        )
        assert result.status_code == 200 and f"/labeling/{model}/" in result.content.decode()


def test_tasks_are_filtered_by_priority(lead_client, project):
    urgent = make_task(project, priority=9)
    make_task(project)
    url = page("labeling_task_changelist")
    assert results(lead_client.get(url, {"priority": "9"})) == {urgent.pk}
    assert len(results(lead_client.get(url, {"priority": "x"}))) == 2


def results(response):
    return {row.pk for row in response.context["cl"].result_list}


def test_a_prompt_is_found_by_its_words_or_its_number(lead_client, project):
    tea = Prompt.objects.create(
        project=project, messages=[{"role": "user", "content": "Where is my green tea?"}]
    )
    other = make_task(project).prompt
    url = page("labeling_prompt_changelist")
    assert results(lead_client.get(url, {"q": "green tea"})) == {tea.pk}
    assert results(lead_client.get(url, {"q": '"tea green"'})) == set()
    assert results(lead_client.get(url, {"q": "tea -green"})) == set()
    assert results(lead_client.get(url, {"q": str(other.pk)})) == {other.pk}
    for odd in ("'; --", "%", "&|!", "9" * 40, '"'):
        assert lead_client.get(url, {"q": odd}).status_code == 200
    assert lead_client.get(url, {"q": "\x00"}).status_code == 400


def test_tasks_and_responses_are_found_by_the_words_of_their_prompt(lead_client, project):
    task, other = make_task(project), make_task(project)
    number = task.prompt.messages[0]["content"]
    assert results(lead_client.get(page("labeling_task_changelist"), {"q": number})) == {task.pk}
    result = results(lead_client.get(page("labeling_response_changelist"), {"q": number}))
    assert result == set(task.responses.values_list("pk", flat=True))
    assert other.pk not in result


def test_rankings_are_found_by_reviewer_and_task(lead_client, project):
    task, reviewer = make_task(project), make_member(project)
    result, _ = recording.record(
        task=task, reviewer=reviewer, source="import", content=Content(one_each(task))
    )
    url = page("labeling_ranking_changelist")
    assert results(lead_client.get(url, {"q": reviewer.username})) == {result.pk}
    assert results(lead_client.get(url, {"q": str(task.pk)})) == {result.pk}
    assert results(lead_client.get(url, {"q": "nobody"})) == set()


def test_the_search_uses_its_index(project):
    make_many(project, 2000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE labeling_prompt")
        cursor.execute(
            "EXPLAIN SELECT id FROM labeling_prompt WHERE to_tsvector('simple',"
            " left(messages #>> '{-1,content}', 100000))"
            " @@ websearch_to_tsquery('simple', 'unheard')"
        )
        assert "prompt_words" in str(cursor.fetchall())
    from labeling.admin.big_tables import with_words

    sql = with_words(Prompt.objects.all(), "messages", "unheard").only("pk")
    assert "prompt_words" in sql.explain()


def test_a_large_table_is_estimated_and_a_filtered_one_counted(project, monkeypatch):
    make_many(project, 30)
    monkeypatch.setattr("labeling.admin.big_tables.MAX_COUNT", 10)
    assert estimated_rows(Task) == Task.objects.count()
    assert EstimatingPaginator(Task.objects.order_by("-pk"), 10).count == estimated_rows(Task)
    assert EstimatingPaginator(Task.objects.filter(project=project).order_by("pk"), 10).count == 11
    assert EstimatingPaginator(Task.objects.filter(priority=1).order_by("pk"), 10).count == 0


# --- hostile text --------------------------------------------------------------------------------

ATTACK = "<script>alert(1)</script>\u202e" + "long " * 400


def test_texts_of_models_are_escaped_and_truncated(root, project):
    task = make_task(project)
    Response.objects.filter(pk=task.responses.first().pk).update(
        text=ATTACK, model_name=ATTACK[:60]
    )
    Prompt.objects.filter(pk=task.prompt_id).update(messages=[{"role": "user", "content": ATTACK}])
    result, _ = recording.record(
        task=task, reviewer=make_member(project), source="import", content=Content(one_each(task), rationale=ATTACK),
    )  # fmt: skip
    urls = [url for _, url in lists("labeling_prompt", "labeling_response", "labeling_task",
                                    "labeling_ranking", "labeling_slot")]  # fmt: skip
    changes = [
        page("labeling_task_change", task.pk),
        page("labeling_prompt_change", task.prompt_id),
        page("labeling_response_change", task.responses.first().pk),
        page("labeling_ranking_change", result.pk),
        page("labeling_task_delete", task.pk),
    ]
    for url in urls + changes:
        html = root.get(url).content.decode()
        assert "<script>alert" not in html, url
    for url in urls:
        assert "long " * 200 not in root.get(url).content.decode(), url


def test_no_page_needs_inline_scripts_or_styles(root, project):
    task = make_task(project)
    version = project.current_version
    draft = versions.draft_from(version=version, by=None)
    for url in (
        page("index"),
        page("labeling_task_changelist"),
        page("labeling_task_change", task.pk),
        page("labeling_guidelineversion_change", draft.pk),
        page("labeling_guidelineversion_change", version.pk),
        page("labeling_guidelineversion_publish", draft.pk),
        page("labeling_guidelineversion_difference", draft.pk),
        page("accounts_user_add"),
    ):
        response = root.get(url)
        html = response.content.decode()
        assert "script-src 'self'" in response["Content-Security-Policy"]
        for script in re.findall(r"<script\b[^>]*>", html):
            assert "src=" in script or 'type="application/json"' in script, (url, script)
        assert not re.search(r"\son\w+=|\sstyle=|<style", html), url


# --- guidelines ----------------------------------------------------------------------------------


def criteria_form(count=0, **rows):
    return {
        "criteria-TOTAL_FORMS": count, "criteria-INITIAL_FORMS": 0,
        **{f"criteria-{name.replace('_', '-', 1)}": value for name, value in rows.items()},
    }  # fmt: skip


def test_a_lead_writes_a_version_with_criteria_and_publishes_it(lead_client, project, lead):
    url = page("labeling_guidelineversion_add")
    form = {
        "guideline": project.guideline.pk,
        "text": "# Be brief",
        "change_note": "Brevity.",
        **criteria_form(
            1, **{"0_name": "brevity", "0_meaning": "Short.", "0_scale": 3, "0_position": 0}
        ),
        "_publish": "1",
    }
    response = lead_client.post(url, form)
    version = GuidelineVersion.objects.get(number=2)
    assert response.url == page("labeling_guidelineversion_publish", version.pk)
    assert (version.state, version.created_by) == ("draft", lead)
    assert version.criteria.get().name == "brevity"
    confirm = lead_client.get(response.url).content.decode()
    assert "<h3" in confirm and "Be brief" in confirm and "brevity" in confirm
    project.refresh_from_db()
    assert project.current_version.number == 1
    lead_client.post(response.url)
    project.refresh_from_db()
    assert project.current_version == version
    assert AuditEntry.objects.filter(action="guideline published", user=lead).count() == 1


def test_a_published_version_is_read_only(lead_client, project):
    version = project.current_version
    url = page("labeling_guidelineversion_change", version.pk)
    html = lead_client.get(url).content.decode()
    assert "<textarea" not in html and "Be kind." in html and 'name="_save"' not in html
    assert lead_client.post(url, {"text": "Be unkind.", **criteria_form()}).status_code == 403
    assert lead_client.post(page("labeling_guidelineversion_delete", version.pk)).status_code == 403
    version.refresh_from_db()
    assert version.text == "Be kind."


def test_publishing_twice_shows_a_message(lead_client, project):
    version = project.current_version
    response = lead_client.post(page("labeling_guidelineversion_publish", version.pk), follow=True)
    assert "already published" in response.content.decode()
    assert AuditEntry.objects.filter(action="guideline published").count() == 1


def test_a_new_draft_starts_from_a_version(lead_client, project):
    url = page("labeling_guidelineversion_draft", project.current_version.pk)
    assert lead_client.get(url).status_code == 405
    response = lead_client.post(url)
    draft = GuidelineVersion.objects.get(state="draft")
    assert response.url == page("labeling_guidelineversion_change", draft.pk)
    assert draft.text == "Be kind." and draft.criteria.count() == 1
    assert "is already a draft" in lead_client.post(url, follow=True).content.decode()


def test_a_second_draft_has_an_error_next_to_the_field(lead_client, project):
    versions.draft_from(version=project.current_version, by=None)
    form = {"guideline": project.guideline.pk, "text": "x", **criteria_form()}
    html = lead_client.post(page("labeling_guidelineversion_add"), form).content.decode()
    assert "Version 2 is already a draft" in html
    assert GuidelineVersion.objects.count() == 2


def test_the_preview_renders_and_sanitises(lead_client):
    url = page("labeling_guidelineversion_preview")
    html = lead_client.post(url, {"text": "**bold** <script>alert(1)</script>"}).content.decode()
    assert "<strong>bold</strong>" in html and "<script>" not in html
    assert lead_client.get(url).status_code == 405
    assert not GuidelineVersion.objects.filter(text__contains="bold").exists()


@pytest.mark.parametrize("name", ["preview", "publish", "draft", "difference"])
def test_the_pages_of_a_guideline_are_for_its_leads(project, name):
    draft = versions.draft_from(version=project.current_version, by=None)
    url = page(f"labeling_guidelineversion_{name}", *([] if name == "preview" else [draft.pk]))
    for stranger in (Client(), signed_in(make_member(project))):
        assert "/login/" in stranger.post(url, {"text": "x"}).url
    draft.refresh_from_db()
    assert draft.state == "draft"


def test_a_lead_of_another_project_sees_and_changes_nothing(project):
    elsewhere = signed_in(make_member(make_project(), Role.LEAD))
    draft = versions.draft_from(version=project.current_version, by=None)
    task = make_task(project)
    for name, pk in (("guidelineversion", draft.pk), ("task", task.pk), ("project", project.pk)):
        assert elsewhere.get(page(f"labeling_{name}_change", pk)).status_code == 302
        assert pk not in results(elsewhere.get(page(f"labeling_{name}_changelist")))
    elsewhere.post(page("labeling_guidelineversion_publish", draft.pk))
    elsewhere.post(page("labeling_guidelineversion_draft", draft.pk))
    form = {"guideline": project.guideline.pk, "text": "mine", **criteria_form()}
    elsewhere.post(page("labeling_guidelineversion_add"), form)
    draft.refresh_from_db()
    assert draft.state == "draft" and GuidelineVersion.objects.filter(text="mine").count() == 0


def test_a_diff_is_escaped_and_readable_without_colour(lead_client, project):
    publish(project, "Be kind.\n<b>Always</b>.")
    new = publish(project, "Be kind.\n<b>Mostly</b>.")
    html = lead_client.get(page("labeling_guidelineversion_difference", new.pk)).content.decode()
    assert "<del>Always</del>" in html and "<ins>Mostly</ins>" in html
    assert "&lt;b&gt;" in html and 'aria-label="removed"' in html
    assert "changes since version 2" in html


def test_the_first_version_has_a_diff_too(lead_client, project):
    url = page("labeling_guidelineversion_difference", project.current_version.pk)
    assert "This is the first version." in lead_client.get(url).content.decode()


def test_a_guideline_is_created_in_the_admin(lead_client, lead):
    project = make_project(published=False)
    project.memberships.create(user=lead, role="lead")
    form = {
        "project": project.pk, "title": "Letters", "versions-TOTAL_FORMS": 0,
        "versions-INITIAL_FORMS": 0,
    }  # fmt: skip
    lead_client.post(page("labeling_guideline_add"), form)
    assert Guideline.objects.get(project=project).title == "Letters"


# --- prompts, responses, tasks -------------------------------------------------------------------


def test_an_added_prompt_cannot_be_changed(lead_client, project):
    url = page("labeling_prompt_add")
    form = {"project": project.pk, "messages": '[{"role": "user"}]', "meta": "{}"}
    assert "each message must be" in lead_client.post(url, form).content.decode()
    form["messages"] = '[{"role": "user", "content": "How?"}]'
    lead_client.post(url, form)
    prompt = Prompt.objects.get()
    change = page("labeling_prompt_change", prompt.pk)
    assert "How?" in lead_client.get(change).content.decode()
    assert lead_client.post(change, {**form, "messages": "[]"}).status_code == 403


def test_tasks_are_created_from_the_responses_of_prompts(lead_client, project):
    prompts = [make_task(project).prompt for _ in range(2)]
    lonely = Prompt.objects.create(project=project, messages=[{"role": "user", "content": "?"}])
    Response.objects.create(prompt=prompts[0], text="One more.", model_name="m")
    response = lead_client.post(
        page("labeling_prompt_changelist"),
        {"action": "make_tasks", "_selected_action": [p.pk for p in [*prompts, lonely]]},
        follow=True,
    )
    html = response.content.decode()
    assert "1 new tasks." in html and "1 prompts do not have 2 to 9" in html
    assert Task.objects.count() == 3


def test_a_changed_priority_reaches_the_slots(lead_client, project):
    task = make_task(project)
    url = page("labeling_task_change", task.pk)
    lead_client.post(
        url,
        {"priority": 9, **{f"{n}-{k}_FORMS": 0 for n in ("places", "slots")
                           for k in ("TOTAL", "INITIAL")}},
    )  # fmt: skip
    assert set(Slot.objects.filter(task=task).values_list("priority", flat=True)) == {9}


def test_deleting_content_leads_to_the_page_that_withdraws_it(trainer, root, project):
    task = make_task(project)
    recording.record(
        task=task, reviewer=make_member(project), source="import", content=Content(one_each(task))
    )
    for kind, pk in (
        ("task", task.pk),
        ("prompt", task.prompt_id),
        ("response", task.responses.first().pk),
    ):
        for lead_client in (trainer, root):
            answer = lead_client.post(page(f"labeling_{kind}_delete", pk), {"post": "yes"})
            assert answer.url == reverse("project-withdraw", args=[project.slug, kind, pk])
    assert Task.objects.filter(pk=task.pk, inactive=False).exists()


@pytest.mark.parametrize("kind", ["task", "prompt", "response"])
def test_the_selected_rows_are_withdrawn_and_not_deleted(trainer, project, kind):
    task = make_task(project)
    row = {"task": task, "prompt": task.prompt, "response": task.responses.first()}[kind]
    url = reverse(f"admin:labeling_{kind}_changelist")
    assert "delete_selected" not in trainer.get(url).content.decode()
    trainer.post(url, {"action": "withdraw_selected", "_selected_action": [row.pk]})
    row.refresh_from_db()
    assert row.withdrawn_at is not None
    assert AuditEntry.objects.filter(action=f"{kind} withdrawn").count() == 1


def test_deleting_a_project_leads_to_its_own_pages(trainer, root, project):
    url = page("labeling_project_delete", project.pk)
    assert trainer.post(url).url == reverse("project-settings", args=[project.slug])
    assert root.post(url).url == reverse("delete-project", args=[project.slug])
    assert (
        "delete_selected"
        not in root.get(reverse("admin:labeling_project_changelist")).content.decode()
    )
    guideline = project.guideline
    assert root.post(page("labeling_guideline_delete", guideline.pk)).status_code == 403
    assert type(project).objects.filter(pk=project.pk).exists()


def test_deleting_an_account_with_rankings_leads_to_erasing_its_person(root, project):
    task, reviewer = make_task(project), make_member(project)
    recording.record(task=task, reviewer=reviewer, source="import", content=Content(one_each(task)))
    url = page("accounts_user_delete", reviewer.pk)
    assert root.get(url).url == reverse("erase-person", args=[reviewer.pk])


def test_rankings_slots_and_skips_are_read_only(root, project):
    fill(project)
    for model in ("ranking", "slot", "skip"):
        assert root.get(page(f"labeling_{model}_add")).status_code == 403


# --- people --------------------------------------------------------------------------------------


def test_a_lead_can_add_people_to_a_project(lead_client, project):
    newcomer = make_user(Role.REVIEWER)
    gone = make_user(Role.REVIEWER)
    User.objects.filter(pk=gone.pk).update(is_active=False)
    html = lead_client.get(page("labeling_project_change", project.pk)).content.decode()
    assert f'<option value="{newcomer.pk}">' in html
    assert f'<option value="{gone.pk}">' not in html


def test_only_superusers_manage_accounts(lead_client, trainer, root):
    for name in ("user", "token", "auditentry"):
        url = page(f"accounts_{name}_changelist")
        assert lead_client.get(url).status_code == trainer.get(url).status_code == 403
        assert root.get(url).status_code == 200


def test_a_changed_role_changes_access_to_the_admin_and_is_audited(root):
    user = make_user(Role.LEAD)
    assert user.is_staff
    form = {
        "username": user.username, "role": "reviewer", "is_active": "on",
        "tokens-TOTAL_FORMS": 0, "tokens-INITIAL_FORMS": 0,
    }  # fmt: skip
    root.post(page("accounts_user_change", user.pk), form)
    user.refresh_from_db()
    assert (user.role, user.is_staff) == ("reviewer", False)
    assert AuditEntry.objects.get(action="user changed").details == {"role": "reviewer"}


def test_a_token_is_issued_and_shown_once(root):
    user = make_user()
    form = {"user": user.pk, "name": "laptop"}
    html = root.post(page("accounts_token_add"), form, follow=True).content.decode()
    key = re.search(r"tb_[\w-]+", html)[0]
    token = Token.objects.get()
    assert token.digest == Token.digest_of(key) and token.user == user
    assert key not in root.get(page("accounts_token_changelist")).content.decode()
    assert AuditEntry.objects.filter(action="token issued").count() == 1
    root.post(page("accounts_token_delete", token.pk), {"post": "yes"})
    assert not Token.objects.exists()
    assert AuditEntry.objects.filter(action="token deleted").count() == 1
