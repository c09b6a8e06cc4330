"""Tests of downloading a model's archive, card and report."""

import hashlib
import io
import tarfile

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from accounts.models import AuditEntry
from runs.models import Run
from runs.supervision import workspace
from tests.finetune.factory import make_adapter, make_base, make_reward_model, make_snapshot
from tests.reward.pages.test_pages import LOOKING, statuses

pytestmark = pytest.mark.django_db

CARD = """# Adapter
```python
model = load("PATH_OF_THIS_FOLDER")
```
"""
FILES = {
    "README.md": CARD.encode(),
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(range(256)) * 5000,
    "empty.txt": b"",
    "report.json": b'{"accuracy": null}',
}


def publish(run: Run) -> None:
    """Write the files, and record them as the supervisor does."""
    output = workspace.run_dir_of(run).output
    output.mkdir(parents=True, exist_ok=True)
    for name, data in FILES.items():
        (output / name).write_bytes(data)
    (output / "folder").mkdir()
    (output / "folder" / "more.txt").write_text("more")
    for artifact in workspace.artifacts(run, workspace.run_dir_of(run)):
        artifact.save()


@pytest.fixture(params=["model", "reward-model"])
def model(request, project):
    snapshot = make_snapshot(project, prompts=2)
    if request.param == "model":
        downloadable = make_adapter(make_base(project), snapshot, name="Tiny: é/../x")
    else:
        downloadable = make_reward_model(snapshot, name="Tiny: é/../x")
    publish(downloadable.run)
    downloadable.address = lambda part="": reverse(
        request.param + (f"-{part}" if part else ""), args=[downloadable.pk]
    )
    return downloadable


def test_the_archive_contains_every_published_file(client, people, model):
    client.force_login(people["lead"])
    answer = client.get(model.address("archive"))
    assert answer.streaming
    assert answer["Content-Disposition"] == 'attachment; filename="tiny-ex.tar"'
    data = b"".join(answer.streaming_content)
    assert len(data) == int(answer["Content-Length"])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        result = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert result.pop("tiny-ex/folder/more.txt") == b"more"
    assert result == {f"tiny-ex/{name}": data for name, data in FILES.items()}
    entry = AuditEntry.objects.get(action="model downloaded")
    assert (entry.user, entry.details) == (people["lead"], {"id": model.pk, "part": "archive"})


@pytest.mark.parametrize(("part", "file"), [("card", "README.md"), ("report", "report.json")])
def test_the_card_and_the_report_are_separate_files(client, people, model, part, file):
    client.force_login(people["lead"])
    answer = client.get(model.address(part))
    assert b"".join(answer.streaming_content) == FILES[file]
    assert answer["Content-Disposition"] == f'attachment; filename="tiny-ex-{file}"'


@pytest.mark.parametrize("part", ["archive", "card", "report"])
def test_only_people_who_see_the_model_can_download_it(client, people, model, part):
    assert statuses(client, people, model.address(part)) == LOOKING
    client.force_login(people["trainer"])
    assert client.post(model.address(part)).status_code == 405


def test_the_page_offers_the_files_with_their_digests_and_the_code(client, people, model):
    client.force_login(people["lead"])
    page = client.get(model.address()).text
    for part in ("archive", "card", "report"):
        assert f'href="{model.address(part)}"' in page
    assert hashlib.sha256(FILES["adapter_model.safetensors"]).hexdigest() in page
    assert "model = load(&quot;tiny-ex&quot;)" in page


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda file: file.unlink(), "is missing. Restore it from a backup."),
        (lambda file: file.write_bytes(b"short"), "has 5 bytes, but 1,280,000 were published."),
    ],
)
def test_a_missing_or_changed_file_is_explained(client, people, model, damage, sentence):
    damage(workspace.run_dir_of(model.run).output / "adapter_model.safetensors")
    client.force_login(people["lead"])
    answer = client.get(model.address("archive"), follow=True)
    assert answer.status_code == 200 and sentence in answer.text
    assert not AuditEntry.objects.filter(action="model downloaded").exists()
    assert client.get(model.address("card")).status_code == 200


def test_a_file_of_the_same_size_but_other_content_ends_the_download(client, people, model):
    path = workspace.run_dir_of(model.run).output / "adapter_model.safetensors"
    path.write_bytes(bytes(len(FILES["adapter_model.safetensors"])))
    client.force_login(people["lead"])
    answer = client.get(model.address("archive"))
    with pytest.raises(RuntimeError, match="was changed after it was published"):
        b"".join(answer.streaming_content)


def test_a_model_without_a_folder_has_a_page(client, people, model):
    folder = workspace.run_dir_of(model.run).path
    folder.rename(folder.with_name("elsewhere"))
    client.force_login(people["lead"])
    assert client.get(model.address()).status_code == 200
    for part in ("archive", "card", "report"):
        assert "is missing" in client.get(model.address(part), follow=True).text


def test_a_base_and_a_run_without_files_have_nothing_to_download(client, people, project):
    base = make_base(project)
    bare = make_adapter(base, make_snapshot(project, prompts=1))
    client.force_login(people["trainer"])
    assert "Download" not in client.get(reverse("model", args=[base.pk])).text
    answer = client.get(reverse("model-archive", args=[base.pk]), follow=True)
    assert "was not trained here" in answer.text
    assert "published no files" in client.get(reverse("model", args=[bare.pk])).text
    answer = client.get(reverse("model-archive", args=[bare.pk]), follow=True)
    assert "has published no files" in answer.text


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def adapter(project):
    model = make_adapter(make_base(project), make_snapshot(project, prompts=1), name="Tiny")
    publish(model.run)
    return model


def test_the_command_writes_the_archive_of_the_page(capsys, client, people, adapter, tmp_path):
    path = tmp_path / "tiny.tar"
    call_command("models", "download", str(adapter.pk), str(path), "--dry-run")
    assert not path.exists() and not AuditEntry.objects.filter(action="model downloaded").exists()
    call_command("models", "download", str(adapter.pk), str(path))
    assert f"{path.stat().st_size:,} bytes" in capsys.readouterr().out.splitlines()[-1]
    assert AuditEntry.objects.get(action="model downloaded").details["part"] == "archive"
    client.force_login(people["lead"])
    page = client.get(reverse("model-archive", args=[adapter.pk]))
    assert path.read_bytes() == b"".join(page.streaming_content)


def test_the_command_replaces_no_file_and_keeps_no_incomplete_one(adapter, tmp_path):
    path = tmp_path / "tiny.tar"
    weights = workspace.run_dir_of(adapter.run).output / "adapter_model.safetensors"
    weights.write_bytes(bytes(len(FILES["adapter_model.safetensors"])))
    with pytest.raises(CommandError, match="was changed after it was published"):
        call_command("models", "download", str(adapter.pk), str(path))
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(CommandError, match="already exists"):
        call_command("models", "download", str(adapter.pk), str(path))
    assert path.read_text() == "mine"
    with pytest.raises(CommandError, match="No such file or directory"):
        call_command("models", "download", str(adapter.pk), str(tmp_path / "no" / "tiny.tar"))
    with pytest.raises(CommandError, match="was not made by a run"):
        call_command("models", "download", str(adapter.parent_id), str(tmp_path / "base.tar"))
    assert not AuditEntry.objects.filter(action="model downloaded").exists()
