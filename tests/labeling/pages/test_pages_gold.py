import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import Role
from labeling.gold import shares as gold_shares
from labeling.models import Adjudication, Gold, Qualification, Ranking, Slot
from labeling.queue import slots
from labeling.rankings import recording
from labeling.rankings.content import Content
from labeling.reviewing import assignment
from labeling.reviewing.skeleton import sheet_html
from tests.clients import signed_in
from tests.labeling.gold.gold_world import answer, make_gold, work
from tests.labeling.world import ids, make_member, make_project, make_task, make_user, one_each

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return make_project(gold_percent=50)


def url(name, project, *args):
    return reverse(name, args=[project.slug, *args])


def rows(*choices, purpose="check", explanation="", **more):
    """Return the form as a browser sends it; each row is (a, kind, b)."""
    data = {
        "rule-TOTAL_FORMS": str(len(choices)),
        "rule-INITIAL_FORMS": "0",
        "purpose": purpose,
        "explanation": explanation,
        **more,
    }
    for number, row in enumerate(choices):
        for name, value in zip(("a", "kind", "b"), row, strict=True):
            data[f"rule-{number}-{name}"] = str(value)
    return data


def answered(one, reviewer, *, right=True):
    return answer(slots.lease_new_slot(task=one.task, reviewer=reviewer), reviewer, right=right)


# --- access --------------------------------------------------------------------------------------


def test_only_leads_of_the_project_see_gold(project, lead):
    item, task = make_gold(project), make_task(project)
    reviewer, elsewhere = make_member(project), make_member(make_project(), Role.LEAD)
    pages = [
        url("project-gold", project),
        url("project-gold-detail", project, item.pk),
        url("project-gold-make", project, task.pk),
    ]
    posts = [
        url("project-gold-retire", project, item.pk),
        url("project-gold-allow", project, reviewer.pk),
    ]
    for page in pages:
        assert signed_in(lead).get(page).status_code == 200
        assert signed_in(make_user(Role.TRAINER)).get(page).status_code == 200
    for page in posts:
        assert signed_in(lead).get(page).status_code == 405
    for user, status in ((reviewer, 403), (elsewhere, 404)):
        assert {signed_in(user).get(page).status_code for page in pages} == {status}
        assert {signed_in(user).post(page).status_code for page in posts + pages[1:]} == {status}
    assert {Client().post(page).status_code for page in posts + pages} == {302}
    item.refresh_from_db()
    assert item.retired_at is None and Gold.objects.count() == 1


def test_another_projects_gold_is_not_found(project, lead_client):
    other = make_gold(make_project())
    for name, args in (("detail", other.pk), ("retire", other.pk), ("make", other.task_id)):
        assert lead_client.post(url(f"project-gold-{name}", project, args)).status_code == 404


# --- creation ------------------------------------------------------------------------------------


def test_gold_is_made_from_the_leads_choices(project, lead, lead_client):
    task = make_task(project)
    a, b, c = ids(task)
    data = rows(
        (a, "above", b), ("", "", ""), (c, "unacceptable", ""), (a, "tie_allowed", b),
        purpose="training", explanation="**Because.**",
    )  # fmt: skip
    sent = lead_client.post(url("project-gold-make", project, task.pk), data)
    gold = Gold.objects.get()
    assert sent.url == url("project-gold-detail", project, gold.pk)
    assert gold.constraints == [
        {"kind": "above", "a": a, "b": b},
        {"kind": "unacceptable", "a": c},
        {"kind": "tie_allowed", "a": a, "b": b},
    ]
    assert (gold.purpose, gold.explanation, gold.created_by) == ("training", "**Because.**", lead)
    page = lead_client.get(sent.url).content.decode()
    assert "A belongs above B." in page and "C is unacceptable." in page


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ([], "Add at least one constraint"),
        ([("a", "", "")], "Choose a response and a relation"),
        ([("a", "above", "")], "Choose the other response"),
        ([("a", "unacceptable", "b")], "Only one response can be unacceptable"),
        ([("a", "above", "a")], "two different responses"),
        ([("a", "above", "b"), ("b", "above", "a")], "No ranking can meet this"),
        ([("a", "above", 999999999)], "999999999 is not one of the available choices"),
    ],
)
def test_errors_are_explained_and_choices_are_kept(project, lead_client, choices, sentence):
    task = make_task(project)
    named = dict(zip("ab", ids(task), strict=False))
    chosen = [tuple(named.get(value, value) for value in row) for row in choices]
    data = rows(*chosen, explanation="I wrote this")
    page = lead_client.post(url("project-gold-make", project, task.pk), data)
    assert page.status_code == 422
    assert sentence in page.content.decode() and "I wrote this" in page.content.decode()
    assert not Gold.objects.exists() and Slot.objects.filter(priority=5).exists()


