"""Certificates: what a promotion leaves, the refusal of changes, and the check of a file alone."""

import json
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.db.models.query import QuerySet
from django.urls import reverse

from accounts.models import AuditEntry, Role
from finetune.certificate import document, ed25519, issuing
from finetune.certificate.__main__ import main, problems_of
from finetune.certificate.recomputing import problems_of as problems_of_content
from finetune.models import Certificate, EvaluationItem, Model
from finetune.removal import deletion
from labeling.models import Task
from reward.promotion import CannotMove
from runs import storage
from runs.models import Artifact
from tests.finetune.factory import make_adapter, make_base, make_evaluation, make_snapshot
from tests.reward.factory import make_project, make_task, make_user, rank, response_ids

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def candidate():
    snapshot = make_snapshot(make_project(), prompts=4, test_fraction=0.4)
    adapter = make_adapter(make_base(snapshot.project), snapshot)
    Artifact.objects.create(
        run=adapter.run, name="adapter_model.safetensors", path="x", bytes=3, sha256="a" * 64
    )
    return adapter


def ask_people(evaluation, values, **fields):
    """Give each prompt one verdict of a person, and return the person."""
    reviewer = make_user()
    items = list(evaluation.items.order_by("id"))
    evaluation.items.all().delete()
    for item, value in zip(items, values, strict=True):
        task = make_task(item.prompt, ["baseline", "candidate"], kind=Task.Kind.COMPARISON)
        item.pk, item.task, item.candidate_response_id = None, task, response_ids(task)[1]
        if "judge" in fields:
            item.verdict = fields["judge"]
        order = {1.0: [[1], [0]], 0.5: [[0, 1]], 0.0: [[0], [1]]}[value]
        rank(task, reviewer, order)
    EvaluationItem.objects.bulk_create(items)
    return reviewer


def promoted(candidate, *, by=None, values=(1.0,) * 12, reason=""):
    evaluation = make_evaluation(candidate, items=len(values))
    ask_people(evaluation, values)
    candidate.promote(by=by, reason=reason)
    return Certificate.objects.get(model=candidate)


def file_of(certificate, folder):
    path = folder / "certificate.json"
    path.write_text(certificate.text)
    return path


# --- issuing -------------------------------------------------------------------------------------


def test_a_promotion_leaves_a_certificate_with_everything_that_decided_it(candidate):
    trainer = make_user(Role.TRAINER)
    certificate = promoted(candidate, by=trainer)
    content = json.loads(certificate.text)["content"]
    assert content["promotion"] == {
        "basis": "evaluations", "policy": "people", "account": trainer.pk, "role": "trainer",
        "regression_set": None, "doubts": [], "reason": "",
        "replaced": None,
    }  # fmt: skip
    assert content["candidate"]["files"][0]["sha256"] == "a" * 64
    assert content["candidate"]["snapshot"]["sha256"] == candidate.snapshot.content_hash
    (evaluation,) = content["evaluations"]
    assert evaluation["registration"]["alpha"] == 0.05
    assert len(evaluation["people"]["verdicts"]) == len(evaluation["judge"]["verdicts"]) == 12
    assert evaluation["people"]["evidence"]["conclusion"] == "better"
    assert len(evaluation["people"]["evidence"]["path"]) == 12
    assert set(content["prompts"]) == {str(pk) for pk in evaluation["registration"]["prompts"]}
    assert all(len(sha256) == 64 for sha256 in content["prompts"].values())
    assert AuditEntry.objects.get(action="promoted").details["certificate"] == 1


def test_a_certificate_names_no_person(candidate):
    evaluation = make_evaluation(candidate, items=12)
    reviewer = ask_people(evaluation, [1.0] * 12)
    trainer = make_user(Role.TRAINER)
    candidate.promote(by=trainer)
    text = Certificate.objects.get().text
    assert reviewer.username not in text and trainer.username not in text
    assert '"reviewer": "r-' in text


def test_an_override_leaves_a_certificate_with_its_reason(candidate, capsys, tmp_path):
    certificate = promoted(candidate, values=(1.0, 0.0), reason="A demo needs it today.")
    content = json.loads(certificate.text)["content"]
    assert content["promotion"]["reason"] == "A demo needs it today."
    assert "does not prove it better" in content["promotion"]["doubts"][0]
    assert main([str(file_of(certificate, tmp_path))]) == 0
    assert "Promoted anyway. Reason: A demo needs it today." in capsys.readouterr().out


