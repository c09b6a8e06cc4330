"""Tests of plain chats in snapshots: imported prompts with one response and no ranking."""

import io
import json

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Role
from labeling.importing.reading import import_file
from labeling.models import Response
from recipes.preferences.groups import RESPONSES_CUT_OFF, read_groups
from reward.preferences.snapshots import SnapshotError, SnapshotFilter, freeze, survey
from tests.reward.factory import make_prompt, make_task, make_user, rank

pytestmark = pytest.mark.django_db
CHATS = SnapshotFilter(chats=True, test_fraction=0.5)


def chat(number):
    question = {"role": "user", "content": f"Chat {number}?"}
    return {"messages": [question, {"role": "assistant", "content": f"Answer {number}."}]}


@pytest.fixture
def chats(project, tmp_path):
    """Import eight chats."""
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(chat(number)) + "\n" for number in range(8)))
    import_file(path, project=project)


def texts(snapshot):
    return {tuple(group.responses) for group in read_groups(snapshot.file)}


def test_imported_chats_are_frozen_on_request_without_rankings(project, chats):
    snapshot = freeze(project=project, filter=CHATS, by=None)
    groups = list(read_groups(snapshot.file))
    assert sorted(group.responses for group in groups) == [[f"Answer {n}."] for n in range(8)]
    assert {group.prompt[-1]["content"] for group in groups} == {f"Chat {n}?" for n in range(8)}
    assert not any(group.rankings for group in groups)
    assert snapshot.counts["chats"] == snapshot.counts["prompts"] == 8
    splits = snapshot.counts["splits"]
    assert splits["train"]["prompts"] + splits["test"]["prompts"] == 8
    assert {group.split for group in groups} == {"train", "test"}
    assert survey(project=project, filter=CHATS).to_dict() == snapshot.counts
    assert freeze(project=project, filter=CHATS, by=None) == snapshot


def test_chats_are_left_out_by_default(project, chats):
    assert "chats" not in SnapshotFilter().to_dict()
    with pytest.raises(SnapshotError, match="no rankings yet"):
        freeze(project=project, filter=SnapshotFilter(), by=None)
    rank(make_task(make_prompt(project)), make_user())
    snapshot = freeze(project=project, filter=SnapshotFilter(), by=None)
    assert snapshot.counts["prompts"] == 1 and "chats" not in snapshot.counts
    both = freeze(project=project, filter=CHATS, by=None)
    assert (both.counts["prompts"], both.counts["chats"], both.rankings) == (9, 8, 1)


def test_a_project_without_rankings_and_chats_is_refused_with_a_sentence(project):
    with pytest.raises(SnapshotError, match="neither rankings nor imported prompts"):
        freeze(project=project, filter=CHATS, by=None)


def test_prompts_with_a_task_other_responses_or_sampled_ones_are_not_chats(project, chats):
    make_task(make_prompt(project, "Has a task"), ["one", "withdrawn"])
    Response.objects.filter(text="withdrawn").update(withdrawn_at=timezone.now())
    several = make_prompt(project, "Has two responses")
    for text in ("one", "two"):
        Response.objects.create(prompt=several, text=text, model_name="m")
    sampled = make_prompt(project, "Was sampled")
    Response.objects.create(prompt=sampled, text="own", model_name="m", sampling={"run": 1})
    gone = make_prompt(project, "Was withdrawn")
    withdrawn = timezone.now()
    Response.objects.create(prompt=gone, text="gone", model_name="m", withdrawn_at=withdrawn)
    assert len(texts(freeze(project=project, filter=CHATS, by=None))) == 8


def test_a_chat_with_a_truncated_response_is_marked(project):
    prompt = make_prompt(project)
    sampling = {"finish_reason": "length"}
    Response.objects.create(prompt=prompt, text="It is", model_name="m", sampling=sampling)
    [group] = read_groups(freeze(project=project, filter=CHATS, by=None).file)
    assert group.meta[RESPONSES_CUT_OFF] == [True]


def test_the_command_and_the_form_offer_the_options(project, chats):
    out = io.StringIO()
    call_command("snapshot", project.slug, "--chats", "--dry-run", stdout=out)
    assert "+ 8  chats without rankings" in out.getvalue()
    client = Client()
    client.force_login(make_user(Role.TRAINER))
    address = f"{reverse('new-snapshot')}?project={project.slug}"
    form = {
        "sources": ["review", "import", "simulation"], "min_active_seconds": "0",
        "test_fraction": "0.2", "seed": "0", "chats": "on",
    }  # fmt: skip
    page = client.post(address, {**form, "preview": "1"}).content.decode()
    assert "Chats without rankings" in page and "No rankings match these options" not in page
    page = client.post(address, {**form, "freeze": "1"}, follow=True).content.decode()
    assert "Frozen as snapshot" in page and "Chats without rankings" in page
    assert client.get(reverse("snapshots")).status_code == 200
