"""Test that a promoted model gives the same answers after its backup was restored elsewhere."""

from pathlib import Path

import psycopg
import pytest
from django.core.management import call_command

from accounts.models import Role
from finetune.models import Model
from labeling.models import Response
from runs import storage
from runs.models import Artifact
from runs.supervision import supervisor
from tests.finetune.factory import make_adapter, make_base, make_snapshot
from tests.forks import ForkedChild
from tests.installations import another_installation, manage
from tests.reward.factory import make_project, make_prompt, make_user
from tests.serving import adapters
from tests.tiny import make_model

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]
SAMPLING = [
    "--foreground", "--prompts", "all", "--no-tasks", "--set", "samples_per_prompt=2", "--set", "max_new_tokens=8",
    "--set", "seed=7",
]  # fmt: skip


@pytest.fixture
def promoted(settings, tmp_path) -> Model:
    """Create an installation with a promoted adapter that changes the answers of its base model."""
    for name in ("runs", "snapshots", "uploads"):
        setattr(settings, f"{name.upper()}_DIR", tmp_path / "first" / name)
    project = make_project(slug="lamps")
    base = make_base(project, base=str(make_model(tmp_path / "base")))
    adapter = make_adapter(base, make_snapshot(project, prompts=2))
    folder = Path(adapter.adapter_folder)
    adapters.make_adapter(Path(base.base), folder, seed=1)
    for path in folder.iterdir():
        files = storage.files_of(path)
        Artifact.objects.create(
            run=adapter.run, name=path.name, path=storage.stored(path),
            bytes=sum(file.stat().st_size for file in files), sha256=storage.digest_of(path, files),
        )  # fmt: skip
    adapter.promote(by=make_user(Role.TRAINER), reason="This is a test of a restored model.")
    return adapter


def test_a_restored_model_gives_the_same_answers(promoted, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "Child", ForkedChild)
    make_prompt(promoted.project, "Which lamp is the brightest?")
    with another_installation("tiebreak_rerun", tmp_path / "second") as other:
        call_command("backup", str(tmp_path / "backup.tar"))
        call_command("generate", "lamps", *SAMPLING)
        mine = Response.objects.filter(model_name=promoted.name).values_list("prompt_id", "text")
        assert mine

        # Without the files of the first installation, only those of the backup can be read.
        (tmp_path / "first").rename(tmp_path / "gone")
        restored = manage(other, "restore", str(tmp_path / "backup.tar"))
        assert restored.returncode == 0, restored.stderr
        ended = manage(other, "generate", "lamps", *SAMPLING)
        assert ended.returncode == 0, ended.stderr
        with psycopg.connect(other["DATABASE_URL"]) as database:
            theirs = database.execute(
                "SELECT prompt_id, text FROM labeling_response WHERE model_name = %s",
                [promoted.name],
            ).fetchall()
    assert sorted(theirs) == sorted(mine)