def test_a_base_and_the_merged_version_of_the_promoted_model_need_no_evaluation(candidate):
    base = make_base(candidate.project)
    base.promote(by=None)
    candidate.promote(by=None, reason="To replace it.")
    merged = make_base(candidate.project, parent=candidate)
    merged.promote(by=None)
    bases = [json.loads(row.text)["content"]["promotion"]["basis"] for row in
             Certificate.objects.order_by("number")]  # fmt: skip
    assert bases == ["base model", "evaluations", "same weights"]


def test_each_certificate_refers_to_the_one_before_it(candidate):
    first = promoted(candidate)
    make_base(candidate.project).promote(by=None)
    second = Certificate.objects.get(number=2)
    previous = json.loads(second.text)["content"]["certificate"]["previous"]
    assert previous == {"number": 1, "sha256": first.sha256}


def test_a_control_variate_and_reviewers_in_general_are_recomputed(candidate):
    evaluation = make_evaluation(
        candidate, verdicts=[1.0] * 40, asks_people=True, judge_controls=True, question="like them"
    )
    items = list(evaluation.items.order_by("id"))
    for block, (asked, other) in enumerate(zip(items[:20], items[20:], strict=True)):
        asked.block = other.block = block
        other.verdict = (0.0, 0.5, 1.0)[block % 3]
    evaluation.items.all().delete()
    reviewers = [make_user(), make_user()]
    for number, item in enumerate(items):
        item.pk = None
        if number < 20:
            item.task = make_task(item.prompt, ["a", "b"], kind=Task.Kind.COMPARISON)
            item.candidate_response_id = response_ids(item.task)[1]
            rank(item.task, reviewers[number % 2], [[1], [0]])
    EvaluationItem.objects.bulk_create(items)
    candidate.promote(by=None, reason="Whatever is proven.")
    document_ = json.loads(Certificate.objects.get().text)
    assert problems_of(document_) == []
    people = document_["content"]["evaluations"][0]["people"]
    assert len(people["evidence"]["excess"]) == 20
    assert people["general"] == {"reviewers": 2, "mean": 1.0, "interval": [1.0, 1.0]}
    document_["content"]["evaluations"][0]["judge"]["verdicts"][-1]["verdict"] = 1.0
    assert any("people: after prompt" in problem for problem in problems_of(resigned(document_)))
    people["general"]["mean"] = 0.6
    assert any("reviewers in general" in problem for problem in problems_of(resigned(document_)))


def test_an_evaluation_without_a_judge_is_recomputed(candidate):
    evaluation = make_evaluation(candidate, items=12, judge="")
    ask_people(evaluation, [1.0] * 12, judge=None)
    candidate.promote(by=None)
    (recorded,) = json.loads(Certificate.objects.get().text)["content"]["evaluations"]
    assert recorded["judge"]["evidence"] is None
    assert recorded["people"]["evidence"]["conclusion"] == "better"


def test_the_downloaded_card_of_a_promoted_model_names_its_certificate(candidate, client):
    folder = Path(storage.resolve(candidate.adapter))
    (folder / "README.md").write_text("# LoRA adapter\n")
    Artifact.objects.create(
        run=candidate.run,
        name="README.md",
        path=str(folder / "README.md"),
        bytes=15,
        sha256="c" * 64,
    )
    client.force_login(make_user(Role.TRAINER))
    address = reverse("model-card", args=[candidate.pk])
    assert b"".join(client.get(address).streaming_content) == b"# LoRA adapter\n"
    certificate = promoted(candidate)
    reply = client.get(address)
    assert reply.text.startswith("# LoRA adapter\n\n## Promotion")
    assert reverse("certificate", args=[certificate.pk]) in reply.text
    assert certificate.sha256 in reply.text
    assert "README.md" in reply["Content-Disposition"]


def test_a_refused_promotion_leaves_no_certificate(candidate):
    with pytest.raises(CannotMove):
        candidate.promote(by=None)
    assert not Certificate.objects.exists()


def test_a_promotion_that_its_verdicts_do_not_support_is_refused(candidate, monkeypatch):
    make_evaluation(candidate, items=3)
    monkeypatch.setattr(Model, "doubts", lambda self: [])
    with pytest.raises(CannotMove, match="No evaluation that counts proves the candidate better"):
        candidate.promote(by=None)
    candidate.refresh_from_db()
    assert candidate.state == Model.State.CANDIDATE and not Certificate.objects.exists()