def test_the_form_starts_from_a_ranking_or_an_adjudication(project, lead, lead_client):
    task = make_task(project)
    reviewer = make_member(project)
    tiers = one_each(task)
    ranking, _ = recording.record(
        task=task, reviewer=reviewer, source="import", content=Content(tiers, cut=2)
    )
    Adjudication.objects.create(task=task, tiers=tiers[::-1], cut=None, cause="mistake", by=lead)
    page = lead_client.get(
        url("project-gold-make", project, task.pk) + f"?from=ranking-{ranking.pk}"
    )
    assert [start["name"] for start in page.context["starts"]] == [
        "adjudication",
        f"ranking-{ranking.pk}",
    ]
    a, b, c = ids(task)
    chosen = [form.initial for form in page.context["rules_form"].initial_forms]
    assert chosen == [
        {"kind": "above", "a": a, "b": b},
        {"kind": "above", "a": b, "b": c},
        {"kind": "unacceptable", "a": c},
    ]
    assert f'<option value="{b}" selected>B</option>' in page.content.decode()


def test_more_lines_can_be_added_and_choices_are_kept(project, lead_client):
    task = make_task(project)
    a, b, _c = ids(task)
    data = rows((a, "above", b), explanation="So far", purpose="qualification", more="1")
    page = lead_client.post(url("project-gold-make", project, task.pk), data)
    assert page.status_code == 200 and len(page.context["rules_form"].forms) == 4
    html = page.content.decode()
    assert "So far" in html and f'<option value="{b}" selected>B</option>' in html
    assert re.search(r'value="qualification"[^>]* checked', html)
    assert not Gold.objects.exists()


def test_a_task_links_to_its_gold(project, lead_client):
    item, task = make_gold(project), make_task(project)
    result = lead_client.get(url("project-gold-make", project, item.task_id))
    assert result.url == url("project-gold-detail", project, item.pk)
    page = lead_client.get(url("project-task", project, task.pk)).content.decode()
    assert "Make gold" in page and url("project-gold-make", project, task.pk) in page
    listed = lead_client.get(url("project-data", project)).content.decode()
    assert '<span class="badge badge-accent">gold</span>' in listed


def test_gold_can_be_changed_and_retired(project, lead_client):
    gold = make_gold(project)
    a, b, c = ids(gold.task)
    detail = url("project-gold-detail", project, gold.pk)
    assert lead_client.post(detail, rows((a, "above", a))).status_code == 422
    assert lead_client.post(detail, rows((c, "above", b), purpose="training")).status_code == 302
    gold.refresh_from_db()
    assert gold.constraints == [{"kind": "above", "a": c, "b": b}] and gold.purpose == "training"
    assert lead_client.post(url("project-gold-retire", project, gold.pk)).status_code == 302
    gold.refresh_from_db()
    assert gold.retired_at
    listed = url("project-gold", project)
    assert f"#{gold.pk}<" not in lead_client.get(listed).content.decode()
    assert f"#{gold.pk}<" in lead_client.get(listed + "?retired=1").content.decode()


def test_an_empty_list_explains_how_to_begin(project, lead_client):
    assert "No gold tasks yet" in lead_client.get(url("project-gold", project)).content.decode()


@pytest.mark.parametrize(
    ("fields", "purpose", "sentence"),
    [
        ({"gold_percent": 0}, "check", "None are shown: the share of gold is 0%."),
        ({"gold_percent": 10}, "training", "None are available."),
        ({"qualification_percent": 80}, "check", "reviewers get no other tasks"),
        ({"qualification_percent": 80}, "qualification", "1 of 1 must be correct (80%)"),
    ],
)
def test_settings_show_their_effect_on_existing_gold(fields, purpose, sentence):
    project = make_project(**fields)
    make_gold(project, purpose)
    shown = signed_in(make_member(project, Role.LEAD)).get(url("project-gold", project))
    assert sentence.replace("&#x27;", "'") in shown.content.decode().replace("&#x27;", "'")


# --- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 0, 0, 1), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1)],
)
def test_the_interval_is_wilsons(right, asked, low, high):
    assert gold_shares.Share(right, asked).bounds == pytest.approx((low, high), abs=1e-4)


