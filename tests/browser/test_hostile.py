"""Tests that hostile text is shown and has no effect, with the Content-Security-Policy."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from accounts.models import Role, User
from finetune.models import EvaluationItem
from labeling.core.text import TAGS, storable
from labeling.models import Membership, Prompt, Ranking, Response, Skip, Slot, Task
from labeling.queue import slots
from labeling.queue.tasks import add_task
from labeling.rankings import recording
from labeling.rankings.content import Content
from tests.browser.conftest import World
from tests.finetune.factory import make_base, make_evaluation, make_reward_model, make_snapshot
from tests.hostile import CORPUS, GIANTS
from tests.labeling.world import ids, make_member, make_user

pytestmark = pytest.mark.django_db(transaction=True)

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
TEXTS = [storable(text) for text in CORPUS.values()]
RESPONSES_PER_TASK = 9
MAY_HAVE = {"href", "rel", "target", "dir", "start", "tabindex", "role", "aria-label", "class"}

INSPECT = """(tags) => {
    const inside = [...document.querySelectorAll(".prose *")].filter((one) => one.tagName !== "MARK");
    const found = [];
    for (const one of inside) {
        if (!tags.includes(one.tagName.toLowerCase())) found.push(`element ${one.tagName}`);
        for (const { name, value } of one.attributes) {
            if (!MAY_HAVE.includes(name)) found.push(`attribute ${name}`);
            if (name === "href" && !/^(https?|mailto):/.test(value)) found.push(`link to ${value}`);
        }
        if (one.tagName === "A" && (one.target !== "_blank" || !one.rel.includes("noopener"))) found.push("a link");
    }
    if (window.pwned !== undefined || {}.pwned !== undefined) found.push("a script ran");
    const page = document.documentElement;
    // The framework's own admin is wider than a phone with any text.
    if (page.scrollWidth > page.clientWidth && !location.pathname.startsWith("/admin/")) {
        const beyond = [...document.querySelectorAll("main *")].filter(
            (one) => one.getBoundingClientRect().right > page.clientWidth + 1
                && !one.parentElement.closest(".table-wrap, pre, table"));
        found.push(`${page.scrollWidth - page.clientWidth} px too wide: ${beyond[0]?.outerHTML.slice(0, 150)}`);
    }
    return found;
}""".replace("MAY_HAVE", str(sorted(MAY_HAVE)))


class Watch:
    """A recorder of a page's unwanted actions: requests, dialogs, windows, policy violations."""

    def __init__(self, page: Page):
        self.page, self.noted = page, []
        self.home = urlsplit(page.url).netloc
        page.on("dialog", lambda dialog: (self.noted.append("dialog"), dialog.dismiss()))
        page.on("popup", lambda popup: self.noted.append(f"window {popup.url}"))
        page.on("download", lambda download: self.noted.append(f"download {download.url}"))
        page.on("request", self.request)
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (event) =>"
            " console.error(`refused ${event.violatedDirective} ${event.blockedURI}`))"
        )

    def request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != self.home or request.frame != self.page.main_frame:
            self.noted.append(f"request {request.url}")

    def open(self, address: str) -> list[str]:
        """Open a page and return its problems."""
        self.page.goto(address)
        assert urlsplit(self.page.url).path == urlsplit(address).path
        faults = self.page.evaluate(INSPECT, sorted(TAGS))
        return [f"{address}: {fault}" for fault in faults + self.noted]


def add_tasks(world: World, texts: list[str]) -> list[Task]:
    """Add each text as a response and as a prompt."""
    return [
        hostile_task(world, texts[start : start + RESPONSES_PER_TASK])
        for start in range(0, len(texts), RESPONSES_PER_TASK)
    ]


def hostile_task(world: World, texts: list[str]) -> Task:
    chat = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    prompt = Prompt.objects.create(project=world.project, messages=chat, external_id=texts[0][:100])
    answers = [
        Response.objects.create(prompt=prompt, text=text, model_name=f"{n} {text}"[:300])
        for n, text in enumerate([*texts, "A calm one."][:RESPONSES_PER_TASK])
    ]
    return add_task(project=world.project, prompt=prompt, responses=answers, rankings_wanted=2)[0]


def rank_against(world: World, task: Task, rationale: str) -> list[Ranking]:
    """Add two contradicting rankings, so that the task is disputed."""
    return [
        recording.record(
            task=task,
            reviewer=reviewer,
            source=Ranking.Source.REVIEW,
            content=Content([[i] for i in ids(task)[::order]], rationale=rationale[:20_000]),
            shown_order=ids(task),
        )[0]
        for reviewer, order in ((world.reviewer, 1), (make_member(world.project), -1))
    ]