def test_the_database_refuses_to_change_or_delete_a_certificate(candidate):
    certificate = promoted(candidate)
    for attempt in (
        lambda: Certificate.objects.update(text="{}"),
        lambda: QuerySet(Certificate).filter(pk=certificate.pk)._raw_delete("default"),
    ):
        with pytest.raises(IntegrityError, match="cannot be changed"), transaction.atomic():
            attempt()
    assert Certificate.objects.get().text == certificate.text


def test_a_certificate_is_deleted_with_its_project(candidate):
    from django.utils import timezone

    promoted(candidate)
    project = candidate.project
    type(project).objects.filter(pk=project.pk).update(archived_at=timezone.now())
    deletion.delete(project=project, by=None, allow_promoted=True)
    assert not Certificate.objects.exists()


# --- checking a file -----------------------------------------------------------------------------


def test_a_file_is_checked_where_only_numpy_is_installed(candidate, tmp_path):
    path = file_of(promoted(candidate), tmp_path)
    for package in ("finetune", "formatting"):
        shutil.copytree(ROOT / package, tmp_path / package)
    (tmp_path / "site").mkdir()
    for folder in Path(numpy.__file__).parent.parent.glob("numpy*"):
        (tmp_path / "site" / folder.name).symlink_to(folder)
    result = subprocess.run(
        [sys.executable, "-S", "-m", "finetune.certificate", str(path)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "people: better after 11 of 12 prompts" in result.stdout
    assert "Recomputed from 24 verdicts: all figures match." in result.stdout


def first_verdict(content):
    return content["evaluations"][0]["people"]["verdicts"][0]


TAMPERINGS = {
    "a verdict": lambda c: first_verdict(c).update(verdict=0.0),
    "a reviewer": lambda c: first_verdict(c).update(reviewer="r-0123456789ab"),
    "the time of a verdict": lambda c: first_verdict(c).update(at="2020-01-01T00:00:00Z"),
    "a verdict less": lambda c: c["evaluations"][0]["people"]["verdicts"].pop(),
    "an evaluation less": lambda c: c["evaluations"].pop(),
    "the conclusion": lambda c: c["evaluations"][0]["people"]["evidence"].update(conclusion="worse"),
    "the path": lambda c: c["evaluations"][0]["people"]["evidence"]["path"][3].__setitem__(1, 9.0),
    "the error rate": lambda c: c["evaluations"][0]["registration"].update(alpha=0.1),
    "the attempt": lambda c: c["evaluations"][0]["registration"].update(attempt=2),
    "the file of the model": lambda c: c["candidate"]["files"][0].update(sha256="b" * 64),
    "the snapshot": lambda c: c["candidate"]["snapshot"].update(sha256="b" * 64),
    "a prompt": lambda c: c["prompts"].update({next(iter(c["prompts"])): "b" * 64}),
    "the guideline": lambda c: c["guideline"].update(current={"number": 9}),
    "the policy": lambda c: c["promotion"].update(policy="judge"),
    "the promoter": lambda c: c["promotion"].update(account=1),
    "the reason": lambda c: c["promotion"].update(reason="Because."),
    "the date": lambda c: c["certificate"].update(issued_at="2020-01-01T00:00:00Z"),
    "the predecessor": lambda c: c["certificate"].update(previous={"number": 0, "sha256": ""}),
    "an integer as a float": lambda c: c["evaluations"][0]["registration"].update(attempt=1.0),
    "a new key": lambda c: c["project"].update(note="trust me"),
}  # fmt: skip


@pytest.fixture
def valid(candidate):
    return json.loads(promoted(candidate).text)


def test_any_change_is_detected_and_named(valid, tmp_path, capsys):
    path = tmp_path / "forged.json"
    for what, tamper in TAMPERINGS.items():
        forged = deepcopy(valid)
        tamper(forged["content"])
        path.write_text(json.dumps(forged))
        assert main([str(path)]) == 1, what
        (section,) = {
            name
            for name, value in forged["content"].items()
            if document.digest(value) != valid["sha256"][name]
        }
        sentence = f'The section "{section}" does not match its SHA-256.'
        assert sentence in capsys.readouterr().err, what


def test_new_hashes_do_not_hide_a_change_from_the_signature(valid):
    for what, tamper in TAMPERINGS.items():
        forged = deepcopy(valid)
        tamper(forged["content"])
        forged["sha256"] = document.hashes_of(forged["content"])
        assert "The signature does not match the hashes." in problems_of(forged), what


def resigned(certificate):
    """Sign a changed certificate with another key, as a forger can."""
    key = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    certificate["sha256"] = document.hashes_of(certificate["content"])
    value = key.sign(document.message_of(certificate["sha256"])).hex()
    public = key.public_key().public_bytes_raw().hex()
    certificate["signature"] = {"algorithm": "Ed25519", "public_key": public, "value": value}
    return certificate


RECOMPUTED = {
    "a verdict": "after prompt 1, unit is 1.0; recomputed: 0.0.",
    "a verdict less": "the path has 12 prompts; recomputed: 11.",
    "the conclusion": "conclusion is worse; recomputed: better.",
    "the path": "after prompt 4, log_better is 9.0; recomputed: ",
    "the error rate": "recomputed: 0.08",
    "an evaluation less": "No evaluation that counts proves the candidate better.",
}


def test_a_change_that_was_signed_with_another_key_does_not_recompute(valid):
    for what, sentence in RECOMPUTED.items():
        forged = deepcopy(valid)
        TAMPERINGS[what](forged["content"])
        assert any(sentence in problem for problem in problems_of(resigned(forged))), what


def test_a_forger_with_another_key_is_exposed_by_the_key_alone(valid, tmp_path, capsys):
    content = valid["content"]
    content["candidate"]["files"][0]["sha256"] = "b" * 64
    path = tmp_path / "forged.json"
    path.write_text(json.dumps(resigned(valid)))
    assert main([str(path)]) == 0  # consistent in itself, which is why the key must be compared
    assert main([str(path), "--key", issuing.public_key()]) == 1
    assert "is signed with the key" in capsys.readouterr().err
    with pytest.raises(CommandError, match="has not issued this certificate"):
        call_command("verify_certificate", str(path))


def test_a_decision_that_does_not_follow_is_named(valid):
    for change, sentence in (
        ({"doubts": ["A doubt."]}, "no reason overrides them"),
        ({"basis": "base model"}, "The candidate is not a base model"),
        ({"basis": "faith"}, "'faith' is not a basis of a promotion."),
    ):
        forged = deepcopy(valid)
        forged["content"]["promotion"].update(change)
        assert any(sentence in problem for problem in problems_of(resigned(forged)))


def test_a_second_verdict_of_a_reviewer_or_on_a_foreign_prompt_is_named(valid):
    verdicts = valid["content"]["evaluations"][0]["people"]["verdicts"]
    verdicts.append({**verdicts[0]})
    verdicts.append({**verdicts[0], "prompt": 10**9})
    problems = " ".join(problems_of(resigned(valid)))
    assert "a reviewer has two verdicts on one prompt" in problems
    assert "prompt 1000000000 is not registered" in problems


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", "{", '{"format": "tiebreak-certificate-1"}', "[" * 100_000, '{"a": 1, "a": 2}',
     '{"format": NaN}', '{"format": 1e999}', '{"format": "\\ud800"}', "\x00", "9" * 5000],
)  # fmt: skip
def test_a_file_that_is_not_a_certificate_is_refused_with_a_sentence(text, tmp_path, capsys):
    path = tmp_path / "file.json"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert capsys.readouterr().err.endswith(".\n")
    assert main([str(tmp_path / "missing.json")]) == 2


def walk(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from walk(each, (*path, key))


def test_a_value_of_another_kind_anywhere_is_a_problem_and_not_a_crash(valid):
    paths = [path for path in walk(valid["content"]) if path and "path" not in path[:-1]]
    for path in paths[:: max(1, len(paths) // 30)]:
        for value in (None, "text", [1]):
            forged = deepcopy(valid)
            parent = forged["content"]
            for key in path[:-1]:
                parent = parent[key]
            if parent[path[-1]] == value:
                continue
            parent[path[-1]] = value
            assert problems_of(forged)
            problems_of(resigned(forged))  # may be consistent, but must not crash


def test_the_files_of_a_folder_are_compared_with_the_hashes(candidate, tmp_path, capsys):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    Artifact.objects.update(sha256=sha256)
    path = file_of(promoted(candidate), tmp_path)
    assert main([str(path), "--folder", str(folder)]) == 0
    (folder / "adapter_model.safetensors").write_bytes(b"abd")
    assert main([str(path), "--folder", str(folder)]) == 1
    assert "is not the file that was promoted" in capsys.readouterr().err


def test_the_command_checks_all_stored_certificates_and_their_chain(candidate, capsys):
    certificate = promoted(candidate)
    make_base(candidate.project).promote(by=None)
    call_command("verify_certificate", "--project", candidate.project.slug)
    assert "2 certificates: all match." in capsys.readouterr().out
    from labeling.removal.erasing import unfrozen

    with unfrozen():
        Certificate.objects.filter(pk=certificate.pk).delete()
    with pytest.raises(CommandError, match="certificate before it, which was removed"):
        call_command("verify_certificate")


def test_the_command_accepts_the_file_that_was_downloaded(candidate, tmp_path, capsys):
    path = file_of(promoted(candidate), tmp_path)
    call_command("verify_certificate", str(path))
    assert "as this installation stores it" in capsys.readouterr().out


def test_a_certificate_keeps_its_signature_when_the_key_changes(candidate, settings):
    certificate = promoted(candidate)
    settings.CERTIFICATE_KEY = "01" * 32
    assert problems_of(json.loads(certificate.text)) == []
    make_base(candidate.project).promote(by=None)
    newer = json.loads(Certificate.objects.get(number=2).text)
    assert newer["signature"]["public_key"] == issuing.public_key()
    assert (
        newer["signature"]["public_key"] != json.loads(certificate.text)["signature"]["public_key"]
    )


# --- signatures ----------------------------------------------------------------------------------


def test_the_vectors_of_the_standard_are_valid():
    """Checks test 1 and test 3 of RFC 8032, section 7.1."""
    for key, message, signature in (
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ):
        assert ed25519.is_valid(*map(bytes.fromhex, (key, message, signature)))


def test_signatures_agree_with_cryptography():
    for seed in range(5):
        key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        public, message = key.public_key().public_bytes_raw(), bytes(range(seed * 40))
        signature = key.sign(message)
        assert ed25519.is_valid(public, message, signature)
        assert not ed25519.is_valid(public, message + b"x", signature)
        for index in (0, 31, 32, 63):
            changed = bytearray(signature)
            changed[index] ^= 1
            assert not ed25519.is_valid(public, message, bytes(changed))
        larger = int.from_bytes(signature[32:], "little") + ed25519.ORDER
        assert not ed25519.is_valid(public, message, signature[:32] + larger.to_bytes(32, "little"))
    assert not ed25519.is_valid(b"", b"", b"")
    assert not ed25519.is_valid(b"\xff" * 32, b"", b"\0" * 64)


def test_a_certificate_contains_what_the_judges_correction_follows_from(candidate):
    evaluation = make_evaluation(
        candidate, asks_people=True, judge_controls=True, verdicts=[0.0, 1.0] * 30
    )
    ask_people(evaluation, [1.0] * 60)
    items = list(evaluation.items.order_by("id"))
    evaluation.items.all().delete()
    for number, item in enumerate(items):
        item.pk, item.block = None, number % 30
        if number >= 30:
            item.task = item.candidate_response = None
    items[45].verdict = None  # an answer of the judge that could not be read counts ½
    EvaluationItem.objects.bulk_create(items)
    candidate.promote(by=None)
    content = json.loads(Certificate.objects.get().text)["content"]
    (written,) = content["evaluations"]
    assert len(written["people"]["evidence"]["path"]) == 30
    assert problems_of_content(content) == []
    written["judge"]["verdicts"][0]["verdict"] = 1.0 - written["judge"]["verdicts"][0]["verdict"]
    assert any("people" in problem for problem in problems_of_content(content))


def test_a_certificate_of_people_alone_needs_no_judge(candidate):
    evaluation = make_evaluation(candidate, verdicts=[None] * 12, judge="", asks_people=True)
    ask_people(evaluation, [1.0] * 12)
    candidate.promote(by=None)
    content = json.loads(Certificate.objects.get().text)["content"]
    assert content["evaluations"][0]["judge"] == {"verdicts": [], "evidence": None}
    assert problems_of_content(content) == []