def test_accuracy_is_shown_by_task_and_reviewer_with_suspicious_gold(project, lead_client):
    easy, wrong, training = make_gold(project), make_gold(project), make_gold(project, "training")
    reviewers = [make_member(project) for _ in range(3)]
    for number, reviewer in enumerate(reviewers):
        answered(easy, reviewer)
        answered(wrong, reviewer, right=not number)
        answered(training, reviewer, right=False)
    page = lead_client.get(url("project-gold", project))
    shares = {row["gold"].pk: row["share"] for row in page.context["rows"]}
    assert (shares[easy.pk].percent, shares[easy.pk].suspect) == (100, False)
    assert (shares[wrong.pk].right, shares[wrong.pk].asked, shares[wrong.pk].suspect) == (
        1,
        3,
        True,
    )
    by_name = {
        user.username: (share.right, share.asked) for user, share in page.context["reviewers"]
    }
    assert by_name == {
        reviewers[0].username: (2, 2),
        reviewers[1].username: (1, 2),
        reviewers[2].username: (1, 2),
    }
    html = page.content.decode()
    assert "9% to 91%" in html  # 1 of 2
    assert html.count(">suspect<") == 2  # the training task, too
    detail = lead_client.get(url("project-gold-detail", project, wrong.pk)).content.decode()
    assert "1 of 3 correct" in detail and "A belongs above B but is below it." in detail


def test_retired_gold_measures_no_reviewer(project, lead_client):
    item, reviewer = make_gold(project), make_member(project)
    answered(item, reviewer, right=False)
    lead_client.post(url("project-gold-retire", project, item.pk))
    assert lead_client.get(url("project-gold", project)).context["reviewers"] == []


def test_the_list_has_pages(project, lead_client, monkeypatch):
    monkeypatch.setattr("labeling.pages.gold.PAGE_SIZE", 2)
    golds = [make_gold(project) for _ in range(3)]
    first = lead_client.get(url("project-gold", project))
    assert [row["gold"].pk for row in first.context["rows"]] == [golds[2].pk, golds[1].pk]
    older = lead_client.get(url("project-gold", project) + f"?before={first.context['older']}")
    assert [row["gold"].pk for row in older.context["rows"]] == [golds[0].pk]


def test_the_number_of_queries_does_not_grow_with_gold_answers_or_reviewers(project, lead_client):
    counts = []
    for _ in range(2):
        for _ in range(2):
            item, reviewer = make_gold(project), make_member(project)
            answered(item, reviewer)
        with CaptureQueriesContext(connection) as queries:
            lead_client.get(url("project-gold", project))
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 14


# --- reviewers -----------------------------------------------------------------------------------


def normalised(response):
    """Return a page without numbers, keys and tokens, which differ between any two tasks."""
    html = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "KEY", response.content.decode())
    html = re.sub(r'(csrfmiddlewaretoken" value=|CSRFToken": )"[^"]*"', r"\1", html)
    html = re.sub(r"\br[0-9a-f]{16}\b", "RESPONSE", html)
    random_headers = {"X-CSRFToken", "X-Request-ID"}
    headers = {
        name: value for name, value in response.headers.items() if name not in random_headers
    }
    return re.sub(r"\d+", "N", html), re.sub(r"\d+", "N", str(headers))


def test_gold_looks_like_any_other_task(project):
    for _ in range(6):
        make_gold(project)
        make_task(project)
    reviewer = make_member(project)
    browser, pages, short = signed_in(reviewer), {}, {}
    browser.post(url("review-guideline", project), {"version": project.current_version_id})
    own = Slot.objects.select_related("task").filter(reviewer=reviewer, ranking=None)
    for number in range(10):
        page, after = browser.get(url("review", project)), browser.get(url("review-next", project))
        slot, following = own.get(ahead=False), own.get(ahead=True)
        if number > 3:  # once there are a last ranking and a pace
            pages[slot.task.kind] = normalised(page)
            pages[f"{following.task.kind} ahead"] = normalised(after)
            short[following.task.kind] = sheet_html(page.wsgi_request, project, following, dict)
        answer(slot, reviewer)
    assert pages["gold"] == pages["ranking"]
    assert pages["gold ahead"] == pages["ranking ahead"]
    assert short["gold"] and short["ranking"]  # both use the fast rendering, so neither is slower
    assert "gold" not in pages["gold"][0].lower() + pages["gold ahead"][0].lower()


