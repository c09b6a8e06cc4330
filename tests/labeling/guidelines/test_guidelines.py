import pytest

from accounts.models import AuditEntry, Role
from labeling.guidelines import versions
from labeling.guidelines.versions import GuidelineError, difference
from labeling.models import GuidelineVersion
from tests.labeling.world import in_threads, make_project, make_user, publish

pytestmark = pytest.mark.django_db


def draft(project, text="Be kind.", criteria=(), **fields):
    return versions.create_draft(project=project, by=None, text=text, criteria=criteria, **fields)


def lines(old, new, **options):
    return [
        (line.kind, "".join(piece.text for piece in line.pieces))
        for line in difference(old, new, **options)
    ]


def test_publishing_a_draft_makes_it_the_current_version():
    project, lead = make_project(published=False), make_user(Role.LEAD)
    version = draft(project, criteria=[{"name": "wit", "meaning": "Is funny.", "scale": 3}])
    assert (version.number, version.state, project.current_version) == (1, "draft", None)
    published = versions.publish(version=version, by=lead)
    project.refresh_from_db()
    assert project.current_version == published
    assert published.published_by == lead and published.published_at is not None
    assert AuditEntry.objects.get(action="guideline published").user == lead


def test_a_guideline_has_one_draft_at_a_time():
    project = make_project(published=False)
    draft(project)
    with pytest.raises(GuidelineError, match="Version 1 is already a draft"):
        draft(project)
    assert GuidelineVersion.objects.count() == 1


def test_a_version_is_published_once_and_never_empty():
    project = make_project(published=False)
    empty = draft(project, text=" \n")
    with pytest.raises(GuidelineError, match="empty"):
        versions.publish(version=empty, by=None)
    GuidelineVersion.objects.filter(pk=empty.pk).update(text="Be kind.")
    version = versions.publish(version=empty, by=None)
    with pytest.raises(GuidelineError, match="already published"):
        versions.publish(version=version, by=None)
    assert AuditEntry.objects.filter(action="guideline published").count() == 1


def test_a_new_draft_copies_its_version():
    project = make_project()
    new = versions.draft_from(version=project.current_version, by=None)
    assert (new.number, new.text) == (2, "Be kind.")
    assert new.criteria.values_list("name", "scale").get() == ("honesty", 5)
    project.refresh_from_db()
    assert project.current_version.number == 1


@pytest.mark.django_db(transaction=True)
def test_concurrent_publishing_publishes_once():
    version = draft(make_project(published=False))
    results = in_threads(*[lambda: versions.publish(version=version, by=None)] * 4)
    assert sum(isinstance(result, GuidelineError) for result in results) == 3


def test_a_diff_marks_changed_words():
    project = make_project(published=False)
    old = publish(project, "Be kind.\nAnswer in one line.")
    new = publish(project, "Be kind.\nAnswer in two lines.")
    removed, added = (line for line in difference(old, new) if line.kind in ("removed", "added"))
    assert [piece.text for piece in removed.pieces if piece.changed] == ["one", "line"]
    assert [piece.text for piece in added.pieces if piece.changed] == ["two", "lines"]
    assert (removed.old_number, added.new_number) == (2, 2)


def test_a_diff_shows_criteria_and_shortens_unchanged_text():
    project = make_project(published=False)
    text = "\n".join(f"Line {n}." for n in range(40))
    old = publish(project, text)
    new = versions.draft_from(version=old, by=None)
    new.criteria.update(scale=7)
    rows = lines(old, new)
    assert rows[0] == ("gap", "")
    assert ("removed", "honesty, 1 to 5: Says what is true.") in rows
    assert ("added", "honesty, 1 to 7: Says what is true.") in rows
    assert len(rows) < 8 < len(lines(old, new, context=None))


def test_the_diff_of_the_first_version_adds_every_line():
    version = make_project().current_version
    assert {kind for kind, _ in lines(None, version)} == {"added"}