def lead_of(world: World) -> User:
    lead = make_user(Role.TRAINER)
    Membership.objects.create(project=world.project, user=lead, role=Membership.Role.LEAD)
    return lead


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_hostile_texts_are_inert_on_the_ranking_page(visit, world, viewport):
    tasks = add_tasks(world, TEXTS)
    page = visit("/", world.reviewer, viewport=viewport)
    watch, wrong = Watch(page), []
    for _ in tasks:
        wrong += watch.open(world.review)
        for key in ("t", "l", "m", "Shift+M", "p"):
            page.keyboard.press(key)
        wrong += page.evaluate(INSPECT, sorted(TAGS))
        slot = Slot.objects.get(reviewer=world.reviewer, leased_until__isnull=False, ahead=False)
        slots.skip(slot_id=slot.pk, reviewer=world.reviewer, reason=Skip.Reason.OTHER, note="")
    assert wrong + watch.noted == []
    page.reload()
    expect(page.get_by_role("heading", name="No tasks left for you")).to_be_visible()


def test_the_ranking_page_works_with_hostile_responses(visit, world):
    world.add_task(*[storable(CORPUS[name]) for name in ("a form", "htmx", "the end of the page")])
    page = visit(world.review, world.reviewer)
    for key in ("c", "a", "b", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("heading", name="No tasks left for you")).to_be_visible()
    ranking = Ranking.objects.get()
    assert ranking.tiers == [[ranking.shown_order[position]] for position in (2, 0, 1)]


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_hostile_texts_are_inert_on_all_other_pages_with_texts(visit, world, viewport):
    tasks = add_tasks(world, TEXTS)
    own = [
        rank_against(world, task, " ".join(TEXTS[n * RESPONSES_PER_TASK :][:RESPONSES_PER_TASK]))[0]
        for n, task in enumerate(tasks)
    ]
    base, lead = f"/p/{world.project.slug}", lead_of(world)
    reviewers = [
        f"{base}/review/history/",
        *[f"{base}/review/history/{ranking.pk}/" for ranking in own],
    ]
    leads = [f"{base}/{page}" for page in ("quality/", "disputes/", "data/")]
    leads += [f"{base}/{page}/{task.pk}/" for task in tasks for page in ("data", "disputes")]
    wrong = []
    for user, addresses in ((world.reviewer, reviewers), (lead, leads)):
        watch = Watch(visit("/", user, viewport=viewport))
        for address in addresses:
            wrong += watch.open(address)
    assert "\n".join(wrong) == ""


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_hostile_texts_are_inert_on_data_and_model_pages(
    visit, world, viewport, settings, tmp_path
):
    settings.SNAPSHOTS_DIR = tmp_path
    tasks = add_tasks(world, TEXTS)
    for task in tasks:
        rank_against(world, task, TEXTS[0])
    snapshot = make_snapshot(world.project)
    reward_model = make_reward_model(snapshot)
    reward_model.report["first_batch"] = "\n".join(TEXTS)
    reward_model.save()
    evaluation = make_evaluation(make_base(world.project, parent=make_base(world.project)), items=0)
    EvaluationItem.objects.bulk_create(
        EvaluationItem(
            evaluation=evaluation, sample=number, prompt=task.prompt, baseline_text=item, candidate_text=other,
            baseline_score=1.0, candidate_score=0.0, verdict=0.0,
        )
        for number, (task, item, other) in enumerate(
            zip(tasks * 9, TEXTS[::2], TEXTS[1::2], strict=False)
        )
    )  # fmt: skip
    addresses = [
        f"/snapshots/{snapshot.pk}/",
        f"/snapshots/{snapshot.pk}/rankings/",
        f"/models/reward/{reward_model.pk}/",
        f"/models/evaluations/{evaluation.pk}/",
        f"/models/evaluations/{evaluation.pk}/?page=2",
        f"/admin/labeling/prompt/{tasks[0].prompt_id}/change/",
        f"/admin/labeling/response/{ids(tasks[0])[0]}/change/",
        f"/admin/labeling/ranking/{Ranking.objects.first().pk}/change/",
        "/admin/labeling/response/",
    ]
    watch, wrong = Watch(visit("/", lead_of(world), viewport=viewport)), []
    for address in addresses:
        wrong += watch.open(address)
    assert "\n".join(wrong) == ""


@pytest.mark.parametrize("name", GIANTS)
def test_keys_respond_with_a_text_of_a_megabyte(visit, world, name):
    world.add_task(GIANTS[name], GIANTS[name][::-1], "A calm one.", prompt=GIANTS[name])
    watch = Watch(page := visit("/", world.reviewer))
    assert watch.open(world.review) == []
    expect(page.get_by_role("button", name="Show all").first).to_be_visible()
    for key in ("a", "b", "c", "z"):
        page.keyboard.press(key)
    expect(page.locator("#review-status")).to_have_text("Undone.")
    page.keyboard.press("m")
    expect(page.locator(".compare")).to_be_visible()