def test_the_qualification_is_announced_with_its_result():
    project = make_project(qualification_percent=100)
    for _ in range(2):
        make_gold(project, "qualification")
    reviewer = make_member(project)
    browser = signed_in(reviewer)
    browser.post(url("review-guideline", project), {"version": project.current_version_id})
    assert "Qualification, task 1 of 2." in browser.get(url("review", project)).content.decode()
    work(project, reviewer, 1)
    assert "Qualification, task 2 of 2." in browser.get(url("review", project)).content.decode()
    work(project, reviewer, 1, right=False)
    page = browser.get(url("review", project)).content.decode()
    assert "Qualification not passed" in page and "1 of 2" in page
    assert "ask a lead to allow another attempt" in page


def test_a_lead_sees_who_failed_and_allows_another_attempt(project, lead_client):
    make_gold(project, "qualification")
    project.qualification_percent = 100
    project.save(update_fields=["qualification_percent"])
    reviewer = make_member(project)
    allow = url("project-gold-allow", project, reviewer.pk)
    lead_client.post(allow)
    assert not Qualification.objects.exists()
    work(project, reviewer, 2, right=False)
    page = lead_client.get(url("project-gold", project)).content.decode()
    assert allow in page and "0 of 1" in page
    lead_client.post(allow)
    assert len(work(project, reviewer, 1)) == 1


def form_of(slot, *, right):
    order = ids(slot.task) if right else ids(slot.task)[::-1]
    return {
        "slot": slot.pk,
        "shown_order": ",".join(map(str, slot.shown_order)),
        "idempotency_key": "0c1f6c84-9d4e-4a4b-8b0e-5a2f0d9f7e11",
        **{f"rank-{response}": str(index) for index, response in enumerate(order, start=1)},
    }


@pytest.mark.parametrize("right", [True, False])
def test_training_shows_the_right_answer_and_the_reason(right):
    project = make_project()
    make_gold(project, "training", explanation="The first **names a day**.")
    make_task(project)
    reviewer, other = make_member(project), make_member(project)
    browser = signed_in(reviewer)
    browser.post(url("review-guideline", project), {"version": project.current_version_id})
    assert "Training, task 1 of 1." in browser.get(url("review", project)).content.decode()
    slot = Slot.objects.get(reviewer=reviewer)
    sent = browser.post(url("review", project), form_of(slot, right=right))
    ranking = Ranking.objects.get()
    assert sent.url == url("review-feedback", project, ranking.pk)
    page = browser.get(sent.url).content.decode()
    letters = {pk: "ABC"[n] for n, pk in enumerate(slot.shown_order)}
    a, b, _c = (letters[pk] for pk in ids(slot.task))
    assert "<strong>names a day</strong>" in page
    assert (f"{a} belongs above {b}." in page) is right
    assert (f"{a} belongs above {b} but is below it." in page) is not right
    assert "Continue to real tasks" in page
    assert "Training" not in browser.get(url("review", project)).content.decode()
    assert signed_in(other).get(sent.url).status_code == 404


def test_training_gives_the_script_the_feedbacks_url():
    project = make_project()
    make_gold(project, "training")
    reviewer = make_member(project)
    slot = assignment.current(project=project, reviewer=reviewer)
    sent = signed_in(reviewer).post(
        url("review", project), form_of(slot, right=True), headers={"accept": "application/json"}
    )
    assert sent.json()["go"] == url("review-feedback", project, Ranking.objects.get().pk)


def test_real_tasks_and_checks_have_no_feedback(project):
    item, reviewer = make_gold(project), make_member(project)
    ranking = answered(item, reviewer)
    shown = signed_in(reviewer).get(url("review-feedback", project, ranking.pk))
    assert shown.url == url("review", project)


@pytest.mark.parametrize("policy", ["after", "always"])
def test_gold_shows_no_more_of_other_rankings_than_any_task(policy):
    project = make_project(gold_percent=50, rankings_per_task=3, sees_others=policy)
    item, reviewer = make_gold(project), make_member(project)
    for _ in range(5):
        answered(item, make_member(project))
    browser = signed_in(reviewer)
    browser.post(url("review-guideline", project), {"version": project.current_version_id})
    slots.lease_new_slot(task=item.task, reviewer=reviewer)
    before = browser.get(url("review", project)).content.decode()
    ranking = answer(Slot.objects.get(reviewer=reviewer), reviewer)
    after = browser.get(url("review-others", project, ranking.pk))
    assert len(after.context["others"]) == 2
    assert before.count('class="order"') == (2 if policy == "always" else 0)
